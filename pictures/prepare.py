"""Make a folder of pictures for training: from CelebA's download, or from any folder or zip."""

import io
import os
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.errors import UserError, one_line_errors, say
from common.options import OneLineParser, given_options, make_parser, whole
from common.unread import beside, refuse_unread, without
from pictures.align import EyeTable, read_eyes
from pictures.celeba import (
    ATTRIBUTE_TABLES,
    IDENTITY_TABLES,
    PARTITION_TABLES,
    PARTITIONS,
    Table,
    attribute,
    attributes_csv,
    read_table,
)
from pictures.decode import (
    CHUNK,
    CROPS,
    UnreadableImage,
    crop_box,
    cut_square,
    open_image,
    to_rgb,
    unreadable_if_it_fails,
)
from pictures.faces import FaceDetector, add_face_options, face_detector
from pictures.names import flat_stems
from pictures.report import REPORT, digest, save_report, start_report
from pictures.source import PictureSource
from storage.files import atomic_write
from storage.locks import alone_in

FACES = {
    "cascade": [beside("detect_faces")],
    "face_margin": [beside("detect_faces")],
    "eyes": [without("detect_faces")],
    "crop": [without("eyes")],
    "min_size": [without("eyes")],
}

SAVE_SECONDS = 30  # between saves of the report: what is lost when the process is killed


@one_line_errors
def main() -> None:
    opt = prepare_options()
    detector = face_detector(opt)
    source, output = PictureSource(Path(opt.source), "--source"), Path(opt.output)
    names, attributes, people = chosen(source, opt)
    eyes = eye_table(opt)
    with alone_in(output, f"--output {output}"):
        report = start_report(output, source, opt)
        try:
            prepare(names, source, output, opt, detector, eyes, report)
        except BaseException as error:
            with suppress(UserError):
                save_report(output, report)
            if isinstance(error, KeyboardInterrupt):
                say(f"{output}: give the same command again to go on")
            raise
        finish(names, source, output, attributes, people, report)


# ---- options -----------------------------------------------------------------------------------


def _parser() -> OneLineParser:
    parser = make_parser("Make a folder of pictures for training.")
    data = parser.add_argument_group("data")
    data.add_argument("--source", required=True, help="folder or zip archive of pictures")
    data.add_argument("--output", required=True, help="folder for the training pictures")
    data.add_argument("--image_size", type=whole(8), default=64, help="side of the square, pixels")
    data.add_argument(
        "--crop",
        choices=CROPS,
        default="celeba",
        help="celeba: tight on the face of 178x218 CelebA pictures, center for "
        "others; center: the largest square",
    )
    data.add_argument(
        "--min_size",
        type=whole(1),
        default=32,
        help="leave out what is less than N pixels wide before it is resized",
    )
    data.add_argument(
        "--num_workers",
        type=whole(0),
        default=min(8, os.cpu_count() or 1),
        help="threads; 0 = none of its own",
    )
    data.add_argument(
        "--eyes",
        metavar="TABLE",
        help="turn, scale and move each face until its eyes are where all others have them, and "
        "leave out unclear ones: a CSV with name, eye1_x, eye1_y, eye2_x, eye2_y in pixels and "
        "perhaps likelihood, or CelebA's landmarks",
    )
    celeba = parser.add_argument_group("CelebA (its tables are looked for in and beside --source)")
    celeba.add_argument(
        "--partition",
        choices=("all", *PARTITIONS),
        default="all",
        help="only this part of list_eval_partition, which no person shares with another part",
    )
    celeba.add_argument(
        "--attributes",
        nargs="+",
        type=attribute,
        metavar="NAME=0|1",
        help="only pictures that list_attr_celeba says this of",
    )
    add_face_options(parser.add_argument_group("photographs of more than a face"))
    return parser


def prepare_options(argv: Sequence[str] | None = None) -> Namespace:
    """Parse the options and check what needs no pictures. Raises UserError."""
    parser = _parser()
    opt = parser.parse_args(argv)
    refuse_unread(FACES, given_options(parser, argv), opt)
    source, output = Path(os.path.realpath(opt.source)), Path(os.path.realpath(opt.output))
    if source.is_dir() and source in (output, *output.parents):
        raise UserError(
            f"--output {opt.output}: lies inside --source {opt.source}, so that the "
            "next call would take it for a source; name a folder outside"
        )
    return opt


def eye_table(opt: Namespace) -> EyeTable | None:
    """The table of --eyes, and its digest in the place of its name: what the report compares.

    Raises UserError.
    """
    if opt.eyes is None:
        return None
    try:
        text = Path(opt.eyes).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--eyes {opt.eyes}: cannot be read ({error}); check the path") from error
    table = read_eyes(opt.eyes, text)
    opt.eyes = digest(text.encode())[:16]
    return table


def chosen(source: PictureSource, opt: Namespace) -> tuple[list[str], Table | None, Table | None]:
    """The files that --partition and --attributes ask for; attributes and identities, if there.

    Raises UserError where a table is asked for and missing, wrong, or about other pictures.
    """

    def find(files: tuple[str, ...], allowed: Sequence[int], columns: int | None) -> Table | None:
        found = source.find_table(files)
        return read_table(*found, allowed, columns) if found else None

    def need(files: tuple[str, ...], table: Table | None, flag: str) -> Table:
        if table is None:
            raise UserError(
                f"{flag}: needs CelebA's {' or '.join(files)}, which is neither in "
                f"nor beside --source {source.path}; put it there"
            )
        return table

    names = source.names
    if opt.partition != "all":
        flag = f"--partition {opt.partition}"
        table = need(PARTITION_TABLES, find(PARTITION_TABLES, range(3), 1), flag)
        number = PARTITIONS.index(opt.partition)
        names = [name for name in names if table.row(name) == (number,)]
        if not names:
            raise UserError(
                f"{flag}: {table.where} puts none of the {len(source.names)} files of "
                f"--source {source.path} into it; are they CelebA's?"
            )
    attributes = find(ATTRIBUTE_TABLES, (-1, 0, 1), None)
    if opt.attributes:
        flag = f"--attributes {' '.join(opt.attributes)}"
        table = need(ATTRIBUTE_TABLES, attributes, flag)
        for text in opt.attributes:
            key, _, value = text.partition("=")
            column = table.column(key)
            rows = ((name, table.row(name)) for name in names)
            names = [name for name, row in rows if row and (row[column] > 0) == (value == "1")]
        if not names:
            raise UserError(
                f"{flag}: {table.where} says this of none of the files of --source "
                f"{source.path}; ask for less"
            )
    return names, attributes, find(IDENTITY_TABLES, range(2**31), 1)


# ---- the end ------------------------------------------------------------------------------------


def finish(
    names: list[str],
    source: PictureSource,
    output: Path,
    attributes: Table | None,
    people: Table | None,
    report: dict,
) -> None:
    """Save and print what became of the files. Raises UserError if there is no picture at all."""
    why = Counter(line.split(":")[0] for lines in report["left_out"].values() for line in lines)
    total, others = sum(map(len, report["pictures"].values())), len(source.names) - len(names)
    counts = {"files": len(source.names), "not asked for": others, "pictures": total} | why
    save_report(output, {"finished": True, "counts": counts} | report)
    lost = ", ".join(f"{number} {reason}" for reason, number in why.most_common())
    if not total:
        raise UserError(
            f"--source {source.path}: none of {len(names)} files gave a picture "
            f"({lost}); {output / REPORT} says why for each"
        )
    asked = f" ({others} more were not asked for)" if others else ""
    print(f"{output}: {total} pictures of {len(names)} files{asked}")
    if lost:
        print(f"left out: {lost}; {output / REPORT} says which")

    pictures = {name: files[0] for name, files in report["pictures"].items() if len(files) == 1}
    if attributes and pictures and all(map(attributes.row, pictures)):
        with atomic_write(output / "attributes.csv") as file:
            file.write(attributes_csv(attributes, people, pictures))
        also = " and whose face it is" if people else ""
        print(
            f"{output / 'attributes.csv'}: {len(attributes.columns)} attributes of each{also}, "
            "for evaluate.py --attributes"
        )


# ---- pictures ----------------------------------------------------------------------------------


def prepare(
    names: list[str],
    source: PictureSource,
    output: Path,
    opt: Namespace,
    detector: FaceDetector | None,
    eyes: EyeTable | None,
    report: dict,
) -> None:
    """Write the pictures of the files and fill in the report's "pictures" and "left_out".

    Files are decoded by threads (Pillow and OpenCV release the GIL) and judged in sorted order, so
    that the same one of two equal pictures is kept whatever the number of threads.
    """
    stems = flat_stems(source.names)

    def look_at(name: str) -> tuple[str, list[tuple[str, bytes, str]], list[str]]:
        content = source.digest(name)
        try:
            return content, *squares(source, name, stems[name], opt, detector, eyes)
        except UnreadableImage as error:
            return content, [], [f"unreadable: {error}"]

    def write(picture: tuple[str, bytes]) -> None:
        # Not durable: after a power cut the next call finds out which pictures are not whole.
        with atomic_write(output / picture[0], durable=False) as file:
            file.write(picture[1])

    bar = tqdm(total=len(names), desc="preparing", unit="file", disable=None)
    with bar, ThreadPoolExecutor(max(1, opt.num_workers)) as pool:
        run = pool.map if opt.num_workers else map
        whole, first = still_whole(report, source, output, opt.image_size, run)
        for name in report["pictures"].keys() - whole.keys():  # made again, maybe less of them
            for file in report["pictures"][name]:
                (output / file).unlink(missing_ok=True)
        report["pictures"] = whole
        # What was left out is looked at again: a file may have been mended.
        report["left_out"] = {
            name: why for name, why in report["left_out"].items() if name in report["pictures"]
        }
        names = [name for name in names if name not in report["pictures"]]
        bar.update(len(report["pictures"]))
        saved = time.monotonic()
        for chunk in chunks(names):
            new: dict[str, bytes] = {}
            pictures: dict[str, list[str]] = {}
            for name, (content, cuts, reasons) in zip(chunk, run(look_at, chunk), strict=True):
                for file, png, pixels in cuts:
                    if first.setdefault(pixels, file) == file:
                        new[file] = png
                        pictures.setdefault(name, []).append(file)
                    else:
                        reasons.append(f"duplicate: {file} would equal {first[pixels]}")
                if reasons:
                    report["left_out"][name] = reasons
                report["contents"][name] = content
                bar.update()
            list(run(write, new.items()))
            report["pictures"] |= pictures
            if time.monotonic() > saved + SAVE_SECONDS:
                save_report(output, report)
                saved = time.monotonic()


def still_whole(
    report: dict, source: PictureSource, output: Path, image_size: int, run: Callable
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Pictures of an earlier call that are whole, of files that have not changed; their digests.

    By file, and by digest. run: map, or that of a pool.
    """

    def look_at(name: str) -> list[str] | None:
        if source.digest(name) not in ("", report["contents"].get(name)):  # "" tells nothing
            return None
        digests = []
        with suppress(UnreadableImage):
            for file in report["pictures"][name]:
                with open_image(output / file) as image:
                    pixels = np.asarray(image)
                if pixels.shape != (image_size, image_size, 3):
                    return None
                digests.append(digest(pixels.tobytes()))
            return digests
        return None

    whole: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for chunk in chunks(list(report["pictures"])):
        for name, digests in zip(chunk, run(look_at, chunk), strict=True):
            if digests is not None:
                whole[name] = report["pictures"][name]
                first.update(zip(digests, whole[name], strict=True))
    if whole:
        say(f"{output}: goes on after {len(whole)} files")
    return whole, first


def squares(
    source: PictureSource,
    name: str,
    stem: str,
    opt: Namespace,
    detector: FaceDetector | None,
    eyes: EyeTable | None,
) -> tuple[list[tuple[str, bytes, str]], list[str]]:
    """Name, PNG and digest of each picture that a file gives, and reasons for those it does not.

    A face of a photograph is named by its number from the left, even if it is the only one: no two
    files can then give the same name. Raises UnreadableImage.
    """
    with open_image(source.open(name)) as image:
        if eyes:
            with unreadable_if_it_fails():
                pixels, why = eyes.cut(name, to_rgb(image), opt.image_size)
            return ([], [why]) if pixels is None else ([png_of(f"{stem}.png", pixels)], [])
        boxes = detector.boxes(image) if detector else [crop_box(image.size, opt.crop)]
        cuts, reasons = [], [] if boxes else ["no face"]
        for number, box in enumerate(boxes, 1):
            file = f"{stem}_{number}.png" if detector else f"{stem}.png"
            if box[2] - box[0] < opt.min_size:
                reasons.append(f"too small: {file} would be of {box[2] - box[0]} pixels")
                continue
            cuts.append(png_of(file, cut_square(image, box, opt.image_size)))
    return cuts, reasons


def png_of(file: str, pixels: np.ndarray) -> tuple[str, bytes, str]:
    """Name, PNG and digest of a picture."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG")
    return file, png.getvalue(), digest(pixels.tobytes())


def chunks(names: list[str]) -> Iterator[list[str]]:
    """Lists of at most CHUNK names, which bounds what threads hold ready."""
    return (names[start : start + CHUNK] for start in range(0, len(names), CHUNK))
