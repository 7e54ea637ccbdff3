"""Figures by group of persons (CelebA's attributes): do men become women, do glasses stay?

A small classifier of the attribute is trained on the run's own training persons and judged on the
test persons, before it judges what a model makes of them.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.tensors import derived_generator
from evaluation import metrics
from pictures.tables import _rows, refuse_ambiguous

GROUPS = ("Male", "Eyeglasses", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
SMALLEST_GROUP = 20  # members below which a group's figures say nothing


def read_attributes(*paths: Path) -> list[dict[str, dict[str, int]]]:
    """Rows of each CSV by file name (without folder and type), values 0 or 1; -1 is read as 0.

    Of the groups those that all of the tables have. Raises UserError if one is missing or is no
    such table, or if there is no such group.
    """
    tables = [_rows(path) for path in paths]
    groups = [group for group in GROUPS if all(group in rows[0] for rows in tables)]
    if not groups:
        raise UserError(
            f"--attributes {' '.join(map(str, paths))}: no column of "
            f"{', '.join(GROUPS)} in {'each' if len(paths) > 1 else 'it'}"
        )
    read = []
    for path, rows in zip(paths, tables, strict=True):
        try:
            read.append(
                {Path(row["file"]).stem: {g: int(int(row[g]) > 0) for g in groups} for row in rows}
            )
        except ValueError as error:
            raise UserError(f"--attributes {path}: attributes must be 0 or 1 ({error})") from error
    return read


def tables_of(person: dict, *paths: Path) -> list[dict[str, dict[str, int]]]:
    """The table of the training persons and that of the test persons, or one for both.

    person: {"test", "names", "train", "train_names"}, images and names of their files, "train"
    None where there are none. Raises UserError, also where a row would be that of two images.
    """
    tables = read_attributes(*paths)
    if len(tables) > 2:
        raise UserError(
            f"--attributes {' '.join(map(str, paths))}: more than two; give one table, "
            "or that of training images and that of test images"
        )
    if person["train"] is not None:
        folders = (person["train_names"], person["train"]), (person["names"], person["test"])
        if len(tables) == 1:
            refuse_ambiguous(tables[0], *folders)
        else:
            for table, folder in zip(tables, folders, strict=True):
                refuse_ambiguous(table, folder)
    return tables


def labels_of(
    names: list[str], attributes: dict[str, dict[str, int]], group: str
) -> tuple[Tensor, Tensor]:
    """Which images the table knows, bool (N,), and their labels in a group, float (N,), else 0."""
    rows = [attributes.get(Path(name).stem) for name in names]
    known = torch.tensor([row is not None for row in rows])
    return known, torch.tensor([float(row[group]) if row else 0.0 for row in rows])


def train_classifier(images: Tensor, labels: Tensor, seed: int, steps: int = 400) -> nn.Module:
    """A small convolutional classifier: images (N, 3, 64, 64) in [-1, 1] -> logits (N, 1).

    Both classes are drawn equally often. It leaves torch's global generator as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for c_in, c in ((3, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(c_in, c, 3, stride=2, padding=1), nn.BatchNorm2d(c), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    generator = derived_generator(seed, "classifier")
    classes = [torch.nonzero(labels == value).flatten() for value in (0.0, 1.0)]
    for _ in range(steps):
        drawn = [c[torch.randint(len(c), (32,), generator=generator)] for c in classes]
        rows = torch.cat(drawn)
        x, y = images[rows], labels[rows]
        x = torch.where(torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5, x.flip(3), x)
        loss = F.binary_cross_entropy_with_logits(net(x).flatten(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def judged(net: nn.Module, images: Tensor) -> Tensor:
    """Whether the classifier sees the attribute, bool (N,)."""
    return torch.cat([net(chunk).flatten() > 0 for chunk in images.split(200)])


def by_group(
    tables: list[dict[str, dict[str, int]]],
    person: dict,
    to_anime: Tensor,
    back: Tensor,
    from_anime: Tensor,
    seed: int,
) -> dict[str, dict]:
    """Figures of each group of persons.

    tables, person: see tables_of; to_anime and back: anime made of the test persons, and these made
    persons again; from_anime: persons made of the test anime.
    """
    figures = {}
    for group in next(iter(tables[0].values())):
        known, labels = labels_of(person["names"], tables[-1], group)
        train_known, train_labels = labels_of(person["train_names"], tables[0], group)
        members = known & (labels == 1)
        others = known & (labels == 0)
        enough = [train_known & (train_labels == v) for v in (0.0, 1.0)]
        sizes = [int(members.sum()), int(others.sum()), *(int(e.sum()) for e in enough)]
        if min(sizes) < SMALLEST_GROUP:
            whose = ("test persons with", "without", "training persons without", "with")
            have = ", ".join(f"{size} {who}" for size, who in zip(sizes, whose, strict=True))
            figures[group] = {
                "N": sizes[0],
                "left_out": f"{have} it have a row in the tables, "
                f"{SMALLEST_GROUP} of each are needed",
            }
            continue
        net = train_classifier(person["train"][train_known], train_labels[train_known], seed)
        real, again = judged(net, person["test"]), judged(net, back)
        figures[group] = {
            "N": sizes[0],
            "N_others": sizes[1],
            # How far the classifier itself can be trusted: mean accuracy over both classes.
            "classifier_accuracy": (
                real[members].float().mean() + (~real[others]).float().mean()
            ).item()
            / 2,
            "majority_rate": max(sizes[:2]) / sum(sizes[:2]),
            "kept_after_there_and_back": again[members].float().mean().item(),
            "gained_after_there_and_back": again[others].float().mean().item(),
            "share_of_persons_made_of_anime": judged(net, from_anime).float().mean().item(),
            "share_of_real_persons": sizes[0] / sum(sizes[:2]),
            "retrieval_colour": metrics.retrieval(
                person["test"][members], to_anime[members], metrics.colour_layout
            ),
        }
    return figures
