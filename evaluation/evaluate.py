"""Measure a trained model: realism, collapse, memorisation, resemblance; docs/evaluation.md."""

import functools
import json
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor

from common.device import resolve_gpu_ids
from common.errors import UserError, one_line_errors
from common.options import given_options, make_parser, whole
from common.tensors import derived_generator, to_uint8
from common.unread import DEMO_HAS_OWN, refuse_unread, without
from demo.make import load_pairs
from demo.truth import factor_agreement, pixel_error
from evaluation import metrics
from evaluation.attributes import by_group, tables_of
from evaluation.features import FeatureNet, embed
from evaluation.frechet import floor
from evaluation.images import gather, load, refuse_swapped
from evaluation.realism import open_features, realism, verdict
from evaluation.report import DIRECTIONS, FEWEST_FOR_COLLAPSE, GRIDS, save_cases, table
from interop.generators import check_model, find_generators, load_generators
from parsers import add_data_options, add_model_options
from pictures.names import rows_by_name
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
