"""Whether FD grows with what should make it grow: real images, damaged step by step.

    python benchmarks/instrument.py --domain_A_path data/anime_test \\
        --domain_B_path data/person_test --json benchmarks/results/instrument.json

Half of the images of a domain are damaged and compared with the other half, for each kind of damage
from least to most. Without folders it takes drawn faces of the demo. Exits with 1 where FD does not
grow at every step.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import one_line_errors
from common.tensors import derived_generator, to_float, to_uint8
from evaluation.features import SHIPPED, FeatureNet, embed, load_features
from evaluation.frechet import frechet_distance

Damage = Callable[[Tensor, Tensor, float], Tensor]  # images, images of the other domain, how much


def blur(images: Tensor, other: Tensor, sigma: float) -> Tensor:
    x = torch.arange(-6, 7.0)
    line = torch.exp(-x.square() / (2 * sigma**2))
    line = (line / line.sum()).expand(3, 1, -1)
    padded = F.pad(images, (6, 6, 6, 6), mode="reflect")
    return F.conv2d(F.conv2d(padded, line[..., None, :], groups=3), line[..., None], groups=3)


def noise(images: Tensor, other: Tensor, deviation: float) -> Tensor:
    chance = torch.randn(images.shape, generator=derived_generator(0, "noise"))
    return (images + deviation * chance).clamp(-1, 1)


def jpeg(images: Tensor, other: Tensor, loss: float) -> Tensor:
    rows = []
    for pixels in to_uint8(images).numpy():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(100 - loss))
        rows.append(np.asarray(Image.open(buffer)))
    return to_float(torch.from_numpy(np.stack(rows)))


def checkerboard(images: Tensor, other: Tensor, strength: float) -> Tensor:
    """Every second pixel lighter, every other darker: a period of 2 pixels."""
    height, width = images.shape[2:]
    sign = 1.0 - 2.0 * ((torch.arange(height)[:, None] + torch.arange(width)) % 2)
    return (images + strength * sign).clamp(-1, 1)


def desaturation(images: Tensor, other: Tensor, share: float) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.einsum("nchw,c->nhw", images, weights)[:, None]
    return images + share * (grey - images)


def half_pasted(images: Tensor, other: Tensor, share: float) -> Tensor:
    """A share of the images gets the right half of the next one."""
    mixed, n = images.clone(), round(share * len(images))
    half = images.shape[3] // 2
    mixed[:n, :, :, half:] = images.roll(1, dims=0)[:n, :, :, half:]
    return mixed


def untranslated(images: Tensor, other: Tensor, share: float) -> Tensor:
    """A share of the images are of the other domain."""
    n = round(share * len(images))
    return torch.cat([other[:n], images[n:]])


DAMAGES: dict[str, tuple[Damage, tuple[float, ...]]] = {
    "blur, sigma in pixels": (blur, (0.5, 1, 2)),
    "noise, deviation": (noise, (0.05, 0.1, 0.2)),
    "JPEG, 100 minus quality": (jpeg, (25, 60, 85)),
    "checkerboard of 2 pixels, strength": (checkerboard, (0.03, 0.06, 0.12)),
    "desaturation": (desaturation, (0.25, 0.5, 1)),
    "half of another face, share of images": (half_pasted, (0.25, 0.5, 1)),
    "other domain, share of images": (untranslated, (0.1, 0.5, 1)),
}


@torch.no_grad()
def measure(net: FeatureNet, images: Tensor, other: Tensor) -> dict[str, list[tuple]]:
    """FD of damaged halves by kind, [(how much, FD), ...]; the first, of none, is the same in all.

    images, other: float (N, 3, H, W) in [-1, 1] of a domain and, at least N / 2, of the other one.
    """
    order = torch.randperm(len(images), generator=derived_generator(0, "halves"))
    half = len(images) // 2
    shown, real = images[order[:half]], embed(net, images[order[half:]])
    nothing = frechet_distance(embed(net, shown), real)
    found = {}
    for name, (damage, steps) in DAMAGES.items():
        fds = [frechet_distance(embed(net, damage(shown, other, step)), real) for step in steps]
        found[name] = [(0, nothing), *zip(steps, fds, strict=True)]
    return found


def grows(steps: list[tuple]) -> bool:
    """Whether each step of damage has a larger FD than the one before."""
    values = [fd for _, fd in steps]
    return all(a < b for a, b in zip(values, values[1:], strict=False))


def drawn(count: int, image_size: int = 64) -> dict[str, Tensor]:
    """Drawn faces of the demo, other ones in each domain, float (count, 3, H, W) in [-1, 1]."""
    from demo.drawing import draw_face
    from demo.make import _factors

    found = {}
    for stream, domain in enumerate(("anime", "person")):
        faces = [
            np.asarray(draw_face(factors, domain, image_size, texture_seed=3 * i + stream))
            for i, factors in enumerate(_factors(0, stream, count))
        ]
        found[domain] = to_float(torch.from_numpy(np.stack(faces)))
    return found


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Try FD on damaged real images.")
    parser.add_argument("--domain_A_path", help="anime faces; drawn ones if left out")
    parser.add_argument("--domain_B_path", help="person faces")
    parser.add_argument("--count", type=int, default=1000, help="images of a domain")
    parser.add_argument("--fd_features", default=str(SHIPPED), help="file of the features")
    parser.add_argument("--json", help="file to write")
    opt = parser.parse_args()
    if opt.domain_A_path and opt.domain_B_path:
        from dataset import CACHE, load_folder

        images = {
            domain: to_float(
                torch.tensor(
                    load_folder(Path(folder), flag, opt.count, 64, "center", CACHE, 2).images
                )
            )
            for domain, folder, flag in (
                ("anime", opt.domain_A_path, "--domain_A_path"),
                ("person", opt.domain_B_path, "--domain_B_path"),
            )
        }
    else:
        images = drawn(min(opt.count, 400))
    net = load_features(Path(opt.fd_features))
    results = {
        domain: measure(net, images[domain], images[other])
        for domain, other in (("anime", "person"), ("person", "anime"))
    }
    failed = False
    for domain, found in results.items():
        nothing = next(iter(found.values()))[0][1]
        print(f"\n{domain}, halves of {len(images[domain]) // 2}: undamaged FD {nothing:.1f}")
        print("| damage | step: FD | grows |\n| --- | --- | --- |")
        for name, steps in found.items():
            failed |= not grows(steps)
            cells = ", ".join(f"{step:g}: {fd:.1f}" for step, fd in steps[1:])
            print(f"| {name} | {cells} | {'yes' if grows(steps) else 'NO'} |")
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1) + "\n")
    sys.exit(failed)


if __name__ == "__main__":
    main()
