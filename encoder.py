"""A small convolutional encoder of one's own, and its file: weights only, whole or absent.

A file is a dict: "format" ("encoder-1"), "options" (at least width, dim and image_size, the size of
the square images that it was trained on) and "encoder" (the state_dict of an Encoder).
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from errors import UserError
from files import read_tensors, write_tensors

FORMAT = "encoder-1"


class Encoder(nn.Module):
    """Images, float (B, 3, H, W) in [-1, 1] -> features (B, dim), of no fixed range.

    Four 3x3 convolutions of stride 2 with ReLU (width, 2, 4 and 8 times width channels), the mean
    over all positions, a linear layer. No normalisation: the features of an image do not depend on
    the other images of its batch. ValueError for a width below 1 or a dim below 2, which has no
    covariance matrix.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        if width < 1 or dim < 2:
            raise ValueError(f"width {width} must be at least 1 and dim {dim} at least 2")
        layers, channels = [], 3
        for out in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
            channels = out
        self.convs = nn.Sequential(*layers)
        self.linear = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)  # (B, 8 * width, H / 16, W / 16), rounded up
        return self.linear(x.mean(dim=(2, 3)))  # (B, dim)


def save_encoder(path: Path, encoder: Encoder, options: dict) -> None:
    """Write an encoder; `options` hold width, dim and image_size. Raises UserError (full disk)."""
    state = {"format": FORMAT, "options": options, "encoder": encoder.state_dict()}
    write_tensors(path, state)


def load_encoder(path: Path) -> tuple[Encoder, dict]:
    """Read an encoder onto the CPU, in eval mode, and its options.

    Raises UserError if the file is missing, damaged, carries code, or is no encoder that
    save_encoder wrote; also if a weight is not finite.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not {"format", "options", "encoder"} <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not an encoder that save_encoder wrote")
    if state["format"] != FORMAT:
        raise UserError(f"{path}: format {state['format']}, but this version reads {FORMAT}")
    options, weights = state["options"], state["encoder"]
    try:
        if type(options["image_size"]) is not int or options["image_size"] < 1:
            raise ValueError(f"image_size {options['image_size']!r}")
        # On "meta" nothing is allocated, whatever width the file claims, nor drawn at random.
        with torch.device("meta"):
            encoder = Encoder(options["width"], options["dim"])
        encoder.load_state_dict(weights, assign=True)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        raise UserError(f"{path}: options and weights are not those of an encoder") from e
    if not all(weight.isfinite().all() for weight in encoder.parameters()):
        raise UserError(f"{path}: holds weights that are not finite; train the encoder again")
    return encoder.float().eval(), options
