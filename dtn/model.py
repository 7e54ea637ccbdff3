"""DTN: a decoder behind a fixed encoder, a discriminator of three classes, and their training step.

Names against Taigman, Polyak and Wolf 2017 (their S is where an image comes from, T where it goes;
with --direction BtoA, the default, S are persons and T is anime):

| here               | paper   | is                                                     |
| ------------------ | ------- | ------------------------------------------------------ |
| netF               | f       | an encoder, trained beforehand; it stays as it is      |
| netG               | g       | a decoder of its features; G(x) = g(f(x))              |
| netD               | D       | tells G of S, G of T and real T apart                  |
| fake = G(source)   | G(s)    | the translation                                        |
| rec = G(target)    | G(t)    | what G makes of an image that is in T already          |
| G, const, tid, tv  | L_GANG, L_CONST, L_TID, L_TV | the terms of g's loss, weights applied |

L_CONST compares f(G(s)) with f(s). Trained along with it (--train_f), f finds its easiest solution,
which is to tell nothing apart; that is how anime_person_translation (2018) had it.
"""

from argparse import Namespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common import distributed
from dtn.encoder import AnyEncoder, DomainFeatures
from dtn.losses import class_generator_loss, class_loss, total_variation
from dtn.networks import build_decoder
from losses import total
from networks import build_discriminator
from translation_model import TranslationModel

SOURCE_FAKE, TARGET_FAKE, TARGET_REAL = range(3)  # D's classes


class DTNModel(TranslationModel):
    """The nets, their optimisers, and one training step.

    opt: resolved options (arguments.py). encoder: images (B, 3, H, W) -> (B, encoder.dim), see
    encoder.py. Images are float (B, 3, H, W) in [-1, 1]. With training=False only netF and netG
    are made. A new run needs fit() before its first step.

    Source: Taigman et al. 2017, "Unsupervised cross-domain image generation", sections 3 and 4.
    Ours differs: f's features are taken relative to their domain's (encoder.DomainFeatures), and
    the nets are SAGAN's (Zhang et al. 2019), with spectral norm.
    """

    def __init__(self, opt: Namespace, encoder: AnyEncoder, training: bool = True) -> None:
        super().__init__(opt)
        # Numbers of the domains: 0 is A, anime; 1 is B, persons.
        self.S, self.T = (0, 1) if opt.direction == "AtoB" else (1, 0)
        self.encoder_options = encoder.options
        self.features = DomainFeatures(encoder).requires_grad_(opt.train_f)
        self.netF = self._add("netF", self.features)
        self.netG = self._add("netG", build_decoder(opt, encoder.dim))
        trained = ("netG", "netF") if opt.train_f else ("netG",)
        self._add_averages(*trained)
        if not training:
            return
        self.netD = self._add("netD", build_discriminator(opt, classes=3))
        self._add_optimizers(trained, ("netD",))

    def fit(self, images: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> None:
        """Measure what f's features are relative to, once and for all.

        images, rows: of "A" and "B", uint8 (N, H, W, 3), and which of them training draws from,
        int64.
        """
        for domain, key in enumerate("AB"):
            self.features.fit(domain, images[key], rows[key])
        if "netF_ema" in self.nets:
            self.nets["netF_ema"].load_state_dict(self.features.state_dict())
        distributed.copy_from_rank_zero([self.features])

    # ---------------------------------------------------------------------------- the step

    def set_input(self, real_A: Tensor, real_B: Tensor) -> None:
        """Take a batch of anime and a batch of persons, unpaired, of the same size."""
        both = (
            x.to(self.device, memory_format=self.memory_format, non_blocking=True)
            for x in (real_A, real_B)
        )
        self.target, self.source = both if self.T == 0 else reversed(tuple(both))

    def forward(self) -> None:
        """Make fake = G(source) and rec = G(target), and keep f(source)."""
        self.f_source = self.run(self.netF, self.source, self.S)
        features = torch.cat([self.f_source, self.run(self.netF, self.target, self.T)])
        self.made = self.run(self.netG, features)  # (2 B, 3, H, W): one call for both
        self.fake, self.rec = self.made.chunk(2)

    def backward_G(self) -> dict[str, Tensor]:
        """Gradients of g, and of f with --train_f; returns the losses by name, weights applied."""
        opt, mode = self.opt, self.opt.gan_mode
        losses = {"G": 2 * class_generator_loss(mode, self.run(self.netD, self.made), TARGET_REAL)}
        if opt.lambda_const:
            self.f_fake = self.run(self.netF, self.fake, self.T)
            losses["const"] = opt.lambda_const * F.mse_loss(self.f_fake, self.f_source)
        if opt.lambda_tid:
            losses["tid"] = opt.lambda_tid * F.mse_loss(self.rec, self.target)
        if opt.lambda_tv:
            losses["tv"] = opt.lambda_tv * total_variation(self.made)
        total(losses).backward()
        return losses

    def backward_D(self) -> dict[str, Tensor]:
        """Gradients of D; returns its losses by name."""
        # One call for all three: no layer mixes the images of a batch.
        images, mode = torch.cat([self.made.detach(), self.target]), self.opt.gan_mode
        source_fake, target_fake, target_real = self.run(self.netD, images).chunk(3)
        loss = (
            class_loss(mode, source_fake, SOURCE_FAKE)
            + class_loss(mode, target_fake, TARGET_FAKE)
            + class_loss(mode, target_real, TARGET_REAL)
        )
        loss.backward()
        return {"D": loss}

    # --------------------------------------------------------------------- around the step

    @property
    def directions(self) -> list[str]:
        """What it translates: the one direction that it was trained for."""
        return [self.opt.direction]

    def translate(
        self, images: Tensor, direction: str, and_back: bool = True
    ) -> tuple[Tensor, None]:
        """Translate images of S as a user will see them: eval mode, averaged weights.

        images: (N, 3, H, W) on any device; direction must be the one trained, or ValueError.
        Returns the translations, (N, 3, H, W) on the CPU, and None: there is no way back.
        """
        if direction not in self.directions:
            raise ValueError(f"direction {direction}: this DTN translates {self.directions[0]}")
        return self._generate(images, self.S), None

    def reconstruct(self, images: Tensor) -> Tensor:
        """What G makes of images of T, which it should leave alone: (N, 3, H, W) on the CPU."""
        return self._generate(images, self.T)

    @torch.no_grad()
    def _generate(self, images: Tensor, domain: int) -> Tensor:
        netF, netG = self.averaged("netF"), self.averaged("netG")
        mode = netG.training
        netG.eval()
        batches = images.split(self.opt.batch_size)
        made = [netG(netF(batch.to(self.device), domain)).cpu() for batch in batches]
        netG.train(mode)
        return torch.cat(made)

    def state_dict(self) -> dict:
        """Everything that training needs to go on: see TranslationModel, and what f is."""
        return {**super().state_dict(), "encoder_options": self.encoder_options}
