"""Sample grids: many small pictures in one PNG."""

from pathlib import Path

from torch import Tensor

from storage.files import atomic_write


def save_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write float images (N, 3, H, W) in [-1, 1] row by row as one PNG. Raises UserError."""
    from torchvision.utils import save_image  # here, since importing torchvision takes seconds

    with atomic_write(path) as file:
        save_image(images, file, "png", nrow=columns, normalize=True, value_range=(-1, 1))
