"""DTN's decoder g, from features to images."""

import itertools
from argparse import Namespace

import torch.nn.functional as F
from torch import Tensor, nn

from common.layers import InstanceNorm2d
from networks import add_spectral_norm, init_weights
from self_attention import SelfAttention


def build_decoder(opt: Namespace, dim: int) -> nn.Module:
    """Make DTN's decoder of features (B, dim), initialised."""
    net = FeatureDecoder(dim, opt.ngf, opt.image_size, opt.attention)
    init_weights(net, opt.init_type, opt.init_gain)
    add_spectral_norm(net)
    return net


class FeatureNorm(nn.Module):
    """Instance norm with scale and shift from features: (B, C, H, W), (B, dim) -> (B, C, H, W).

    The features should have a length of about 1. Source: Huang and Belongie 2017 (AdaIN).
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.norm = InstanceNorm2d(channels)
        self.style = nn.Linear(dim, 2 * channels)
        nn.init.normal_(self.style.weight, 0.0, 0.5)
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.style(features)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        return self.norm(x) * (1 + scale) + shift


class UpBlock(nn.Module):
    """Doubles a feature map: (B, C, H, W), (B, dim) -> (B, c_out, 2 H, 2 W)."""

    def __init__(self, c_in: int, c_out: int, dim: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = FeatureNorm(c_in, dim), FeatureNorm(c_out, dim)
        self.conv_1 = nn.Conv2d(c_in, c_out, kernel_size=3, padding=1)
        self.conv_2 = nn.Conv2d(c_out, c_out, kernel_size=3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, kernel_size=1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        y = F.interpolate(F.relu(self.norm_1(x, features)), scale_factor=2)
        y = self.conv_2(F.relu(self.norm_2(self.conv_1(y), features)))
        return y + F.interpolate(self.skip(x), scale_factor=2)


class FeatureDecoder(nn.Module):
    """DTN's g: features (B, dim) -> images (B, 3, H, H), H = image_size, a multiple of 16.

    A linear layer to H/16, then four blocks that double, of 8, 4, 2 and 1 times ngf channels, with
    self-attention at a quarter of the size. All convolutions get spectral norm from build_decoder.

    Source: the generator of Zhang et al. 2019 (SAGAN), whose batch norms give way to instance norms
    with scale and shift from the features: no image then depends on others of its batch.
    """

    def __init__(
        self, dim: int, ngf: int = 64, image_size: int = 64, attention: bool = True
    ) -> None:
        super().__init__()
        self.first_size, widths = image_size // 16, [8 * ngf, 8 * ngf, 4 * ngf, 2 * ngf, ngf]
        self.linear = nn.Linear(dim, widths[0] * self.first_size**2)
        nn.init.normal_(self.linear.weight)  # outputs of deviation 1, features being 1 long
        nn.init.zeros_(self.linear.bias)
        pairs = itertools.pairwise(widths)
        self.blocks = nn.ModuleList(UpBlock(c_in, c_out, dim) for c_in, c_out in pairs)
        self.attention = SelfAttention(4 * ngf) if attention else nn.Identity()
        self.norm = FeatureNorm(ngf, dim)
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(ngf, 3, kernel_size=3, padding=1), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        x = self.linear(features)
        x = x.unflatten(1, (-1, self.first_size, self.first_size))  # (B, 8 ngf, H/16, H/16)
        for block in self.blocks[:2]:
            x = block(x, features)  # H/8, H/4
        x = self.attention(x)  # (B, 4 ngf, H/4, H/4)
        for block in self.blocks[2:]:
            x = block(x, features)  # H/2, H
        return self.head(self.norm(x, features))
