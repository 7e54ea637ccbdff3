"""Image files: found, decoded, prepared, translated; and the faces in photographs."""
