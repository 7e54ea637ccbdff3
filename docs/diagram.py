"""Draw docs/model.svg: what is trained against what, and the layers of both default nets.

    python docs/diagram.py            # write docs/model.svg

Sizes are read from the nets of train.py's defaults in a forward pass, so the picture cannot differ
from the code; a test compares the file in the repository.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from arguments import train_options
from common.errors import one_line_errors
from networks import ResidualBlock, build_discriminator, build_generator
from self_attention import SelfAttention

TARGET = ROOT / "docs" / "model.svg"
WIDTH = 1000
INK, QUIET, PAPER = "#1c1d21", "#5d6068", "#ffffff"
COLOURS = {"image": "#e9e9e5", "net": "#cfe3f7", "judge": "#f7dcc4", "attention": "#e0d2f5"}
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, ResidualBlock, SelfAttention)


def layers_of(net: nn.Module, image_size: int) -> list[tuple[str, int, int]]:
    """The layers with weights of a net, in order: (kind, channels, size) of what they give.

    Residual blocks in a row are one entry, "6 residual blocks".
    """
    found: list[tuple[str, int, int]] = []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        kind = "residual" if isinstance(module, ResidualBlock) else "self-attention"
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            way = " up" if isinstance(module, nn.ConvTranspose2d) else " down"
            k = module.kernel_size[0]
            kind = f"conv {k}x{k}" + (way if module.stride[0] > 1 else "")
        found.append((kind, output.shape[1], output.shape[2]))

    inside = {
        child
        for module in net.modules()
        if isinstance(module, LAYERS)
        for child in module.modules()
        if child is not module
    }
    for module in net.modules():
        if isinstance(module, LAYERS) and module not in inside:
            module.register_forward_hook(note)
    with torch.no_grad():
        net(torch.zeros(1, 3, image_size, image_size))
    merged: list[tuple[str, int, int]] = []
    blocks = [layer for layer in found if layer[0] == "residual"]
    for layer in found:
        if layer[0] != "residual":
            merged.append(layer)
        elif layer is blocks[0]:
            merged.append((f"{len(blocks)} residual blocks", *layer[1:]))
    return merged


def box(x: float, y: float, w: float, h: float, colour: str, *lines: str) -> str:
    """A rectangle with lines of text in its middle."""
    parts = [
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" '
        f'fill="{COLOURS[colour]}" stroke="{QUIET}"/>'
    ]
    for number, line in enumerate(lines):
        middle = y + h / 2 + 16 * (number - (len(lines) - 1) / 2) + 5
        parts.append(text(x + w / 2, middle, line, "middle", quiet=number > 0))
    return "\n".join(parts)


def text(
    x: float, y: float, words: str, anchor: str = "start", size: int = 13, quiet: bool = False
) -> str:
    colour = QUIET if quiet else INK
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{colour}">{words}</text>'
    )


def arrow(path: str, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{INK}" marker-end="url(#tip)"{dashes}/>'


def cycle(y: float, names: tuple[str, str, str], nets: tuple[str, str, str]) -> list[str]:
    """One direction: image, generator, translation, generator, reconstruction, and who judges."""
    real, fake, rec = names
    there, back, judge = nets
    row, xs = y + 60, (80, 260, 440, 620, 800)
    parts = [
        box(xs[0], row, 120, 56, "image", *real.split("|")),
        box(xs[1], row, 120, 56, "net", *there.split("|")),
        box(xs[2], row, 120, 56, "image", *fake.split("|")),
        box(xs[3], row, 120, 56, "net", *back.split("|")),
        box(xs[4], row, 120, 56, "image", *rec.split("|")),
        box(xs[2], row + 100, 120, 56, "judge", *judge.split("|")),
    ]
    parts += [arrow(f"M{x + 122} {row + 28}H{x + 176}") for x in xs[:-1]]
    parts.append(arrow(f"M{xs[2] + 60} {row + 58}V{row + 96}"))
    parts.append(text(xs[2] + 132, row + 133, "adversarial loss: real or made?", quiet=True))
    x0, x1 = xs[0] + 60, xs[4] + 60
    parts.append(arrow(f"M{x0} {row - 2}V{row - 28}H{x1}V{row - 4}", dashed=True))
    parts.append(
        text(
            (x0 + x1) / 2,
            row - 35,
            "cycle loss: what comes back is what went in",
            "middle",
            quiet=True,
        )
    )
    return parts


def stack(y: float, title: str, layers: list[tuple[str, int, int]], colour: str) -> list[str]:
    """A net as bars from left to right, as high as what they give is large."""
    parts = [text(30, y, title, size=15)]
    step, base = (WIDTH - 60) / len(layers), y + 120
    for number, (kind, channels, size) in enumerate(layers):
        x, height = 30 + number * step, 14 + 76 * (size / layers[0][2]) ** 0.5
        middle = x + step / 2
        fill = COLOURS["attention" if kind == "self-attention" else colour]
        wide = 34 if "blocks" in kind else 18
        parts.append(
            f'<rect x="{middle - wide / 2:g}" y="{base - height:g}" width="{wide}" '
            f'height="{height:g}" rx="3" fill="{fill}" stroke="{QUIET}"/>'
        )
        first, _, rest = kind.partition(" ")
        parts.append(text(middle, base + 18, first, "middle", 12))
        parts.append(text(middle, base + 33, rest, "middle", 12) if rest else "")
        parts.append(text(middle, base + 50, f"{channels} x {size} x {size}", "middle", 11, True))
    return parts


def draw() -> str:
    """The whole picture."""
    opt, _ = train_options(["--gpu_ids", "-1"])
    with torch.random.fork_rng():
        generator = layers_of(build_generator(opt), opt.image_size)
        discriminator = layers_of(build_discriminator(opt), opt.image_size)
    norm = ", spectral norm on every layer" if opt.spectral_norm else ""
    parts = [text(30, 34, "CycleGAN: two generators, two discriminators", size=18)]
    to_anime, to_person = "netG_B|person to anime", "netG_A|anime to person"
    parts += cycle(
        40,
        ("person|real_B", "anime|fake_A", "person|rec_B"),
        (to_anime, to_person, "netD_A|judges anime"),
    )
    parts += cycle(
        270,
        ("anime|real_A", "person|fake_B", "anime|rec_A"),
        (to_person, to_anime, "netD_B|judges persons"),
    )
    words = (
        "Identity loss: netG_B leaves anime, and netG_A persons, as they are. Sizes below: "
        "channels x height x width of what a layer gives."
    )
    parts.append(text(30, 520, words, quiet=True))
    parts += stack(
        570,
        f"Generator ({opt.generator}): instance norm and ReLU in between, tanh at the end",
        generator,
        "net",
    )
    parts += stack(
        790,
        f"Discriminator ({opt.discriminator}): leaky ReLU in between{norm}",
        discriminator,
        "judge",
    )
    body = "\n".join(filter(None, parts))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 980" width="{WIDTH}"
  height="980" font-family="system-ui, sans-serif" role="img"
  aria-label="How CycleGAN is trained, and the layers of its nets">
<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">
<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>
<rect width="100%" height="100%" fill="{PAPER}"/>
{body}
</svg>
"""


@one_line_errors
def main() -> None:
    TARGET.write_text(draw(), encoding="utf-8")
    print(f"Diagram: {TARGET}")


if __name__ == "__main__":
    main()
