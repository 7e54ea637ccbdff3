"""Several processes that train one model, started with torchrun, on one host or many.

    torchrun --nproc_per_node=4 train.py --batch_size 256

Each process (rank) takes its share of every batch, and gradients are averaged over all of them
before each optimiser step, so that all keep the same weights. Only rank 0 writes. Without torchrun
every function here is a formality.

Gradients are averaged by hand rather than by wrapping the nets in DistributedDataParallel: a GAN
calls its nets several times per backward pass, freezes D while G trains, and differentiates twice
under a penalty, all of which that wrapper restricts.
"""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from common.errors import UserError


def start(gpu_ids: list[int], batch_size: int, asked: bool = False) -> list[int]:
    """Join the other processes if torchrun started this one; returns the GPUs to use here.

    asked: whether the user named these GPUs, one for each process of a host; else all are taken.
    Ranks but 0 become silent. Raises UserError where the batch or the GPUs cannot be shared out.
    """
    if not by_torchrun():
        return gpu_ids
    size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if batch_size % size:
        raise UserError(
            f"--batch_size {batch_size}: cannot be shared equally by {size} processes; use a "
            f"multiple of {size}"
        )
    if gpu_ids:
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        if asked and len(gpu_ids) != local_size:
            raise UserError(
                f"--gpu_ids {','.join(map(str, gpu_ids))}: {len(gpu_ids)} GPU(s) for {local_size} "
                f"processes; name {local_size}, start one process for each, or leave it out"
            )
        if local_size > torch.cuda.device_count():
            raise UserError(
                f"--nproc_per_node {local_size}: this machine has {torch.cuda.device_count()} "
                "GPU(s); start one process for each, or give --gpu_ids -1"
            )
        gpu_ids = [gpu_ids[local_rank] if asked else local_rank]
        torch.cuda.set_device(gpu_ids[0])
    dist.init_process_group("nccl" if gpu_ids else "gloo", timeout=timedelta(hours=1))
    if rank():
        sys.stdout = open(os.devnull, "w", errors="backslashreplace")
    return gpu_ids


def by_torchrun() -> bool:
    """Whether torchrun, or a launcher like it, started this process: all of these are set."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return all(os.environ.get(name) for name in names)


def will_be_first() -> bool:
    """Whether this process is rank 0, or will be after start()."""
    return not by_torchrun() or os.environ["RANK"] == "0"


def stop() -> None:
    """Destroy the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def first_on_each_host() -> Iterator[None]:
    """Let one process of each host run the block before the others, which find its work done."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if dist.is_initialized() and not first:
        dist.barrier()
    yield
    if dist.is_initialized() and first:
        dist.barrier()


def copy_from_rank_zero(nets: Iterable[nn.Module]) -> None:
    """Give all processes rank 0's weights and buffers, to the bit."""
    if world_size() > 1:
        for net in nets:
            for tensor in itertools.chain(net.parameters(), net.buffers()):
                # A broadcast goes by memory order, which hosts may choose differently.
                plain = tensor.detach().clone(memory_format=torch.contiguous_format)
                dist.broadcast(plain, 0)
                tensor.data.copy_(plain)


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Replace every gradient by its mean over all processes: one message for all of them."""
    if world_size() == 1:
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def on_any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any process. All must ask at the same step."""
    if world_size() == 1:
        return flag
    flags = torch.tensor(float(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def from_rank_zero(value: str) -> str:
    """The value that rank 0 passes, on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
