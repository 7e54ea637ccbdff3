"""Self-attention over the positions of a feature map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Lets every position of a feature map look at every other one.

    (B, C, H, W) -> (B, C, H, W): x + gamma * attended, with gamma learned from 0, so that a net
    starts as if the layer were not there and first learns from near neighbours.

    Source: Zhang et al. 2019 (SAGAN), section 3. As in the anime_person_translation of 2018, the
    value keeps all C channels (SAGAN's has C/8, or half in its code, and an output convolution).

    Plain matrix products and softmax on purpose: the fused scaled_dot_product_attention has no
    second derivative, which a gradient penalty needs, and was no faster at these sizes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inner, kernel_size=1)
        self.key = nn.Conv2d(channels, inner, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).flatten(2)  # (B, C/8, N) with N = H * W
        key = self.key(x).flatten(2)  # (B, C/8, N)
        value = self.value(x).flatten(2)  # (B, C, N)
        attention = F.softmax(query.transpose(1, 2) @ key, dim=-1)  # (B, N, N), rows sum to 1
        attended = value @ attention.transpose(1, 2)  # (B, C, N)
        return x + self.gamma * attended.view_as(x)
