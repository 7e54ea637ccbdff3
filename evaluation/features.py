"""The features in which evaluate.py compares images, and the file of the network that gives them.

    net = load_features()                   # the one that comes with this repository
    rows = embed(net, images)               # float (N, 3, H, W) in [-1, 1] -> float64 (N, 256)

The network learned from both domains without labels (train_features.py). What is compared are mean
and deviation of each channel at five depths: the first see texture, noise and colour, the last the
shape of a face. A feature file is a dict: "format" ("features-1"), "options" (width, and notes of
the training) and "weights" (a state_dict, half precision).
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from storage.files import read_tensors, write_tensors
from storage.validate import LOAD_ERRORS, misfit, short, shown

FORMAT = "features-1"
SHIPPED = Path(__file__).resolve().parent.parent / "model_ckpt" / "features" / "features.pth"
IMAGE_SIZE = 64  # pixels; images of another size are scaled to it
DEPTHS = 5
DIMS = (32, 48, 48, 64, 64)  # numbers that each depth gives, 256 together
VARIANCE = 100.0  # of all features together within a domain, so that a distance can be read
SHARES = (0.05, 0.05, 0.1, 0.2, 0.6)  # of it by depth: texture counts, the shape of faces more
CHUNK = 100  # images at a time: bounds the memory


class FeatureNet(nn.Module):
    """Images, float (B, 3, 64, 64) in [-1, 1] -> features (B, 256), of no fixed range.

    Five 3x3 convolutions with ReLU (width, 2, 4, 8 and 16 times width channels), all but the first
    of stride 2, each of the last three followed by a residual one. Mean and deviation over the
    positions, of each channel at each depth, go through one linear layer for each depth: the main
    directions of the training images' statistics, so scaled that each depth has its share.

    norm: with batch norm, for training. fold() gives the weights of the same net without it.
    ValueError for a width below 1.
    """

    def __init__(self, width: int = 16, norm: bool = False) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width {width} must be at least 1")
        self.width = width
        channels = [3, *(width * 2**depth for depth in range(DEPTHS))]

        def layer(c_in: int, c_out: int, stride: int) -> nn.Sequential:
            conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=not norm)
            return nn.Sequential(conv, nn.BatchNorm2d(c_out) if norm else nn.Identity(), nn.ReLU())

        self.down = nn.ModuleList(
            layer(channels[d], channels[d + 1], 1 if d == 0 else 2) for d in range(DEPTHS)
        )
        self.residual = nn.ModuleDict(
            {str(d): layer(channels[d + 1], channels[d + 1], 1) for d in range(2, DEPTHS)}
        )
        self.project = nn.ModuleList(
            nn.Linear(2 * c, min(dims, 2 * c)) for c, dims in zip(channels[1:], DIMS, strict=True)
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """What each depth shows: (B, width, 64, 64), (B, 2 * width, 32, 32), ... (B, ..., 4, 4)."""
        found = []
        for depth, down in enumerate(self.down):
            x = down(x)
            if str(depth) in self.residual:
                x = x + self.residual[str(depth)](x)
            found.append(x)
        return found

    def statistics(self, x: Tensor) -> list[Tensor]:
        """Mean and deviation of each channel over the positions, by depth: (B, 2 * channels)."""
        return [
            torch.cat([m.mean(dim=(2, 3)), m.flatten(2).std(dim=2, correction=0)], dim=1)
            for m in self.maps(x)
        ]

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.project, self.statistics(x), strict=True)
        return torch.cat([project(found) for project, found in parts], dim=1)

    @torch.no_grad()
    def fit(self, rows: dict[str, list[Tensor]]) -> None:
        """Set the linear layers by both domains' statistics: for each domain, (N, D) by depth.

        A statistic's unit is its deviation within a domain, so that what tells the domains apart
        does not outweigh the rest; directions are the main ones of both domains together.
        """
        for depth, layer in enumerate(self.project):
            domains = [found[depth].double() for found in rows.values()]
            deviation = torch.stack([x.var(dim=0) for x in domains]).mean(dim=0).sqrt()
            # A channel that hardly varies must not outweigh all others, nor leave half precision.
            deviation = deviation.clamp(min=0.01 * deviation.mean().item() + 1e-4)
            centre = torch.stack([x.mean(dim=0) for x in domains]).mean(dim=0)
            standard = [(x - centre) / deviation for x in domains]
            scatter = sum(x.T @ x / len(x) for x in standard)
            basis = torch.linalg.eigh(scatter)[1].flip(1)[:, : layer.out_features]
            within = torch.stack([(x @ basis).var(dim=0).sum() for x in standard]).mean()
            scale = (VARIANCE * SHARES[depth] / within.clamp(min=1)).sqrt()
            weight = scale * (basis / deviation[:, None]).T
            layer.load_state_dict({"weight": weight, "bias": -weight @ centre})

    def fold(self) -> "FeatureNet":
        """The same net as it stands in eval mode, its batch norms part of the convolutions."""
        plain = FeatureNet(self.width)
        plain.project.load_state_dict(self.project.state_dict())
        for ours, layer in zip(self.layers(), plain.layers(), strict=True):
            conv, norm = ours[:2]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            fused = nn.utils.fusion.fuse_conv_bn_eval(conv, norm)
            layer[0].load_state_dict(fused.state_dict())
        return plain.eval()

    def layers(self) -> Iterator[nn.Sequential]:
        """Convolution, norm and ReLU of each layer."""
        return (module for module in self.modules() if isinstance(module, nn.Sequential))


@torch.no_grad()
def embed(net: FeatureNet, images: Tensor) -> Tensor:
    """Features, float64 (N, 256), of images, float (N, 3, H, W) in [-1, 1], on the CPU."""
    device = next(net.parameters()).device
    rows = []
    for chunk in images.split(CHUNK):
        chunk = chunk.to(device).float().clamp(-1, 1)
        if chunk.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
            chunk = F.interpolate(
                chunk,
                (IMAGE_SIZE, IMAGE_SIZE),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )
        rows.append(net(chunk.contiguous(memory_format=torch.channels_last)).double().cpu())
    return torch.cat(rows)


# ---- files -------------------------------------------------------------------------------------


def save_features(path: Path, net: FeatureNet, notes: dict) -> None:
    """Write a folded net in half precision, with notes of its training beside its options."""
    weights = {key: value.half() for key, value in net.cpu().state_dict().items()}
    if reason := misfit(weights):
        raise UserError(f"{path}: not written, since the features' {reason}; train them again")
    state = {"format": FORMAT, "options": {**notes, "width": net.width}, "weights": weights}
    write_tensors(path, state)


def load_features(path: Path = SHIPPED) -> FeatureNet:
    """Read a feature network onto the CPU, in eval mode.

    Raises UserError if the file is missing, damaged, carries code, or is no feature network.
    """
    if not Path(path).is_file():
        raise UserError(
            f"{path}: there is no such file; FD needs the features that come with this "
            "repository, or those of python -m evaluation.train_features"
        )
    state = read_tensors(path)
    if not isinstance(state, dict) or not {"format", "options", "weights"} <= state.keys():
        raise UserError(f"{path}: a file of tensors, but not what train_features.py wrote")
    if state["format"] != FORMAT:
        raise UserError(f"{path}: format {shown(state['format'])}, but this version reads {FORMAT}")
    try:
        with torch.device("meta"):  # nothing is allocated, whatever width a file claims
            net = FeatureNet(state["options"]["width"])
        if reason := misfit(state["weights"], net.state_dict()):
            raise ValueError(reason)
        net.load_state_dict(state["weights"], assign=True)
    except LOAD_ERRORS as error:
        raise UserError(
            f"{path}: options and weights are not those of a feature network "
            f"({short(str(error), 100)}); use the file as it came"
        ) from error
    return net.float().eval()
