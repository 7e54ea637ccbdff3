"""Where prepare_data.py takes pictures from: a folder, or a zip archive read in place.

Nothing of an archive is ever unpacked to the disk under a name of its own, so names in it such as
../../x.png lead nowhere.
"""

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from pictures.decode import unreadable_if_it_fails
from pictures.folders import IMAGE_TYPES, find_images_or_explain

# A small archive can claim to unpack to terabytes. Photographs hardly shrink in one.
MAX_FILE_BYTES = 256 * 2**20
MAX_UNPACKED = 100  # times the archive's own size, for what unpacks to over ...
HARMLESS_BYTES = 2**30


class PictureSource:
    """The pictures of a folder or of a zip archive, by name.

    names  posix paths in it, sorted; hidden files are passed over

    Raises UserError if there are none, or if the archive is damaged or unpacks to absurd sizes.
    """

    def __init__(self, path: Path, flag: str):
        self.path, self.flag = Path(path), flag
        self.archive: zipfile.ZipFile | None = None
        self.members: dict[str, zipfile.ZipInfo] = {}
        if not self.path.is_file():
            self.names = find_images_or_explain(self.path, flag)
            return
        try:
            self.archive = zipfile.ZipFile(self.path)
            self.members = {info.filename: info for info in self.archive.infolist()}
        except Exception as error:  # hostile archives: struct.error, EOFError and others
            raise UserError(
                f"{flag} {self.path}: neither a folder nor a zip archive that can be read "
                f"({error}); unpack other archives first"
            ) from error
        self.names = sorted(filter(is_visible_image, self.members))
        if not self.names:
            raise UserError(
                f"{flag} {self.path}: no images in this archive, {len(self.members)} "
                f"other files (looked for {', '.join(IMAGE_TYPES)})"
            )
        unpacked = sum(self.members[name].file_size for name in self.names)
        if unpacked > max(HARMLESS_BYTES, MAX_UNPACKED * self.path.stat().st_size):
            raise UserError(
                f"{flag} {self.path}: claims to unpack to {unpacked / 2**30:.1f} GB, over "
                f"{MAX_UNPACKED} times its own size, as no archive of photographs does; if you "
                "trust it, unpack it and name the folder"
            )

    def open(self, name: str) -> Path | BinaryIO:
        """What Pillow can open for a picture. Raises UnreadableImage."""
        if self.archive is None:
            return self.path / name
        with unreadable_if_it_fails():
            return io.BytesIO(self.unpacked(name))

    def unpacked(self, name: str) -> bytes:
        """What a file of the archive holds. ValueError if that is too much."""
        assert self.archive
        member = self.members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"unpacks to over {MAX_FILE_BYTES / 2**20:.0f} MB")
        return self.archive.read(member)  # never more than it claimed

    def fingerprint(self) -> str:
        """Tells whether it still holds the same names and sizes."""
        if self.archive is None:
            sizes = [os.stat(f"{self.path}/{name}").st_size for name in self.names]
        else:
            sizes = [self.members[name].file_size for name in self.names]
        return hashlib.sha256(json.dumps([self.names, sizes]).encode()).hexdigest()[:16]

    def find_table(self, names: tuple[str, ...]) -> tuple[str, str] | None:
        """Place and text of the first file of these names in the source or beside it, else None.

        CelebA's own download has Img, Anno and Eval side by side. Raises UserError if unreadable.
        """
        inside = [name for name in self.members if PurePosixPath(name).name in names]
        beside = (folder / name for folder in self.table_folders() for name in names)
        if inside:
            where = f"{self.path} {inside[0]}"
        elif file := next(filter(Path.is_file, beside), None):
            where = str(file)
        else:
            return None
        try:
            content = self.unpacked(inside[0]) if inside else Path(where).read_bytes()
            return where, content.decode("utf-8-sig")
        except Exception as error:  # of zipfile, of the disk, of the text's encoding
            raise UserError(f"{where}: cannot be read ({error}); download it again") from error

    def table_folders(self) -> list[Path]:
        here = self.path.absolute()
        above = [here, here.parent, here.parent.parent]
        return [folder / name for folder in above for name in (".", "Anno", "Eval")]


def is_visible(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    hidden = any(part.startswith(".") and part != ".." for part in parts)
    return not hidden and "__MACOSX" not in parts


def is_visible_image(name: str) -> bool:
    named = is_visible(name) and not name.endswith("/")  # which folders do
    return named and PurePosixPath(name).suffix[1:].lower() in IMAGE_TYPES
