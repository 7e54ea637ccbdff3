"""Pictures in, pictures out: what `test.py --input` does with a photograph or a folder of them."""

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from batches import to_float, to_uint8
from cyclegan_model import CycleGANModel
from dataset import (
    UnreadableImage,
    crop_box,
    cut_square,
    find_images_or_explain,
    open_image,
    say,
)
from errors import UserError
from faces import Box, FaceDetector, face_detector
from files import atomic_write

# Types that --output keeps; pictures of other types get .png after their name.
SAVED_TYPES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}
# What to make of one photograph: where to write what, and which square of it, None for --crop's.
Plan = list[tuple[Path, list[tuple[Path, Box | None]]]]


def translate_files(model: CycleGANModel, opt: Namespace) -> None:
    """Translate one picture or a folder of them, one to one or one to faces, names kept.

    Raises UserError before anything is written if a name would be written twice, or replaced
    without --overwrite.
    """
    detector = face_detector(opt)
    source, output = Path(opt.input), Path(opt.output)
    if source.is_dir():
        if os.path.realpath(source) in map(str, Path(os.path.realpath(output)).parents):
            raise UserError(
                f"--output {output}: lies inside --input {source}, so that the next call would "
                "translate the translations; name a folder outside"
            )
        names = find_images_or_explain(source, "--input")
    elif source.exists():
        names, source = [source.name], source.parent
    else:
        raise UserError(f"--input {source}: no such file or folder; name a picture or a folder")
    plan = make_plan(source, names, output, detector)
    check_targets(plan, opt)

    squares = cut_out(plan, model.opt.image_size, model.opt.crop)
    total = sum(len(pictures) for _, pictures in plan)
    written, done = 0, set()
    with tqdm(total=total, desc=opt.direction, disable=None) as bar:
        while chunk := list(islice(squares, opt.batch_size)):
            images = to_float(torch.stack([torch.from_numpy(pixels) for _, _, pixels in chunk]))
            outputs = translated(model, images, opt.direction, opt.compare)
            for (path, target, _), pixels in zip(chunk, outputs, strict=True):
                save_picture(target, pixels)
                done.add(path)
            written += len(chunk)
            bar.update(len(chunk))
    if not written:
        raise UserError(f"--input {opt.input}: none of {len(names)} files could be read")
    results = f" as {written} results" if written > len(done) else ""
    print(f"{len(done)} of {len(names)} pictures translated to {output}/{results}")


def make_plan(source: Path, names: list[str], output: Path, detector: FaceDetector | None) -> Plan:
    """Which pictures to write for each photograph; several faces are numbered from the left."""
    plan: Plan = []
    for name in tqdm(names, desc="finding faces", disable=None if detector else True):
        target = output / output_name(Path(name))
        boxes: list[Box | None] = [None]
        if detector:
            try:
                with open_image(source / name) as photo:
                    boxes = list(detector.boxes(photo)) or [None]
            except UnreadableImage as error:
                skip(source / name, error)
                continue
            if boxes == [None]:
                say(f"{str(source / name)!r}: no face found, its middle is taken")
        targets = [target]
        if len(boxes) > 1:
            numbers = range(1, len(boxes) + 1)
            targets = [target.with_stem(f"{target.stem}_{number}") for number in numbers]
        plan.append((source / name, list(zip(targets, boxes, strict=True))))
    return plan


def output_name(name: Path) -> Path:
    """Name of a translation: the picture's own, with .png behind it where that type is not kept."""
    return name if name.suffix.lower() in SAVED_TYPES else name.with_name(f"{name.name}.png")


def check_targets(plan: Plan, opt: Namespace) -> None:
    """Raise UserError if one of the pictures would be written over another one, or an input."""
    targets = [target for _, pictures in plan for target, _ in pictures]
    sources = {os.path.realpath(path) for path, _ in plan}
    lost = [target for target in targets if os.path.realpath(target) in sources]
    if lost:
        raise UserError(f"--output {opt.output}: {lost[0]} is one of the pictures of --input "
                        f"{opt.input}; name another folder")  # fmt: skip
    twice = [target for target, count in Counter(targets).items() if count > 1]
    if twice:
        raise UserError(f"--input {opt.input}: two pictures would be written to {twice[0]}; "
                        "rename one of them")  # fmt: skip
    there = [target for target in targets if target.exists()]
    if there and not opt.overwrite:
        more = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise UserError(f"--output {opt.output}: {there[0].name}{more} there already; choose "
                        "another folder, or replace what is there with --overwrite")  # fmt: skip


def cut_out(plan: Plan, image_size: int, crop: str) -> Iterator[tuple[Path, Path, np.ndarray]]:
    """Photograph, target and uint8 (H, W, 3) of each picture; unreadable ones get one line each."""
    for path, pictures in plan:
        try:
            with open_image(path) as photo:
                cuts = [cut_square(photo, box or crop_box(photo.size, crop), image_size)
                        for _, box in pictures]  # fmt: skip
        except UnreadableImage as error:
            skip(path, error)
            continue
        for (target, _), pixels in zip(pictures, cuts, strict=True):
            yield path, target, pixels


def translated(
    model: CycleGANModel, images: torch.Tensor, direction: str, compare: bool
) -> np.ndarray:
    """Outputs as uint8 (N, H, W, 3); with `compare` input, output and reconstruction side by side.

    images: (N, 3, H, W) in [-1, 1]. A model of one direction has no reconstruction to show.
    """
    fakes, recs = model.translate(images, direction, and_back=compare)
    if compare:
        fakes = torch.cat([images, fakes] if recs is None else [images, fakes, recs], dim=3)
    return to_uint8(fakes).numpy()


def save_picture(target: Path, pixels: np.ndarray) -> None:
    """Write uint8 (H, W, 3), whole or not at all, as the type that the name tells."""
    kind = SAVED_TYPES[target.suffix.lower()]
    quality = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    with atomic_write(target) as file:
        Image.fromarray(pixels).save(file, kind, **quality)


def skip(path: Path, error: UnreadableImage) -> None:
    say(f"skipped {str(path)!r}: {error}")
