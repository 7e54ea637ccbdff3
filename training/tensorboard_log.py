"""train.py --tensorboard: the lines of log.jsonl and the grids, for TensorBoard.

    pip install tensorboard
    python train.py --tensorboard
    tensorboard --logdir save_image

The package is optional. Nothing here is needed to resume a run.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import UserError


class TensorBoard:
    """Writes to save_image/<name>/tensorboard/, against the training step.

    steps: those trained so far. What an interrupted run wrote of later ones is hidden, since they
    are trained again.
    """

    def __init__(self, image_dir: Path, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.image_dir = image_dir
        self.writer = SummaryWriter(image_dir / "tensorboard", purge_step=steps + 1)

    def add(self, record: dict) -> None:
        """Add a line of the log, every number by its place in it, and the grids of its epoch."""
        step = record["step"]
        for tag, value in _numbers(record):
            self.writer.add_scalar(tag, value, step)
        for path in sorted(self.image_dir.glob(f"{record['epoch']:04}_epoch_*.png")):
            with Image.open(path) as grid:
                tag = path.stem.removeprefix(f"{record['epoch']:04}_epoch_")
                self.writer.add_image(tag, np.array(grid), step, dataformats="HWC")
        self.writer.flush()


def check_installed() -> None:
    """Raise UserError if the package is missing."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--tensorboard: its package cannot be used ({error}); install it with: pip install "
            "tensorboard, or go on with --no-tensorboard"
        ) from error


def _numbers(record: dict, above: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested dicts, with its path: losses/G_A."""
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{above}{key}/")
        elif isinstance(value, int | float) and key != "step":
            yield f"{above}{key}", value
