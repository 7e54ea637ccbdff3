"""Translate faces with a trained model.

    python test.py --demo                        # the newest demo run, on pairs held out of it
    python test.py --name sn_50000               # held-out images of that run's own folders
    python test.py --ckpt model_ckpt/sn_50000/epoch_0200.pth --domain_B_path data/person_test
    python test.py --input photo.jpg --direction BtoA --output out    # one in, one out

Without --input, writes grids to test_image/: 0__person_real.png beside 0__anime_test.png, its
translation tile for tile, 0__anime_real.png beside 0__person_test.png, and so on; grids of an
earlier call are replaced.
"""

import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from arguments import resumed_options, test_options
from batches import split_holdout, to_float, to_uint8
from checkpoint import find_checkpoint, load_checkpoint
from dataset import (
    UnreadableImage,
    check_domains,
    find_images_or_explain,
    load_folder,
    load_image,
)
from demo_faces import hair_agreement, load_pairs, make_demo
from errors import UserError, one_line_errors
from files import atomic_write
from grids import save_grid
from models import make_model
from translation_model import TranslationModel

DIRECTIONS = {"BtoA": ("person", "anime"), "AtoB": ("anime", "person")}  # from, to
GRID_COLUMNS = 8
# Types that --output keeps; pictures of other types get .png after their name.
SAVED_TYPES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


@one_line_errors
def main() -> None:
    opt, given = test_options()
    path = Path(opt.ckpt) if opt.ckpt else find_checkpoint(opt.name, "demo*" if opt.demo else "*")
    state = load_checkpoint(path)
    model = load_model(path, state, opt)
    averaged = "averaged weights" if model.opt.ema else "weights as trained"
    print(f"Model: {path} (epoch {state['epoch']}, {averaged}) on {model.device}")
    if opt.input:
        translate_files(model, opt)
    else:
        translate_domains(model, opt, given, state.get("data", {}))


def load_model(path: Path, state: dict, opt: Namespace) -> TranslationModel:
    """Rebuild the generators of a checkpoint from the options that it holds."""
    here = {"gpu_ids": ",".join(map(str, opt.gpu_ids)) or "-1", "amp": "off", "compile": False}
    try:
        saved = resumed_options(state["options"], here)
        saved.batch_size = opt.batch_size
        model = make_model(saved, training=False, saved=state["model"])
        model.load_nets(state["model"]["nets"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: its weights are not of the architecture that its options name "
                        f"({reason}); use another checkpoint") from error  # fmt: skip
    return model


def translate_domains(model: TranslationModel, opt: Namespace, given: dict, data: dict) -> None:
    """Translate a folder of each domain and write grids of inputs and outputs.

    data: fingerprints of the folders as they were in training.
    """
    images = {}
    if opt.demo:
        make_demo(Path("data/demo"))
        given = {"domain_A_path": "data/demo/test/anime", "domain_B_path": "data/demo/test/person"}
    folders = {}
    for key, domain in (("domain_A_path", "anime"), ("domain_B_path", "person")):
        held_out = key not in given
        folders[domain] = Path(given.get(key, getattr(model.opt, key)))
        size = model.opt.dataset_size if held_out else opt.dataset_size
        loaded = load_folder(folders[domain], f"--{key}", size, model.opt.image_size,
                             model.opt.crop, Path(opt.cache_dir), opt.num_workers)  # fmt: skip
        images[domain] = loaded.images
        if held_out:
            _, indices = split_holdout(len(loaded.images), model.opt.holdout)
            images[domain] = loaded.images[indices[: opt.dataset_size]]
            if data.get(key, loaded.fingerprint()) != loaded.fingerprint():
                print(f"warning: {folders[domain]} has changed since training; some of the images "
                      "held out now may have been trained on")  # fmt: skip
        what = "images that training held out" if held_out else "images"
        print(f"{folders[domain]}: {len(images[domain])} {what}")
    check_domains(folders["anime"], folders["person"])

    output = Path(opt.output)
    outputs = {}
    for direction in model.directions:
        real, shows = DIRECTIONS[direction]
        fakes = []
        starts = range(0, len(images[real]), opt.batch_size)
        for start in tqdm(starts, desc=direction, disable=None):
            chunk = np.array(images[real][start : start + opt.batch_size])
            chunk = to_float(torch.from_numpy(chunk))
            fake, _ = model.translate(chunk, direction, and_back=False)
            number = start // opt.batch_size
            save_grid(output / f"{number}__{real}_real.png", chunk, GRID_COLUMNS)
            save_grid(output / f"{number}__{shows}_test.png", fake, GRID_COLUMNS)
            fakes.append(to_uint8(fake))
        outputs[shows] = torch.cat(fakes).numpy()
    print(f"Grids: {output}/")

    if opt.demo:
        factors = load_pairs(Path("data/demo"))
        for shows, fakes in outputs.items():
            agreement, chance = hair_agreement(fakes, factors[: len(fakes)], shows)
            print(f"hair colour of {len(fakes)} {shows} outputs agrees with the true pair in "
                  f"{agreement:.1%}, with a shuffled one in {chance:.1%}")  # fmt: skip


def translate_files(model: TranslationModel, opt: Namespace) -> None:
    """Translate one picture or a folder of them, one to one, names kept."""
    if opt.direction not in model.directions:
        raise UserError(
            f"--direction {opt.direction}: this model translates {model.directions[0]} alone"
        )
    source, output = Path(opt.input), Path(opt.output)
    if source.is_dir():
        names = find_images_or_explain(source, "--input")
    elif source.exists():
        names, source = [source.name], source.parent
    else:
        raise UserError(f"--input {source}: no such file or folder; name a picture or a folder")
    paths = [source / name for name in names]
    targets = [output / output_name(Path(name)) for name in names]
    twice = [target for target, count in Counter(targets).items() if count > 1]
    if twice:
        raise UserError(
            f"--input {source}: two pictures would be written to {twice[0]}; rename one of them"
        )
    there = [target for target in targets if target.exists()]
    if there and not opt.overwrite:
        raise UserError(
            f"--output {output}: {there[0].name} and {len(there) - 1} more exist there already; "
            "choose another folder, or replace them with --overwrite"
        )

    written = 0
    for start in tqdm(range(0, len(paths), opt.batch_size), desc=opt.direction, disable=None):
        chunk, chunk_targets = [], []
        for path, target in list(zip(paths, targets, strict=True))[start : start + opt.batch_size]:
            try:
                chunk.append(load_image(path, model.opt.image_size, model.opt.crop))
                chunk_targets.append(target)
            except UnreadableImage as error:
                print(f"skipped {str(path)!r}: {error}", file=sys.stderr)
        if not chunk:
            continue
        images = to_float(torch.stack([torch.from_numpy(image) for image in chunk]))
        fakes, _ = model.translate(images, opt.direction, and_back=False)
        for target, pixels in zip(chunk_targets, to_uint8(fakes).numpy(), strict=True):
            with atomic_write(target) as file:
                kind = SAVED_TYPES[target.suffix.lower()]
                quality = {"quality": 95} if kind in ("JPEG", "WEBP") else {}
                Image.fromarray(pixels).save(file, kind, **quality)
            written += 1
    if not written:
        raise UserError(f"--input {opt.input}: none of {len(paths)} files could be read")
    print(f"{written} of {len(paths)} pictures translated to {output}/")


def output_name(name: Path) -> Path:
    """Name of a translation: the picture's own, with .png behind it where that type is not kept."""
    return name if name.suffix.lower() in SAVED_TYPES else name.with_name(f"{name.name}.png")


if __name__ == "__main__":
    main()
