"""Train the features in which evaluate.py compares images (features.py), without labels.

    python -m evaluation.train_features --domain_A_path data/anime --domain_B_path data/person

Two views of an image, crops with mild changes of colour, must find each other among those of the
batch (SimCLR, Chen et al. 2020). In every second step only images of the same domain are in the
way, so that telling drawings from photographs does not solve the task. About 16 minutes on one
core; train on training images alone, and measure on others.
"""

import math
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from common.device import resolve_gpu_ids
from common.errors import UserError, one_line_errors
from common.options import make_parser, number, whole
from common.tensors import derived_generator, to_float
from dataset import CACHE, UnpairedBatches, load_folder
from dtn.pretraining import views
from evaluation.features import CHUNK, IMAGE_SIZE, FeatureNet, save_features
from parsers import add_data_options
from pictures.folders import check_domains
from storage.files import refuse_overwriting, refuse_unwritable

TEMPERATURE = 0.2
HIDDEN, COMPARED = 256, 128  # numbers inside the head, and those that views are compared by
WARM_UP = 50  # steps of a growing learning rate
FITTED = 5000  # images of a domain whose statistics the last layers are fitted to


@one_line_errors
def main() -> None:
    opt = feature_options()
    refuse_overwriting(Path(opt.output), opt.overwrite)
    device = torch.device(f"cuda:{opt.gpu_ids[0]}" if opt.gpu_ids else "cpu")
    check_domains(opt.domain_A_path, opt.domain_B_path)
    images = {
        domain: load_folder(
            Path(getattr(opt, key)),
            f"--{key}",
            10**9,
            IMAGE_SIZE,
            "center",
            CACHE,
            opt.num_workers,
        ).images
        for domain, key in (("A", "domain_A_path"), ("B", "domain_B_path"))
    }
    refuse_unwritable(Path(opt.output))
    train(opt, images, device)
    print(f"Features: {opt.output}")


def feature_options() -> Namespace:
    """Parse the options. Raises UserError."""
    parser = make_parser("Train the features in which evaluate.py compares images.")
    data = parser.add_argument_group("data")
    add_data_options(parser, data, demo=False)
    run = parser.add_argument_group("run")
    run.add_argument("--width", type=whole(1), default=16, help="channels of the first layer")
    run.add_argument("--batch_size", type=whole(2), default=96, help="images of each domain")
    run.add_argument("--steps", type=whole(1), default=1200, help="optimiser steps")
    run.add_argument(
        "--save_every",
        type=whole(1),
        default=300,
        help="steps after which the file is written as it stands",
    )
    run.add_argument(
        "--lr",
        type=number(above=0),
        default=2e-3,
        help="AdamW's learning rate; along a cosine to 0",
    )
    run.add_argument("--seed", type=whole(0), default=0, help="of all that is random")
    run.add_argument("--output", default="data/features.pth", help="file to write")
    run.add_argument("--overwrite", action="store_true", help="replace --output")
    opt = parser.parse_args()
    opt.gpu_ids = resolve_gpu_ids(opt.gpu_ids)[:1]
    return opt


def train(opt: Namespace, images: dict, device: torch.device) -> None:
    """Train and write the features; images: uint8 (N, 64, 64, 3) of domains A and B."""
    torch.manual_seed(opt.seed)
    net = FeatureNet(opt.width, norm=True)
    head = nn.Sequential(
        nn.Linear(16 * opt.width, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, COMPARED),
    )
    nets = nn.ModuleList([net, head]).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(nets.parameters(), lr=opt.lr, weight_decay=0.01)
    batches = UnpairedBatches(images["A"], images["B"], opt.batch_size, opt.seed, device=device)
    domain = torch.arange(2, device=device).repeat_interleave(opt.batch_size).repeat(2)  # (4B,)

    recent: list[Tensor] = []  # loss and share found of the latest steps
    bar = tqdm(range(opt.steps), desc="training features", disable=None)
    for step in bar:
        optimizer.param_groups[0]["lr"] = rate(opt, step)
        generator = derived_generator(opt.seed, "views", step)
        real = torch.cat(batches.batch(step))  # (2B, 3, H, W)
        both = torch.cat([recolour(views(real, generator), generator) for _ in range(2)])
        both = both.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            rows = head(net.maps(both)[-1].mean(dim=(2, 3)))
        loss, found = nt_xent(rows.float(), domain if step % 2 else None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        recent.append(torch.stack([loss.detach(), found]))
        last = step + 1 == opt.steps
        if last or (step + 1) % 50 == 0:
            mean, share = torch.stack(recent).mean(dim=0).tolist()
            recent.clear()
            if not math.isfinite(mean):
                raise UserError(f"--lr {opt.lr}: the loss became {mean} by step {step}; lower it")
            tqdm.write(f"step {step + 1}: loss {mean:.3f}, other view found {share:.1%}")
        if last or (step + 1) % opt.save_every == 0:
            plain = net.eval().fold()
            plain.fit({key: measured(plain, array) for key, array in images.items()})
            notes = {
                "steps": step + 1,
                "batch_size": opt.batch_size,
                "lr": opt.lr,
                "seed": opt.seed,
            }
            save_features(Path(opt.output), plain, notes)
            net.train()


def rate(opt: Namespace, step: int) -> float:
    """Learning rate: a short climb, then half a cosine to 0."""
    climb = min(1.0, (step + 1) / WARM_UP)
    return opt.lr * climb * (1 + math.cos(math.pi * step / opt.steps)) / 2


def nt_xent(rows: Tensor, domain: Tensor | None) -> tuple[Tensor, Tensor]:
    """How badly views find their other view, and the share that does: both scalar.

    rows: (2N, D), row i and row N + i being views of one image; domain: (2N,), if only images of
    the same one are to be told apart. Source: Chen et al. 2020 (SimCLR), equation 1.
    """
    n = len(rows) // 2
    unit = F.normalize(rows, dim=1)
    similar = unit @ unit.T / TEMPERATURE  # (2N, 2N)
    out = torch.eye(2 * n, dtype=torch.bool, device=rows.device)
    if domain is not None:
        out = out | (domain[:, None] != domain)
    similar = similar.masked_fill(out, -torch.inf)
    other = torch.arange(2 * n, device=rows.device).roll(n)
    found = (similar.argmax(dim=1) == other).float().mean()
    return F.cross_entropy(similar, other), found


def recolour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] of other saturation, contrast and tint, each image its own.

    Mild: black hair stays black, and blond blond.
    """

    def factor(range_: float, channels: int = 1) -> Tensor:
        chance = torch.rand(len(x), channels, 1, 1, generator=generator) * 2 - 1
        return (1 + range_ * chance).to(x.device)

    grey = x.mean(dim=1, keepdim=True)
    x = grey + factor(0.3) * (x - grey)
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + factor(0.3) * (x - middle)
    return (x + factor(0.1, 3) - 1).clamp(-1, 1)


def measured(net: FeatureNet, images: np.ndarray) -> list[Tensor]:
    """The net's statistics of evenly spaced images, uint8 (N, 64, 64, 3): (n, D) by depth."""
    some = images[:: -(-len(images) // FITTED)]
    chunks = [some[i : i + CHUNK] for i in range(0, len(some), CHUNK)]
    with torch.no_grad():
        rows = [net.statistics(to_float(torch.tensor(chunk))) for chunk in chunks]
    return [torch.cat(depth) for depth in zip(*rows, strict=True)]


if __name__ == "__main__":
    main()
