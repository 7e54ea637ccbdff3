"""How tests tell that two runs are the same."""

import torch

TIMED = ("seconds", "images_per_s", "peak_memory_mb")  # in a log: of the clock and the machine


def same(a, b):
    """Equal to the bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def without_time(records):
    return [{k: v for k, v in record.items() if k not in TIMED} for record in records]
