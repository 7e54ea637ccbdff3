"""Pictures in, pictures out: what test.py does with photographs and folders of them.

`--input SOURCE` keeps their names; sources without a flag, one's own photographs, come out as
NAME_anime.png or NAME_person.png.
"""

import os
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageCms
from tqdm import tqdm

from common.errors import UserError, say
from common.tensors import to_float, to_uint8
from pictures.decode import (
    UPRIGHT,
    UnreadableImage,
    crop_box,
    cut_square,
    exif_orientation,
    open_image,
    to_rgb,
    to_rgb_and_alpha,
    unreadable_if_it_fails,
    way_from_srgb,
    way_to_srgb,
)
from pictures.faces import Box, FaceDetector, face_detector, squares_of_faces
from pictures.folders import find_images_or_explain
from storage.files import atomic_write

if TYPE_CHECKING:
    from translation_model import TranslationModel

# Types that --output keeps; pictures of other types get .png after their name.
SAVED_TYPES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}
# What to make of one photograph: where to write what, and which square of it, None for --crop's.
Plan = list[tuple[Path, list[tuple[Path, Box | None]]]]
SHOWS = {"AtoB": "person", "BtoA": "anime"}
LARGE = 4  # photographs of more than so many times the model's size hold more than a face
BLEND = 0.12  # of a pasted face's side, at each edge
LONGEST_EXIF = 65_500  # bytes that a JPEG can hold
MOST_NAMED = 8  # files of which each is named at the end


def translate_files(model: "TranslationModel", opt: Namespace) -> None:
    """Translate pictures and folders of them (opt.input), one to one or one to faces.

    Raises UserError before anything is written if a name would be written twice, or replaced
    without --overwrite.
    """
    detector = face_detector(opt)
    if opt.direction is None:  # of one's own photographs: persons, unless the model has no choice
        opt.direction = "BtoA" if "BtoA" in model.directions else model.directions[0]
    plan: Plan = []
    for source in map(Path, opt.input):
        plan += make_plan(source, model.opt, opt, detector)
    check_targets(plan, opt)

    squares = cut_out(plan, model.opt, tell=opt.photos and not detector)
    total = sum(len(pictures) for _, pictures in plan)
    count, written = 0, {}  # faces; the files written, and the photograph of each
    pasted: dict[Path, list[tuple[Box, np.ndarray]]] = {}  # of each photograph, until it is whole
    faces_of = {path: len(pictures) for path, pictures in plan}
    with tqdm(total=total, desc=opt.direction, disable=None) as bar:
        while chunk := list(islice(squares, opt.batch_size)):
            images = to_float(torch.stack([torch.from_numpy(pixels) for *_, pixels in chunk]))
            outputs = translated(model, images, opt.direction, opt.compare)
            for (path, target, box, _), pixels in zip(chunk, outputs, strict=True):
                image = Image.fromarray(pixels)
                kept: dict[str, bytes] = {}
                if opt.paste:
                    pasted.setdefault(path, []).append((box, pixels))
                    if len(pasted[path]) < faces_of[path]:
                        continue
                    image, kept = paste_back(path, pasted.pop(path), file_type(target))
                elif opt.scale > 1:
                    image = image.resize(
                        (image.width * opt.scale, image.height * opt.scale),
                        Image.Resampling.LANCZOS,
                    )
                save_picture(target, image, **kept)
                written[target] = path
            count += len(chunk)
            bar.update(len(chunk))
    if not written:
        raise UserError(f"{named(opt)}: none of {len(plan)} pictures could be read")
    if opt.photos and len(written) <= MOST_NAMED:
        for target, path in written.items():
            print(f"{path} -> {target}")
    done = len(set(written.values()))
    results = f" as {count} results" if count > done and not opt.paste else ""
    print(f"{done} of {len(plan)} pictures translated to {opt.output}/{results}")


def named(opt: Namespace) -> str:
    """The sources as they stand on the command line."""
    return " ".join(opt.input) if opt.photos else f"--input {opt.input[0]}"


def make_plan(
    source: Path, of_model: Namespace, opt: Namespace, detector: FaceDetector | None
) -> Plan:
    """Which pictures to write for each photograph of a source; several faces are numbered.

    The numbers go from the left; with --paste all faces of a photograph are in one picture.
    """
    flag, output = "PHOTO" if opt.photos else "--input", Path(opt.output)
    if source.is_dir():
        if os.path.realpath(source) in map(str, Path(os.path.realpath(output)).parents):
            raise UserError(
                f"--output {output}: lies inside {flag} {source}, so that the next call would "
                "translate the translations; name a folder outside"
            )
        names = find_images_or_explain(source, flag)
    elif source.exists():
        names, source = [source.name], source.parent
    else:
        raise UserError(f"{flag} {source}: no such file or folder; name a picture or a folder")
    plan: Plan = []
    for name in tqdm(names, desc="finding faces", disable=None if detector else True):
        target = output / output_name(Path(name), SHOWS[opt.direction] if opt.photos else None)
        boxes: Sequence[Box | None] = [None]
        if detector:
            try:
                with open_image(source / name) as photo:
                    boxes, notes = squares_of_faces(photo, detector, of_model)
            except UnreadableImage:  # told later, where it is cut
                notes = []
            for note in notes:
                say(f"{str(source / name)!r}: {note}")
        targets = [target] * len(boxes)
        if len(boxes) > 1 and not opt.paste:
            numbers = range(1, len(boxes) + 1)
            targets = [target.with_stem(f"{target.stem}_{number}") for number in numbers]
        plan.append((source / name, list(zip(targets, boxes, strict=True))))
    return plan


def output_name(name: Path, shows: str | None) -> Path:
    """Name of a translation: NAME_anime.png where `shows` says what it shows, else the picture's.

    Of a picture whose type is not kept that is its name with .png behind it.
    """
    if shows:
        return name.with_name(f"{name.stem}_{shows}.png")
    return name if name.suffix.lower() in SAVED_TYPES else name.with_name(f"{name.name}.png")


def check_targets(plan: Plan, opt: Namespace) -> None:
    """Raise UserError if one of the pictures would be written over another one, or an input."""
    targets = [
        target for _, pictures in plan for target in dict.fromkeys(target for target, _ in pictures)
    ]
    sources = {os.path.realpath(path) for path, _ in plan}
    lost = [target for target in targets if os.path.realpath(target) in sources]
    if lost:
        raise UserError(
            f"--output {opt.output}: {lost[0]} is one of the pictures of {named(opt)}; "
            "name another folder"
        )
    twice = [target for target, count in Counter(targets).items() if count > 1]
    if twice:
        raise UserError(
            f"{named(opt)}: two pictures would be written to {twice[0]}; rename one of them"
        )
    there = [target for target in targets if target.exists()]
    if there and not opt.overwrite:
        more = f" and {len(there) - 1} more exist" if len(there) > 1 else " exists"
        raise UserError(
            f"--output {opt.output}: {there[0].name}{more} there already; choose "
            "another folder, or replace what is there with --overwrite"
        )


def cut_out(
    plan: Plan, of_model: Namespace, tell: bool
) -> Iterator[tuple[Path, Path, Box, np.ndarray]]:
    """Photograph, target, square and uint8 (H, W, 3) of each picture.

    Unreadable photographs get one line each; with `tell` so do those that are so large that their
    middle may hold more than a face.
    """
    for path, pictures in plan:
        try:
            with open_image(path) as photo:
                middle = crop_box(photo.size, of_model.crop)
                boxes = [box or middle for _, box in pictures]
                cuts = [cut_square(photo, box, of_model.image_size) for box in boxes]
                large = min(photo.size) > LARGE * of_model.image_size
        except UnreadableImage as error:
            say(f"skipped {str(path)!r}: {error}")
            continue
        if tell and large:
            say(f"{str(path)!r}: its middle is taken for the face; --detect_faces looks for it")
        for (target, _), box, pixels in zip(pictures, boxes, cuts, strict=True):
            yield path, target, box, pixels


def paste_back(
    path: Path, faces: list[tuple[Box, np.ndarray]], kind: str
) -> tuple[Image.Image, dict[str, bytes]]:
    """A photograph with pictures uint8 (H, W, 3) in the place of squares, their edges blended.

    All else is as it was stored: colours with their profile, opacity, and EXIF with the turn that
    it tells, where a file of the type `kind` can hold them. Returns the image and the options to
    save it with. Raises UserError if it cannot be read any more.
    """
    try:
        with open_image(path) as photo:
            kept, to_stored, turn = what_to_keep(photo, kind)
            with unreadable_if_it_fails():
                image, alpha = to_rgb_and_alpha(photo)
                if alpha and kind == "JPEG":
                    image, alpha = to_rgb(photo), None
    except UnreadableImage as error:
        raise UserError(f"{path}: cannot be read any more ({error})") from error
    for (left, top, right, _), pixels in faces:
        side = right - left
        face = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
        face = to_stored.apply(face) if to_stored else face
        near = np.minimum(np.arange(side), np.arange(side)[::-1]) / max(1, side * BLEND)
        mask = (np.minimum.outer(near, near).clip(0, 1) * 255).astype(np.uint8)
        image.paste(face, (left, top), Image.fromarray(mask))
    if alpha:
        image.putalpha(alpha)
    return image.transpose(turn) if turn is not None else image, kept


def what_to_keep(
    photo: Image.Image, kind: str
) -> tuple[dict[str, bytes], ImageCms.ImageCmsTransform | None, Image.Transpose | None]:
    """What of a photograph a file of a type can hold beside its pixels.

    Returns options to save it with, how a face gets the stored colours, and how the photograph
    gets its stored turn. Where its profile is kept, the photograph forgets it.
    """
    kept: dict[str, bytes] = {}
    to_stored = turn = None
    if kind == "BMP":
        return kept, to_stored, turn
    profile, exif = photo.info.get("icc_profile"), photo.info.get("exif")
    if profile and profile[16:20] == b"RGB " and photo.mode not in ("CMYK", "LAB"):
        differs = way_to_srgb(profile, "RGB")
        to_stored = way_from_srgb(profile) if differs else None
        if to_stored or not differs:
            kept["icc_profile"] = photo.info.pop("icc_profile")
    if exif and (len(exif) < LONGEST_EXIF or kind != "JPEG"):
        kept["exif"] = b"Exif\0\0" + exif.removeprefix(b"Exif\0\0")
        stored = exif_orientation(exif) or 1
        turn = UPRIGHT.get({6: 8, 8: 6}.get(stored, stored))  # back again
    return kept, to_stored, turn


def translated(
    model: "TranslationModel", images: torch.Tensor, direction: str, compare: bool
) -> np.ndarray:
    """Outputs as uint8 (N, H, W, 3); with `compare` input, output and reconstruction side by side.

    images: (N, 3, H, W) in [-1, 1]. A model of one direction has no reconstruction to show.
    """
    fakes, recs = model.translate(images, direction, and_back=compare)
    if compare:
        fakes = torch.cat([images, fakes] if recs is None else [images, fakes, recs], dim=3)
    return to_uint8(fakes).numpy()


def file_type(target: Path) -> str:
    """Pillow's name of the type that a file's name tells."""
    return SAVED_TYPES[target.suffix.lower()]


def save_picture(target: Path, image: Image.Image, **kept: bytes) -> None:
    """Write a picture, whole or not at all, as the type that its name tells.

    kept: its profile and EXIF, as paste_back gives them.
    """
    kind = file_type(target)
    quality = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
    with atomic_write(target) as file:
        image.save(file, kind, **quality, **kept)
