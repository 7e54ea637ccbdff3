"""What an epoch shows of a model: grids of the held-out images, and figures of its outputs."""

from pathlib import Path

import torch
from torch import Tensor

from evaluation.metrics import relative_spread
from pictures.grids import save_grid
from training.logbook import Yardstick, held_out_figures
from translation_model import TranslationModel

GRID_COLUMNS = 12


def sample(
    model: TranslationModel,
    held: dict[str, Tensor],
    epoch: int,
    folder: Path,
    show: bool,
    yardstick: Yardstick | None = None,
) -> tuple[dict[str, float | None], dict[str, dict]]:
    """Translate the held-out images; returns the relative spread of the outputs by domain.

    If they are to be shown, also writes a grid per direction, real over fake over reconstructed,
    and returns figures by domain. Where a model has no way back, the grid has real images of the
    other domain as third row and what the model makes of these as fourth.
    """
    spreads, figures = {}, {}
    for direction in model.directions:
        real, target, shows = (
            (held["A"], held["B"], "person")
            if direction == "AtoB"
            else (held["B"], held["A"], "anime")
        )
        fake, rec = model.translate(real, direction)
        spreads[shows] = relative_spread(fake, target) if min(len(fake), len(target)) > 1 else None
        if show:
            more = [rec] if rec is not None else [target, model.reconstruct(target)]
            rows = [real, fake, *more]
            columns = min(GRID_COLUMNS, *map(len, rows))
            grid = torch.cat([row[:columns] for row in rows])
            save_grid(folder / f"{epoch:04}_epoch_{shows}.png", grid, columns)
            fd = yardstick.fd(fake, shows) if yardstick else None
            figures[shows] = held_out_figures(real, fake, rec, target, fd)
    return spreads, figures
