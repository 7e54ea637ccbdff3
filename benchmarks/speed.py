"""How fast training is, against the plain form of the same step, measured side by side.

    python benchmarks/speed.py                                # this machine, all parts
    python benchmarks/speed.py --parts step --batch_size 16 --compile
    python benchmarks/speed.py --batch_size 64 --json speed.json      # a GPU, if there is one

The plain form does what the well-known PyTorch code does: float32, eager, D called for real and for
fake images apart, pool image by image, Adam as it comes. Both run in turns in one process, so that
a busy machine slows both; figures are medians over the rounds.

Prediction for one H200, from 56 GFLOP per pair and 25 to 40 % of a measured bf16 peak of about 790
TFLOP/s: 3,500 to 5,600 pairs/s. To check it there:

    python benchmarks/speed.py --batch_size 64 --rounds 20 --compile --json h200.json
    python benchmarks/speed.py --batch_size 256 --rounds 20 --compile --parts step
"""

import argparse
import json
import statistics
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from arguments import train_options
from benchmarks.loading import measure_loader, measure_start, seconds
from benchmarks.modes import clock
from common.device import tune_backends
from common.errors import one_line_errors
from common.layers import InstanceNorm2d, ReflectionPad2d
from cyclegan_model import CycleGANModel, ImagePool
from losses import discriminator_loss
from training.logbook import peak_memory_mb

PARTS = ("step", "layers", "loader", "start", "nets")
NETS = (
    *(f"--generator resnet --ngf {n}" for n in (32, 64)),
    *(f"--generator resnet8 --ngf {n}" for n in (32, 48, 64)),
    *(f"--generator unet --ngf {n}" for n in (32, 64)),
    *(f"--ndf {n}" for n in (32, 48, 64)),
)


class PlainPool(ImagePool):
    """The image pool as the reference code has it: a list, one picture after the other."""

    def query(self, batch: Tensor) -> Tensor:
        kept, chosen = list(self.images.unsqueeze(1)), []
        for image in batch.unsqueeze(1):
            if len(kept) < self.size:
                kept.append(image)
            elif torch.rand((), generator=self.generator) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.generator))
                kept[place], image = image, kept[place].clone()
            chosen.append(image)
        self.images = torch.cat(kept)
        return torch.cat(chosen)


class PlainModel(CycleGANModel):
    """The same losses on the same nets, without anything that is there for speed."""

    def __init__(self, opt: Namespace) -> None:
        super().__init__(Namespace(**{**vars(opt), "amp": "off", "compile": False, "ema": 0.0}))
        betas = (opt.beta1, opt.beta2)
        for name, lr in (("optimizer_G", opt.lr_G), ("optimizer_D", opt.lr_D)):
            parameters = getattr(self, name).param_groups[0]["params"]
            setattr(self, name, torch.optim.Adam(parameters, lr=lr, betas=betas))
        self.pool_A = PlainPool(opt.pool_size, self.generator)
        self.pool_B = PlainPool(opt.pool_size, self.generator)

    def optimize_parameters(self) -> None:
        self.steps += 1
        self.forward()
        self._require_grad_D(False)
        self.optimizer_G.zero_grad()
        losses = self.backward_G()
        self.optimizer_G.step()
        self._require_grad_D(True)
        self.optimizer_D.zero_grad()
        for netD, real, fake, pool in (
            (self.netD_A, self.real_A, self.fake_A, self.pool_A),
            (self.netD_B, self.real_B, self.fake_B, self.pool_B),
        ):
            pred_real = netD(real)
            pred_fake = netD(pool.query(fake.detach()))
            discriminator_loss(self.opt.gan_mode, pred_real, pred_fake).backward()
        self.optimizer_D.step()
        self.health.keep_losses(self.steps, losses)


class TorchLayers(CycleGANModel):
    """The fast step with torch's own padding and instance norm in place of common/layers.py."""

    def __init__(self, opt: Namespace) -> None:
        super().__init__(opt)
        for net in self.nets.values():
            for module in net.modules():
                if isinstance(module, ReflectionPad2d | InstanceNorm2d):
                    module.__class__ = type(module).__mro__[1]


def stepper(model: CycleGANModel) -> Callable[[], None]:
    opt = model.opt
    shape = (2, opt.batch_size, 3, opt.image_size, opt.image_size)
    real_A, real_B = (torch.rand(shape, device=model.device) * 2 - 1).unbind()
    model.update_learning_rate(0)

    def step() -> None:
        model.set_input(real_A, real_B)
        model.optimize_parameters()
        model.health.clear()

    return step


def peak_flops(device: torch.device, dtype: torch.dtype, batch: int, image_size: int) -> dict:
    """FLOP/s of a large matrix product, and of a residual block's convolution there and back."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    h = image_size // 4
    x = torch.randn(2 * batch, 256, h, h, device=device, dtype=dtype, requires_grad=True)
    w = torch.randn(256, 256, 3, 3, device=device, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        x, w = (t.to(memory_format=torch.channels_last).requires_grad_() for t in (x, w))

    def conv() -> None:
        y = torch.nn.functional.conv2d(x, w, padding=1)
        torch.autograd.grad(y.sum(), (x, w))

    def median(call: Callable[[], object]) -> float:
        call()
        return statistics.median(seconds(call, device) for _ in range(15))

    return {
        "matmul": 2 * size**3 / median(lambda: a @ a),
        "conv": 3 * 2 * 256 * 256 * 9 * h * h * len(x) / median(conv),
    }


def pairs_per_s(
    steps: dict[str, Callable[[], None]], batch: int, rounds: int, device: torch.device
) -> dict[str, float]:
    """Rates of steps that are done in turns: medians over the rounds, after two that warm up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        for name, step in steps.items():
            times[name].append(seconds(step, device))
    return {name: batch / statistics.median(taken[2:]) for name, taken in times.items()}


def measure_layers(opt: Namespace, rounds: int) -> dict:
    """The fast step with torch's layers and with ours, in turns."""
    models = {"torch": TorchLayers(opt), "ours": CycleGANModel(opt)}
    steps = {name: stepper(model) for name, model in models.items()}
    rates = pairs_per_s(steps, opt.batch_size, rounds, models["ours"].device)
    return {"pairs_per_s": rates, "ratio": rates["ours"] / rates["torch"]}


def measure_step(opt: Namespace, rounds: int) -> dict:
    """Plain and fast step in turns."""
    plain, fast = PlainModel(opt), CycleGANModel(opt)
    device = fast.device
    with FlopCounterMode(display=False) as counter:
        stepper(plain)()
    flops = counter.get_total_flops() / opt.batch_size
    steps = {"plain": stepper(plain), "fast": stepper(fast)}
    first = seconds(steps["fast"], device)
    rates = pairs_per_s(steps, opt.batch_size, rounds, device)
    dtype = torch.bfloat16 if opt.amp == "bf16" else torch.float32
    peak = peak_flops(device, dtype, opt.batch_size, opt.image_size)
    return {
        "pairs_per_s": rates,
        "ratio": rates["fast"] / rates["plain"],
        "gflop_per_pair": flops / 1e9,
        "fast_gflop_per_s": flops * rates["fast"] / 1e9,
        "peak_gflop_per_s": {name: value / 1e9 for name, value in peak.items()},
        "share_of_matmul_peak": flops * rates["fast"] / peak["matmul"],
        "share_of_conv_peak": flops * rates["fast"] / peak["conv"],
        "first_fast_step_s": first,
        "peak_memory_mb": peak_memory_mb(device),
    }


def measure_nets(flags: list[str], rounds: int) -> dict:
    """Milliseconds per image there and back, of a generator or a discriminator alone.

    CPU time of all threads, which a busy machine changes less than the clock's; on a GPU the clock.
    """
    found = {}
    for case in NETS:
        opt, _ = train_options([*flags, *case.split()])
        model = CycleGANModel(opt)
        net = model.netD_A if "--ndf" in case else model.netG_A
        shape = (opt.batch_size, 3, opt.image_size, opt.image_size)
        x = torch.rand(shape, device=model.device) * 2 - 1
        times = []
        for _ in range(rounds + 2):  # the first ones warm up
            started = clock(model)
            model.run(net, x).mean().backward()
            times.append(clock(model) - started)
        found[case] = 1000 * statistics.median(times[2:]) / opt.batch_size
    return {"ms_per_image": found}


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training speed.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--rounds", type=int, default=9, help="turns of plain and fast")
    parser.add_argument("--batch_size", default="16", help="pairs per step")
    parser.add_argument("--images", type=int, default=50000, help="files per domain for 'start'")
    parser.add_argument("--compile", action="store_true", help="torch.compile in the fast form")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options, train_flags = parser.parse_known_args()
    # Without the identity loss, two passes more, work is the 56 GFLOP that other code also does.
    plain = "--generator resnet --lambda_idt 0 --shift 0 --cycle_pool 1"
    train_flags = [*plain.split(), *train_flags]
    train_flags += ["--compile"] if options.compile else []
    tune_backends()  # for both forms, as the well-known code does
    opt, _ = train_options([*train_flags, "--batch_size", options.batch_size])

    device = (
        torch.cuda.get_device_name(opt.gpu_ids[0])
        if opt.gpu_ids
        else (
            f"CPU, {torch.get_num_threads()} threads, "
            + (
                "AMX"
                if torch.cpu._is_amx_tile_supported()
                else torch.backends.cpu.get_cpu_capability()
            )
        )
    )
    results: dict = {
        "date": str(date.today()),
        "device": device,
        "torch": torch.__version__,
        "options": {
            k: getattr(opt, k)
            for k in ("generator", "ngf", "n_blocks", "image_size", "batch_size", "amp", "compile")
        },
    }
    print(json.dumps(results))
    if "step" in options.parts:
        results["step"] = measure_step(opt, options.rounds)
        print(json.dumps({"step": results["step"]}))
    if "layers" in options.parts:
        results["layers"] = measure_layers(opt, options.rounds)
        print(json.dumps({"layers": results["layers"]}))
    if "loader" in options.parts:
        rate = results["step"]["pairs_per_s"]["fast"] if "step" in results else None
        results["loader"] = measure_loader(opt, options.rounds, rate)
        print(json.dumps({"loader": results["loader"]}))
    if "start" in options.parts:
        results["start"] = measure_start(opt, options.images)
        print(json.dumps({"start": results["start"]}))
    if "nets" in options.parts:
        flags = [*train_flags, "--batch_size", options.batch_size]
        results["nets"] = measure_nets(flags, options.rounds)
        print(json.dumps({"nets": results["nets"]}))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))


def table(results: dict) -> str:
    """The figures as the table of docs/speed.md."""
    rows = []
    if step := results.get("step"):
        rates = step["pairs_per_s"]
        rows += [
            (
                "fast over plain",
                f"{rates['fast']:.2f} / {rates['plain']:.2f} pairs/s = **{step['ratio']:.2f}x**",
            ),
            (
                "work",
                f"{step['gflop_per_pair']:.1f} GFLOP per pair, "
                f"{step['fast_gflop_per_s']:.0f} GFLOP/s reached",
            ),
            (
                "share of the machine's own peak",
                f"{step['share_of_conv_peak']:.0%} of the residual convolution "
                f"({step['peak_gflop_per_s']['conv']:.0f} GFLOP/s), "
                f"{step['share_of_matmul_peak']:.0%} of a matrix product",
            ),
            ("peak memory", f"{step['peak_memory_mb']} MiB"),
        ]
    if layers := results.get("layers"):
        rates = layers["pairs_per_s"]
        rows.append(
            (
                "our layers over torch's",
                f"{rates['ours']:.2f} / {rates['torch']:.2f} pairs/s = **{layers['ratio']:.2f}x**",
            )
        )
    if loader := results.get("loader"):
        rates = loader["images_per_s"]
        text = f"{rates['ours']:,.0f} images/s; Pillow with DataLoader {rates['pillow']:,.0f}"
        if "over_what_the_step_eats" in loader:
            text += f"; {loader['over_what_the_step_eats']:,.0f}x what the step eats"
        rows.append(("loader alone", text))
    if start := results.get("start"):
        rows.append(
            (
                f"{start['images_per_domain']:,} + {start['images_per_domain']:,} images",
                f"first batch {start['cached_s']:.1f} s after the command, "
                f"{start['first_time_s']:.0f} s the first time; cache {start['cache_mb']:.0f} "
                "MB, shared by all processes",
            )
        )
    if nets := results.get("nets"):
        rows += [(flags, f"{ms:.1f} ms per image") for flags, ms in nets["ms_per_image"].items()]
    head = f"| {results['device']}, {results['date']} | |\n| --- | --- |\n"
    return head + "\n".join(f"| {name} | {text} |" for name, text in rows)


if __name__ == "__main__":
    main()
