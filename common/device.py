"""The devices and the arithmetic that this machine has."""

import torch

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
