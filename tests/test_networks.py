import pytest
import torch

from networks import (
    PatchDiscriminator,
    Resnet8Generator,
    ResnetGenerator,
    SaganDiscriminator,
    SaganGenerator,
    UnetGenerator,
    build_discriminator,
    build_generator,
    image_size_problem,
)

GENERATORS = {
    "resnet": lambda: ResnetGenerator(4, 1),
    "resnet8": lambda: Resnet8Generator(4, 1),
    "unet": lambda: UnetGenerator(2),
    "sagan": lambda: SaganGenerator(4),
}
DISCRIMINATORS = {"sagan": lambda: SaganDiscriminator(2), "patch": lambda: PatchDiscriminator(2)}


def test_resnet_generator_has_the_keys_and_shapes_of_the_published_ones():
    expected = {"model.1": (64, 3, 7, 7), "model.4": (128, 64, 3, 3), "model.7": (256, 128, 3, 3)}
    for i in range(10, 16):
        expected[f"model.{i}.conv_block.1"] = (256, 256, 3, 3)
        expected[f"model.{i}.conv_block.5"] = (256, 256, 3, 3)
    expected |= {"model.16": (256, 128, 3, 3), "model.19": (128, 64, 3, 3)}  # transposed
    expected |= {"model.23": (3, 64, 7, 7)}
    biases = {"model.16": 128, "model.19": 64}
    state = {key: tuple(value.shape) for key, value in ResnetGenerator(64, 6).state_dict().items()}
    assert state == {
        **{f"{key}.weight": shape for key, shape in expected.items()},
        **{f"{key}.bias": (biases.get(key, shape[0]),) for key, shape in expected.items()},
    }


@pytest.mark.parametrize("generator", GENERATORS)
@pytest.mark.parametrize("discriminator", DISCRIMINATORS)
def test_image_size_problem_tells_exactly_which_sizes_work(generator, discriminator):
    netG, netD = GENERATORS[generator](), DISCRIMINATORS[discriminator]()
    for size in (*range(8, 81, 2), 96, 128):
        x = torch.zeros(1, 3, size, size)
        try:
            works = netG(x).shape == x.shape and netD(x).shape[:2] == (1, 1)
        except (RuntimeError, ValueError):
            works = False
        # Instance norm at 1x1 raises in the unet; what it also refuses must only be stricter.
        problem = image_size_problem(generator, discriminator, size)
        assert works == (problem is None), (size, problem)


def test_sagan_discriminator_gives_one_logit_per_image_at_64():
    assert SaganDiscriminator(4)(torch.zeros(3, 3, 64, 64)).shape == (3, 1, 1, 1)


def test_every_layer_of_a_spectral_normed_discriminator_has_norm_one(options):
    for discriminator in ("sagan", "patch"):
        net = build_discriminator(options(discriminator=discriminator))
        for _ in range(30):
            net(torch.randn(1, 3, 64, 64))
        net.eval()
        layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
        assert len(layers) == (11 if discriminator == "sagan" else 5)  # 5 + 2 x 3 of attention
        for layer in layers:
            norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
            assert norm.item() == pytest.approx(1, abs=0.1)


def test_decoder_of_the_sagan_generator_has_spectral_norm_and_the_rest_has_not(options):
    keys = build_generator(options(generator="sagan")).state_dict().keys()
    normed = {key.split(".")[0] for key in keys if "parametrizations" in key}
    assert normed == {"decoder"}
    assert sum(key.endswith(".original") for key in keys) == 4


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_initialisation_reaches_spectral_normed_layers_too(options, spectral_norm):
    torch.manual_seed(0)
    net = build_discriminator(options(ndf=16, spectral_norm=spectral_norm, init_gain=0.05))
    suffix = "parametrizations.weight.original" if spectral_norm else "weight"
    weight = net.state_dict()[f"model.2.{suffix}"]
    assert weight.std().item() == pytest.approx(0.05, rel=0.05)
    for init_type in ("xavier", "kaiming", "orthogonal"):
        other = build_discriminator(options(ndf=16, init_type=init_type))
        key = "model.2.parametrizations.weight.original"
        assert other.state_dict()[key].std() != weight.std()


def test_no_attention_removes_every_attention_layer(options):
    for attention in (True, False):
        opt = options(generator="sagan", attention=attention)
        for net in (build_generator(opt), build_discriminator(opt)):
            assert any("gamma" in key for key in net.state_dict()) == attention


def test_patch_discriminator_has_instance_norm_only_without_spectral_norm(options):
    for spectral_norm in (True, False):
        net = build_discriminator(options(discriminator="patch", spectral_norm=spectral_norm))
        norms = [m for m in net.modules() if isinstance(m, torch.nn.InstanceNorm2d)]
        assert len(norms) == (0 if spectral_norm else 3)


def test_resnet8_knows_how_bright_an_image_is():
    torch.manual_seed(0)
    netG = Resnet8Generator(8, 1)
    for layer in netG.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.orthogonal_(layer.weight)
    dark, light = (netG(torch.full((1, 3, 64, 64), v))[..., 24:40, 24:40] for v in (0.3, 0.9))
    assert (dark - light).abs().mean() > 0.02  # with norm at either end they are the same picture


def test_resnet8_sees_the_whole_face_and_hands_no_detail_through():
    netG = Resnet8Generator(4, 6).eval()
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    netG(x)[0, 0, 32, 32].backward()
    assert (x.grad.abs().sum(dim=(0, 1)) > 0).all()  # instance norm apart: the blocks reach 64

    # The skip is a 1x1 convolution of features at a quarter of the size.
    sizes = {}
    netG.skip.register_forward_hook(lambda _, inputs, out: sizes.update(skip=out.shape[-2:]))
    netG.body[3].register_forward_hook(lambda _, inputs, out: sizes.update(block=out.shape[-2:]))
    netG(x)
    assert sizes == {"skip": (16, 16), "block": (8, 8)}
