"""How the cost of training grows: over image size, batch, number of images, and processes.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py --json benchmarks/results/scaling.json
    python benchmarks/scaling.py --grow batch_size --steps 5 --generator resnet --ngf 64

Cases differ from the first one in one thing each; flags of train.py go for all. Each case runs in a
process of its own, since a peak of memory is a process's, and two train over gloo, each on its half
of the batch. Images are random pixels, on disk as a cache is: 200,000 of them take 2.5 GB in
--work, which also keeps finished cases, so that an interrupted call goes on. Leave the machine
alone meanwhile: times are by the clock.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from arguments import train_options
from benchmarks.loading import seconds
from benchmarks.recipe import DEFAULT
from common import distributed
from common.errors import one_line_errors
from cyclegan_model import CycleGANModel
from dataset import UnpairedBatches
from storage.files import atomic_write
from train import tune_backends
from training.logbook import peak_memory_mb

FIRST = {"image_size": 64, "batch_size": 8, "images": 1000, "processes": 1}
GROW = {
    "image_size": (96, 128, 192, 256),
    "batch_size": (1, 2, 4, 16, 32, 64),
    "images": (10_000, 50_000, 200_000),
    "processes": (2,),
}
BLOCK = 500  # images of random pixels, which a file repeats


def cases(grow: list[str]) -> list[dict]:
    """The first case, then those that differ in one thing."""
    return [FIRST, *(FIRST | {key: value} for key in grow for value in GROW[key])]


def name_of(case: dict) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in case.items())


def draw(work: Path, image_size: int, count: int) -> Path:
    """A file of uint8 images (count, image_size, image_size, 3), made if it is not there."""
    path = work / f"images_{image_size}_{count}.u8"
    if not path.exists():
        random = np.random.default_rng(0)
        block = random.integers(0, 256, (min(count, BLOCK), image_size, image_size, 3), np.uint8)
        with atomic_write(path, durable=False) as file:
            for start in range(0, count, len(block)):
                file.write(block[: count - start].tobytes())
    return path


def run_case(case: dict, flags: list[str], work: Path, steps: int) -> dict:
    """Train some steps of one case, as one of its processes."""
    tune_backends()
    size = case["image_size"]
    opt, _ = train_options(
        [*flags, "--image_size", str(size), "--batch_size", str(case["batch_size"])]
    )
    opt.gpu_ids = distributed.start(opt.gpu_ids, opt.batch_size)
    started = time.perf_counter()
    images = np.memmap(
        work / f"images_{size}_{case['images']}.u8",
        np.uint8,
        "r",
        shape=(case["images"], size, size, 3),
    )
    model = CycleGANModel(opt)
    batches = UnpairedBatches(
        images,
        images,
        opt.batch_size,
        opt.seed,
        opt.flip,
        device=model.device,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )

    def step() -> None:
        model.set_input(*batches.batch(model.steps))
        model.optimize_parameters()
        model.fetch_losses()

    step()
    first = time.perf_counter() - started
    taken = statistics.median(seconds(step, model.device) for _ in range(steps))
    distributed.stop()
    return {
        "pairs_per_s": opt.batch_size / taken,
        "first_step_s": first,
        "peak_memory_mb": peak_memory_mb(model.device),
    }


def measure(case: dict, flags: list[str], work: Path, steps: int) -> dict:
    """One case in processes of its own; memory is that of one of them."""
    draw(work, case["image_size"], case["images"])
    script = [
        str(Path(__file__).resolve()),
        "--case",
        json.dumps(case),
        "--work",
        str(work),
        "--steps",
        str(steps),
        *flags,
    ]
    n = case["processes"]
    torchrun = ["-m", "torch.distributed.run", f"--nproc_per_node={n}"] if n > 1 else []
    done = subprocess.run([sys.executable, *torchrun, *script], capture_output=True, text=True)
    if done.returncode:
        return {"failed": " ".join(done.stderr.split())[-300:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(found: dict[str, dict]) -> str:
    lines = [
        "| | pairs/s | over the first | first step | peak memory, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    base = next(iter(found.values())).get("pairs_per_s")
    for name, one in found.items():
        if "failed" in one:
            lines.append(f"| {name} | failed: {one['failed']} | | | |")
        else:
            share = f"{one['pairs_per_s'] / base:.2f}" if base else ""
            lines.append(
                f"| {name} | {one['pairs_per_s']:.2f} | {share} | "
                f"{one['first_step_s']:.1f} s | {one['peak_memory_mb']} |"
            )
    return "\n".join(lines)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how the cost of training grows.")
    parser.add_argument("--grow", nargs="+", choices=tuple(GROW), default=list(GROW))
    parser.add_argument("--steps", type=int, default=7, help="steps of a case; the median counts")
    parser.add_argument("--work", type=Path, default=Path("out/scaling"))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--case", type=json.loads, help="only this one, in this process")
    options, train_flags = parser.parse_known_args()
    if options.case:
        print(json.dumps(run_case(options.case, train_flags, options.work, options.steps)))
        return
    flags = [*DEFAULT.split(), "--warm_steps", "0", *train_flags]
    options.work.mkdir(parents=True, exist_ok=True)
    kept = options.work / "cases.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    if found.get("flags", flags) != flags:
        parser.error(f"--work {options.work}: holds cases of other flags; name another folder")
    found["flags"] = flags
    for case in cases(options.grow):
        if name_of(case) not in found:
            found[name_of(case)] = measure(case, flags, options.work, options.steps)
            print(name_of(case), json.dumps(found[name_of(case)]), flush=True)
            with atomic_write(kept) as file:
                file.write(json.dumps(found, indent=1).encode())
    measured = {name_of(case): found[name_of(case)] for case in cases(options.grow)}
    if options.json:
        device = (
            torch.cuda.get_device_name()
            if torch.cuda.is_available()
            else (
                f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
            )
        )
        with atomic_write(options.json) as file:
            file.write(
                json.dumps(
                    {
                        "date": str(date.today()),
                        "device": device,
                        "flags": flags,
                        "torch": torch.__version__,
                        "cases": measured,
                    },
                    indent=1,
                ).encode()
            )
    print(table(measured))


if __name__ == "__main__":
    main()
