"""CycleGAN: two generators, two discriminators, and the step that trains them.

Names against Zhu et al. 2017 (their X is our A, anime; their Y our B, person):

| here   | paper | maps or judges                            |
| ------ | ----- | ----------------------------------------- |
| netG_A | G     | anime to person: fake_B = netG_A(real_A)  |
| netG_B | F     | person to anime: fake_A = netG_B(real_B)  |
| netD_A | D_X   | anime: real_A against fake_A              |
| netD_B | D_Y   | persons: real_B against fake_B            |

rec_A = netG_B(netG_A(real_A)); idt_A = netG_A(real_B), which should change nothing; likewise B.
"""

from argparse import Namespace
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from common import distributed
from common.errors import UserError
from common.tensors import upload
from dataset import UnpairedBatches
from losses import (
    PENALTY_MODES,
    cycle_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    identity_loss,
    negatives,
    shift,
    total,
    zero_centred_penalty,
    zoom,
)
from networks import build_discriminator, build_generator
from translation_model import TranslationModel, lr_factor

R1_EVERY = 8  # steps; Karras et al. 2020 (StyleGAN2), section 3.1, have 16
GENERATORS = {"AtoB": "netG_A", "BtoA": "netG_B"}  # by direction


class CycleGANModel(TranslationModel):
    """The nets, their optimisers and pools, and one training step.

    opt: resolved options (arguments.py). Images are float (B, 3, H, W) in [-1, 1]. With
    training=False only the generators are made, for interop/generators.py to fill.

    Source: Zhu et al. 2017 (CycleGAN), sections 3 and 4, with the discriminators of Zhang et al.
    2019 (SAGAN).
    """

    def __init__(self, opt: Namespace, training: bool = True) -> None:
        super().__init__(opt)
        self.netG_A = self._add("netG_A", build_generator(opt, training))
        self.netG_B = self._add("netG_B", build_generator(opt, training))
        self._add_averages("netG_A", "netG_B")
        if not training:
            return
        self.netD_A = self._add("netD_A", build_discriminator(opt))
        self.netD_B = self._add("netD_B", build_discriminator(opt))
        self._add_optimizers(("netG_A", "netG_B"), ("netD_A", "netD_B"))
        self.pool_A = ImagePool(opt.pool_size, self.generator)
        self.pool_B = ImagePool(opt.pool_size, self.generator)

    # ---------------------------------------------------------------------------- the step

    def set_input(self, real_A: Tensor, real_B: Tensor) -> None:
        """Take a batch of anime and a batch of persons, unpaired, of the same size."""
        self.real_A = real_A.to(self.device, memory_format=self.memory_format, non_blocking=True)
        self.real_B = real_B.to(self.device, memory_format=self.memory_format, non_blocking=True)

    def forward(self) -> None:
        """Translate there and back, in both directions; and into their own domain, for identity."""
        with self.autocast():
            if self.opt.lambda_idt:  # in one call, since no layer mixes the images of a batch
                both = torch.cat([self.real_A, self.real_B])
                self.fake_B, self.idt_A = self.run(self.netG_A, both).chunk(2)
                self.idt_B, self.fake_A = self.run(self.netG_B, both).chunk(2)
            else:
                self.make_fakes()
            self.rec_A = self.run(self.netG_B, self.fake_B)
            self.rec_B = self.run(self.netG_A, self.fake_A)

    def make_fakes(self) -> None:
        """All that the discriminators need, where the generators do not learn."""
        self.fake_B = self.run(self.netG_A, self.real_A)
        self.fake_A = self.run(self.netG_B, self.real_B)

    def backward_G(self) -> dict[str, Tensor]:
        """Gradients of both generators; returns their losses by name, weights applied."""
        opt = self.opt
        losses = {
            "G_A": self._loss_of_G(self.netD_B, self.fake_B, self.real_B),
            "G_B": self._loss_of_G(self.netD_A, self.fake_A, self.real_A),
            "cycle_A": opt.lambda_A * cycle_loss(self.rec_A, self.real_A, opt.cycle_pool),
            "cycle_B": opt.lambda_B * cycle_loss(self.rec_B, self.real_B, opt.cycle_pool),
        }
        if opt.lambda_idt:
            weight_A, weight_B = opt.lambda_idt * opt.lambda_A, opt.lambda_idt * opt.lambda_B
            losses["idt_A"] = weight_B * identity_loss(self.idt_A, self.real_B)
            losses["idt_B"] = weight_A * identity_loss(self.idt_B, self.real_A)
        total(losses).backward()
        return losses

    def _loss_of_G(self, netD: nn.Module, fake: Tensor, real: Tensor) -> Tensor:
        images = [fake, real] if self.opt.gan_mode == "relativistic" else [fake]
        preds = self.run(netD, self._augmented(torch.cat(images))).split(len(fake))
        return generator_loss(self.opt.gan_mode, *preds)

    def backward_D(self) -> dict[str, Tensor]:
        """Gradients of both discriminators; returns their losses by name."""
        fake_A = self.pool_A.query(self.fake_A.detach())
        losses = self._backward_D("A", self.netD_A, self.real_A, fake_A)
        fake_B = self.pool_B.query(self.fake_B.detach())
        return losses | self._backward_D("B", self.netD_B, self.real_B, fake_B)

    def _backward_D(
        self, domain: str, netD: nn.Module, real: Tensor, fake: Tensor
    ) -> dict[str, Tensor]:
        mode, share = self.opt.gan_mode, self.opt.negatives
        images = [real, fake]
        half = len(real)
        if share:
            if mode == "relativistic":
                # D compares: half of the negatives are of fakes, and worse than those. Of an odd
                # batch chance decides about the middle image, which may be a process's only one.
                coin = int(torch.randint(2, (), generator=self.generator))
                half = (len(real) + coin) // 2
            other = self.real_B if domain == "A" else self.real_A
            whole = torch.cat([real[:half], fake[half:]])
            images.append(negatives(whole, other, self.generator))
        # One call for all: no layer mixes the images of a batch.
        preds = self.run(netD, self._augmented(torch.cat(images))).split(len(real))
        pred_real, pred_fake, *pred_negatives = preds
        loss = discriminator_loss(mode, pred_real, pred_fake)
        for pred in pred_negatives:
            pred_whole = torch.cat([pred_real[:half], pred_fake[half:]])
            loss = torch.lerp(loss, discriminator_loss(mode, pred_whole, pred), share)
        losses = {f"D_{domain}": loss}
        if mode in PENALTY_MODES:
            penalty = gradient_penalty(netD, real, fake, self.generator)
            losses[f"gp_{domain}"] = self.opt.lambda_gp * penalty
        if self.opt.lambda_r1:
            penalty = loss.new_zeros(())  # 0 counts in the log's mean over all steps
            if self.steps_D % R1_EVERY == 1:
                seen = self._augmented(torch.cat([real, fake]))
                penalty = 2 * zero_centred_penalty(netD, seen)  # of both
            losses[f"r1_{domain}"] = R1_EVERY * self.opt.lambda_r1 * penalty
        total(losses).backward()
        return losses

    def _augmented(self, images: Tensor) -> Tensor:
        """What D sees of images: a window of them, or all, moved."""
        if self.opt.zoom and torch.rand((), generator=self.generator) < self.opt.zoom:
            return zoom(images, self.generator)
        return shift(images, self.opt.shift, self.generator)

    def warm_start(self, batches: UnpairedBatches) -> Iterator[float]:
        """Train both generators as one autoencoder of both domains, before the first step.

        A translation then begins as the image itself, and an adversarial loss moves it towards the
        other domain: poses and colours need not be found again. opt.warm_steps batches, the last
        half of them at a learning rate that falls to 0. Yields each step's mean absolute error.

        Source: Torbunov et al. 2023 (UVCGAN), section 3.3, without its masks.
        """
        steps = self.opt.warm_steps
        optimizer = torch.optim.Adam(self.nets["netG_A"].parameters(), fused=True)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = (
                2 * self.opt.lr_G * lr_factor(step, steps // 2, steps - steps // 2)
            )
            self.set_input(*batches.batch(step))
            both = torch.cat([self.real_A, self.real_B])
            loss = identity_loss(self.run(self.netG_A, both), both)
            optimizer.zero_grad()
            loss.backward()
            distributed.average_gradients(optimizer)
            optimizer.step()
            yield loss.item()
        optimizer.zero_grad()
        for name in ("netG_B", "netG_A_ema", "netG_B_ema"):
            if name in self.nets:
                self.nets[name].load_state_dict(self.nets["netG_A"].state_dict())

    def warm_discriminators(self, batches: UnpairedBatches) -> Iterator[float]:
        """Train the discriminators alone, where the generators come from a file without them.

        A fresh discriminator tells nothing, and trained generators that are given to it lose what
        they know to the other losses: docs/recipe.md. opt.warm_steps batches. Yields each step's
        loss, the mean of both.
        """
        for step in range(self.opt.warm_steps):
            self.set_input(*batches.batch(step))
            with torch.no_grad():
                self.make_fakes()
            yield total(self._train_D()).item() / 2
        self.steps_D = 0  # a resumed run, too, counts from its first epoch on

    # --------------------------------------------------------------------- around the step

    @property
    def directions(self) -> list[str]:
        """What it can translate: "AtoB", "BtoA" or both."""
        return [d for d, name in GENERATORS.items() if name in self.nets]

    @torch.no_grad()
    def translate(
        self, images: Tensor, direction: str, and_back: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Translate images, and back again, as a user will see them: eval mode, averaged weights.

        images: (N, 3, H, W) on any device; direction "AtoB" or "BtoA".
        Returns the translations and the reconstructions, (N, 3, H, W) on the CPU; instead of the
        latter None where they are not asked for, or a file held no generator that leads back.
        Raises UserError if it held none that leads there.
        """
        if direction not in self.directions:
            raise UserError(
                f"--direction {direction}: this model translates {self.directions[0]} "
                "only, since its file holds one generator"
            )
        back_again = "BtoA" if direction == "AtoB" else "AtoB"
        there, back = self.averaged(GENERATORS[direction]), None
        if and_back and back_again in self.directions:
            back = self.averaged(GENERATORS[back_again])
        used = [net for net in (there, back) if net]
        modes = [net.training for net in used]
        fakes, recs = [], []
        for net in used:
            net.eval()
        for batch in images.split(self.opt.batch_size):
            fake = there(batch.to(self.device))
            fakes.append(fake.cpu())
            if back:
                recs.append(back(fake).cpu())
        for net, mode in zip(used, modes, strict=True):
            net.train(mode)
        return torch.cat(fakes), torch.cat(recs) if back else None

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from super()._named_tensors()
        yield from (("pool_A", self.pool_A.images), ("pool_B", self.pool_B.images))

    def state_dict(self) -> dict:
        """Everything that training needs to go on: see TranslationModel, and the pools."""
        return {**super().state_dict(), "pool_A": self.pool_A.images, "pool_B": self.pool_B.images}

    def load_state_dict(self, state: dict) -> None:
        """Take up a state_dict() of a model with the same options."""
        super().load_state_dict(state)
        self.pool_A.images = state["pool_A"][: self.opt.pool_size].to(self.device)
        self.pool_B.images = state["pool_B"][: self.opt.pool_size].to(self.device)


class ImagePool:
    """Keeps fakes that the generators once made, so that D does not forget them.

    query() takes a batch (B, 3, H, W) and returns one of the same shape: until the pool is full
    the batch itself; then each image is, half of the time, exchanged for one from the pool.

    Source: Shrivastava et al. 2017, section 2.3; Zhu et al. 2017 (CycleGAN), section 4.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size = size
        self.generator = generator
        self.images = torch.empty(0)  # (n, 3, H, W), n up to size

    def query(self, batch: Tensor) -> Tensor:
        if self.size == 0:
            return batch
        if len(self.images) == 0:
            self.images = batch[:0]
        # Decide on the host, image by image; move pictures on the device, all at once.
        both = torch.cat([self.images, batch])
        pool, chosen = list(range(len(self.images))), []
        for new in range(len(self.images), len(both)):
            chosen.append(new)
            if len(pool) < self.size:
                pool.append(new)
            elif torch.rand((), generator=self.generator) < 0.5:
                place = int(torch.randint(self.size, (), generator=self.generator))
                pool[place], chosen[-1] = new, pool[place]
        self.images = both[upload(torch.tensor(pool), batch.device)]
        return both[upload(torch.tensor(chosen), batch.device)]
