"""The devices and the arithmetic that this machine has."""

from argparse import Namespace

import torch

from common import distributed
from common.errors import UserError


def resolve_gpu_ids(text: str | None) -> list[int]:
    """Turn --gpu_ids into device numbers; an empty list is the CPU. Raises UserError."""
    found = torch.cuda.device_count()
    if text is None:
        return [0] if found else []
    try:
        ids = [int(part) for part in str(text).split(",")]
    except ValueError:
        raise UserError(
            f"--gpu_ids {text}: must be numbers with commas between, like 0,1,2,3, or -1 for the "
            "CPU"
        ) from None
    if ids == [-1]:
        return []
    unknown = [i for i in ids if not 0 <= i < found]
    if unknown or len(set(ids)) < len(ids):
        raise UserError(
            f"--gpu_ids {text}: this machine has {found} GPU(s)"
            + (f", numbered 0 to {found - 1}" if found else "; use -1 for the CPU")
            + "; name each at most once"
        )
    return ids


def resolve_amp(amp: str, gpu_ids: list[int]) -> str:
    """Turn --amp auto into bf16 or off. Raises UserError for bf16 that the hardware has not."""
    if gpu_ids:
        able = all(torch.cuda.get_device_capability(i) >= (8, 0) for i in gpu_ids)
    else:
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if amp == "bf16" and not able:
        raise UserError(
            "--amp bf16: this device has no bfloat16 arithmetic (GPUs from compute capability 8.0, "
            "CPUs with AVX512-BF16 or AMX have it); use --amp off"
        )
    return ("bf16" if able else "off") if amp == "auto" else amp


def tune_backends() -> None:
    """Let cuDNN choose among its algorithms, and take TF32 for what stays in float32 on a GPU."""
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def describe_device(opt: Namespace) -> str:
    """What a run trains on, in one line."""
    if not opt.gpu_ids:
        return f"Device: CPU, {torch.get_num_threads()} threads"
    name, count = torch.cuda.get_device_name(opt.gpu_ids[0]), len(opt.gpu_ids)
    if distributed.world_size() > 1:
        count = distributed.world_size()
    if count == 1:
        return f"Device: cuda:{opt.gpu_ids[0]}, {name}"
    return (
        f"Device: {count} GPUs, {name}; global batch {opt.batch_size}, "
        f"{opt.batch_size / count:g} on each"
    )


def compiler_works(gpu_ids: list[int]) -> bool:
    """Whether torch.compile does, tried on a trifle; says so in one line."""
    try:
        device = f"cuda:{gpu_ids[0]}" if gpu_ids else "cpu"
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=device))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        print(f"--compile: torch.compile does not work here ({reason}); training goes on without")
        return False
    print("--compile: the first step takes one to three minutes")
    return True
