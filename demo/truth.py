"""What of its input does a translated demo face still show? The hidden factors tell.

    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    print(truth_table(images, load_pairs(Path("data/demo")), "anime"))

Nothing is trained. Each factor is read by drawing: the face is drawn again with other values of
that factor, the pixels that change are where it shows, and only they are read. A colour is the
median there, named after the nearest colour of the palette as drawn. A shape is the drawing that
explains these pixels best once it may change its colours and be softer: neither a wrong tone or
hair colour nor a blurred picture decides. A misplaced feature is not found: where an output turns
the head, its eyes, mouth and glasses are lost too. A copy of the input still agrees in turn, fringe
and hair length: this measures what a translation keeps, not whether it has the other style.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import torch
from PIL import Image, ImageFilter

from demo.drawing import STYLES, draw_face
from demo.factors import (
    BACKGROUND,
    EYES,
    FRINGES,
    HAIR,
    HAIR_LENGTHS,
    MOUTHS,
    SKIN,
    Factors,
    sample_factors,
)

COLOURS = {"hair_colour": HAIR, "skin": SKIN, "background": BACKGROUND, "eye_colour": EYES}
SHAPES: dict[str, tuple] = {
    "turn": ("left", "middle", "right"),
    "hair_length": HAIR_LENGTHS,
    "fringe": FRINGES,
    "mouth": MOUTHS,
    "glasses": (False, True),
}
FACTORS = (*COLOURS, *SHAPES)
THIRD = 2 / 3  # of the turn, -1..1
SHUFFLES = 5  # the baseline averages over so many: rare values make a single one noisy
NOISE = 8.0  # of 255: colour differences below it explain nothing
# Blurs of the drawings in pixels of 64; the images get the least of them, against their noise.
# Without the others, a blurred picture of glasses is best explained by a face without.
SOFTNESS = (0.5, 1.2, 2.0)


def _value(factors: Factors, name: str) -> int:
    """Number of a face's value of one factor in the order of its list or palette."""
    if name == "turn":
        return min(int((factors.turn + 1) / THIRD), 2)
    return list({**COLOURS, **SHAPES}[name]).index(getattr(factors, name))


def _changed(factors: Factors, name: str, value: int) -> Factors:
    """Give a face another value of one factor; a turn keeps its place within the third."""
    if name == "turn":
        return replace(factors, turn=factors.turn + (value - _value(factors, name)) * THIRD)
    return replace(factors, **{name: list({**COLOURS, **SHAPES}[name])[value]})


def factor_labels(factors: Sequence[Factors]) -> tuple[torch.Tensor, list[str]]:
    """Factors as attributes: float (N, L), 0 or 1, and their names, like hair_colour=red."""
    columns, names = [], []
    for name, choices in {**COLOURS, **SHAPES}.items():
        values = torch.tensor([_value(one, name) for one in factors])
        for number, choice in enumerate(choices):
            if choices != (False, True) or choice:  # one column says both
                columns.append(values == number)
                names.append(name if choices == (False, True) else f"{name}={choice}")
    for name in ("head_width", "head_height", "tilt"):
        columns.append(torch.tensor([getattr(one, name) > 0 for one in factors]))
        names.append(f"{name}>0")
    return torch.stack(columns, dim=1).float(), names


@lru_cache(maxsize=4096)  # the drawings for 200 faces, 50 MB at 64x64: a second model is fast
def _draw(factors: Factors, style: str, size: int, texture_seed: int = 0) -> np.ndarray:
    """Draw a face as (H, W, 3) uint8, read-only."""
    return np.asarray(draw_face(factors, style, size, texture_seed))


def _blurred(pictures: np.ndarray, softness: float) -> np.ndarray:
    """Blur uint8 pictures (K, H, W, 3), or (K, H, W), by so many pixels of 64."""
    blur = ImageFilter.GaussianBlur(softness * pictures.shape[1] / 64)
    return np.stack([np.asarray(Image.fromarray(one).filter(blur)) for one in pictures])


def _oklab(colours: np.ndarray) -> np.ndarray:
    """Convert sRGB (..., 3) in 0..255 to OKLab (..., 3), where distances are as the eye sees them.

    Source: Björn Ottosson, "A perceptual color space for image processing" (2020).
    """
    rgb = colours / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_cones = (0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.63)
    to_lab = (0.2105, 0.7936, -0.0041), (1.978, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087)
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(to_lab)


def _colour_region(factors: Factors, drawn: np.ndarray, name: str, style: str) -> np.ndarray:
    """Pixels (H, W) bool, away from edges, that show the colour of one factor undimmed."""
    palette = np.array([colours[style == "anime"] for colours in COLOURS[name].values()])
    distances = np.abs(palette - palette[_value(factors, name)]).sum(axis=1)
    other = _changed(factors, name, int(distances.argmax()))
    change = np.abs(np.int16(drawn) - _draw(other, style, len(drawn))).mean(axis=2)
    change = _blurred(np.uint8(change)[None], 1)[0]
    return change > 0.6 * change.max()  # a shirt is the background's colour at 0.55


@cache
def _reference_colours(name: str, style: str) -> np.ndarray:
    """Palette of one factor (V, 3) in OKLab as drawn: light and shadow move it off the list."""
    generator, medians = torch.Generator().manual_seed(2**40), []
    for seed in range(5):
        face = sample_factors(generator)
        region = _colour_region(face, _draw(face, style, 64), name, style)
        drawn = [
            _draw(_changed(face, name, value), style, 64, seed)[region]
            for value in range(len(COLOURS[name]))
        ]
        medians.append(np.median(drawn, axis=1))
    return _oklab(np.median(medians, axis=0))


def _read_colour(shown: np.ndarray, region: np.ndarray, name: str, style: str) -> np.ndarray:
    """Read a colour in images (K, H, W, 3) where `region` (H, W) says -> value numbers (K,)."""
    medians = _oklab(np.median(shown[:, region], axis=1))
    references = _reference_colours(name, style)
    return np.linalg.norm(medians[:, None] - references, axis=2).argmin(axis=1)


def _read_shape(shown: np.ndarray, drawings: np.ndarray) -> np.ndarray:
    """Tell which of drawings (V, H, W, 3) images (K, H, W, 3) show -> value numbers (K,).

    Each drawing is fitted to each image by ridge regression from colour to colour, over the pixels
    in which the drawings differ, at each softness; the best fit wins.
    """
    region = np.ptp(drawings, axis=0).max(axis=2) > 12
    soft = np.concatenate([_blurred(drawings, softness)[:, region] for softness in SOFTNESS])
    seen, candidates = np.float32(shown[:, region]), np.float32(soft)  # (K, P, 3), (S * V, P, 3)
    seen -= seen.mean(axis=1, keepdims=True)
    candidates -= candidates.mean(axis=1, keepdims=True)
    shared = np.tensordot(candidates, seen, axes=(1, 1)).reshape(len(soft), 3, -1)  # 3 * K columns
    own = candidates.transpose(0, 2, 1) @ candidates
    own += region.sum() * NOISE**2 * np.eye(3, dtype=np.float32)
    explained = (shared * np.linalg.solve(own, shared)).reshape(len(soft), 3, len(shown), 3)
    return explained.sum(axis=(1, 3)).argmax(axis=0) % len(drawings)


def _read(
    shown: np.ndarray, factors: Factors, style: str, names: Sequence[str] = FACTORS
) -> np.ndarray:
    """Read factors of images (K, H, W, 3) that should show one face -> (names, K)."""
    size = shown.shape[1]
    drawn, values = _draw(factors, style, size), []
    smoothed = _blurred(shown, SOFTNESS[0])
    for name in names:
        if name in COLOURS:
            region = _colour_region(factors, drawn, name, style)
            values.append(_read_colour(shown, region, name, style))
            continue
        choices, own = SHAPES[name], _value(factors, name)
        drawings = [
            drawn if value == own else _draw(_changed(factors, name, value), style, size)
            for value in range(len(choices))
        ]
        values.append(_read_shape(smoothed, np.stack(drawings)))
    return np.stack(values)


def _check(images: np.ndarray, factors: Sequence[Factors], style: str) -> None:
    """Raise ValueError on an unknown style, and on images that are not one square per face."""
    if style not in STYLES:
        raise ValueError(f"style {style!r}: must be one of {STYLES}")
    if len(images) != len(factors) or not len(images):
        raise ValueError(f"{len(images)} images, {len(factors)} factors: must be as many, not 0")
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise ValueError(f"images of shape {images.shape}: must be (N, H, H, 3)")


def _gallery(images: np.ndarray, i: int, factors: Factors, style: str) -> np.ndarray:
    """Image i, its true drawing with another texture, SHUFFLES other images: (K, H, W, 3)."""
    oracle = _draw(factors, style, images.shape[1], texture_seed=1 + i)
    others = [images[(i + shift) % len(images)] for shift in range(1, SHUFFLES + 1)]
    return np.stack([images[i], oracle, *others])


def factor_agreement(
    images: np.ndarray, factors: Sequence[Factors], style: str, names: Sequence[str] = FACTORS
) -> dict[str, dict[str, float]]:
    """Tell per factor how often images (N, H, H, 3) uint8 in a style show it -> shares in 0..1.

    `agreement` is with the true factors; `shuffled` is the same for the images of other faces, so
    that both where to look and what to see are wrong; `oracle` is the reader's own on the true
    drawings. All are means over a factor's values, not over faces: to put glasses on nobody is
    1/2, although four in five faces have none. Raises ValueError on an unknown style, unequal
    numbers and images that are not square. Some 50 images are needed to mean much.
    """
    _check(images, factors, style)
    read = np.stack(
        [_read(_gallery(images, i, one, style), one, style, names) for i, one in enumerate(factors)]
    )  # (N, names, K)
    result = {}
    for column, name in enumerate(names):
        true = np.array([_value(one, name) for one in factors])
        right = read[:, column] == true[:, None]
        shares = np.mean([right[true == value].mean(axis=0) for value in np.unique(true)], axis=0)
        result[name] = {
            "agreement": float(shares[0]),
            "shuffled": float(shares[2:].mean()),
            "oracle": float(shares[1]),
        }
    return result


def hair_agreement(
    images: np.ndarray, factors: Sequence[Factors], style: str
) -> tuple[float, float]:
    """How often images (N, H, H, 3) uint8 have the hair colour of their factors, and of others'."""
    found = factor_agreement(images, factors, style, ("hair_colour",))["hair_colour"]
    return found["agreement"], found["shuffled"]


def pixel_error(images: np.ndarray, factors: Sequence[Factors], style: str) -> dict[str, float]:
    """Mean absolute difference, 0..1, of images (N, H, H, 3) uint8 to the true drawings.

    `error` is to the drawing of the same face, `shuffled` to those of others, `oracle` between two
    drawings of the same face: a person's light, strands and noise, which nobody can know. Raises
    ValueError as `factor_agreement` does.
    """
    _check(images, factors, style)
    errors = (
        np.mean(
            [
                np.abs(
                    np.int16(_gallery(images, i, one, style)) - _draw(one, style, images.shape[1])
                ).mean(axis=(1, 2, 3))
                for i, one in enumerate(factors)
            ],
            axis=0,
        )
        / 255
    )  # (K,)
    return {
        "error": float(errors[0]),
        "shuffled": float(errors[2:].mean()),
        "oracle": float(errors[1]),
    }


def truth_table(images: np.ndarray, factors: Sequence[Factors], style: str) -> str:
    """Write both measures of images (N, H, H, 3) uint8 in a style as one Markdown table."""
    rows = factor_agreement(images, factors, style)
    rows["pixel error (lower is better)"] = pixel_error(images, factors, style)
    lines = [f"| {style}: factor | agreement | shuffled | oracle |", "| --- | --- | --- | --- |"]
    for name, shares in rows.items():
        cells = " | ".join(f"{share:.2f}" for share in shares.values())
        lines.append(f"| {name.replace('_', ' ')} | {cells} |")
    return "\n".join(lines)
