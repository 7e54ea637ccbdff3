"""Measure a trained model: realism, collapse, memorisation, resemblance; docs/evaluation.md."""

import functools
import json
import unicodedata
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.device import resolve_gpu_ids
from common.errors import UserError, one_line_errors
from common.options import given_options, make_parser, whole
from common.tensors import derived_generator, to_float, to_uint8
from common.unread import DEMO_HAS_OWN, refuse_unread, without
from dataset import CACHE, load_folder
from demo.make import load_pairs, make_demo
from demo.truth import factor_agreement, pixel_error
from evaluation import metrics
from evaluation.attributes import by_group, tables_of
from evaluation.features import FeatureNet, embed
from evaluation.frechet import floor
from evaluation.realism import open_features, realism, verdict
from evaluation.report import DIRECTIONS, FEWEST_FOR_COLLAPSE, GRIDS, save_cases, table
from interop.generators import check_model, find_generators, load_generators
from interop.layouts import Found
from parsers import add_data_options, add_model_options
from pictures.folders import check_domains, find_images, first_of
from pictures.splits import split, tell_if_changed
from storage.files import atomic_write, refuse_unwritable
from translation_model import TranslationModel

# Ready outputs and real images alone need no model, nor what belongs to one.
OF_A_MODEL = [without("fakes"), without("floors_only")]
EVALUATE = {
    "ckpt": OF_A_MODEL,
    "name": OF_A_MODEL,
    "model": OF_A_MODEL,
    "demo": OF_A_MODEL,
    "domain_A_path": DEMO_HAS_OWN,
    "domain_B_path": DEMO_HAS_OWN,
    "train_A_path": OF_A_MODEL,
    "train_B_path": OF_A_MODEL,
    "attributes": [*OF_A_MODEL, without("direction")],  # persons made again need both
    "fakes": [without("floors_only")],
    "direction": [without("floors_only")],
    "inception_weights": [without("floors_only")],
    "features": [without("floors_only")],
}

MOST_TRAINING_IMAGES = 15000  # per domain, evenly spaced: bounds memory and time
FEWEST = 6  # test images: retrieval in five needs one more


@one_line_errors
def main() -> None:
    opt, given = evaluate_options()
    output = Path(opt.output)
    refuse_lost_results(output, opt.overwrite)
    results: dict = {"seed": opt.seed}
    model, images, directions = None, {}, list(DIRECTIONS)
    if opt.floors_only or opt.fakes:
        opt.image_size = opt.image_size or 64
        for key, domain in (("domain_A_path", "anime"), ("domain_B_path", "person")):
            if key not in given:
                raise UserError(f"--{key}: needed with --floors_only and --fakes; name the folder")
            images[domain] = load(opt, key, Path(given[key]), opt.dataset_size, opt.image_size)
    else:
        path = find_generators(opt, opt.demo)
        model, found = load_generators(
            path, opt.gpu_ids, opt.batch_size, opt.direction, opt.image_size
        )
        check_model(opt.model, found)
        results["checkpoint"] = {"file": str(path), "epoch": found.epoch, "steps": found.steps}
        images = gather(opt, given, model.opt, found)
        refuse_swapped(images)
        directions = [d for d in directions if d in model.directions]
    net = open_features()
    for domain, data in images.items():
        if len(data["test"]) < FEWEST:
            flag = f"--domain_{'A' if domain == 'anime' else 'B'}_path"
            raise UserError(
                f"{flag}: {len(data['test'])} {data['split']}, and at least {FEWEST} "
                "are needed; name a folder of more"
            )
        print(f"{domain}: {len(data['test'])} {data['split']}")
        results[domain] = {
            "N": len(data["test"]),
            "split": data["split"],
            **({"trained_on": int(data["trained_on"].sum())} if "trained_on" in data else {}),
            "floor": floors(data["test"], net, opt.seed),
        }

    if not opt.floors_only:
        tables = opt.attributes and tables_of(images["person"], *map(Path, opt.attributes))
        made = {}
        for direction in directions:
            if opt.direction not in (None, direction):
                continue
            source, target = (images[domain] for domain in DIRECTIONS[direction])
            fakes, recs = made[direction] = translations(opt, model, direction, source)
            figures = judge(net, fakes, recs, source, target, opt)
            if opt.demo:
                figures["truth"] = truth(fakes, source["names"], DIRECTIONS[direction][1], opt)
            results[direction] = figures
            if model:
                save_cases(output.with_suffix(""), direction, source, target, fakes, recs)
        if tables and len(made) < 2:
            print(
                "groups left out: they are judged on persons made again, for which both "
                "directions are needed"
            )
        elif tables and images["person"]["train"] is None:
            print(
                "groups left out: their classifiers learn from training persons; name those of "
                "this model with --train_B_path"
            )
        elif tables:
            to_anime, back = made["BtoA"]
            assert back is not None  # a model of both directions has a way back
            results["groups"] = by_group(
                tables, images["person"], to_anime, back, made["AtoB"][0], opt.seed
            )
    with atomic_write(output) as file:
        file.write(json.dumps(results, indent=2).encode())
    print(table(results))
    print(f"Figures: {output}")
    if model:
        print(f"Grids: {output.with_suffix('')}/")


def evaluate_options() -> tuple[Namespace, dict]:
    """Parse the options; returns them, and those really given. Raises UserError."""
    parser = make_parser("Measure a trained model, or ready folders of outputs.")
    add_model_options(parser)
    data = parser.add_argument_group("data (default: the run's own held-out images)")
    add_data_options(parser, data)
    data.add_argument(
        "--dataset_size", type=whole(8), default=1000, help="first N images of each domain"
    )
    data.add_argument(
        "--train_A_path",
        help="anime faces that a published model was trained "
        "on, for memorisation; a run knows its own",
    )
    data.add_argument("--train_B_path", help="person faces, likewise")
    data.add_argument(
        "--fakes", help="folder of ready outputs, named as their inputs, or as test.py names them"
    )
    data.add_argument(
        "--direction",
        choices=tuple(DIRECTIONS),
        help="only this one; needed for --fakes, 64 pixels wide unless --image_size says otherwise",
    )
    data.add_argument(
        "--floors_only",
        action="store_true",
        help="only what halves of the real images score against each other",
    )
    parser.set_defaults(domain_A_path=None, domain_B_path=None)
    data.add_argument(
        "--attributes",
        nargs="+",
        metavar="CSV",
        help="table with a row per person image (file, Male, ...), or two: that "
        "of the training images, then that of the test images",
    )
    fid = parser.add_argument_group("FID and KID (pip install -r requirements-eval.txt)")
    fid.add_argument("--inception_weights", help="local file, for machines without a network")
    fid.add_argument("--features", help="own encoder in Inception's place (see dtn/encoder.py)")
    run = parser.add_argument_group("run")
    run.add_argument("--batch_size", type=whole(1), default=50, help="images at a time")
    run.add_argument("--seed", type=whole(0), default=0, help="of patches and resampling")
    run.add_argument("--output", default="results.json", help="JSON file; grids go beside it")
    run.add_argument("--overwrite", action="store_true", help="replace --output and its grids")

    opt, given = parser.parse_args(), given_options(parser)
    refuse_unread(EVALUATE, given, opt)
    if opt.fakes and not opt.direction:
        raise UserError(f"--fakes {opt.fakes}: needs --direction, AtoB or BtoA")
    opt.gpu_ids = resolve_gpu_ids(opt.gpu_ids)[:1]
    return opt, given


def refuse_lost_results(output: Path, overwrite: bool) -> None:
    """Raise UserError if figures or grids could not be written after minutes of work.

    Also if they would replace others, and that was not asked for.
    """
    if output.is_dir():
        raise UserError(
            f"--output {output}: is a folder; name a file in it, such as {output / 'results.json'}"
        )
    grids = output.with_suffix("")
    if grids == output:
        raise UserError(
            f"--output {output}: has no suffix, and the folder of that name is for the "
            f"grids; use {output}.json"
        )
    if grids.exists() and not grids.is_dir():
        raise UserError(
            f"--output {output}: its grids go to the folder {grids}, which is a file; "
            "choose another name"
        )
    files = [output, *(grids / f"{d}_{kind}.png" for d in DIRECTIONS for kind in GRIDS)]
    there = [path for path in files if path.exists()]
    if there and not overwrite:
        raise UserError(
            f"--output {output}: {there[0].name} exists there already; choose another name, or "
            "replace what is there with --overwrite"
        )
    refuse_unwritable(output)


# ------------------------------------------------------------------------------------- data


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


TYPES = tuple(Image.registered_extensions())


def without_type(name: str) -> str:
    return name.rpartition(".")[0] if name.lower().endswith(TYPES) else name


def plain(name: str) -> str:
    """A path without the types and the _anime or _person that test.py puts behind a name."""
    while (shorter := without_type(name).removesuffix("_anime").removesuffix("_person")) != name:
        name = shorter
    return name


def rows_by_name(
    inputs: list[str], outputs: list[str], beyond: list[str], folder: str
) -> list[int]:
    """For each input the row of the output of its name, in `folder`; all are paths below folders.

    Names count as they stand or, where that leaves some over, without type, without _anime and
    _person too, without folders. beyond: inputs left out, which may have outputs. Raises UserError
    if there are inputs or outputs without each other, or several of one name.
    """

    def keys(key: Callable[[str], str], names: list[str]) -> list[str]:
        return [key(unicodedata.normalize("NFC", name)) for name in names]

    for key in (str, without_type, plain, lambda name: plain(name).rpartition("/")[2]):
        wanted, there, others = keys(key, inputs), keys(key, outputs), keys(key, beyond)
        row = {name: i for i, name in enumerate(there)}
        alone = len(row) == len(there) and len({*wanted, *others}) == len(wanted) + len(others)
        if alone and {*wanted} <= row.keys() <= {*wanted, *others}:
            return [row[name] for name in wanted]

    wanted, there, others = (keys(plain, names) for names in (inputs, outputs, beyond))
    outputs_of, inputs_of = Counter(there), Counter([*wanted, *others])
    wrong = []
    for names, by_name, times, is_wrong, what in (
        (inputs, wanted, outputs_of, lambda n: n == 0, "inputs have no output"),
        (outputs, there, inputs_of, lambda n: n == 0, "outputs have no input"),
        (inputs, wanted, inputs_of, lambda n: n > 1, "inputs share a name"),
        (outputs, there, outputs_of, lambda n: n > 1, "outputs share a name"),
    ):
        if left := [n for n, key in zip(names, by_name, strict=True) if is_wrong(times[key])]:
            more = ", ..." if len(left) > 3 else ""
            wrong.append(f"{len(left)} of {len(names)} {what} ({', '.join(left[:3])}{more})")
    raise UserError(
        f"--fakes {folder}: {', '.join(wrong)}; one readable output is needed of each input, with "
        "its name, or that and _anime or _person"
    )


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


def translations(
    opt: Namespace, model: TranslationModel | None, direction: str, source: dict
) -> tuple[Tensor, Tensor | None]:
    """Outputs of a model with their reconstructions, or ready ones without."""
    if model is None:
        fakes = load(opt, "fakes", Path(opt.fakes), 10**9, opt.image_size)
        rows = rows_by_name(source["names"], fakes["names"], source["beyond"], opt.fakes)
        return fakes["test"][rows], None
    return model.translate(source["test"], direction)


# ---------------------------------------------------------------------------------- figures


def floors(real: Tensor, net: FeatureNet | None, seed: int) -> dict:
    """What real images score: one random half against the other, and in FD as many others."""
    order = torch.randperm(len(real), generator=derived_generator(seed, "halves"))
    half = len(real) // 2
    a, b = real[order[:half]], real[order[half : 2 * half]]
    return {
        "N": half,
        "swd": metrics.sliced_wasserstein(a, b, derived_generator(seed, "patches")),
        "diversity": metrics.collapse_report(a, b),
        "realism": floor(embed(net, real), seed) if net else None,
    }


def judge(
    net: FeatureNet | None,
    fakes: Tensor,
    recs: Tensor | None,
    source: dict,
    target: dict,
    opt: Namespace,
) -> dict:
    """All figures of one direction, first those that painting over an input cannot please."""
    inputs, real = source["test"], target["test"]
    if not torch.isfinite(fakes).all():
        raise UserError("the model's outputs are not all finite; the checkpoint is broken")
    figures: dict = {"realism": realism(net, inputs, fakes, real, opt.seed) if net else None}
    figures |= metrics.figures(inputs, fakes, recs, real, opt.seed)
    enough = min(len(fakes), len(real)) >= FEWEST_FOR_COLLAPSE
    figures["verdict"] = verdict(figures["realism"], figures["diversity"]) if enough else ""
    if target["train"] is not None:
        new = real[~target["trained_on"]]
        figures["memorisation"] = (
            metrics.memorisation(fakes, target["train"], new)
            if len(new) > 1
            else {"ratio": None, "share": None}
        )
        figures["memorisation"]["N_training"] = len(target["train"])
    figures["fid_kid"] = fid_kid(fakes, real, opt)
    return figures


def fid_kid(fakes: Tensor, real: Tensor, opt: Namespace) -> dict | None:
    """FID and KID, or None and one line that says why not, unless they were asked for."""
    from evaluation.fidelity import fid_kid as measure

    asked = opt.inception_weights or opt.features
    try:
        return measure(
            to_uint8(fakes).numpy(),
            to_uint8(real).numpy(),
            opt.seed,
            opt.inception_weights and Path(opt.inception_weights),
            opt.features and Path(opt.features),
        )
    except UserError as error:
        if asked:
            raise
        say_once(f"FID and KID left out: {error}")
        return None


@functools.cache
def say_once(line: str) -> None:
    print(line)


def truth(fakes: Tensor, names: list[str], style: str, opt: Namespace) -> dict:
    """Agreement of outputs with the true drawings of the demo's held-out pairs of these names."""
    pairs = load_pairs(Path("data/demo"), names, opt.dataset_size)
    pixels = to_uint8(fakes).numpy()
    return {
        "factors": factor_agreement(pixels, pairs, style),
        "pixels": pixel_error(pixels, pairs, style),
    }
