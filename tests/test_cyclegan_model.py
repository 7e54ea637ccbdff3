import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.health import NonFiniteLoss
from cyclegan_model import CycleGANModel
from dataset import UnpairedBatches
from losses import GAN_MODES, zero_centred_penalty
from translation_model import InBf16, lr_factor


def batch(size=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(2, size, 3, 64, 64, generator=generator) * 2 - 1).unbind()


def trained(opt, steps=1):
    model = CycleGANModel(opt)
    model.update_learning_rate(0)
    for seed in range(steps):
        model.set_input(*batch(opt.batch_size, seed))
        model.optimize_parameters()
    return model


def flat(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "mode,generator,discriminator",
    list(itertools.product(GAN_MODES, ("resnet8", "resnet", "unet", "sagan"), ("sagan", "patch"))),
)
def test_every_allowed_combination_trains_two_steps(options, mode, generator, discriminator, size):
    opt = options(
        gan_mode=mode,
        generator=generator,
        discriminator=discriminator,
        n_critic=1,
        batch_size=size,
        lambda_idt=0.5,
    )
    model = CycleGANModel(opt)
    before = {name: flat(net) for name, net in model.nets.items()}
    model.update_learning_rate(0)
    for seed in range(2):
        model.set_input(*batch(size, seed))
        model.optimize_parameters()
    losses = model.fetch_losses()
    assert len(losses) == 2
    terms = {"G_A", "G_B", "cycle_A", "cycle_B", "idt_A", "idt_B", "D_A", "D_B"}
    assert losses[0].keys() == terms | ({"gp_A", "gp_B"} if "gp" in mode else set())
    for name, net in model.nets.items():
        assert not torch.equal(before[name], flat(net)), f"{name} did not learn"


@pytest.mark.parametrize("flag", ["wgan+", "sn+gp-", "wgangp+"])
def test_forbidden_combinations_are_refused_with_a_reason(options, flag):
    mode, on = flag[:-1], flag[-1] == "+"
    with pytest.raises(UserError, match=f"--gan_mode {mode.replace('+', '.')} --(no-)?spectral"):
        options(gan_mode=mode, spectral_norm=on)


def test_D_gets_no_gradient_from_the_generators_step(options):
    model = CycleGANModel(options())
    model.set_input(*batch())
    model.forward()
    model._require_grad_D(False)
    model.backward_G()
    assert all(p.grad is None for p in model.netD_A.parameters())
    assert all(p.grad is not None for p in model.netG_A.parameters())


def test_G_gets_no_gradient_from_the_discriminators_step(options):
    model = CycleGANModel(options())
    model.set_input(*batch())
    model.forward()
    model.backward_D()
    assert all(p.grad is None for p in model.netG_A.parameters())
    assert all(p.grad is not None for p in model.netD_B.parameters())


def test_negatives_take_their_share_of_what_D_must_call_fake(options, monkeypatch):
    def loss_of_D(share):
        model = CycleGANModel(options(negatives=share, gan_mode="lsgan", pool_size=0))
        model.set_input(*batch())
        model.fake_A, model.fake_B = (torch.full_like(model.real_A, x) for x in (0.1, 0.2))
        return model.backward_D()

    without = loss_of_D(0)
    seen = []
    monkeypatch.setattr(
        "cyclegan_model.negatives",
        lambda real, other, generator: seen.append((real, other)) or torch.full_like(real, 0.5),
    )
    half, nearly_all = loss_of_D(0.5), loss_of_D(1 - 1e-7)
    for name in ("D_A", "D_B"):  # linear in the share
        assert half[name].item() == pytest.approx((without[name] + nearly_all[name]).item() / 2)
        assert abs(half[name] - without[name]) > 1e-6
    (real, other), swapped = seen[0], seen[1][::-1]
    assert torch.equal(real, swapped[0]) and torch.equal(other, swapped[1])
    assert torch.equal(real, batch()[0]) and torch.equal(other, batch()[1])


def test_a_relativistic_D_learns_that_a_fake_is_better_than_its_negative(options, monkeypatch):
    opt = options(negatives=1 - 1e-7, gan_mode="relativistic", pool_size=0, shift=0)
    model = CycleGANModel(opt)
    model.set_input(*batch())
    model.forward()
    seen = []
    monkeypatch.setattr(
        "cyclegan_model.negatives", lambda whole, *_: seen.append(whole) or whole * 0.5
    )
    model.netD_A.eval()  # spectral norm stands still
    loss = model.backward_D()["D_A"].item()
    whole = torch.cat([model.real_A[:1], model.fake_A.detach()[1:]])
    assert torch.equal(seen[0], whole)
    worse_by = model.netD_A(whole) - model.netD_A(whole * 0.5)
    assert loss == pytest.approx(worse_by.neg().exp().add(1).log().mean().item(), rel=1e-4)


def test_a_share_of_batches_is_zoomed_for_D_in_both_steps(options, monkeypatch):
    seen = []
    monkeypatch.setattr("cyclegan_model.zoom", lambda x, generator: seen.append(len(x)) or x)
    for share, times in ((0, 0), (1 - 1e-9, 4)):
        model = CycleGANModel(options(zoom=share, lambda_idt=0))
        model.set_input(*batch())
        model.optimize_parameters()
        assert len(seen) == times  # two discriminators, each in the step of D and in that of G
    state = CycleGANModel(options(zoom=0)).generator.get_state()
    model = CycleGANModel(options(zoom=0, shift=0))
    model._augmented(batch()[0])
    assert torch.equal(state, model.generator.get_state())  # runs without it draw as they drew


def test_a_relativistic_generator_is_compared_with_real_images(options):
    model = CycleGANModel(options(gan_mode="relativistic", lambda_idt=0))
    model.set_input(*batch())
    model.forward()
    model.netD_A.eval()  # spectral norm stands still
    lost = model.netD_A(model.real_A) - model.netD_A(model.fake_A)
    assert model.backward_G()["G_B"].item() == pytest.approx(lost.exp().add(1).log().mean().item())


@pytest.mark.parametrize("size,of_real", [(1, {0, 1}), (3, {1, 2}), (4, {2})])
def test_half_of_a_relativistic_Ds_negatives_are_of_real_images_however_small_a_batch(
    options, monkeypatch, size, of_real
):
    """A process may have one image of a batch: a negative of a fake alone teaches it nothing."""
    opt = options(negatives=0.5, gan_mode="relativistic", pool_size=0, batch_size=size)
    model, counts = CycleGANModel(opt), []
    model.set_input(*(torch.ones_like(x) for x in batch(size)))
    model.fake_A = model.fake_B = torch.zeros_like(model.real_A)
    monkeypatch.setattr(
        "cyclegan_model.negatives",
        lambda whole, *_: counts.append(int(whole.mean((1, 2, 3)).sum())) or whole,
    )
    for _ in range(32):
        model.backward_D()
    assert set(counts) == of_real
    assert sum(counts) / len(counts) == pytest.approx(size / 2, abs=0.2)  # 64 draws: 3 sigma


@pytest.mark.parametrize("amp", ["off", "bf16"])  # the penalty stays in float32
def test_R1_is_taken_every_eighth_step_at_eight_times_its_weight(options, amp):
    model = CycleGANModel(options(lambda_r1=0.5, shift=0, pool_size=0, amp=amp))
    model.set_input(*batch())
    model.forward()
    for model.steps_D in range(2, 9):
        losses = model.backward_D()
        assert losses["r1_A"] == losses["r1_B"] == 0
    model.steps_D = 9
    model.netD_A.eval()  # spectral norm stands still
    slopes = zero_centred_penalty(model.netD_A, torch.cat([model.real_A, model.fake_A]))
    assert model.backward_D()["r1_A"].item() == pytest.approx(8 * 0.5 * 2 * slopes.item(), rel=1e-4)


def constant_R1(monkeypatch):
    """Let R1 and R2 be 1 each; returns where it was taken."""
    taken = []

    def penalty(netD, images):
        taken.append(netD)
        return netD(images).sum() * 0 + 1

    monkeypatch.setattr("cyclegan_model.zero_centred_penalty", penalty)
    return taken


def test_discriminators_that_learn_first_are_under_R1_as_in_training(options, monkeypatch):
    model, taken = CycleGANModel(options(lambda_r1=0.5, warm_steps=10)), constant_R1(monkeypatch)
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8)
    list(model.warm_discriminators(UnpairedBatches(*images, 2, seed=0)))
    assert taken == [model.netD_A, model.netD_B] * 2  # at batches 1 and 9
    resumed = CycleGANModel(model.opt)
    resumed.load_state_dict(model.state_dict())
    for trained_on in (model, resumed):  # the same steps of both
        taken.clear()
        for _ in range(9):
            trained_on.set_input(*batch())
            trained_on.optimize_parameters()
        assert taken == [trained_on.netD_A, trained_on.netD_B] * 2


def test_R1_in_the_log_is_its_share_of_the_loss_of_all_steps(workplace, train, monkeypatch):
    constant_R1(monkeypatch)
    more = "--batch_size 1 --niter 1 --niter_decay 0 --lambda_r1 0.5 --name run".split()
    assert train(*more).code == 0
    record = json.loads(Path("save_image/run/log.jsonl").read_text())
    assert record["step"] == 11  # R1 and R2 at steps 1 and 9
    for domain in "AB":
        assert record["losses"][f"r1_{domain}"] == pytest.approx(0.5 * 2 * 2 * 8 / 11)


def test_identity_loss_covers_both_generators_once(options):
    model = CycleGANModel(options(lambda_idt=0.5, lambda_A=10, lambda_B=20))
    model.set_input(*batch())
    model.forward()
    losses = model.backward_G()
    idt_A = (model.netG_A(model.real_B) - model.real_B).abs().mean()  # G_A should keep persons
    idt_B = (model.netG_B(model.real_A) - model.real_A).abs().mean()
    assert losses["idt_A"].item() == pytest.approx(0.5 * 20 * idt_A.item(), rel=1e-5)
    assert losses["idt_B"].item() == pytest.approx(0.5 * 10 * idt_B.item(), rel=1e-5)


def test_weight_clipping_holds_every_weight_of_a_wgan_critic(options):
    model = trained(options(gan_mode="wgan", clip_value=0.005, n_critic=1))
    for net in (model.netD_A, model.netD_B):
        assert flat(net).abs().max() <= 0.005
    assert flat(model.netG_A).abs().max() > 0.005


def test_generators_move_once_in_n_critic_steps(options):
    model = CycleGANModel(options(n_critic=3))
    model.update_learning_rate(0)
    weights = [flat(model.netG_A)]
    for seed in range(6):
        model.set_input(*batch(2, seed))
        model.optimize_parameters()
        weights.append(flat(model.netG_A))
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [False, False, True, False, False, True]


def test_average_follows_the_weights_and_takes_their_buffers(options):
    model = CycleGANModel(options(generator="sagan", ema=0.9))
    start = flat(model.netG_A)
    model.update_learning_rate(0)
    model.set_input(*batch())
    model.optimize_parameters()  # the first decay is 1 / 10
    expected = 0.1 * start + 0.9 * flat(model.netG_A)
    average = model.nets["netG_A_ema"]
    assert torch.allclose(flat(average), expected, atol=1e-7)
    buffers = zip(average.buffers(), model.netG_A.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


def test_without_ema_there_is_no_average(options):
    model = trained(options(ema=0))
    assert set(model.nets) == {"netG_A", "netG_B", "netD_A", "netD_B"}
    assert model.translate(batch()[0], "AtoB")[0].shape == (2, 3, 64, 64)


def test_translate_changes_nothing_and_needs_no_gradient(options):
    model = trained(options(generator="sagan"))
    before = {k: v.clone() for k, v in model.nets["netG_A"].state_dict().items()}
    first, _ = model.translate(batch()[0], "AtoB")
    again, rec = model.translate(batch()[0], "AtoB")
    assert torch.equal(first, again) and not first.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.nets["netG_A"].state_dict().items())
    assert model.netG_A.training and rec.shape == first.shape
    assert first.abs().max() <= 1


def test_translate_does_not_depend_on_the_batch_size(options):
    model = trained(options())
    images = torch.cat(batch(3))
    whole = model.translate(images, "BtoA")
    model.opt.batch_size = 4
    for a, b in zip(whole, model.translate(images, "BtoA"), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_translate_uses_the_generator_of_its_direction(options):
    model = trained(options(ema=0))
    images = batch()[0]
    fake, rec = model.translate(images, "AtoB")
    with torch.no_grad():
        assert torch.allclose(fake, model.netG_A(images), atol=1e-6)
        assert torch.allclose(rec, model.netG_B(model.netG_A(images)), atol=1e-6)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_first_loss_that_is_not_finite_is_named_with_its_step(options, broken):
    model = trained(options(), steps=2)
    model.set_input(batch()[0] * broken, batch()[1])
    model.optimize_parameters()
    with pytest.raises(NonFiniteLoss, match=r"loss \w+ became .* at step 3"):
        model.fetch_losses()


def test_broken_weights_are_never_handed_out_to_be_saved(options):
    model = trained(options())
    with torch.no_grad():
        model.netD_A.model[0].bias[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match="netD_A.model.0.bias"):
        model.state_dict()


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(options):
    a, b, c = (trained(options(seed=seed, gan_mode="sn+gp"), 3) for seed in (1, 1, 2))
    for name in a.nets:
        assert torch.equal(flat(a.nets[name]), flat(b.nets[name])), name
    assert not torch.equal(flat(a.netG_B), flat(c.netG_B))


@pytest.mark.parametrize("mode,generator", [("sn", "sagan"), ("sn+gp", "resnet"), ("wgan", "unet")])
def test_saved_and_loaded_goes_on_to_the_same_bits(options, mode, generator):
    opt = options(gan_mode=mode, generator=generator)
    unbroken, first = trained(opt, 4), trained(opt, 4)
    second = CycleGANModel(opt)
    second.load_state_dict(first.state_dict())
    for model in (unbroken, second):
        for seed in range(4, 8):
            model.set_input(*batch(2, seed))
            model.optimize_parameters()
    for name, net in unbroken.nets.items():
        for key, value in net.state_dict().items():
            assert torch.equal(value, second.nets[name].state_dict()[key]), (name, key)


def test_learning_rate_is_constant_for_niter_epochs_then_a_line_to_zero_after_the_last():
    factors = [lr_factor(epoch, 3, 4) for epoch in range(8)]
    assert factors == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    assert [lr_factor(epoch, 1, 1) for epoch in range(3)] == [1, 0.5, 0]
    assert [lr_factor(epoch, 2, 0) for epoch in range(3)] == [1, 1, 0]
    assert [lr_factor(epoch, 0, 3) for epoch in range(4)] == [0.75, 0.5, 0.25, 0]


def test_update_learning_rate_sets_both_optimisers(options):
    model = CycleGANModel(options(niter=1, niter_decay=2, lr_G=1e-3, lr_D=1e-2))
    model.update_learning_rate(2)
    assert model.optimizer_G.param_groups[0]["lr"] == pytest.approx(1e-3 / 3)
    assert model.optimizer_D.param_groups[0]["lr"] == pytest.approx(1e-2 / 3)


@pytest.mark.parametrize("mode", ["sn", "sn+gp"])
def test_bf16_computes_the_nets_but_neither_losses_nor_spectral_norm(options, mode):
    """Runs on any CPU: where there is no bf16 arithmetic, torch emulates it."""
    opt = options(gan_mode=mode, generator="sagan")
    opt.amp = "bf16"
    model = CycleGANModel(opt)
    dtypes = set()
    for net in model.nets.values():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(lambda m, x, y: dtypes.add(y.dtype))
    model.update_learning_rate(0)
    model.set_input(*batch())
    model.optimize_parameters()
    expected = {torch.bfloat16, torch.float32} if "gp" in mode else {torch.bfloat16}
    assert dtypes == expected  # the penalty runs D in float32
    assert all(loss.dtype == torch.float32 for _, ls in model.health.losses for loss in ls.values())
    assert all(p.dtype == torch.float32 for net in model.nets.values() for p in net.parameters())
    assert model.netD_A.model[0].parametrizations.weight[0]._u.dtype == torch.float32


def test_bf16_losses_are_those_of_float32_but_for_rounding(options):
    losses = {}
    for amp in ("off", "bf16"):
        opt = options(lambda_idt=0.5)
        opt.amp = amp
        losses[amp] = trained(opt).fetch_losses()[0]
    for name, loss in losses["off"].items():
        assert losses["bf16"][name] == pytest.approx(loss, rel=0.01, abs=0.01), name


def test_compiled_generators_keep_their_names_and_numbers(options, monkeypatch):
    def compile_fast(net):  # the real compiler takes a minute; tested is what is around it
        net._compiled_call_impl = torch.compile(net._call_impl, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_fast)
    plain, compiled = (trained(options(gan_mode="sn+gp", compile=on)) for on in (False, True))
    for name, net in plain.nets.items():
        for key, value in net.state_dict().items():
            assert torch.allclose(value, compiled.nets[name].state_dict()[key], atol=1e-6), key


def test_data_parallel_threads_that_fall_back_to_float16_still_compute_in_bf16():
    net = InBf16(torch.nn.Conv2d(3, 4, 1))
    x = torch.randn(1, 3, 4, 4)
    with torch.autocast("cpu", torch.float16):
        assert net(x).dtype == torch.bfloat16
    assert net(x).dtype == torch.float32


def test_a_warm_start_makes_one_autoencoder_of_both_generators(options):
    model = CycleGANModel(options(generator="resnet8", ngf=8, warm_steps=40, lr_G=1e-3))
    images = torch.randint(0, 256, (2, 6, 1, 1, 3), dtype=torch.uint8).expand(2, 6, 64, 64, 3)
    batches = UnpairedBatches(*images.numpy(), 2, seed=0)
    errors = list(model.warm_start(batches))
    assert len(errors) == 40
    assert sum(errors[-5:]) < 0.9 * sum(errors[:5])
    weights = flat(model.nets["netG_A"])
    for name in ("netG_B", "netG_A_ema", "netG_B_ema"):
        assert torch.equal(flat(model.nets[name]), weights)
    assert all(p.grad is None for p in model.nets["netG_A"].parameters())
    assert model.steps == 0 and not model.optimizer_G.state
    model.set_input(*batch())
    model.optimize_parameters()  # and trains on from there, each for itself
    assert not torch.equal(flat(model.nets["netG_A"]), flat(model.nets["netG_B"]))
    assert not torch.equal(flat(model.nets["netG_A"]), weights)


def test_discriminators_of_given_generators_learn_first_and_alone(options):
    model = CycleGANModel(options(generator="resnet8", ngf=8, warm_steps=30))
    images = np.zeros((2, 6, 64, 64, 3), np.uint8)
    images[1] = 255
    before = {name: flat(net) for name, net in model.nets.items()}
    losses = list(model.warm_discriminators(UnpairedBatches(*images, 2, seed=0)))
    assert len(losses) == 30 and losses[-1] < 0.5 * losses[0]
    for name, net in model.nets.items():
        assert torch.equal(flat(net), before[name]) != name.startswith("netD"), name
    assert model.steps == 0 and not model.optimizer_G.state


def test_identity_in_one_call_with_the_translation_changes_neither(options):
    model = CycleGANModel(options(generator="resnet8"))
    model.set_input(*batch())
    model.forward()
    alone = model.run(model.netG_A, model.real_A), model.run(model.netG_A, model.real_B)
    torch.testing.assert_close((model.fake_B, model.idt_A), alone)
    alone = model.run(model.netG_B, model.real_B), model.run(model.netG_B, model.real_A)
    torch.testing.assert_close((model.fake_A, model.idt_B), alone)
