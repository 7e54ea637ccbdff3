"""DTN's step on tiny nets, and on nets whose losses algebra gives."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.health import NonFiniteLoss
from dtn.encoder import DomainFeatures, Encoder
from dtn.model import DTNModel
from translation_model import InBf16


def batch(size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, size, 3, 64, 64, generator=generator) * 2 - 1).unbind()


def bytes_of(seed, n=20):
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


def new_model(opt, training=True):
    torch.manual_seed(0)
    model = DTNModel(opt, Encoder(2, 6, 64), training)
    rows = np.arange(20)
    model.fit({"A": bytes_of(1), "B": bytes_of(2)}, {"A": rows, "B": rows})
    return model


@pytest.fixture
def dtn_options(options):
    return lambda **kwargs: options(**{"model": "dtn", "ngf": 2, "ndf": 4} | kwargs)


@pytest.fixture
def dtn(dtn_options):
    return lambda **kwargs: new_model(dtn_options(**kwargs))


def train(model, steps=1, start=0):
    model.update_learning_rate(0)
    for seed in range(start, start + steps):
        model.set_input(*batch(model.opt.batch_size, seed))
        model.optimize_parameters()
    return model


def flat(net):
    return torch.cat([x.detach().float().flatten() for x in net.state_dict().values()])


class Colour(nn.Module):
    """An encoder whose feature is an image's mean value, twice."""

    dim, image_size, options = 2, None, {}

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None].expand(-1, 2)


class Shade(nn.Module):
    """A decoder that paints all in the first feature, plus a learned constant."""

    def __init__(self, constant):
        super().__init__()
        self.constant = nn.Parameter(torch.tensor(float(constant)))

    def forward(self, features):
        return (features[:, :1, None, None] + self.constant).expand(-1, 3, 64, 64)


def known_model(opt, constant):
    """A model whose features are mean values and whose images are plain."""
    model = DTNModel(opt, Colour())
    model.netG = model.nets["netG"] = Shade(constant)
    return model


# ---- losses by algebra ------------------------------------------------------------------------


def plain(*values):
    return torch.tensor(values)[:, None, None, None].expand(-1, 3, 64, 64).contiguous()


def test_losses_are_those_that_algebra_gives(dtn_options):
    model = known_model(dtn_options(lambda_const=7, lambda_tid=3, lambda_tv=2), constant=0.25)
    model.set_input(plain(0.5, -0.5), plain(0.0, 1.0))  # anime, persons
    model.forward()
    assert torch.allclose(model.fake[:, 0, 0, 0], torch.tensor([0.25, 1.25]))
    assert torch.allclose(model.rec[:, 0, 0, 0], torch.tensor([0.75, -0.25]))
    losses = model.backward_G()
    assert losses["const"].item() == pytest.approx(7 * 0.25**2)  # f moved by the constant
    assert losses["tid"].item() == pytest.approx(3 * 0.25**2)  # anime changed by the constant
    assert losses["tv"].item() == pytest.approx(0, abs=1e-5)  # plain images
    # d/dc of 7 c^2 and 3 c^2, and what D adds
    const_and_tid = 2 * 0.25 * (7 + 3)
    for p in model.netG.parameters():
        p.grad = None
    model.opt.lambda_const, model.opt.lambda_tid, model.opt.lambda_tv = 0, 0, 0
    model.forward()
    model.backward_G()
    from_D = model.netG.constant.grad.item()
    model.netG.constant.grad = None
    model.opt.lambda_const, model.opt.lambda_tid = 7, 3
    model.forward()
    model.backward_G()
    assert model.netG.constant.grad.item() - from_D == pytest.approx(const_and_tid, rel=1e-4)


def test_a_perfect_translation_costs_nothing_but_Ds_opinion(dtn_options):
    model = known_model(dtn_options(), constant=0)
    model.set_input(plain(0.5, -0.5), plain(0.0, 1.0))
    model.forward()
    losses = model.backward_G()
    assert losses["const"].item() == pytest.approx(0, abs=1e-9)
    assert losses["tid"].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "mode,D,G",
    [
        ("vanilla", 3 * math.log(3), 2 * math.log(3)),
        ("sn", 3, 0),
        ("lsgan", 3, 2),
    ],
)
def test_of_a_D_that_says_nothing_each_of_three_terms_counts_once(dtn_options, mode, D, G):
    model = known_model(dtn_options(gan_mode=mode, spectral_norm=False), constant=0)
    with torch.no_grad():
        model.netD.model[-1].weight.zero_()
    model.set_input(*batch())
    model.forward()
    assert model.backward_G()["G"].item() == pytest.approx(G, abs=1e-6)
    assert model.backward_D()["D"].item() == pytest.approx(D, abs=1e-6)


class Told(nn.Module):
    """A D that knows plain images by their value: class 0 at 0.1, 1 at 0.2, and 2 at 0.3."""

    def __init__(self):
        super().__init__()
        self.sure = nn.Parameter(torch.tensor(50.0))

    def forward(self, x):
        kind = (x.mean(dim=(1, 2, 3)) * 10).round().long() - 1
        return self.sure * torch.nn.functional.one_hot(kind, 3)[:, :, None, None]


def test_g_is_content_where_D_takes_all_that_it_makes_for_real_anime(dtn_options):
    model = known_model(dtn_options(lambda_const=0, lambda_tid=0, lambda_tv=0), constant=0)
    model.netD = Told()
    for persons, anime, cost in ((0.3, 0.3, 0), (0.3, 0.2, 50), (0.1, 0.3, 50), (0.1, 0.1, 100)):
        model.set_input(plain(anime, anime), plain(persons, persons))
        model.forward()
        assert model.backward_G()["G"].item() == pytest.approx(cost, abs=1e-6)


def test_features_are_relative_to_the_domain_that_an_image_is_in(dtn_options):
    model = known_model(dtn_options(lambda_const=1, lambda_tid=1), constant=0)
    model.netF.mean[0], model.netF.mean[1] = 0.5, -0.25  # anime are bright, persons are dark
    model.set_input(plain(0.75, 0.25), plain(0.0, -0.5))
    model.forward()
    assert torch.allclose(model.f_source, torch.tensor([[0.25] * 2, [-0.25] * 2]))
    assert torch.allclose(model.fake[:, 0, 0, 0], torch.tensor([0.25, -0.25]))
    assert torch.allclose(model.rec[:, 0, 0, 0], torch.tensor([0.25, -0.25]))
    losses = model.backward_G()
    # fakes are anime: f of them is 0.25 - 0.5 and -0.25 - 0.5, each 0.5 below f of its source
    assert losses["const"].item() == pytest.approx(0.5**2)
    assert losses["tid"].item() == pytest.approx(0.5**2)


def test_total_variation_counts_of_all_that_g_makes(dtn_options):
    model = known_model(dtn_options(lambda_const=0, lambda_tid=0, lambda_tv=2), constant=0)
    ramp = torch.arange(64.0) / 64

    class Ramp(nn.Module):
        """Paints a ramp from left to right, as steep as the first feature."""

        def forward(self, features):
            return (features[:, :1, None, None] * ramp).expand(-1, 3, 64, 64)

    model.netG = Ramp()
    for persons, anime, steepness in ((0.5, 0.0, 0.25), (0.0, 0.5, 0.25), (0.5, 0.5, 0.5)):
        inputs = plain(anime, anime).requires_grad_(), plain(persons, persons).requires_grad_()
        model.set_input(*inputs)
        model.forward()
        assert model.backward_G()["tv"].item() == pytest.approx(2 * steepness / 64, rel=1e-3)


def test_D_is_taught_that_the_three_kinds_are_classes_0_1_and_2(dtn_options):
    model = known_model(dtn_options(), constant=0)
    model.netD = Told()
    model.made = torch.cat([plain(0.1, 0.1), plain(0.2, 0.2)])
    model.target = plain(0.3, 0.3)
    assert model.backward_D()["D"].item() == pytest.approx(0, abs=1e-6)


def test_direction_says_which_domain_is_the_source(dtn_options):
    A, B = batch()
    for direction, source, S in (("BtoA", B, 1), ("AtoB", A, 0)):
        model = new_model(dtn_options(direction=direction))
        model.set_input(A, B)
        assert torch.equal(model.source, source) and (model.S, model.T) == (S, 1 - S)
        model.forward()
        assert torch.equal(model.f_source, model.netF(source, S))
        assert model.directions == [direction]


# ---- the step ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("discriminator", ["sagan", "patch"])
@pytest.mark.parametrize("mode", ["vanilla", "sn", "lsgan"])
def test_every_allowed_combination_trains_and_leaves_f_alone(dtn, mode, discriminator, size):
    model = dtn(gan_mode=mode, discriminator=discriminator, batch_size=size)
    before = {name: flat(net) for name, net in model.nets.items()}
    train(model, 2)
    losses = model.fetch_losses()
    assert len(losses) == 2 and losses[0].keys() == {"G", "const", "tid", "tv", "D"}
    for name, net in model.nets.items():
        assert torch.equal(before[name], flat(net)) == (name == "netF"), name


@pytest.mark.parametrize("mode", ["wgan", "wgangp", "sn+gp"])
def test_modes_that_compare_two_sets_are_refused_with_the_reason(dtn_options, mode):
    with pytest.raises(UserError, match=f"--gan_mode {mode.replace('+', '.')}: .*three.*vanilla"):
        dtn_options(gan_mode=mode)


def test_with_train_f_f_learns_too_and_has_an_average(dtn):
    model = dtn(train_f=True)
    assert "netF_ema" in model.nets
    before = {name: flat(net) for name, net in model.nets.items()}
    train(model)
    for name in ("netF", "netF_ema"):
        assert not torch.equal(before[name], flat(model.nets[name])), name
    assert torch.equal(model.nets["netF"].mean, model.nets["netF_ema"].mean)


def test_D_gets_no_gradient_from_the_generators_step_nor_f_from_any(dtn):
    model = dtn()
    model.set_input(*batch())
    model._require_grad_D(False)
    model.forward()
    model.backward_G()
    assert all(p.grad is None for p in model.netD.parameters())
    assert all(p.grad is not None for p in model.netG.parameters())
    assert all(p.grad is None for p in model.netF.parameters())


def test_g_gets_no_gradient_from_the_discriminators_step(dtn):
    model = dtn()
    model.set_input(*batch())
    model.forward()
    model.backward_D()
    assert all(p.grad is None for p in model.netG.parameters())
    assert all(p.grad is not None for p in model.netD.parameters())


@pytest.mark.parametrize("term", ["const", "tid", "tv"])
def test_a_term_of_weight_0_is_left_out(dtn, term):
    model = train(dtn(**{f"lambda_{term}": 0}))
    assert term not in model.fetch_losses()[0]


def test_g_moves_once_in_n_critic_steps(dtn):
    model = dtn(n_critic=2)
    before = model.netG.linear.weight.clone()
    train(model)
    assert torch.equal(before, model.netG.linear.weight)
    train(model, start=1)
    assert not torch.equal(before, model.netG.linear.weight)


@pytest.mark.parametrize("train_f", [False, True])
def test_saved_and_loaded_goes_on_to_the_same_bits(dtn_options, train_f):
    opt = dtn_options(train_f=train_f)
    unbroken, first = train(new_model(opt), 3), train(new_model(opt), 3)
    state = first.state_dict()
    assert state["encoder_options"] == {"width": 2, "dim": 6, "image_size": 64}
    second = DTNModel(opt, Encoder(2, 6, 64))  # not fitted: what f is relative to is loaded
    second.load_state_dict(state)
    for model in (unbroken, second):
        train(model, 3, start=3)
    for name, net in unbroken.nets.items():
        for key, value in net.state_dict().items():
            assert torch.equal(value, second.nets[name].state_dict()[key]), (name, key)


def test_first_loss_that_is_not_finite_is_named_with_its_step(dtn):
    model = train(dtn(), 2)
    model.set_input(batch()[0], batch()[1] * math.nan)
    model.optimize_parameters()
    with pytest.raises(NonFiniteLoss, match=r"loss \w+ became .* at step 3"):
        model.fetch_losses()


def test_bf16_computes_the_nets_but_neither_losses_nor_weights(dtn_options):
    """Runs on any CPU: where there is no bf16 arithmetic, torch emulates it."""
    opt = dtn_options()
    opt.amp = "bf16"
    model = new_model(opt)
    dtypes = set()
    for net in model.nets.values():
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, x, y: dtypes.add(y.dtype))
    train(model)
    assert dtypes == {torch.bfloat16}
    assert all(loss.dtype == torch.float32 for _, ls in model.health.losses for loss in ls.values())
    assert all(p.dtype == torch.float32 for net in model.nets.values() for p in net.parameters())


def test_for_data_parallel_the_domain_passes_through():
    features = DomainFeatures(Encoder(2, 6, 64))
    features.fit(1, bytes_of(0), np.arange(20))
    x = batch()[0]
    assert torch.equal(InBf16(features)(x, 1), features(x, 1))
    assert not torch.equal(features(x, 0), features(x, 1))


# ---- use --------------------------------------------------------------------------------------


def test_translate_is_g_of_f_has_no_way_back_and_changes_nothing(dtn):
    model = train(dtn(ema=0, batch_size=3))
    before = flat(model.netG)
    images = batch(3)[1]
    fake, rec = model.translate(images, "BtoA")
    assert rec is None and not fake.requires_grad and fake.abs().max() <= 1
    assert torch.equal(before, flat(model.netG)) and model.netG.training
    model.netG.eval()
    with torch.no_grad():
        assert torch.allclose(fake, model.netG(model.netF(images, 1)), atol=1e-6)
        rec = model.netG(model.netF(images, 0))
    assert torch.allclose(model.reconstruct(images), rec, atol=1e-6)
    with pytest.raises(ValueError, match="AtoB.*BtoA"):
        model.translate(images, "AtoB")


def test_translate_does_not_depend_on_the_batch_size(dtn):
    model = train(dtn())
    images = torch.cat(batch(3))
    whole, _ = model.translate(images, "BtoA")
    model.opt.batch_size = 4
    assert torch.allclose(whole, model.translate(images, "BtoA")[0], atol=1e-5)


# ---- f ----------------------------------------------------------------------------------------


def test_features_have_mean_0_and_length_1_in_each_domain_with_equal_shares():
    torch.manual_seed(0)
    features = DomainFeatures(Encoder(4, 6, 64))
    dark, light = bytes_of(1, 30) // 3, 255 - bytes_of(2, 30) // 3
    for domain, images in enumerate((dark, light)):
        features.fit(domain, images, np.arange(30))
    for domain, images in enumerate((dark, light)):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            f = features(x, domain)
        assert torch.allclose(f.mean(dim=0), torch.zeros(6), atol=1e-4)
        assert torch.allclose(f.square().mean(dim=0), torch.full((6,), 1 / 6), rtol=1e-3)


def test_a_feature_that_never_varies_in_a_domain_stays_finite_and_small():
    encoder = Encoder(4, 6, 64)
    with torch.no_grad():
        encoder.linear.weight[0] = 0
    features = DomainFeatures(encoder)
    features.fit(0, bytes_of(1), np.arange(20))
    f = features(batch()[0], 0)
    assert f.isfinite().all() and f[:, 0].abs().max() < 1e-3


def test_only_the_rows_that_training_draws_from_are_measured():
    images = bytes_of(1)
    images[10:] = 0
    one, two = DomainFeatures(Encoder(2, 6, 64)), DomainFeatures(Encoder(2, 6, 64))
    two.load_state_dict(one.state_dict())
    one.fit(0, images, np.arange(10))
    two.fit(0, images[:10], np.arange(10))
    assert torch.equal(one.mean, two.mean) and torch.equal(one.deviation, two.deviation)
