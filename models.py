"""Which model --model names."""

from argparse import Namespace

from cyclegan_model import CycleGANModel
from dtn_model import DTNModel
from encoder import MISFITS, build_encoder, open_encoder
from errors import UserError


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
        except MISFITS as error:
            raise UserError(
                f"the checkpoint's encoder_options {saved.get('encoder_options')} are not those of "
                "an encoder; use another checkpoint"
            ) from error
    else:
        encoder = open_encoder(opt.f_encoder)
    if encoder.image_size not in (None, opt.image_size):
        raise UserError(
            f"--f_encoder {opt.f_encoder}: takes images of {encoder.image_size}x"
            f"{encoder.image_size}, but --image_size is {opt.image_size}; train an encoder with "
            f"pretrain_encoder.py --image_size {opt.image_size}"
        )
    return DTNModel(opt, encoder, training)
