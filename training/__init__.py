"""A run: its data, its life from the first step to the last, its log."""
