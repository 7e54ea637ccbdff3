"""How fast images come: the parts "loader" and "start" of speed.py, and its clock."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset import UnpairedBatches, load_folder

ROOT = Path(__file__).resolve().parent.parent


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


class PillowImages(Dataset):
    """Every picture opened and decoded each time, as the usual loaders do."""

    def __init__(self, folder: Path, image_size: int) -> None:
        self.paths, self.size = sorted(folder.glob("*.jpg")), image_size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        image = Image.open(self.paths[i]).convert("RGB").resize((self.size, self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def draw_folder(folder: Path, count: int) -> Path:
    """JPEGs of CelebA's size, 178x218, from coarse noise."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = random.integers(0, 256, (16, 12, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:05}.jpg", quality=90)
    return folder


def measure_loader(opt: Namespace, rounds: int, pairs_per_s: float | None) -> dict:
    """Our batches against Pillow and DataLoader, without any training."""
    with tempfile.TemporaryDirectory() as root:
        folder = draw_folder(Path(root, "faces"), 1024)
        cached = load_folder(
            folder, "--domain_A_path", 1024, opt.image_size, "center", Path(root, "cache"), 0
        ).images
        device = torch.device(f"cuda:{opt.gpu_ids[0]}" if opt.gpu_ids else "cpu")
        ours = UnpairedBatches(cached, cached, opt.batch_size, 0, device=device)
        pillow = DataLoader(PillowImages(folder, opt.image_size), opt.batch_size, shuffle=True)
        steps = ours.steps_per_epoch
        times: dict[str, list[float]] = {"ours": [], "pillow": []}
        for _ in range(rounds):
            taken = sum(seconds(partial(ours.batch, step), device) for step in range(steps))
            times["ours"].append(taken / (2 * steps * opt.batch_size))
            times["pillow"].append(seconds(lambda: list(pillow), device) / len(cached))
    rates = {name: 1 / statistics.median(t) for name, t in times.items()}
    eaten = {"over_what_the_step_eats": rates["ours"] / (2 * pairs_per_s)} if pairs_per_s else {}
    return {"images_per_s": rates, "ratio": rates["ours"] / rates["pillow"], **eaten}


def measure_start(opt: Namespace, images: int) -> dict:
    """From the command to the first batch in the model, images cached before."""
    code = (
        "import sys, train; from cyclegan_model import CycleGANModel\n"
        "def stop(self, a, b): print('first batch'); sys.stdout.flush(); import os; os._exit(0)\n"
        "CycleGANModel.set_input = stop\n"
        "sys.argv = ['train.py', *sys.argv[1:]]\n"
        "train.main()\n"
    )
    with tempfile.TemporaryDirectory() as root:
        for domain in ("anime", "person"):
            source = draw_folder(Path(root, "source", domain), 64)
            target = Path(root, domain)
            target.mkdir()
            for i in range(images):  # links: as many files to look at, without their space
                os.link(source / f"{i % 64:05}.jpg", target / f"{i:05}.jpg")
        flags = (
            f"--dataset_size {images} --domain_A_path {root}/anime --domain_B_path {root}/person "
            f"--batch_size 64 --ngf 8 --ndf 8 --gpu_ids {0 if opt.gpu_ids else -1}"
        )
        command = [sys.executable, "-c", code, *flags.split()]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        taken = []
        for _ in range(4):
            started = time.perf_counter()
            subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True)
            taken.append(time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(root, "data/cache").glob("*.u8"))
    return {
        "images_per_domain": images,
        "first_time_s": taken[0],
        "cache_mb": size / 1e6,
        "cached_s": statistics.median(taken[1:]),
    }
