"""One GPU for 25 minutes: is what it computes right, how fast is it, and a model for the rest.

    python benchmarks/gpu_run.py --state /tmp/gpu_run --home out/gpu_run --minutes 9 \\
        --domain_A_path data/anime --domain_B_path data/person \\
        --test_A_path data/anime_test --test_B_path data/person_test

Repeat the command until it says that all is done: each call ends within --minutes and goes on where
the last one stopped. --state keeps everything on that machine. What --home gets is small: figures,
two grids, and the averaged generators with their discriminators in half precision, in files below
16 MiB. On another, bare machine `--start FOLDER` goes on from such a folder, with Adam anew. Then:

    cat out/gpu_run/run.pth.* > out/gpu.pth
    python evaluate.py --ckpt out/gpu.pth --domain_A_path ... ; python publish.py --ckpt out/gpu.pth

Each check and timing runs in a process of its own, so that one that fails, is out of memory or
hangs costs a line in results.json and nothing else. Without a GPU all of it runs on the CPU, where
nobody would wait for it but a test of toy size.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from arguments import train_options
from benchmarks.curve import Curve, TestImages, add_options, describe, row
from benchmarks.loading import seconds
from benchmarks.modes import Data, batches_for
from benchmarks.speed import measure_step
from common.errors import UserError, one_line_errors
from cyclegan_model import CycleGANModel
from interop.generators import start_from
from interop.layouts import read_generators
from storage.checkpoint import save_checkpoint
from storage.files import atomic_write
from train import tune_backends

RECIPE = (
    "--generator resnet8 --ngf 64 --ndf 64 --batch_size 32 --lr_G 2e-4 --warm_steps 1000 --shift 4"
)
PLAIN = "--lambda_idt 0 --shift 0 --cycle_pool 1"
CYCLEGAN = f"--generator resnet --ngf 64 --n_blocks 6 {PLAIN}"  # 56 GFLOP a pair
TIMINGS = {
    **{f"recipe, batch {n}": f"{RECIPE} --batch_size {n}" for n in (16, 32, 64, 128, 256)},
    "CycleGAN, batch 64": f"{CYCLEGAN} --batch_size 64",
    "recipe, batch 64, compiled": f"{RECIPE} --batch_size 64 --compile",
    "CycleGAN, batch 64, compiled": f"{CYCLEGAN} --batch_size 64 --compile",
}
STEPS = 10  # of a check
now = time.monotonic
PIECE = 15 << 20  # bytes of a file that goes home
LONGEST = 150  # seconds for a check or a timing
RESERVE = 40  # seconds at the end of a call, to save, measure and write
DECAY = 0.6  # share of the training after which the learning rate falls on a line to 0


# ------------------------------------------------------------------------- is it right: checks


def train(
    flags: str,
    data: Data,
    steps: int = STEPS,
    prepare: Callable[[CycleGANModel], None] | None = None,
) -> dict:
    """Losses of each step from scratch, and seconds of the first and of the median one."""
    opt, _ = train_options(flags.split())
    model = CycleGANModel(opt)
    if prepare:
        prepare(model)
    losses, times = continued(model, data, steps)
    return {"losses": losses, "first_s": times[0], "step_s": sorted(times)[len(times) // 2]}


def continued(model: CycleGANModel, data: Data, steps: int) -> tuple[list[dict], list[float]]:
    batches = batches_for(model, data)
    losses, times = [], []

    def step() -> None:
        model.set_input(*batches.batch(model.steps))
        model.optimize_parameters()

    for _ in range(steps):
        times.append(seconds(step, model.device))
        losses += model.fetch_losses()
    return losses, times


def difference(a: list[dict], b: list[dict]) -> float:
    """The largest difference of a loss, relative to its size or to 0.1 where it is smaller."""
    return max(
        abs(x[key] - y[key]) / max(abs(x[key]), 0.1) for x, y in zip(a, b, strict=True) for key in x
    )


def check_cpu(data: Data) -> dict:
    """A step in float32, without TF32, against the CPU's."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    flags = f"{RECIPE} --batch_size 4 --amp off"
    here, cpu = train(flags, data, 1), train(f"{flags} --gpu_ids -1", data, 1)
    found = difference(cpu["losses"], here["losses"])
    return {"difference": found, "ok": found < 1e-3}


def check_bf16(data: Data) -> dict:
    """bfloat16 against float32: the cycle losses of some steps from the same start."""
    runs = [train(f"{RECIPE} --amp {amp}", data) for amp in ("off", "bf16")]
    cycles = [[{"cycle": x["cycle_A"] + x["cycle_B"]} for x in run["losses"]] for run in runs]
    found = difference(*cycles)
    return {"difference": found, "ok": found < 0.05, "step_ms": in_ms(runs, ("off", "bf16"))}


def check_resume(data: Data) -> dict:
    """What was saved goes on to the same losses, but for sums in another order."""
    opt, _ = train_options(RECIPE.split())
    model, other = CycleGANModel(opt), CycleGANModel(opt)
    continued(model, data, STEPS)
    other.load_state_dict(copy.deepcopy(model.state_dict()))  # as a file would
    found = difference(continued(model, data, STEPS)[0], continued(other, data, STEPS)[0])
    return {"difference": found, "ok": found < 0.05}


def check_channels_last(data: Data) -> dict:
    def layout(memory_format: torch.memory_format) -> Callable[[CycleGANModel], None]:
        def prepare(model: CycleGANModel) -> None:
            model.memory_format = memory_format
            for net in model.nets.values():
                net.to(memory_format=memory_format)

        return prepare

    formats = (torch.contiguous_format, torch.channels_last)
    runs = [train(RECIPE, data, prepare=layout(each)) for each in formats]
    found = difference(*(run["losses"][:1] for run in runs))
    return {
        "difference": found,
        "ok": found < 0.05,
        "step_ms": in_ms(runs, ("contiguous", "channels_last")),
    }


def check_compile(data: Data) -> dict:
    runs = [train(f"{RECIPE} {flag}", data) for flag in ("", "--compile")]
    found = difference(*(run["losses"][:1] for run in runs))
    return {
        "difference": found,
        "ok": found < 0.05,
        "first_s": runs[1]["first_s"],
        "step_ms": in_ms(runs, ("eager", "compiled")),
    }


def check_graphs(data: Data) -> dict:
    """The whole step as one CUDA graph, without what the host decides: pool and shift."""
    opt, _ = train_options(f"{RECIPE} --pool_size 0 --shift 0".split())
    if not opt.gpu_ids:
        return {"left_out": "CUDA graphs need a GPU"}
    model = CycleGANModel(opt)
    real = batches_for(model, data).batch(0)
    for optimizer in (model.optimizer_G, model.optimizer_D):
        optimizer.param_groups[0]["capturable"] = True
    model.set_input(*real)

    def step() -> None:
        model.optimize_parameters()
        model.health.clear()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # allocations and choices of algorithms come before a capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    times = {"eager": sorted(seconds(step, model.device) for _ in range(STEPS))}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times["graph"] = sorted(seconds(graph.replay, model.device) for _ in range(STEPS))
    finite = all(p.isfinite().all() for net in model.nets.values() for p in net.parameters())
    return {
        "ok": bool(finite),
        "step_ms": {name: 1000 * t[len(t) // 2] for name, t in times.items()},
    }


def in_ms(runs: list[dict], names: tuple[str, str]) -> dict[str, float]:
    return {name: 1000 * run["step_s"] for name, run in zip(names, runs, strict=True)}


CHECKS = {
    "cpu": check_cpu,
    "bf16": check_bf16,
    "resume": check_resume,
    "channels_last": check_channels_last,
    "compile": check_compile,
    "graphs": check_graphs,
}
ITEMS = (*CHECKS, *TIMINGS)


def item(name: str, options: Namespace) -> dict:
    """One check, or one timing against the plain form in turns (speed.py)."""
    tune_backends()
    try:
        if name in CHECKS:
            return CHECKS[name](Data(options))
        return measure_step(train_options(TIMINGS[name].split())[0], options.rounds)
    except (RuntimeError, UserError) as error:  # out of memory is a RuntimeError
        return {"failed": " ".join(str(error).split())[:500]}


def isolated(name: str, options: Namespace) -> dict:
    """The same in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--item", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return {"failed": f"did not end within {LONGEST} s"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"failed": " ".join(done.stderr.split())[-500:] or f"exit code {done.returncode}"}


# ------------------------------------------------------------------------------- the training


def bring_home(curve: Curve, state: Path, home: Path) -> None:
    """Averages and discriminators in half precision, as a run's checkpoint in pieces."""
    nets = {
        name.removesuffix("_ema"): {key: value.half() for key, value in net.state_dict().items()}
        for name, net in curve.model.nets.items()
        if name.endswith("_ema") or name.startswith("netD")
    }
    opt = curve.model.opt
    whole = state / "run.pth"
    save_checkpoint(
        whole,
        {
            "options": vars(opt),
            "epoch": 0,
            "batch": 0,
            "totals": {},
            "model": {"nets": nets, "steps": curve.model.steps},
        },
    )
    content = whole.read_bytes()
    for old in home.glob("run.pth.*"):
        old.unlink()
    for i in range(0, len(content), PIECE):
        with atomic_write(home / f"run.pth.{i // PIECE:02}") as file:
            file.write(content[i : i + PIECE])


def begin_from(curve: Curve, start: Path, state: Path) -> None:
    """Give a new run the nets that an earlier one brought home."""
    pieces = sorted(start.glob("run.pth.*"))
    if not pieces:
        raise UserError(f"--start {start}: holds no run.pth.00; name a folder that --home filled")
    with atomic_write(state / "start.pth") as file:
        file.write(b"".join(piece.read_bytes() for piece in pieces))
    start_from(curve.model, read_generators(state / "start.pth"))
    curve.warm = True


# ------------------------------------------------------------------------------------- the run


@one_line_errors
def main() -> None:
    started = now()
    parser = argparse.ArgumentParser(description="Check, time and train on one GPU.")
    add_options(parser)
    parser.add_argument(
        "--state",
        type=Path,
        required=True,
        help="folder outside the checkout that keeps everything",
    )
    parser.add_argument("--home", type=Path, required=True, help="folder for what is to be kept")
    parser.add_argument("--start", type=Path, help="an earlier --home, on a bare machine")
    parser.add_argument("--minutes", type=float, default=9, help="longest time for this call")
    parser.add_argument("--total", type=float, default=25, help="minutes of all calls together")
    parser.add_argument("--rounds", type=int, default=9, help="turns of a timing")
    parser.add_argument("--item", choices=ITEMS, help="only this check or timing, as JSON")
    parser.set_defaults(every=200_000)
    options = parser.parse_args()
    options.work = options.state
    if options.item:
        print(json.dumps(item(options.item, options)))
        return

    options.state.mkdir(parents=True, exist_ok=True)
    options.home.mkdir(parents=True, exist_ok=True)
    kept = options.state / "results.json"
    if options.start and not kept.exists() and (options.start / "results.json").exists():
        shutil.copy(options.start / "results.json", kept)
    results: dict = json.loads(kept.read_text()) if kept.exists() else {"seconds": 0.0}
    before = results["seconds"]

    def save() -> None:
        results["seconds"] = before + now() - started
        for folder in (options.state, options.home):
            with atomic_write(folder / "results.json") as file:
                file.write(json.dumps(results, indent=1).encode())

    ends = min(options.minutes, options.total - before / 60) * 60 - RESERVE

    def left() -> float:
        return ends - (now() - started)

    data = Data(options)
    results |= describe(options, data)
    for name in ITEMS:
        if name in results or left() < LONGEST:
            continue
        results[name] = isolated(name, options)
        print(name, json.dumps(results[name]), flush=True)
        save()

    if left() > RESERVE:  # for the warm start, which does not look at the clock
        tune_backends()
        curve = Curve(
            options.state / "training", RECIPE, data, TestImages(data), options.seed, options.every
        )
        if options.start and not curve.pairs:
            begin_from(curve, options.start, options.state)
        results.setdefault("training_began", before + now() - started)
        span = 60 * options.total - RESERVE - results["training_began"]

        def rate() -> float:
            share = (before + now() - started - results["training_began"]) / span
            return min(1.0, max(0.0, (1 - share) / (1 - DECAY)))

        for point in curve.run(stop=lambda: left() < 0, rate=rate):
            print(row(f"{point['minutes']:.1f} min", point), flush=True)
        results["points"] = curve.points
        figures = curve.test.measure(curve.model, options.home / "grid")
        results["now"] = {"pairs": curve.pairs, "minutes": curve.seconds / 60, **figures}
        print(row(f"now, {curve.seconds / 60:.1f} min", results["now"]))
        bring_home(curve, options.state, options.home)
    save()
    spent = f"{results['seconds'] / 60:.1f} of {options.total:g} minutes"
    done = results["seconds"] >= 60 * options.total - RESERVE
    print(f"All is done, {spent}" if done else f"{spent}; repeat the command")


if __name__ == "__main__":
    main()
