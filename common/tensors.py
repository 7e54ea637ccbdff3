"""Bytes to pixels in [-1, 1] and back, uploads, and generators that are derived from the seed."""

import hashlib

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without making the host wait for the device's queue."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], contiguous; 0 is -1 and 255 is 1."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float (B, 3, H, W) in [-1, 1], clamped -> uint8 (B, H, W, 3); the inverse of to_float."""
    images = images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def derived_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator that depends on (seed, keys) alone."""
    text = "/".join(map(str, (seed, *keys)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
