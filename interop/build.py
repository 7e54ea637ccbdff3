"""Build the model chosen by --model, and refuse files whose weights are not of their options."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from common.errors import UserError
from cyclegan_model import CycleGANModel
from dtn.encoder import DomainFeatures, build_encoder, open_encoder
from dtn.model import DTNModel
from dtn.networks import build_decoder
from networks import build_discriminator, build_generator
from storage.validate import LOAD_ERRORS, misfit, short, shown

OTHER = "use another file"


def make_model(
    opt: Namespace, training: bool = True, saved: dict | None = None
) -> CycleGANModel | DTNModel:
    """Make the model of these options.

    saved: state of such a model, which the caller then loads; a DTN takes from it what its f is,
    instead of opening --f_encoder. Raises UserError if f cannot be had or takes other images.
    """
    if opt.model == "cyclegan":
        return CycleGANModel(opt, training)
    if saved:
        try:
            encoder = build_encoder(saved["encoder_options"]).to_empty(device="cpu")
        except LOAD_ERRORS as error:
            raise UserError(
                f"the checkpoint's encoder_options {shown(saved.get('encoder_options'))} are not "
                "those of an encoder; use another checkpoint"
            ) from error
    else:
        encoder = open_encoder(opt.f_encoder)
    size = encoder.image_size
    if size not in (None, opt.image_size):
        if saved:
            raise UserError(
                f"--image_size {opt.image_size}: this DTN's encoder takes images of "
                f"{size}x{size}; leave the option out"
            )
        raise UserError(
            f"--f_encoder {opt.f_encoder}: takes images of {size}x{size}, but --image_size is "
            f"{opt.image_size}; train an encoder with pretrain_encoder.py --image_size "
            f"{opt.image_size}"
        )
    return DTNModel(opt, encoder, training)


def refuse_misfit(
    opt: Namespace, nets: dict[str, dict[str, Tensor]], encoder_options: dict | None, path: Path
) -> None:
    """Raise UserError unless the weights of a file, `path`, are those of nets of these options.

    Names, shapes, and that they are finite. Nothing is allocated, whatever the options claim.
    """
    try:
        with torch.device("meta"):
            if opt.model == "dtn":
                netF = DomainFeatures(build_encoder(encoder_options or {}))
                netG, netD = build_decoder(opt, netF.encoder.dim), build_discriminator(opt, 3)
                built = {"netF": netF, "netG": netG, "netD": netD}
            else:
                netG, netD = build_generator(opt), build_discriminator(opt)
                built = {"netG_A": netG, "netG_B": netG, "netD_A": netD, "netD_B": netD}
        for name, weights in nets.items():
            net = built[name.removesuffix("_ema")]
            if reason := misfit(spectral_normed(weights, net), net.state_dict()):
                raise UserError(f"{path}: {name} does not fit its architecture: {reason}; {OTHER}")
    except LOAD_ERRORS as error:
        options = "options and encoder_options" if opt.model == "dtn" else "options"
        reason = short(str(error) or type(error).__name__, 100)
        raise UserError(
            f"{path}: its {options} do not fit its weights ({reason}); {OTHER}"
        ) from error


def spectral_normed(weights: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The same weights with singular vectors, where a net has spectral norm and they have none."""
    weights = dict(weights)
    for name, norm in net.named_modules():
        layer = name.removesuffix(".parametrizations.weight.0")
        if isinstance(norm, _SpectralNorm) and f"{layer}.weight" in weights:
            weight = weights.pop(f"{layer}.weight")
            rows = weight.movedim(norm.dim, 0).flatten(1)
            left, _, right = torch.linalg.svd(rows, full_matrices=False)
            weights |= {f"{layer}.parametrizations.weight.original": weight}
            weights |= {f"{name}._u": left[:, 0], f"{name}._v": right[0]}
    return weights
