"""Generators and discriminators, their initialisation, and the image sizes that they take.

All nets map float images (B, 3, H, W) in [-1, 1]. Generators return images of the same shape and
range; discriminators return logits (B, 1, h, w), or one channel per class, without a sigmoid.
"""

from argparse import Namespace

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm

from common.layers import InstanceNorm2d, ReflectionPad2d
from self_attention import SelfAttention


def build_generator(opt: Namespace, training: bool = True) -> nn.Module:
    """Make the generator that `opt.generator` names, initialised.

    With training=False its weights are plain: spectral norm is for training, and
    interop/layouts.py divides it out of what it reads.
    """
    net: nn.Module
    if opt.generator == "resnet8":
        net = Resnet8Generator(opt.ngf, opt.n_blocks)
    elif opt.generator == "resnet":
        net = ResnetGenerator(opt.ngf, opt.n_blocks)
    elif opt.generator == "unet":
        net = UnetGenerator(opt.ngf)
    else:
        net = SaganGenerator(opt.ngf, opt.attention)
    init_weights(net, opt.init_type, opt.init_gain)
    if isinstance(net, SaganGenerator) and training:
        add_spectral_norm(net.decoder)
    return net


def build_discriminator(opt: Namespace, classes: int = 1) -> nn.Module:
    """Make the discriminator that `opt.discriminator` names, initialised."""
    net: nn.Module
    if opt.discriminator == "sagan":
        net = SaganDiscriminator(opt.ndf, opt.attention, classes)
    else:
        net = PatchDiscriminator(opt.ndf, not opt.spectral_norm, classes)
    init_weights(net, opt.init_type, opt.init_gain)
    if opt.spectral_norm:
        add_spectral_norm(net)
    return net


def image_size_problem(generator: str, discriminator: str, image_size: int) -> str | None:
    """Say why the two nets cannot take square images of this size, or None if they can."""
    if generator == "resnet" and (image_size % 4 or image_size < 8):
        return "the resnet generator halves twice and needs a multiple of 4, at least 8"
    if generator == "resnet8" and (image_size % 8 or image_size < 16):
        return "the resnet8 generator halves three times and needs a multiple of 8, at least 16"
    if generator == "unet" and (image_size % 32 or image_size < 32):
        return "the unet generator halves five times and needs a multiple of 32"
    if generator == "sagan" and (image_size % 16 or image_size < 64):
        return "the sagan generator needs a multiple of 16, at least 64"
    if generator == "decoder" and image_size % 16:
        return "DTN's decoder doubles four times and needs a multiple of 16"
    if discriminator == "sagan" and image_size < 64:
        return "the sagan discriminator needs at least 64; --discriminator patch takes 24 and more"
    if discriminator == "patch" and image_size < 24:
        return "the patch discriminator needs at least 24"
    return None


def init_weights(net: nn.Module, init_type: str, init_gain: float) -> None:
    """Draw all convolution weights anew, from torch's global generator, and zero the biases.

    Must run before add_spectral_norm: the parametrization starts its singular vectors from the
    weights that it finds, and writing to a parametrized `.weight` has no effect.
    """
    for module in net.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            continue
        if init_type == "normal":
            nn.init.normal_(module.weight, 0.0, init_gain)
        elif init_type == "xavier":
            nn.init.xavier_normal_(module.weight, gain=init_gain)
        elif init_type == "kaiming":
            nn.init.kaiming_normal_(module.weight)
        else:
            nn.init.orthogonal_(module.weight, gain=init_gain)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def add_spectral_norm(net: nn.Module) -> None:
    """Divide every convolution weight in `net` by its largest singular value, from now on.

    Source: Miyato et al. 2018, section 2.1 and algorithm 1 (one power iteration per forward pass
    in training mode, none in eval mode).
    """
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            spectral_norm(module)
    for module in net.modules():
        if isinstance(module, _SpectralNorm):
            module.__class__ = _SpectralNormInFp32


class _SpectralNormInFp32(_SpectralNorm):
    """torch's spectral norm, out of reach of autocast: its power iteration fails in bf16."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)


# ------------------------------------------------------------------------------- generators


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm around a skip: (B, C, H, W) -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            ReflectionPad2d(1),
            nn.Conv2d(channels, channels, kernel_size=3),
            InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """Image-to-image net of residual blocks at a quarter of the size.

    (B, 3, H, W) -> (B, 3, H, W), H and W multiples of 4.

    Source: Johnson et al. 2016; Zhu et al. 2017 (CycleGAN), section 4 and appendix 7.2. The order
    of layers, and with it the state-dict keys (`model.1.weight` ...), equals that of the
    well-known PyTorch CycleGAN without dropout, so that its published generators load.
    """

    def __init__(self, ngf: int = 64, n_blocks: int = 6) -> None:
        super().__init__()
        layers = [ReflectionPad2d(3), *conv_norm_relu(nn.Conv2d(3, ngf, kernel_size=7))]
        for c in (ngf, ngf * 2):  # feature maps: H -> H/2 -> H/4
            layers += conv_norm_relu(nn.Conv2d(c, c * 2, kernel_size=3, stride=2, padding=1))
        layers += [ResidualBlock(ngf * 4) for _ in range(n_blocks)]
        for c in (ngf * 4, ngf * 2):  # H/4 -> H/2 -> H
            layers += conv_norm_relu(
                nn.ConvTranspose2d(c, c // 2, 3, stride=2, padding=1, output_padding=1)
            )
        layers += [ReflectionPad2d(3), nn.Conv2d(ngf, 3, kernel_size=7), nn.Tanh()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Resnet8Generator(nn.Module):
    """Image-to-image net of residual blocks at an eighth of the size, with one skip at a quarter.

    (B, 3, H, W) -> (B, 3, H, W), H and W multiples of 8, at least 16. At 64x64 an image takes
    less than half of the time that it takes in a ResnetGenerator of equal width and blocks: at the
    full size there are two narrow convolutions, where 7x7 ones of few channels waste a CPU.

    Source: Zhu et al. 2017 (CycleGAN), appendix 7.2, and five changes. The first halving is a
    rearrangement of pixels (Shi et al. 2016) and there is a third one, so that a block sees the
    whole face. Up-sampling is by repetition and convolution, which leaves no checkerboards (Odena
    et al. 2016). The skip keeps pose and layout, at a size that holds no eyes and no strokes: those
    have to be drawn. Stem and head are not normalised: instance norm takes away how bright an image
    is, and a net then paints blots to bring it back (Karras et al. 2020, section 2).
    """

    def __init__(self, ngf: int = 32, n_blocks: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(  # H -> H/2 -> H/4
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, ngf, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(ngf, ngf * 2, kernel_size=4, stride=2, padding=1),
            nn.ReLU(inplace=True),
        )
        self.body = nn.Sequential(  # H/4 -> H/8 -> H/4
            *conv_norm_relu(nn.Conv2d(ngf * 2, ngf * 4, kernel_size=4, stride=2, padding=1)),
            *(ResidualBlock(ngf * 4) for _ in range(n_blocks)),
            nn.Upsample(scale_factor=2),
            *conv_norm_relu(nn.Conv2d(ngf * 4, ngf * 2, kernel_size=3, padding=1)),
        )
        self.skip = nn.Conv2d(ngf * 2, ngf * 2, kernel_size=1)
        self.head = nn.Sequential(  # H/4 -> H/2 -> H
            nn.Upsample(scale_factor=2),
            nn.Conv2d(ngf * 2, ngf, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(ngf, max(1, ngf // 2), kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(max(1, ngf // 2), 3, kernel_size=3, padding=1),
            nn.Tanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.body(x) + self.skip(x))


class UnetGenerator(nn.Module):
    """Encoder and decoder with a skip at every size: five halvings, 64 -> 2 and back.

    (B, 3, H, W) -> (B, 3, H, W), H and W multiples of 32.

    Source: Isola et al. 2017 (pix2pix), appendix 6.1.1, with instance norm and as many halvings as
    64 pixels allow; the bottleneck has no norm, which 1x1 feature maps would not survive.
    """

    def __init__(self, ngf: int = 64) -> None:
        super().__init__()
        widths = [ngf, ngf * 2, ngf * 4, ngf * 8, ngf * 8]
        self.downs = nn.ModuleList()
        c_in = 3
        for i, c in enumerate(widths):
            layers: list[nn.Module] = [nn.Conv2d(c_in, c, kernel_size=4, stride=2, padding=1)]
            if i > 0:
                layers.insert(0, nn.LeakyReLU(0.2))
            if 0 < i < len(widths) - 1:
                layers.append(InstanceNorm2d(c))
            self.downs.append(nn.Sequential(*layers))
            c_in = c
        self.ups = nn.ModuleList()
        for c in reversed(widths[:-1]):
            convolution = nn.ConvTranspose2d(c_in, c, kernel_size=4, stride=2, padding=1)
            self.ups.append(nn.Sequential(nn.ReLU(), convolution, InstanceNorm2d(c)))
            c_in = c * 2  # what comes up, beside what the skip brings
        convolution = nn.ConvTranspose2d(c_in, 3, kernel_size=4, stride=2, padding=1)
        self.head = nn.Sequential(nn.ReLU(), convolution, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        skips.pop()
        for up in self.ups:
            x = torch.cat([up(x), skips.pop()], dim=1)
        return self.head(x)


class SaganGenerator(nn.Module):
    """The generator of anime_person_translation (2018): everything passes 100 numbers.

    (B, 3, H, W) -> (B, 3, H, W), H and W multiples of 16, at least 64; at 64x64 a convolutional
    encoder to a 100-vector, then a transposed-convolution decoder with self-attention at 16x16
    (2 ngf channels) and at 32x32 (ngf channels). The decoder's hidden convolutions get spectral
    norm from build_generator.

    Source: Zhang et al. 2019 (SAGAN) for the decoder; the encoder is that author's.
    """

    def __init__(self, ngf: int = 64, attention: bool = True) -> None:
        super().__init__()
        layers = []
        c_in = 3
        for c in (ngf, ngf * 2, ngf * 4, ngf * 8):  # 64 -> 32 -> 16 -> 8 -> 4
            layers += conv_norm_relu(nn.Conv2d(c_in, c, kernel_size=4, stride=2, padding=1))
            c_in = c
        layers += [nn.Conv2d(ngf * 8, 100, kernel_size=4), nn.ReLU(inplace=True)]  # 4 -> 1
        self.encoder = nn.Sequential(*layers)
        layers = conv_norm_relu(nn.ConvTranspose2d(100, ngf * 8, kernel_size=4))  # 1 -> 4
        for c in (ngf * 8, ngf * 4, ngf * 2):  # 4 -> 8 -> 16 -> 32
            layers += conv_norm_relu(
                nn.ConvTranspose2d(c, c // 2, kernel_size=4, stride=2, padding=1)
            )
        self.decoder = nn.Sequential(*layers)
        self.attention_16 = SelfAttention(ngf * 2) if attention else nn.Identity()
        self.attention_32 = SelfAttention(ngf) if attention else nn.Identity()
        self.head = nn.Sequential(nn.ConvTranspose2d(ngf, 3, 4, stride=2, padding=1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(x)  # (B, 100, 1, 1) at 64x64, and so on
        x = self.decoder[:9](z)  # (B, 2 ngf, 16, 16)
        x = self.decoder[9:](self.attention_16(x))  # (B, ngf, 32, 32)
        return self.head(self.attention_32(x))


def conv_norm_relu(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, InstanceNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


# --------------------------------------------------------------------------- discriminators


class SaganDiscriminator(nn.Module):
    """Convolutional critic with self-attention at 8x8 and at 4x4 (for 64x64 images).

    (B, 3, H, W) -> (B, classes, H/16 - 3, W/16 - 3) logits, one place at 64x64. H, W at least 64.
    Spectral norm, on every layer and the attention too, comes from build_discriminator.

    Source: Zhang et al. 2019 (SAGAN), in the layout of anime_person_translation, whose author found
    attention near the output better than near the input.
    """

    def __init__(self, ndf: int = 64, attention: bool = True, classes: int = 1) -> None:
        super().__init__()
        layers = []
        c_in = 3
        for c in (ndf, ndf * 2, ndf * 4, ndf * 8):  # 64 -> 32 -> 16 -> 8 -> 4
            layers += [nn.Conv2d(c_in, c, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            if attention and c >= ndf * 4:
                layers.append(SelfAttention(c))
            c_in = c
        layers.append(nn.Conv2d(ndf * 8, classes, kernel_size=4))  # 4 -> 1
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches of 70x70 pixels.

    (B, 3, H, W) -> (B, classes, H/8 - 2, W/8 - 2) logits. Instance norm between its layers, unless
    spectral norm takes its place. H, W at least 24.

    Source: Isola et al. 2017 (pix2pix), section 3.2.2; Zhu et al. 2017 (CycleGAN), section 4.
    """

    def __init__(self, ndf: int = 64, instance_norm: bool = True, classes: int = 1) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, ndf, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for c, stride in ((ndf, 2), (ndf * 2, 2), (ndf * 4, 1)):
            layers.append(nn.Conv2d(c, c * 2, kernel_size=4, stride=stride, padding=1))
            if instance_norm:
                layers.append(InstanceNorm2d(c * 2))
            layers.append(nn.LeakyReLU(0.2))
        layers.append(nn.Conv2d(ndf * 8, classes, kernel_size=4, padding=1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)
