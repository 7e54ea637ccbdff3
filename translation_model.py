"""What the models share: the step, device, bf16, averaged weights, losses, state."""

import copy
import math
from argparse import Namespace
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common import distributed
from common.health import Health
from self_attention import SelfAttention


class TranslationModel:
    """Nets by name with two optimisers, one for generators and one for discriminators.

    CycleGANModel and DTNModel are the only ones; each makes its nets with _add, _add_averages and
    _add_optimizers, and has set_input, forward, backward_G, backward_D and translate of its own.
    Weights start from opt.seed. With several processes (common/distributed.py) each one passes its
    share of the batch; gradients are averaged.

    nets: what a checkpoint holds, by name, without nn.DataParallel around it.
    """

    def __init__(self, opt: Namespace) -> None:
        self.opt = opt
        self.device = torch.device(f"cuda:{opt.gpu_ids[0]}" if opt.gpu_ids else "cpu")
        self.memory_format = fastest_memory_format(opt)
        self.nets: dict[str, nn.Module] = {}
        torch.manual_seed(opt.seed)

    def _add(self, name: str, net: nn.Module) -> nn.Module:
        """Put a net on the device and among `nets`; returns what to call in training."""
        self.nets[name] = net.to(self.device).to(memory_format=self.memory_format)
        if self.opt.compile and name.startswith("netG"):  # a penalty differentiates D twice
            net.compile()
        if len(self.opt.gpu_ids) > 1:
            return nn.DataParallel(InBf16(net), self.opt.gpu_ids)
        return net

    def _add_averages(self, *names: str) -> None:
        if self.opt.ema:
            for name in names:
                average = copy.deepcopy(self.nets[name]).eval().requires_grad_(False)
                self.nets[f"{name}_ema"] = average

    def _add_optimizers(self, generators: tuple[str, ...], discriminators: tuple[str, ...]) -> None:
        """Prepare for training the nets of these names."""
        opt = self.opt
        # All further randomness: a CPU generator, of its own in each process.
        self.generator = torch.Generator().manual_seed(opt.seed + 1_000_003 * distributed.rank())
        betas = opt.beta1, opt.beta2
        self.names_G, self.names_D = generators, discriminators
        parameters_G = [p for name in generators for p in self.nets[name].parameters()]
        parameters_D = [p for name in discriminators for p in self.nets[name].parameters()]
        self.optimizer_G = torch.optim.Adam(parameters_G, opt.lr_G, betas, fused=True)
        self.optimizer_D = torch.optim.Adam(parameters_D, opt.lr_D, betas, fused=True)
        self.steps = 0
        self.steps_D = 0  # of the discriminators: these also learn before the first step
        self.most_lr = {"G": math.inf, "D": math.inf}
        distributed.copy_from_rank_zero(self.nets.values())
        self.health = Health(self.device)

    # ---------------------------------------------------------------------------- the step

    def set_input(self, real_A: Tensor, real_B: Tensor) -> None:
        """Take a batch of anime and a batch of persons, unpaired: (B, 3, H, W) in [-1, 1]."""
        raise NotImplementedError

    def forward(self) -> None:
        """Compute all images that the generators' losses need."""
        raise NotImplementedError

    def make_fakes(self) -> None:
        """Compute the images that the discriminators need."""
        self.forward()

    def backward_G(self) -> dict[str, Tensor]:
        """Gradients of the generators; returns their losses by name, weights applied."""
        raise NotImplementedError

    def backward_D(self) -> dict[str, Tensor]:
        """Gradients of the discriminators; returns their losses by name, weights applied."""
        raise NotImplementedError

    def optimize_parameters(self) -> None:
        """One step of the discriminators and, every n_critic-th time, of the generators.

        Source: Goodfellow et al. 2014, algorithm 1; generators first, as in CycleGAN's own code.
        """
        self.steps += 1
        losses: dict[str, Tensor] = {}

        # Generators. D is frozen: its gradients would be computed for nothing.
        if self.steps % self.opt.n_critic == 0:
            self._require_grad_D(False)
            self.optimizer_G.zero_grad()
            self.forward()
            losses |= self.backward_G()
            self._update(self.optimizer_G)
            self._update_ema()
            self._require_grad_D(True)
        else:
            with torch.no_grad():
                self.make_fakes()

        losses |= self._train_D()
        self.health.keep_losses(self.steps, losses)

    # ------------------------------------------------------------------- parts of the step

    def _train_D(self) -> dict[str, Tensor]:
        """One step of the discriminators on the images at hand; returns their losses by name."""
        self.steps_D += 1
        self.optimizer_D.zero_grad()
        losses = self.backward_D()
        self._update(self.optimizer_D)
        if self.opt.gan_mode == "wgan":  # Arjovsky et al. 2017, algorithm 1
            bound = self.opt.clip_value
            with torch.no_grad():
                for parameter in self.optimizer_D.param_groups[0]["params"]:
                    parameter.clamp_(-bound, bound)
        return losses

    def run(self, net: nn.Module, *inputs: object) -> Tensor:
        """A net's output: computed in bf16 where --amp says so, handed out, and judged, in fp32."""
        with self.autocast():
            return net(*inputs).float()

    def autocast(self) -> torch.autocast:
        """bf16 where --amp says so. Around several calls of a net it casts the weights once."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.opt.amp == "bf16")

    def _require_grad_D(self, required: bool) -> None:
        for name in self.names_D:
            self.nets[name].requires_grad_(required)

    def _update(self, optimizer: torch.optim.Optimizer) -> None:
        """Move the weights by their gradients, averaged over all processes, if those are finite.

        If not, nothing moves from then on: the next fetch finds the weights as that step did.
        The device decides, and the host need not wait.
        """
        distributed.average_gradients(optimizer)
        broken = self.health.keep_gradients(self.steps, self._trained(optimizer))
        # As GradScaler does: fused Adam skips where it is 1. Optimizer does not declare it.
        optimizer.found_inf = broken.float()  # type: ignore[attr-defined]
        optimizer.step()

    def _trained(self, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of an optimiser, by net and key."""
        for name in self.names_D if optimizer is self.optimizer_D else self.names_G:
            for key, parameter in self.nets[name].named_parameters():
                yield f"{name}.{key}", parameter

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Move the averages towards the generators; faster at first, while those change most.

        The count of updates is right for one --n_critic, and an estimate where it was changed.
        """
        updates = self.steps // self.opt.n_critic
        decay = min(self.opt.ema, updates / (updates + 9))
        for name, average in self.nets.items():
            if not name.endswith("_ema"):
                continue
            net = self.nets[name.removesuffix("_ema")]
            torch._foreach_lerp_(list(average.parameters()), list(net.parameters()), 1 - decay)
            for old, new in zip(average.buffers(), net.buffers(), strict=True):
                old.copy_(new)  # spectral norm's singular vectors must fit the weights

    def fetch_losses(self) -> list[dict[str, float]]:
        """Losses of the steps since the last call: the only wait for the device in training.

        Raises NonFiniteLoss at the first step with a loss or gradient that is NaN or infinite, or
        if anything is that a checkpoint would hold.
        """
        fetched = self.health.check(self.steps, self._named_tensors())
        self.health.clear()
        return fetched

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What a checkpoint holds that could break, by name, causes before what they break.

        See Health.check.
        """
        for optimizer in (self.optimizer_G, self.optimizer_D):
            for name, parameter in self._trained(optimizer):
                for key, value in optimizer.state.get(parameter, {}).items():
                    if key != "step":
                        yield f"Adam's {key} of {name}", value
        for name, net in self.nets.items():
            kind = "average" if name.endswith("_ema") else "weight"
            yield from ((f"{kind} {name}.{key}", x) for key, x in net.state_dict().items())

    # --------------------------------------------------------------------- around the step

    @property
    def directions(self) -> list[str]:
        """What it translates: "AtoB" is anime to person, "BtoA" person to anime."""
        raise NotImplementedError

    def translate(
        self, images: Tensor, direction: str, and_back: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Translate images (N, 3, H, W), and back again where it can, else None; on the CPU."""
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        """What a model without a way back makes of images of the domain that it translates to."""
        raise NotImplementedError

    def averaged(self, name: str) -> nn.Module:
        """The net as a user will see it: its average where there is one."""
        return self.nets.get(f"{name}_ema", self.nets[name])

    def update_learning_rate(self, epoch: int) -> None:
        """Set the learning rates of epoch 0, 1, ...: the schedule's, but `most_lr` at most."""
        factor = lr_factor(epoch, self.opt.niter, self.opt.niter_decay)
        rate_G, rate_D = self.opt.lr_G * factor, self.opt.lr_D * factor
        self.optimizer_G.param_groups[0]["lr"] = min(rate_G, self.most_lr["G"])
        self.optimizer_D.param_groups[0]["lr"] = min(rate_D, self.most_lr["D"])

    def keep_learning_rates_down(self, state: dict, epoch: int, given: dict) -> None:
        """Let a resumed run's rates not rise above those it stopped at, but where they are given.

        A longer schedule would raise them, many times over after a decay. state: its state_dict();
        epoch: the next, from 0; given: options on the command line. Says so in one line.
        """
        factor = lr_factor(epoch, self.opt.niter, self.opt.niter_decay)
        held = []
        for net, rate in (("G", self.opt.lr_G), ("D", self.opt.lr_D)):
            last = state[f"optimizer_{net}"]["param_groups"][0]["lr"]
            if f"lr_{net}" not in given:
                self.most_lr[net] = last
                if rate * factor > last:
                    held.append(f"that of {net} at {last:.3g}, not {rate * factor:.3g}")
        if held:
            print(
                "The learning rates stay where they stopped, since the longer schedule would raise "
                f"them: {', '.join(held)}; --lr_G and --lr_D set others"
            )

    def attention_gammas(self) -> dict[str, float]:
        """The weight that each self-attention layer has learned, by net and layer."""
        return {
            f"{name}.{path}": layer.gamma.item()
            for name, net in self.nets.items()
            for path, layer in net.named_modules()
            if isinstance(layer, SelfAttention) and not name.endswith("_ema")
        }

    def count_parameters(self) -> dict[str, int]:
        """Numbers in the weights of each net, averages left out."""
        return {
            name: sum(p.numel() for p in net.parameters())
            for name, net in self.nets.items()
            if not name.endswith("_ema")
        }

    def state_dict(self) -> dict:
        """Everything that training needs to go on as if it had not stopped: plain types, tensors.

        Raises NonFiniteLoss rather than handing out what a bad step left behind.
        """
        self.health.check(self.steps, self._named_tensors())
        return {
            "nets": {name: net.state_dict() for name, net in self.nets.items()},
            "optimizer_G": self.optimizer_G.state_dict(),
            "optimizer_D": self.optimizer_D.state_dict(),
            "generator": self.generator.get_state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take up a state_dict() of a model with the same options.

        Raises one of validate.LOAD_ERRORS for that of another one.
        """
        for name, net in self.nets.items():
            net.load_state_dict(state["nets"][name])
        _load_moments(self.optimizer_G, state["optimizer_G"])
        _load_moments(self.optimizer_D, state["optimizer_D"])
        self.steps = self.steps_D = state["steps"]
        if distributed.rank() == 0:
            self.generator.set_state(state["generator"])
        else:  # a checkpoint holds rank 0's alone
            self.generator.manual_seed(self.opt.seed + 1_000_003 * distributed.rank() + self.steps)


def fastest_memory_format(opt: Namespace) -> torch.memory_format:
    """How images and weights should lie in memory; a run may go on in another one."""
    # bf16 convolutions want channels beside each other on GPUs and AMX; AVX512 gains nothing.
    matrix_units = opt.gpu_ids or torch.cpu._is_amx_tile_supported()
    return torch.channels_last if opt.amp == "bf16" and matrix_units else torch.contiguous_format


def _load_moments(optimizer: torch.optim.Adam, state: dict) -> None:
    """Give Adam its moments back. All else of its state comes from the options."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
    # It keeps the file's strides, but fused Adam goes through weights and moments in memory order.
    for parameter, moments in optimizer.state.items():
        for key in ("exp_avg", "exp_avg_sq"):
            if moments[key].shape != parameter.shape:  # copy_ would broadcast
                raise ValueError(f"Adam's {key} is not of the size of its weight")
            moments[key] = torch.empty_like(parameter).copy_(moments[key])


class InBf16(nn.Module):
    """A net for DataParallel, whose threads keep autocast but fall back to its default, float16."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *more: object) -> Tensor:
        device = x.device.type
        with torch.autocast(device, torch.bfloat16, enabled=torch.is_autocast_enabled(device)):
            return self.net(x, *more)


def lr_factor(epoch: int, niter: int, niter_decay: int) -> float:
    """Learning rate in epoch 0, 1, ... over the first one: niter times 1, then a straight line.

    Epoch niter is the first that is lower; the line reaches 0 at epoch niter + niter_decay, the one
    after the last. Source: Zhu et al. 2017 (CycleGAN), section 4.
    """
    return min(1.0, max(0.0, 1 - (epoch - niter + 1) / (niter_decay + 1)))
