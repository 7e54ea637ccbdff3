"""The images that evaluate.py measures on, and those that the model was trained on."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.tensors import to_float
from dataset import CACHE, load_folder
from demo.make import make_demo
from evaluation import metrics
from interop.layouts import Found
from pictures.folders import check_domains, find_images, first_of
from pictures.splits import split, tell_if_changed

MOST_TRAINING_IMAGES = 15000  # per domain, evenly spaced: bounds memory and time


def load(
    opt: Namespace, flag: str, folder: Path, count: int, size: int, crop: str = "center"
) -> dict:
    loaded = load_folder(folder, f"--{flag}", count, size, crop, CACHE, opt.num_workers)
    return {
        "test": floats(loaded.images),
        "names": loaded.paths,
        "split": f"images of {folder}",
        "train": None,
        "beyond": find_images(folder)[count:],
    }


def floats(images: np.ndarray) -> Tensor:
    return to_float(torch.from_numpy(np.array(images)))


def gather(opt: Namespace, given: dict, trained: Namespace, found: Found) -> dict[str, dict]:
    """Test and training images of both domains, by domain."""
    if opt.demo:
        make_demo(Path("data/demo"))
        given = {"domain_A_path": "data/demo/test/anime", "domain_B_path": "data/demo/test/person"}
    images = {}
    for key, domain, asked in (
        ("domain_A_path", "anime", opt.train_A_path),
        ("domain_B_path", "person", opt.train_B_path),
    ):
        own, own_set = getattr(trained, key), None
        train = held = np.arange(0)
        if own and Path(own).is_dir() and find_images(Path(own)):
            own_set = load_folder(
                Path(own),
                f"--{key}",
                trained.dataset_size,
                trained.image_size,
                trained.crop,
                CACHE,
                opt.num_workers,
            )
            train, held = split(own_set.hashes, trained.holdout, found.held_out.get(key))
            tell_if_changed(
                own,
                own_set.fingerprint(),
                found.data.get(key),
                "training",
                "some of the images held out now may have been trained on",
            )
        if key in given:
            folder = Path(given[key])
            images[domain] = load(
                opt, key, folder, opt.dataset_size, trained.image_size, trained.crop
            )
        elif own_set:
            held_names = [own_set.paths[i] for i in held]
            held_names = first_of(held_names, opt.dataset_size, f"{own}, held out")
            images[domain] = {
                "test": floats(own_set.images[held[: len(held_names)]]),
                "split": f"held out of {own}",
                "names": held_names,
                "train": None,
            }
        else:
            whose = f"the run's own folder {own} is not here" if own else "the model brings none"
            raise UserError(f"--{key}: {whose}; name a folder")
        if asked:
            own_set = load_folder(
                Path(asked),
                f"--{key.replace('domain', 'train')}",
                10**9,
                trained.image_size,
                trained.crop,
                CACHE,
                opt.num_workers,
            )
            train = np.arange(len(own_set.images))
        if own_set:
            tell_if_trained_on(images[domain], own_set.images, train, domain, key)
            train = train[:: -(-len(train) // MOST_TRAINING_IMAGES)]
            images[domain]["train"] = floats(own_set.images[train])
            images[domain]["train_names"] = [own_set.paths[i] for i in train]
    check_domains(
        *(Path(given.get(k, getattr(trained, k))) for k in ("domain_A_path", "domain_B_path"))
    )
    return images


def tell_if_trained_on(
    found: dict, images: np.ndarray, rows: np.ndarray, domain: str, key: str
) -> None:
    """Note which of the test images are among training images, whatever their names; a line if any.

    found: of a domain, as load() returns it; images: uint8 (N, H, W, 3), rows those of training.
    """
    test = found["test"]
    seen = torch.zeros(len(test), dtype=torch.bool)
    for some in np.array_split(rows, 1 + len(rows) // 5000):  # at a time: bounds the memory
        seen |= metrics.shown_in(test, floats(images[some]))
    found["trained_on"] = seen
    if seen.any():
        print(
            f"warning: {domain}: {int(seen.sum())} of {len(test)} images of {found['split']} are "
            "images that the model was trained on, as their pixels show: figures of them do not "
            f"tell how it does on new ones; name others with --{key}"
        )


def refuse_swapped(images: dict[str, dict]) -> None:
    """Raise UserError if the test folders look like each other's training domains."""
    if any(found["train"] is None for found in images.values()):
        return

    def look(x: Tensor) -> Tensor:
        return torch.cat([metrics.colour_layout(x), metrics.gradient_layout(x)], 1).mean(0)

    looks = {(d, part): look(images[d][part]) for d in images for part in ("test", "train")}

    def distance(a: str, b: str) -> float:
        return (looks[a, "test"] - looks[b, "train"]).norm().item()

    straight = distance("anime", "anime") + distance("person", "person")
    crossed = distance("anime", "person") + distance("person", "anime")
    if crossed < straight:
        raise UserError(
            "--domain_A_path and --domain_B_path: seem to be swapped, since each folder looks more "
            f"like the other training domain (distance {crossed:.2f} against {straight:.2f}); "
            "A is anime, B is person"
        )
