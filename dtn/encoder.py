"""Encoders, images in and features out, their files, and the features that DTN compares.

An encoder file is a dict: "format" ("encoder-2"), "options" (those that rebuild the net, with
image_size, the size of the square images that it was trained on) and "encoder" (the state_dict).
pretrain_encoder.py writes them; train.py --f_encoder and evaluate.py --features take them.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.tensors import to_float
from storage.files import read_tensors, write_tensors
from storage.validate import LOAD_ERRORS, misfit, short, shown

FORMAT = "encoder-2"
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
RESNET_SIZE = 128  # pixels; twice a 64x64 image, since these nets halve five times
MEASURED = 2048  # images of a domain whose features are averaged: 2 % of error in a deviation


class Encoder(nn.Module):
    """Square images, float (B, 3, H, H) in [-1, 1] -> features (B, dim), of no fixed range.

    Four 3x3 convolutions of stride 2 with ReLU (width, 2, 4 and 8 times width channels), then a
    linear layer over all positions, so that features can tell where something is. No
    normalisation: the features of an image do not depend on the other images of its batch.
    ValueError for a width or an image_size below 1, or a dim below 2, which has no covariance
    matrix.
    """

    def __init__(self, width: int, dim: int, image_size: int) -> None:
        super().__init__()
        if width < 1 or dim < 2 or image_size < 1:
            raise ValueError(
                f"width {width} and image_size {image_size} must be at least 1, dim {dim} at "
                "least 2"
            )
        self.options = {"width": width, "dim": dim, "image_size": image_size}
        self.dim, self.image_size = dim, image_size
        layers, channels = [], 3
        for out in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
            channels = out
        self.convs = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * (-(-image_size // 16)) ** 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(x)  # (B, 8 * width, H / 16, H / 16), rounded up
        return self.linear(x.flatten(1))  # (B, dim)


class ResnetEncoder(nn.Module):
    """A ResNet of torchvision without its last layer, for weights that the user has.

    Images, float (B, 3, H, W) in [-1, 1] of any size, scaled to 128x128 and to ImageNet's mean and
    deviation -> features (B, dim), 512 or, from resnet50 on, 2048, at least 0. Keep it in eval
    mode. Source: He et al. 2016.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision import models  # here, since importing torchvision takes seconds

        self.options = {"resnet": name}
        self.resnet = getattr(models, name)(weights=None)
        self.dim, self.image_size = self.resnet.fc.in_features, None
        self.resnet.fc = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        size = (RESNET_SIZE, RESNET_SIZE)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        mean = x.new_tensor((0.485, 0.456, 0.406))[:, None, None]
        deviation = x.new_tensor((0.229, 0.224, 0.225))[:, None, None]
        return self.resnet((x / 2 + 0.5 - mean) / deviation)


AnyEncoder = Encoder | ResnetEncoder


class DomainFeatures(nn.Module):
    """f of DTN: an encoder's features relative to those that are usual in the image's domain.

    Images (B, 3, H, H), domain 0 (anime) or 1 (persons) -> (B, dim), of mean 0 over a domain and
    mean length 1 (root mean square), with equal shares of all dimensions; in eval mode.

    Taigman et al. 2017 compare raw features of a face recogniser. An encoder that knows drawings
    from photographs has a part that no translation could or should keep; it goes away with each
    domain's own mean and deviation, as in AdaBN (Li et al. 2017).
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: AnyEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.zeros(2, encoder.dim))
        self.register_buffer("deviation", torch.ones(2, encoder.dim))
        self.eval()

    def forward(self, x: Tensor, domain: int) -> Tensor:
        return (self.encoder(x) - self.mean[domain]) / self.deviation[domain]

    @torch.no_grad()
    def fit(self, domain: int, images: np.ndarray, rows: np.ndarray) -> None:
        """Measure what is usual in a domain: uint8 images (N, H, H, 3), rows int64 to look at."""
        rows = rows[:: -(-len(rows) // MEASURED)]
        chunks = np.array_split(rows, -(-len(rows) // 128))
        batches = (to_float(torch.from_numpy(np.asarray(images[chunk]))) for chunk in chunks)
        device = self.mean.device
        features = torch.cat([self.encoder(batch.to(device)).float() for batch in batches])
        deviation, self.mean[domain] = torch.std_mean(features, dim=0, correction=0)
        # A dimension that hardly varies in this domain must not outweigh all others.
        deviation = deviation.clamp(min=0.1 * deviation.mean().item() + 1e-12)
        self.deviation[domain] = deviation * features.shape[1] ** 0.5


# ---- files -------------------------------------------------------------------------------------


def build_encoder(options: dict) -> AnyEncoder:
    """An encoder of these options, without weights: to be loaded with assign=True.

    On "meta" nothing is allocated, whatever width a file claims, nor drawn at random.
    """
    with torch.device("meta"):
        if "resnet" in options:
            if options["resnet"] not in RESNETS:
                raise ValueError(options["resnet"])
            return ResnetEncoder(options["resnet"])
        return Encoder(options["width"], options["dim"], options["image_size"])


def save_encoder(path: Path, encoder: Encoder, notes: dict | None = None) -> None:
    """Write an encoder, with any notes beside its options.

    Raises UserError when the disk is full, and rather than writing weights that are not finite.
    """
    if reason := misfit(encoder.state_dict()):
        raise UserError(f"{path}: not written, since the encoder's {reason}; train it again")
    options = {**(notes or {}), **encoder.options}
    write_tensors(path, {"format": FORMAT, "options": options, "encoder": encoder.state_dict()})


def load_encoder(path: Path) -> tuple[Encoder, dict]:
    """Read an encoder onto the CPU, in eval mode, and its options.

    Raises UserError if the file is missing, damaged, carries code, or is no encoder that
    save_encoder wrote; also if a weight is not finite.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not {"format", "options", "encoder"} <= state.keys():
        raise UserError(
            f"{path}: a file of tensors, but not an encoder that pretrain_encoder.py wrote"
        )
    if state["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(state['format'])}, but this version reads {FORMAT}")
    options, weights = state["options"], state["encoder"]
    try:
        if type(options["image_size"]) is not int:
            raise ValueError(f"image_size {options['image_size']!r}")
        with torch.device("meta"):
            encoder = Encoder(options["width"], options["dim"], options["image_size"])
        if reason := misfit(weights, encoder.state_dict()):
            raise ValueError(reason)
        encoder.load_state_dict(weights, assign=True)
    except LOAD_ERRORS as error:
        raise UserError(
            f"{path}: options and weights are not those of an encoder ({short(str(error), 100)}); "
            "use another file"
        ) from error
    return encoder.float().eval(), options


def open_encoder(text: str) -> AnyEncoder:
    """The encoder that --f_encoder names: a file of ours, or resnet18:FILE for torchvision's.

    Raises UserError as load_encoder does.
    """
    name, _, file = text.partition(":")
    path = Path(file if name in RESNETS else text)
    if not path.is_file():
        raise UserError(
            f"--f_encoder {text}: there is no file {path}; train f first, with python "
            "pretrain_encoder.py (--demo for the demo)"
        )
    if name not in RESNETS:
        return load_encoder(path)[0]
    state: Any = read_tensors(path)
    try:
        weights = {k: v for k, v in state.items() if not k.startswith("fc.")}
        with torch.device("meta"):
            encoder = ResnetEncoder(name)
        if reason := misfit(weights, encoder.resnet.state_dict()):
            raise ValueError(reason)
        encoder.resnet.load_state_dict(weights, assign=True)
    except LOAD_ERRORS as error:
        raise UserError(
            f"--f_encoder {text}: not the weights of torchvision's {name} "
            f"({short(str(error), 100)}); name the net that they belong to"
        ) from error
    return encoder.float().eval()


def trained_on(text: str) -> dict[str, str]:
    """Fingerprints of the folders that --f_encoder was trained on, as train.py's of a run."""
    if text.partition(":")[0] in RESNETS:
        return {}
    data = load_encoder(Path(text))[1].get("data")
    return data if isinstance(data, dict) else {}
