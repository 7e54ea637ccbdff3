"""A run may change between channels-last and plain memory: only machines and --amp decide that."""

import io

import numpy as np
import pytest
import torch

import translation_model
from cyclegan_model import CycleGANModel
from dtn.encoder import Encoder
from dtn.model import DTNModel

PLAIN, LAST = torch.contiguous_format, torch.channels_last
STEPS = 3  # of an epoch


@pytest.fixture
def build(options, monkeypatch):
    """A model of tiny nets whose memory lies as given."""

    def make(memory_format, **kwargs):
        monkeypatch.setattr(translation_model, "fastest_memory_format", lambda opt: memory_format)
        if kwargs.get("model") != "dtn":
            return CycleGANModel(options(**kwargs))
        torch.manual_seed(0)
        model = DTNModel(options(ngf=2, train_f=True, **kwargs), Encoder(2, 6, 64))
        images = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
        model.fit({"A": images[:4], "B": images[4:]}, {"A": np.arange(4), "B": np.arange(4)})
        return model

    return make


def train_epoch(model, epoch):
    model.update_learning_rate(0)
    for seed in range(epoch * STEPS, (epoch + 1) * STEPS):
        generator = torch.Generator().manual_seed(seed)
        model.set_input(*torch.rand(2, 2, 3, 64, 64, generator=generator) * 2 - 1)
        model.optimize_parameters()
    model.fetch_losses()


def saved(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.getvalue()


def after_epochs(build, formats, **kwargs):
    """The model after an epoch in each memory format, saved and resumed between them."""
    state = None
    for epoch, memory_format in enumerate(formats):
        model = build(memory_format, **kwargs)
        if state:
            model.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
        train_epoch(model, epoch)
        state = saved(model)
    return model


def compare(build, formats, tolerance, without_biases=False, **kwargs):
    def flat(net):
        used = (p for p in net.parameters() if p.dim() > 1 or not without_biases)
        return torch.cat([p.detach().flatten() for p in used])

    start = build(formats[0], **kwargs)
    kept, changed = (after_epochs(build, f, **kwargs) for f in (formats[:1] * 3, formats))
    for name, net in kept.nets.items():
        moved = (flat(net) - flat(start.nets[name])).norm()
        difference = (flat(net) - flat(changed.nets[name])).norm()
        assert difference < tolerance * moved, name


BOTH_WAYS = pytest.mark.parametrize("formats", [(LAST, PLAIN, LAST), (PLAIN, LAST, PLAIN)], ids=str)


@BOTH_WAYS
@pytest.mark.parametrize("mode,generator", [("sn", "resnet"), ("sn+gp", "sagan"), ("wgan", "unet")])
def test_a_run_resumed_in_other_memory_formats_ends_where_one_that_kept_its_own_does(
    build, formats, mode, generator, monkeypatch
):
    """In double precision: in single, Adam turns rounding into a tenth of a short run's way."""
    monkeypatch.setattr(translation_model.TranslationModel, "run", lambda self, net, *x: net(*x))
    torch.set_default_dtype(torch.float64)
    try:
        compare(build, formats, 1e-6, gan_mode=mode, generator=generator, n_critic=1)
    finally:
        torch.set_default_dtype(torch.float32)


@BOTH_WAYS
@pytest.mark.parametrize(
    "kwargs,tolerance", [({"gan_mode": "wgan", "generator": "unet"}, 1e-2), ({"model": "dtn"}, 0.3)]
)
def test_single_precision_drifts_no_further_than_rounding_when_the_memory_format_changes(
    build, formats, kwargs, tolerance
):
    """But for biases before a norm, whose gradients are nothing but rounding.

    DTN's encoder hardly moves in so few steps, and Adam makes a fifth of that of rounding on a CPU
    with AMX. Moments given to the wrong weights would lead it elsewhere altogether.
    """
    compare(build, formats, tolerance, without_biases=True, n_critic=1, **kwargs)
