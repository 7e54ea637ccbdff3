"""Where prepare_data.py takes pictures from: a folder, or a zip archive read in place.

Nothing of an archive is ever unpacked to the disk under a name of its own, so names in it such as
../../x.png lead nowhere.
"""

import hashlib
import io
import os
import re
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from common.errors import UserError
from pictures.decode import unreadable_if_it_fails
from pictures.folders import find_images_or_explain, is_picture, kinds_of, tell_passed_over

# A small archive can claim to unpack to terabytes. Photographs hardly shrink in one.
MAX_FILE_BYTES = 256 * 2**20
MAX_UNPACKED = 100  # times the archive's own size, for what unpacks to over ...
HARMLESS_BYTES = 2**30
HIDDEN = re.compile(r"\.(?!\.?(?:\\|$))")  # but for . and .. of archives that part by backslashes

IN_UTF_8 = 0x800  # a zip's flag
# Kana, kanji, hanzi and their signs, but no half kana, as which Chinese text of GBK can be read.
EAST_ASIAN = re.compile("[\0-\x7f\u2015-\u266f\u3000-\u30ff\u4e00-\u9fff\uff00-\uff5e]*")
# Names of which each has single accents between letters.
WESTERN = re.compile(rb"(?:[\0-\x7f]*[A-Za-z][\x80-\xa5](?=[a-z]))+[\0-\x7f]*")


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
            self.members = members_by_name(self.archive)
        except Exception as error:  # hostile archives: struct.error, EOFError and others
            raise UserError(
                f"{flag} {self.path}: neither a folder nor a zip archive that can be read "
                f"({error}); unpack other archives first"
            ) from error
        visible = sorted(filter(is_visible, self.members))
        self.names = [name for name in visible if is_picture(name, partial(self.start, name))]
        others = sorted({*visible} - {*self.names})
        if not self.names:
            raise UserError(
                f"{flag} {self.path}: no images in this archive, {len(others)} other files "
                f"({kinds_of(others) or 'it is empty'}); looked for JPEG, PNG and all other types "
                "that Pillow reads"
            )
        tell_passed_over(self.path, others)
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

    def start(self, name: str) -> bytes:
        """The first bytes of a file of the archive, none if it cannot be read."""
        assert self.archive
        try:
            with self.archive.open(self.members[name]) as file:
                return file.read(16)
        except Exception:  # as above
            return b""

    def unpacked(self, name: str) -> bytes:
        """What a file of the archive holds. ValueError if that is too much."""
        assert self.archive
        member = self.members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"unpacks to over {MAX_FILE_BYTES / 2**20:.0f} MB")
        return self.archive.read(member)  # never more than it claimed

    def digest(self, name: str) -> str:
        """Tells what a file holds from what it held; empty if it cannot be read."""
        if self.archive:
            return f"{self.members[name].CRC:08x}-{self.members[name].file_size}"
        digest = hashlib.sha256()
        try:
            with open(self.path / name, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return ""
        return digest.hexdigest()[:16]

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


def members_by_name(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive, by their names in the encoding of whoever made it.

    Archives of most Windows systems do not say which that is, and zipfile takes it for cp437. Where
    none fits, the names stay as they are then.
    """
    # Not info.filename, in which zipfile on Windows takes half a character for a backslash.
    names = {info: info.orig_filename.partition("\0")[0] for info in archive.infolist()}
    for info, name in names.items():
        if info.filename not in (name, name.replace(os.sep, "/")):  # told by the archive elsewhere
            names[info] = info.filename
    unsure = [i for i, name in names.items() if not (i.flag_bits & IN_UTF_8 or name.isascii())]
    with suppress(UnicodeEncodeError):
        raw = [names[info].encode("cp437") for info in unsure]
        for encoding in ("utf-8", "cp932", "gb18030"):
            with suppress(UnicodeDecodeError):
                texts = [name.decode(encoding) for name in raw]
                together, bytes_together = "".join(texts), b"/".join(raw)
                likely = EAST_ASIAN.fullmatch(together) and not WESTERN.fullmatch(bytes_together)
                if (encoding == "utf-8" or likely) and len({*texts}) == len(texts):
                    names.update(zip(unsure, texts, strict=True))
                    break
    return {name: info for info, name in names.items()}


def is_visible(name: str) -> bool:
    """Whether a name of an archive is of a file that is not hidden, as folders.walk_files has it.

    Only a slash parts folders: a backslash may be half a character of a Japanese name.
    """
    parts = PurePosixPath(name).parts
    hidden = any(HIDDEN.match(part) for part in parts)
    return not (hidden or "__MACOSX" in parts or name.endswith("/"))  # as folders do
