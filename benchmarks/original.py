"""The original author's published outputs, measured as evaluate.py measures ours.

    python benchmarks/original.py --folder ../shared/original
    python benchmarks/original.py --folder ../shared/original --ckpt model_ckpt/pretrained \\
        --domain_A_path data/anime_test --domain_B_path data/person_test \\
        --json benchmarks/results/original.json

The folder holds his four sheets, tile for tile: person_real.webp and the anime made of it,
anime_test.webp; anime_real.webp and person_test.webp. His pictures were saved in a range that clips
half of the values, so they are compared with his own real tiles; the second command measures a
model of ours, its inputs and its real images clipped in the same way. Without the folder it says so
and measures nothing.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import one_line_errors
from common.tensors import to_float
from dataset import CACHE, load_folder
from evaluation import metrics
from evaluation.features import FeatureNet, load_features
from evaluation.realism import realism, verdict
from interop.generators import load_generators

TILE = 64
DIRECTIONS = {"BtoA": ("person", "anime"), "AtoB": ("anime", "person")}  # from, to


def tiles(path: Path, count: int) -> Tensor:
    """The first tiles of a sheet, row by row, float (count, 3, 64, 64) in [-1, 1]."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    down, across = sheet.shape[0] // TILE, sheet.shape[1] // TILE
    grid = sheet.reshape(down, TILE, across, TILE, 3).transpose(0, 2, 1, 3, 4)
    return to_float(torch.tensor(grid.reshape(-1, TILE, TILE, 3)[:count]))


def clipped(images: Tensor) -> Tensor:
    """Images in [-1, 1] as he saved his: contrast doubled, the rest cut off."""
    return (2 * images).clamp(-1, 1)


def judge(net: FeatureNet, inputs: Tensor, fakes: Tensor, real: Tensor) -> dict:
    diversity = metrics.collapse_report(fakes, real)
    found = realism(net, inputs, fakes, real)
    return {
        **found,
        "diversity": diversity,
        "retrieval_colour": metrics.retrieval(inputs, fakes, metrics.colour_layout),
        "retrieval_gradient": metrics.retrieval(inputs, fakes, metrics.gradient_layout),
        "verdict": verdict(found, diversity),
    }


def ours(opt: argparse.Namespace, net: FeatureNet) -> dict:
    """A model's figures on faces of ours, all clipped as his are."""
    real = {
        domain: to_float(
            torch.tensor(
                load_folder(Path(folder), flag, opt.count, TILE, "center", CACHE, 2).images
            )
        )
        for domain, folder, flag in (
            ("anime", opt.domain_A_path, "--domain_A_path"),
            ("person", opt.domain_B_path, "--domain_B_path"),
        )
    }
    model, _ = load_generators(Path(opt.ckpt), [], 50)
    found = {}
    for direction, (source, target) in DIRECTIONS.items():
        fakes, _ = model.translate(real[source], direction)
        found[direction] = judge(net, clipped(real[source]), clipped(fakes), clipped(real[target]))
    return found


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the original author's outputs.")
    parser.add_argument("--folder", required=True, help="folder of his four sheets")
    parser.add_argument("--count", type=int, default=1000, help="tiles of each sheet")
    parser.add_argument("--ckpt", help="a model of ours to measure beside them")
    parser.add_argument("--domain_A_path", help="anime faces for it")
    parser.add_argument("--domain_B_path", help="person faces for it")
    parser.add_argument("--json", help="file to write")
    opt = parser.parse_args()
    folder, net = Path(opt.folder), load_features()
    if not (folder / "anime_test.webp").is_file():
        sys.exit(f"--folder {folder}: his sheets are not here; nothing measured")
    sheets = {
        name: tiles(folder / f"{name}.webp", opt.count)
        for name in ("anime_real", "anime_test", "person_real", "person_test")
    }
    results = {
        "original": {
            direction: judge(
                net, sheets[f"{source}_real"], sheets[f"{target}_test"], sheets[f"{target}_real"]
            )
            for direction, (source, target) in DIRECTIONS.items()
        }
    }
    if opt.ckpt:
        results["ours, clipped alike"] = ours(opt, net)
    print(
        "| | direction | N | FD (floor; over it) | untranslated | recoloured | KD | precision | "
        "coverage | own input found, top-5 | near duplicates | detail kept |"
    )
    print("| --- " * 12 + "|")
    for who, directions in results.items():
        for direction, f in directions.items():
            print(
                f"| {who} | {direction} | {f['N']} | {f['fd']:.1f} ({f['floor']['fd']:.1f}; "
                f"{f['fd'] / f['floor']['fd']:.1f}) | {f['baselines']['untranslated']['fd']:.1f} "
                f"| {f['baselines']['recoloured']['fd']:.1f} | {f['kd']:.0f} "
                f"| {f['precision']:.2f} | {f['coverage']:.2f} "
                f"| {f['retrieval_colour']['top5']:.1%} "
                f"| {f['diversity']['near_duplicates']:.1%} "
                f"| {f['detail']['kept']:.2f} ({f['detail']['shuffled']:.2f}) |"
            )
            if f["verdict"]:
                print(f"  {who}, {direction}: {f['verdict']}")
    if opt.json:
        Path(opt.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
