"""NaN and infinity in training: found without a wait in each step, named, and never saved."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from common.errors import UserError


class NonFiniteLoss(UserError):
    """Something became NaN or infinite; the message names it and the step."""


class Health:
    """Losses and gradients' norms of the steps since clear(), kept on the device.

    broken: whether a gradient was ever not finite, a bool on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.losses: list[tuple[int, dict[str, Tensor]]] = []
        self.norms: list[tuple[int, tuple[str, ...], Tensor]] = []
        self.broken = torch.zeros((), dtype=torch.bool, device=device)

    def keep_losses(self, step: int, losses: dict[str, Tensor]) -> None:
        self.losses.append((step, {name: loss.detach() for name, loss in losses.items()}))

    def keep_gradients(self, step: int, parameters: Iterable[tuple[str, nn.Parameter]]) -> Tensor:
        """Note the gradients of parameters by name; returns `broken`."""
        found = [(name, p.grad) for name, p in parameters if p.grad is not None]
        names, gradients = zip(*found, strict=True)
        norms = torch.stack(torch._foreach_norm(gradients))
        self.norms.append((step, names, norms))
        self.broken |= ~norms.isfinite().all()
        return self.broken

    def clear(self) -> None:
        self.losses, self.norms = [], []

    def check(self, step: int, state: Iterable[tuple[str, Tensor]]) -> list[dict[str, float]]:
        """The losses of each step, fetched from the device, which this waits for.

        state: what a checkpoint of this step would hold, by name, causes before what they break.
        Raises NonFiniteLoss at the first step with a loss or gradient that is NaN or infinite, or
        if anything in the state is.
        """
        values = [value for _, losses in self.losses for value in losses.values()]
        numbers = iter(torch.stack(values).tolist() if values else ())
        fetched = [{name: next(numbers) for name in losses} for _, losses in self.losses]
        bad = [
            (at, f"loss {name} became {value}")
            for (at, _), losses in zip(self.losses, fetched, strict=True)
            for name, value in losses.items()
            if not math.isfinite(value)
        ]
        if self.broken:
            bad += [
                (at, f"the gradient of {name} has the norm {value}")
                for at, names, norms in self.norms
                for name, value in zip(names, norms.tolist(), strict=True)
                if not math.isfinite(value)
            ]
        held = first_not_finite(state)
        if bad:
            first, what = min(bad, key=lambda found: found[0])  # a step's losses before gradients
            also = f", and {held} is not finite," if held else ""
            raise NonFiniteLoss(f"{what}{also} at step {first}")
        if held:
            raise NonFiniteLoss(f"{held} is not finite at step {step}")
        return fetched


def warm_losses(losses: Iterable[float]) -> Iterator[float]:
    """The losses of a warm start as they come; NonFiniteLoss at the first that is not finite."""
    for batch, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"the loss of the warm start became {loss} at its batch {batch}; nothing is saved "
                "yet. Try lower --lr_G and --lr_D"
            )
        yield loss


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, if any does."""
    floats = [(name, x) for name, x in tensors if x.is_floating_point() and x.numel()]
    norms = torch.stack(torch._foreach_norm([tensor for _, tensor in floats]))
    if norms.isfinite().all():
        return None
    # A norm can be too large for float32 though all numbers are finite.
    return next((name for name, x in floats if not x.isfinite().all()), None)
