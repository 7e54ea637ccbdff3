"""The body of pretrain_encoder.py: training f, the encoder of --model dtn."""

import math
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from arguments import train_options
from common.device import resolve_gpu_ids
from common.errors import UserError, one_line_errors
from common.options import flags_that_differ, given_options, make_parser, number, whole
from common.tensors import derived_generator, to_float
from common.unread import DEMO_HAS_OWN, refuse_unread
from dataset import CACHE, ImageArray, UnpairedBatches, load_folder
from demo.make import make_demo, training_factors
from demo.truth import factor_labels
from dtn.encoder import Encoder, save_encoder
from dtn.losses import balanced_bce, vicreg
from losses import total
from parsers import add_data_options, add_dataset_size
from pictures.decode import CROPS
from pictures.folders import check_domains
from pictures.splits import split_holdout
from pictures.tables import read_column, read_table, refuse_ambiguous
from storage.files import refuse_overwriting, refuse_unwritable

PRETRAIN = {
    "domain_A_path": DEMO_HAS_OWN,
    "domain_B_path": DEMO_HAS_OWN,
    "attributes": DEMO_HAS_OWN,
}

DEMO = Path("data/demo")
DEMO_DEFAULTS = {
    "domain_A_path": "data/demo/anime",
    "domain_B_path": "data/demo/person",
    "dim": 64,
    "batch_size": 32,
    "steps": 600,
    "output": "data/demo/encoder.pth",
}
DOMAINS = ("A", "B")
SMALLEST_CROP = 0.6  # of the width; smaller ones lose the hair
EXPANDED = 256  # numbers that VICReg compares
DATA = ("domain_A_path", "domain_B_path", "image_size", "crop")  # must be the same in train.py
FEWEST = 20  # images that must have an attribute, and as many that must not


@dataclass
class Labels:
    """Attributes 0 or 1 of a domain's images, float (N, L), NaN where unknown, and their names."""

    values: Tensor
    names: list[str]

    def known(self) -> Tensor:
        """Which images have any label, bool (N,)."""
        return ~self.values.isnan().all(dim=1)


@one_line_errors
def main() -> None:
    opt = encoder_options()
    refuse_overwriting(Path(opt.output), opt.overwrite)  # now, not after the training
    device = torch.device(f"cuda:{opt.gpu_ids[0]}" if opt.gpu_ids else "cpu")
    if opt.demo:
        make_demo(DEMO)
    check_domains(opt.domain_A_path, opt.domain_B_path)
    images = {domain: load(opt, domain) for domain in DOMAINS}
    labels = find_labels(opt, images)
    held, by = hold_out(opt, images, labels)
    for domain in DOMAINS:
        count, known = len(images[domain].images), int(labels[domain].known().sum())
        folder, out = getattr(opt, f"domain_{domain}_path"), int(held[domain].sum())
        print(
            f"{folder}: {count} images, {known} with labels, {out} held out"
            + (f" by {by}" if out else "")
        )
    refuse_unwritable(Path(opt.output))

    encoder, head = train(opt, images, labels, held, device)
    for domain, name in zip(DOMAINS, ("anime", "person"), strict=True):
        if held[domain].any() and labels[domain].known()[held[domain]].any():
            print(report(name, judge(encoder, head, images, labels, held, domain, device)))
    data = {f"domain_{domain}_path": images[domain].fingerprint() for domain in DOMAINS}
    notes = {"steps": opt.steps, "seed": opt.seed, "labels": labels["B"].names, "data": data}
    save_encoder(Path(opt.output), encoder.cpu(), notes)
    print(f"Encoder: {opt.output}")
    demo = ["--demo"] if opt.demo else []
    flags = [*demo, *flags_that_differ(opt, train_options(demo)[0], DATA), "--f_encoder"]
    print(f"Train with it: python train.py --model dtn {' '.join(flags)} {opt.output}")


def encoder_options() -> Namespace:
    """Parse the options. Raises UserError."""
    parser = make_parser("Train the encoder f of --model dtn.")
    data = parser.add_argument_group("data")
    add_data_options(parser, data)
    add_dataset_size(data)
    data.add_argument(
        "--image_size",
        type=whole(16),
        default=64,
        help="side of the square, pixels; that of train.py",
    )
    data.add_argument("--crop", choices=CROPS, default="center", help="as in train.py")
    data.add_argument(
        "--attributes",
        help="CSV with a row per labelled person image: file, attributes as 0 "
        "or 1, perhaps identity, or split as train, valid, test",
    )
    run = parser.add_argument_group("run")
    run.add_argument("--width", type=whole(1), default=32, help="channels of the first layer")
    run.add_argument("--dim", type=whole(2), default=128, help="numbers in f(x)")
    run.add_argument("--steps", type=whole(0), default=3000, help="optimiser steps")
    run.add_argument("--batch_size", type=whole(2), default=64, help="images of each domain")
    run.add_argument(
        "--lr",
        type=number(above=0),
        default=1e-3,
        help="Adam's first learning rate; from the middle on a line to 0",
    )
    run.add_argument("--seed", type=whole(0), default=0, help="of all that is random")
    run.add_argument("--output", default="data/encoder.pth", help="file to write")
    run.add_argument("--overwrite", action="store_true", help="replace --output")

    given = given_options(parser)
    if given.get("demo"):
        parser.set_defaults(**DEMO_DEFAULTS)
    opt = parser.parse_args()
    refuse_unread(PRETRAIN, given, opt)
    opt.gpu_ids = resolve_gpu_ids(opt.gpu_ids)[:1]
    return opt


# ------------------------------------------------------------------------------------- data


def load(opt: Namespace, domain: str) -> ImageArray:
    key = f"domain_{domain}_path"
    return load_folder(
        Path(getattr(opt, key)),
        f"--{key}",
        opt.dataset_size,
        opt.image_size,
        opt.crop,
        CACHE,
        opt.num_workers,
    )


def find_labels(opt: Namespace, images: dict[str, ImageArray]) -> dict[str, Labels]:
    """Labels of each domain. Raises UserError where a table has none that could be learned."""
    stems = stems_of(images)
    if opt.demo:
        # The factors of one domain's training images say nothing about the other's: no face of
        # theirs is the same. The pairs under test/ are not looked at.
        factors = training_factors(DEMO)
        return {
            domain: Labels(*factor_labels([factors[style][int(stem)] for stem in stems[domain]]))
            for domain, style in zip(DOMAINS, ("anime", "person"), strict=True)
        }
    if not opt.attributes:
        return {d: Labels(torch.full((len(stems[d]), 0), torch.nan), []) for d in DOMAINS}

    names, table = read_table(Path(opt.attributes))
    refuse_ambiguous(table, (images["B"].paths, images["B"].images))
    unknown = [float("nan")] * len(names)
    # Of persons alone: anime files often have the same numbers for names.
    values = torch.tensor([table.get(stem, unknown) for stem in stems["B"]])
    if values.isnan().all():
        raise UserError(
            f"--attributes {opt.attributes}: has no row for any of the images; its "
            f"first is {next(iter(table), 'none')!r}"
        )
    enough = torch.minimum((values == 1).sum(dim=0), (values == 0).sum(dim=0)) >= FEWEST
    rare = [name for name, kept in zip(names, enough.tolist(), strict=True) if not kept]
    if rare:
        print(
            f"{opt.attributes}: not learned, since fewer than {FEWEST} images have them, or have "
            f"them not: {', '.join(rare)}"
        )
    if len(rare) == len(names):
        raise UserError(
            f"--attributes {opt.attributes}: no attribute is 0 in {FEWEST} of the "
            f"images and 1 in {FEWEST}; label more, or leave it out to learn without "
            "labels"
        )
    names = [name for name in names if name not in rare]
    nothing = torch.full((len(stems["A"]), len(names)), torch.nan)
    return {"A": Labels(nothing, names), "B": Labels(values[:, enough], names)}


def hold_out(
    opt: Namespace, images: dict[str, ImageArray], labels: dict[str, Labels]
) -> tuple[dict[str, Tensor], str]:
    """Which images are held out of training, bool (N,) of each domain, and by what they are.

    Those of a table by its column "split", else by "identity", so that nobody is on both sides.
    """
    stems = stems_of(images)
    held = {domain: torch.zeros(len(stems[domain]), dtype=torch.bool) for domain in DOMAINS}
    if opt.attributes:
        split = read_column(Path(opt.attributes), "split")
        held["B"] = torch.tensor([split.get(stem, "train") != "train" for stem in stems["B"]])
        if held["B"].all():
            raise UserError(
                f"--attributes {opt.attributes}: its column 'split' puts none of the images into "
                "'train'; it knows train, valid and test"
            )
        if held["B"].any():
            return held, "split"
        identities = read_column(Path(opt.attributes), "identity")
        # Of all people in the table: a part of the images then has the same strangers.
        people = sorted(set(identities.values()))
        order = torch.randperm(len(people), generator=derived_generator(opt.seed, "identities"))
        strangers = {people[i] for i in order[: max(1, len(people) // 10)]}
        held["B"] = torch.tensor([identities.get(stem) in strangers for stem in stems["B"]])
        if held["B"].any() and not held["B"].all():
            return held, "identity"
        held["B"][:] = False
    for domain in DOMAINS:
        known = torch.nonzero(labels[domain].known()).flatten()
        if len(known) > 1:
            held[domain][known[split_holdout(len(known), len(known))[1]]] = True
    return held, "image"


def stems_of(images: dict[str, ImageArray]) -> dict[str, list[str]]:
    return {domain: [Path(path).stem for path in images[domain].paths] for domain in DOMAINS}


def views(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops of images (B, 3, H, W) in [-1, 1], scaled back up, half of them mirrored.

    Hues stay: a net that is taught to overlook them cannot tell blond hair from black.
    """
    b = len(images)
    size = 1 - (1 - SMALLEST_CROP) * torch.rand(b, generator=generator)
    shift = (torch.rand(b, 2, generator=generator) * 2 - 1) * (1 - size)[:, None]
    mirror = torch.where(torch.rand(b, generator=generator) < 0.5, -1.0, 1.0)
    places = torch.zeros(b, 2, 3)
    places[:, 0, 0], places[:, 1, 1], places[:, :, 2] = size * mirror, size, shift
    brightness = 1 + 0.2 * (torch.rand(b, 1, 1, 1, generator=generator) * 2 - 1)
    grid = F.affine_grid(places.to(images.device), list(images.shape), align_corners=False)
    cut = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return (cut * brightness.to(images.device)).clamp(-1, 1)


# --------------------------------------------------------------------------------- training


def label_rates(labels: dict[str, Labels], held: dict[str, Tensor]) -> Tensor:
    """Share of 1 among the training labels of both domains, (L,), away from 0 and 1."""
    values = torch.cat([labels[domain].values[~held[domain]] for domain in DOMAINS])
    return values.nanmean(dim=0).nan_to_num(0.5).clamp(0.005, 0.995)


def train(
    opt: Namespace,
    images: dict[str, ImageArray],
    labels: dict[str, Labels],
    held: dict[str, Tensor],
    device: torch.device,
) -> tuple[Encoder, nn.ModuleDict]:
    """Train an encoder; returns it, and the layer that turns its features into attributes.

    Before that layer each domain's features are brought to mean 0 and deviation 1 on their own, as
    DTN does with them (encoder.DomainFeatures).
    """
    torch.manual_seed(opt.seed)
    encoder = Encoder(opt.width, opt.dim, opt.image_size)
    names = labels["A"].names
    head = nn.ModuleDict(
        {
            "norm_A": nn.BatchNorm1d(opt.dim, affine=False, momentum=0.02),
            "norm_B": nn.BatchNorm1d(opt.dim, affine=False, momentum=0.02),
            "attributes": nn.Linear(opt.dim, len(names)) if names else nn.Identity(),
        }
    )
    expander = nn.Sequential(
        nn.Linear(opt.dim, EXPANDED),
        nn.BatchNorm1d(EXPANDED),
        nn.ReLU(),
        nn.Linear(EXPANDED, EXPANDED),
    )
    nets = nn.ModuleList([encoder, head, expander]).to(device)
    unlabelled = not all(labels[domain].known().all() for domain in DOMAINS)
    rates = label_rates(labels, held).to(device)
    optimizer = torch.optim.Adam(nets.parameters(), lr=opt.lr)
    batches = UnpairedBatches(
        images["A"].images,
        images["B"].images,
        opt.batch_size,
        opt.seed,
        flip=not opt.demo,
        indices_A=torch.nonzero(~held["A"]).flatten().numpy(),
        indices_B=torch.nonzero(~held["B"]).flatten().numpy(),
        device=device,
    )

    totals: list[Tensor] = []  # losses not yet fetched from the device
    bar = tqdm(range(opt.steps), desc="training f", disable=None)
    for step in bar:
        optimizer.param_groups[0]["lr"] = opt.lr * min(1.0, 2 * (1 - step / opt.steps))
        generator = derived_generator(opt.seed, "views", step)
        losses: dict[str, Tensor] = {}
        for domain, real in zip(DOMAINS, batches.batch(step), strict=True):
            norm = head[f"norm_{domain}"]
            rows = batches.draw(domain, step)[0]
            if names and labels[domain].known()[rows].any():
                answers = head["attributes"](norm(encoder(real)))
                truth = labels[domain].values[rows].to(device)
                losses[f"labels_{domain}"] = balanced_bce(answers, truth, rates)
            if unlabelled:
                both = torch.cat([views(real, generator), views(real, generator)])
                a, b = expander(norm(encoder(both))).chunk(2)
                losses[f"vicreg_{domain}"] = vicreg(a, b) / 25
        optimizer.zero_grad()
        loss = total(losses)
        loss.backward()
        optimizer.step()
        totals.append(loss.detach())
        if step % 20 == 0 or step + 1 == opt.steps:
            for i, value in enumerate(torch.stack(totals).tolist(), step + 1 - len(totals)):
                if not math.isfinite(value):
                    raise UserError(f"--lr {opt.lr}: the loss became {value} at step {i}; lower it")
            totals.clear()
            bar.set_postfix({name: f"{loss.item():.3f}" for name, loss in losses.items()})
    return encoder.eval(), head.eval()


@torch.no_grad()
def judge(
    encoder: Encoder,
    head: nn.ModuleDict,
    images: dict[str, ImageArray],
    labels: dict[str, Labels],
    held: dict[str, Tensor],
    domain: str,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Figures of each attribute on a domain's held-out images.

    accuracy against majority, the share of the more frequent answer: training weighed both answers
    alike, and for this figure their true frequencies are put back. balanced: mean of the accuracies
    over images with and without it, as trained; 1/2 says nothing.
    """
    rows = torch.nonzero(held[domain] & labels[domain].known()).flatten()
    truth = labels[domain].values[rows]
    logits = torch.cat(
        [
            head["attributes"](
                head[f"norm_{domain}"](
                    encoder(
                        to_float(torch.from_numpy(images[domain].images[chunk.numpy()])).to(device)
                    )
                )
            ).cpu()
            for chunk in rows.split(128)
        ]
    )
    rates = label_rates(labels, held)
    figures = {}
    for i, name in enumerate(labels[domain].names):
        known = ~truth[:, i].isnan()
        if not known.any():  # no held-out image has this label
            continue
        true, logit = truth[known, i] == 1, logits[known, i]
        said = logit + torch.logit(rates[i]) > 0
        balanced = [(logit > 0)[true].float().mean(), (logit <= 0)[~true].float().mean()]
        figures[name] = {
            "N": int(known.sum()),
            "accuracy": (said == true).float().mean().item(),
            "majority": max(true.float().mean().item(), 1 - true.float().mean().item()),
            "balanced": torch.stack(balanced).nanmean().item(),
        }
    return figures


def report(domain: str, figures: dict[str, dict[str, float]]) -> str:
    """The figures as a markdown table, their means last."""
    n = max(f["N"] for f in figures.values())
    lines = [
        f"held-out {domain} images: {n}",
        "| attribute | right | majority | right, both answers alike |",
        "| --- | --- | --- | --- |",
    ]
    keys = ("accuracy", "majority", "balanced")
    rows = {name: [f[key] for key in keys] for name, f in figures.items()}
    rows["mean"] = [sum(values) / len(figures) for values in zip(*rows.values(), strict=True)]
    lines += [
        f"| {name} | " + " | ".join(f"{v:.1%}" for v in row) + " |" for name, row in rows.items()
    ]
    return "\n".join(lines)
