"""Procedural faces in two styles: the data set that `train.py --demo` draws when there is none.

Every face is drawn from hidden factors (`Factors`). The same factors drawn as `person` (shaded,
photograph-like) and as `anime` (flat, outlined, large eyes) are a true pair. Training never sees
one: each domain samples its own factors. Held-out true pairs under `test/` measure the result.

    python demo_faces.py --output data/demo --count 2000 --seed 0
    python demo_faces.py --preview pairs.png

Geometry is in picture units: x right and y down, both -1..1 over the picture. One drawing is an
array `pixels` (H, W, 3) in 0..255, painted back to front with covers (H, W) in 0..1.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, PngImagePlugin
from tqdm import tqdm

from errors import UserError, one_line_errors
from files import atomic_write

DRAWING_VERSION = 1  # raise it when the pictures change: finished sets are then redrawn
SUPERSAMPLING = 4
STYLES = ("anime", "person")

# Per factor value: RGB as a person, RGB as anime. Hue and brightness correspond, so that a
# translation that keeps them is the easiest one to learn without pairs.
HAIR = {
    "black": ((36, 31, 32), (54, 50, 66)),
    "brown": ((102, 64, 42), (142, 86, 50)),
    "blonde": ((214, 174, 104), (252, 214, 98)),
    "red": ((168, 68, 30), (230, 80, 46)),
    "grey": ((160, 160, 162), (198, 202, 212)),
    "blue": ((50, 80, 132), (66, 112, 226)),
}
SKIN = {
    "pale": ((242, 210, 192), (255, 234, 222)),
    "fair": ((230, 186, 158), (254, 220, 196)),
    "tan": ((204, 152, 114), (242, 194, 152)),
    "brown": ((152, 102, 72), (200, 142, 102)),
    "dark": ((104, 68, 50), (150, 100, 74)),
}
EYES = {
    "brown": ((84, 52, 30), (156, 84, 40)),
    "blue": ((62, 112, 170), (50, 128, 238)),
    "green": ((74, 122, 70), (48, 176, 88)),
    "grey": ((124, 128, 136), (140, 146, 176)),
}
BACKGROUND = {
    "sand": ((200, 184, 154), (250, 230, 184)),
    "sky": ((140, 172, 200), (172, 218, 250)),
    "sage": ((130, 158, 128), (182, 228, 178)),
    "rose": ((200, 152, 152), (252, 196, 204)),
    "slate": ((86, 92, 108), (124, 134, 168)),
    "lilac": ((152, 138, 178), (208, 192, 246)),
}
HAIR_COLOURS = tuple(HAIR)
HAIR_LENGTHS = ("short", "medium", "long")
FRINGES = ("none", "straight", "side")
MOUTHS = ("neutral", "smile", "open")
INK = np.float32((52, 36, 48))


@dataclass(frozen=True)
class Factors:
    """What both drawings of a face share. Names are keys of the palettes and lists above."""

    head_width: float  # -1 narrow .. 1 wide
    head_height: float  # -1 short .. 1 long
    turn: float  # -1 to the picture's left .. 1 to its right
    tilt: float  # degrees, positive is clockwise
    skin: str
    hair_colour: str
    hair_length: str
    fringe: str
    eye_colour: str
    mouth: str
    glasses: bool
    background: str


def sample_factors(generator: torch.Generator) -> Factors:
    """Draw independent factors, uniform but for the tilt (normal) and glasses (one in five)."""

    def choose(values: Sequence[str]) -> str:
        return values[int(torch.randint(len(values), (), generator=generator))]

    width, height, turn = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    tilt = float(torch.randn((), generator=generator).clamp(-2, 2)) * 4
    return Factors(
        head_width=width,
        head_height=height,
        turn=turn,
        tilt=tilt,
        skin=choose(tuple(SKIN)),
        hair_colour=choose(HAIR_COLOURS),
        hair_length=choose(HAIR_LENGTHS),
        fringe=choose(FRINGES),
        eye_colour=choose(tuple(EYES)),
        mouth=choose(MOUTHS),
        glasses=bool(torch.rand((), generator=generator) < 0.2),
        background=choose(tuple(BACKGROUND)),
    )


def _smooth(points: np.ndarray, steps: int = 5) -> np.ndarray:
    """Closed Catmull-Rom curve through points (P, 2) -> (P * steps, 2)."""
    before, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(steps) / steps)[:, None, None]
    curve = points + 0.5 * t * (
        after - before
        + t * (2 * before - 5 * points + 4 * after - beyond)
        + t * t * (3 * (points - after) + beyond - before)
    )  # (steps, P, 2)
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def _mirrored(*half: tuple[float, float]) -> np.ndarray:
    """Close a right half, listed from top to bottom, with its mirror image."""
    return np.array([*half, *((-x, y) for x, y in reversed(half) if x)])


def _oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Ellipse with these half axes -> (24, 2)."""
    angle = np.arange(24) * (np.pi / 12)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


class Canvas:
    """One drawing under way: `pixels` (H, W, 3) and `hair` (H, W), each pixel's share of hair.

    `x` and `y` (H, W) are the coordinates of the pixels in the frame of the tilted head, in which
    all shapes are given.
    """

    def __init__(self, factors: Factors, style: str, size: int) -> None:
        self.size, self.turn = size, factors.turn
        self.anime = style == "anime"
        self.half_width = (0.58 if self.anime else 0.55) * (1 + 0.07 * factors.head_width)
        self.stretch = 1 + 0.06 * factors.head_height
        angle = np.radians(factors.tilt)
        self.rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
        self.x = np.cos(angle) * axis + np.sin(angle) * axis[:, None]
        self.y = np.cos(angle) * axis[:, None] - np.sin(angle) * axis
        self.pixels = np.zeros((size, size, 3), np.float32)
        self.hair = np.zeros((size, size), np.float32)

    def surface(self, points: np.ndarray) -> np.ndarray:
        """Move points (P, 2) on the front of the head with its turn, foreshortened."""
        radius = 1.2 * self.half_width
        angle = np.arcsin(np.clip(points[:, 0] / radius, -1, 1)) + 0.3 * self.turn
        return np.stack([radius * np.sin(angle), points[:, 1] * self.stretch], axis=1)

    def cover(self, *shapes: np.ndarray, line: float = 0, blur: float = 0) -> np.ndarray:
        """Antialiased share (H, W) of each pixel inside the shapes, or on their lines."""
        side = self.size * SUPERSAMPLING
        image = Image.new("L", (side, side))
        draw = ImageDraw.Draw(image)
        for shape in shapes:
            corners = ((shape @ self.rotation.T + 1) * (side / 2)).ravel().tolist()
            if line:
                draw.line(corners, 255, max(1, round(line * side / 2)), joint="curve")
            else:
                draw.polygon(corners, 255)
        image = image.reduce(SUPERSAMPLING)
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * self.size / 2))
        return np.asarray(image, np.float32) / 255

    def spot(self, x: float, y: float, width: float, height: float) -> np.ndarray:
        """Soft round spot (H, W) on the front of the head, 1 in its middle."""
        (x, y), = self.surface(np.array([[x, y]]))
        return np.exp(-(((self.x - x) / width) ** 2) - ((self.y - y) / height) ** 2)

    def paint(self, cover: np.ndarray, colour: np.ndarray, hair: bool = False) -> None:
        """Lay a colour, (3,) or (H, W, 3), over the picture where `cover` (H, W) says."""
        self.pixels += cover[..., None] * (np.asarray(colour, np.float32) - self.pixels)
        self.hair += cover * (hair - self.hair)

    def outline(self, cover: np.ndarray, strength: float = 0.8) -> np.ndarray:
        """Line (H, W) along the rim of a cover: where a slightly blurred cover is half."""
        image = Image.fromarray(np.uint8(cover * 255))
        soft = np.asarray(image.filter(ImageFilter.BoxBlur(0.012 * self.size)), np.float32) / 255
        return strength * np.clip(5 * soft * (1 - soft) - 0.25, 0, 1)


def _face_shape(canvas: Canvas) -> np.ndarray:
    """Outline of the face from forehead to chin; the chin follows the turn."""
    if canvas.anime:
        half = (0, -0.72), (0.6, -0.64), (0.95, -0.32), (1, 0.05), (0.9, 0.34), (0.52, 0.6)
        half += (0.13, 0.745), (0, 0.76)
    else:
        half = (0, -0.72), (0.6, -0.62), (0.93, -0.32), (0.97, 0.02), (0.9, 0.36), (0.66, 0.63)
        half += (0.3, 0.79), (0, 0.81)
    points = _smooth(_mirrored(*half)) * (canvas.half_width, canvas.stretch)
    points[:, 0] += canvas.turn * (0.05 + 0.05 * np.clip(points[:, 1], 0, 1))
    return points


def _hair_shapes(canvas: Canvas, length: str, fringe: str) -> tuple[np.ndarray, np.ndarray]:
    """Outline of all hair, and the window in it through which face, neck and shoulders show."""
    sides = {
        "short": ((1.15, -0.16), (1.06, 0.14), (0.85, 0.3), (0, 0.34)),
        "medium": ((1.24, -0.12), (1.3, 0.28), (1.24, 0.58), (0.96, 0.76), (0, 0.6)),
        "long": ((1.25, -0.12), (1.33, 0.35), (1.38, 0.8), (1.45, 1.4), (0, 1.4)),
    }[length]
    outer = _smooth(_mirrored((0, -0.92), (0.6, -0.85), (1.02, -0.56), *sides), 12)
    edge = np.array(
        {
            "none": ((-0.86, -0.12), (-0.74, -0.36), (-0.38, -0.49), (0, -0.54),
                     (0.38, -0.49), (0.74, -0.36), (0.86, -0.12)),
            "straight": ((-0.9, 0.02), (-0.66, -0.2), (-0.33, -0.17), (0, -0.2),
                         (0.33, -0.17), (0.66, -0.2), (0.9, 0.02)),
            "side": ((-0.88, -0.14), (-0.72, -0.42), (-0.46, -0.58), (-0.1, -0.44),
                     (0.28, -0.28), (0.62, -0.14), (0.88, 0.06)),
        }[fringe]
    )
    flare = {
        "short": ((0.96, 0.02), (1.5, 0.2), (1.6, 1.5)),
        "medium": ((0.86, 0.3), (0.8, 0.6), (1.5, 0.98), (1.6, 1.5)),
        "long": ((0.86, 0.3), (0.78, 0.7), (0.82, 1.0), (0.84, 1.5)),
    }[length]
    if canvas.anime:
        turns = np.arctan2(outer[:, 0], 0.1 - outer[:, 1]) / np.pi  # 0 top .. +-1 bottom
        teeth = (turns * 8 + 0.4) % 1 if length == "short" else np.abs(turns) * 11 % 1
        depth = 0.15 if length == "short" else 0.22 * np.clip(np.abs(turns) - 0.55, 0, 1)
        outer = outer * (0.98 + depth * teeth)[:, None]
        gaps = (edge[1:] + edge[:-1]) / 2 - (0, 0.07)
        edge = np.insert(edge + (0, 0.11), range(1, len(edge)), gaps, axis=0)
    window = np.concatenate([edge, flare, [(-x, y) for x, y in reversed(flare)]])
    if not canvas.anime:
        window = _smooth(window, 3)
    outer, window = (points * (canvas.half_width, canvas.stretch) for points in (outer, window))
    outer[:, 0] -= 0.03 * canvas.turn
    window[:, 0] += canvas.turn * 0.09 * np.clip(1 - window[:, 1], 0, 1)
    return outer, window


def _paint_person(canvas: Canvas, factors: Factors, random: np.random.Generator) -> None:
    """Paint a lit, soft, slightly noisy face. `random` decides light, strands and sensor noise."""
    skin, hair, iris, wall = _colours(factors, 0)
    x, y, width = canvas.x, canvas.y, canvas.half_width
    side = random.uniform(-0.7, 0.7)
    outer, window = _hair_shapes(canvas, factors.hair_length, factors.fringe)
    face, surface = _face_shape(canvas), canvas.surface

    def lit(colour: np.ndarray, shade: np.ndarray) -> np.ndarray:
        return colour * shade[..., None] ** np.float32((0.85, 1.05, 1.2))  # shadows turn red

    canvas.paint(np.ones_like(x), wall * (1 - 0.16 * y + 0.12 * side * x)[..., None])
    for centre in random.uniform(-1, 1, (3, 2)):
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.2)
        canvas.paint(blob * 0.35, wall * random.uniform(0.75, 1.2))

    root = np.arctan2(x, y + 0.78) + 0.06 * np.sin(5 * y + 4 * side)
    strands = np.interp(root * 14, np.arange(-48, 49), random.normal(0, 1, 97))
    strands += 0.7 * np.interp(root * 30, np.arange(-96, 97), random.normal(0, 1, 193))
    strands *= np.clip(1.6 * np.hypot(x, y + 0.78), 0, 1)  # too fine for the pixels at the root
    dome = np.hypot(x / (1.25 * width), y)
    sheen = np.exp(-(((dome - 0.68) / 0.13) ** 2)) * np.clip(0.2 - 1.4 * y + 0.5 * side * x, 0, 1)
    shade = 0.96 + 0.09 * strands + 0.15 * side * x - 0.25 * np.clip(dome - 0.75, 0, 1)
    locks = np.clip(hair * shade[..., None] + (sheen * (34 + 9 * strands))[..., None], 0, 255)

    cover = canvas.cover(outer, blur=0.02)
    canvas.paint(cover, locks * 0.72, hair=True)
    neck = canvas.cover(_mirrored((0.25, 0.4), (0.27, 0.86), (0.5, 1.0), (0.5, 1.6)), blur=0.02)
    shadow = canvas.cover(face + (-0.08 * side, 0.14), blur=0.07)
    canvas.paint(neck, lit(skin, (0.88 + 0.2 * side * x) * (1 - 0.42 * shadow)))
    shirt = _smooth(_mirrored((0.26, 0.9), (0.62, 0.93), (0.98, 1.12), (1.1, 1.8)), 3)
    canvas.paint(canvas.cover(shirt, blur=0.015), wall * (0.55 + 0.1 * side * x)[..., None])

    ears = [_oval(s * width * 0.98 + 0.03 * canvas.turn, 0.08, 0.07, 0.15) for s in (-1, 1)]
    canvas.paint(canvas.cover(*ears, blur=0.015), lit(skin, 0.8 + 0.2 * side * x))
    across, down = (x - 0.07 * canvas.turn) / (1.12 * width), (y - 0.02) / 0.95
    facing = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
    shade = 0.56 + 0.5 * np.clip(0.62 * side * across - 0.3 * down + 0.82 * facing, 0, 1)
    shade *= 1.05 + 0.012 * random.normal(size=x.shape)
    for position, size, depth in (
        ((-0.25, -0.06), (0.17, 0.11), -0.13),  # eye sockets
        ((0.25, -0.06), (0.17, 0.11), -0.13),
        ((-0.09 * np.sign(side), 0.16), (0.06, 0.22), -0.12),  # shaded side of the nose
        ((0.02, 0.2), (0.05, 0.1), 0.1),
        ((0, 0.335), (0.1, 0.035), -0.2),
        ((0, 0.61), (0.15, 0.04), -0.12),  # under the lip
        ((0, -0.38), (0.3, 0.14), 0.06),
    ):
        shade += depth * canvas.spot(*position, *size)
    shape = canvas.cover(face, blur=0.012)
    hairline = canvas.cover(window + (0, 0.08), blur=0.05)
    canvas.paint(shape, lit(skin, np.clip(shade, 0.05, 1.3) * (0.72 + 0.28 * hairline)))
    for s in (-1, 1):
        canvas.paint(0.2 * canvas.spot(s * 0.3, 0.28, 0.14, 0.12), skin * (1, 0.62, 0.58))
        canvas.paint(0.5 * canvas.spot(s * 0.05, 0.33, 0.025, 0.02), skin * 0.3)

    lip = skin * 0.45 + np.float32((176, 66, 70)) * 0.42
    wide, rise = {"neutral": (0.17, 0), "smile": (0.24, 0.06), "open": (0.18, 0.01)}[factors.mouth]
    drop = {"neutral": 0.0, "smile": 0.035, "open": 0.11}[factors.mouth]
    upper = ((-wide, 0.5 - rise), (-0.05, 0.45), (0, 0.465), (0.05, 0.45), (wide, 0.5 - rise))
    lower = ((0.09, 0.56 + drop), (-0.09, 0.56 + drop))
    mouth = canvas.cover(surface(_smooth(np.array(upper + lower), 4)), blur=0.012)
    canvas.paint(mouth, lit(lip, shade + 0.1))
    middle = ((0, 0.5), (0.1, 0.515 + drop), (-0.1, 0.515 + drop))
    if drop:
        gap = np.array(((-wide * 0.8, 0.505 - rise), (0, 0.49), (wide * 0.8, 0.505 - rise)))
        gap = np.concatenate([gap, ((0.09, 0.51 + drop), (-0.09, 0.51 + drop))])
        gap = canvas.cover(surface(_smooth(gap, 4)), blur=0.006)
        canvas.paint(gap, np.float32((84, 30, 34)))
        teeth = gap * np.clip((0.54 - y / canvas.stretch) * 20, 0, 1)
        canvas.paint(teeth * 0.92, np.float32((232, 224, 216)))
    else:
        seam = np.array(((-wide, 0.505), (0, 0.51), (wide, 0.505)))
        canvas.paint(canvas.cover(surface(seam), line=0.025, blur=0.01) * 0.7, lip * 0.4)

    brow_colour = hair * 0.5 + np.float32((60, 46, 40)) * 0.4
    for s in (-1, 1):
        almond = np.array(((-0.15, 0.02), (-0.05, -0.062), (0.06, -0.06), (0.15, 0), (0, 0.055)))
        almond = _smooth(almond * (s, 1) + (s * 0.25, 0), 4)
        eye = canvas.cover(surface(almond), blur=0.008)
        canvas.paint(eye, np.float32((226, 218, 212)) * (0.86 + 0.1 * side * x)[..., None])
        for colour, size in ((iris, 0.07), (iris * 0.18, 0.034)):
            disc = canvas.cover(surface(_oval(s * 0.25, -0.01, size * 0.95, size)), blur=0.006)
            canvas.paint(disc * eye, colour)
        glint = surface(_oval(s * 0.25 + 0.025 * np.sign(side), -0.035, 0.022, 0.022))
        canvas.paint(canvas.cover(glint) * 0.9, np.float32((255, 255, 255)))
        lid = np.array(((-0.16, 0.02), (-0.06, -0.06), (0.06, -0.065), (0.17, -0.01)))
        lid = surface(lid * (s, 1) + (s * 0.25, 0))
        canvas.paint(canvas.cover(lid, line=0.03, blur=0.008) * 0.85, skin * 0.18)
        brow = np.array(((-0.15, -0.16), (0.02, -0.2), (0.17, -0.15), (0.02, -0.165)))
        brow = surface(_smooth(brow * (s, 1) + (s * 0.25, 0), 3))
        canvas.paint(canvas.cover(brow, line=0.03, blur=0.014) * 0.8, brow_colour)

    front = cover * (1 - canvas.cover(window, blur=0.025))
    canvas.paint(np.clip(front * (1.12 + 0.1 * strands) - 0.06, 0, 1), locks, hair=True)
    if factors.glasses:
        frames = [surface(_oval(s * 0.255, 0.005, 0.2, 0.155)) for s in (-1, 1)]
        canvas.paint(canvas.cover(*frames) * 0.12, np.float32((200, 220, 235)))
        frames = [np.concatenate([f, f[:2]]) for f in frames]
        frames.append(surface(np.array(((-0.07, -0.03), (0, -0.05), (0.07, -0.03)))))
        canvas.paint(canvas.cover(*frames, line=0.038, blur=0.006), np.float32((38, 32, 34)))
    canvas.pixels += random.normal(0, 2.2, canvas.pixels.shape)


def _paint_anime(canvas: Canvas, factors: Factors) -> None:
    """Paint flat colours with one shadow tone each, dark outlines and large shiny eyes."""
    skin, hair, iris, wall = _colours(factors, 1)
    outer, window = _hair_shapes(canvas, factors.hair_length, factors.fringe)
    face, surface, width = _face_shape(canvas), canvas.surface, canvas.half_width
    skin_shadow = skin * (0.86, 0.74, 0.76)
    hair_shadow = hair * (0.7, 0.68, 0.78)

    def inked(cover: np.ndarray, colour: np.ndarray, hair: bool = False) -> None:
        canvas.paint(cover, colour, hair)
        canvas.paint(canvas.outline(cover), INK, hair)

    canvas.paint(np.ones_like(canvas.x), wall)
    cover = canvas.cover(outer)
    inked(cover, hair_shadow, hair=True)
    neck = canvas.cover(_mirrored((0.17, 0.4), (0.18, 0.88), (0.4, 1.0), (0.4, 1.6)))
    inked(neck, skin)
    canvas.paint(neck * canvas.cover(face + (0, 0.1)), skin_shadow)
    shirt = _smooth(_mirrored((0.2, 0.93), (0.55, 0.95), (0.85, 1.12), (1.0, 1.8)), 3)
    inked(canvas.cover(shirt), wall * 0.55)
    ears = [_oval(s * width * 0.98 + 0.03 * canvas.turn, 0.16, 0.07, 0.13) for s in (-1, 1)]
    inked(canvas.cover(*ears), skin)
    shape = canvas.cover(face)
    inked(shape, skin)
    canvas.paint(shape * (1 - canvas.cover(window + (0, 0.075))), skin_shadow)
    for s in (-1, 1):
        canvas.paint(0.45 * canvas.spot(s * 0.35, 0.42, 0.1, 0.05), skin * (1, 0.62, 0.64))

    nose = surface(np.array(((0.02, 0.4), (-0.015, 0.435), (0.02, 0.44))))
    canvas.paint(canvas.cover(nose, line=0.025) * 0.6, skin * (0.6, 0.42, 0.42))
    lips = {
        "neutral": ((-0.07, 0.565), (0, 0.56), (0.07, 0.565)),
        "smile": ((-0.13, 0.535), (-0.06, 0.575), (0.06, 0.575), (0.13, 0.535)),
        "open": ((-0.12, 0.53), (0, 0.52), (0.12, 0.53), (0.06, 0.63), (-0.06, 0.63)),
    }[factors.mouth]
    if factors.mouth == "open":
        inked(canvas.cover(surface(_smooth(np.array(lips), 4))), np.float32((206, 78, 84)))
    else:
        canvas.paint(canvas.cover(surface(np.array(lips)), line=0.03), skin * (0.5, 0.3, 0.34))

    for s in (-1, 1):
        white = np.array(((-0.17, 0.02), (-0.1, -0.12), (0.08, -0.14), (0.18, -0.03), (0.15, 0.17),
                          (0.02, 0.235), (-0.12, 0.19)))
        white = canvas.cover(surface(_smooth(white * (s, 1) + (s * 0.28, 0.12), 4)))
        canvas.paint(white, np.float32((255, 255, 255)))
        disc = white * canvas.cover(surface(_oval(s * 0.275, 0.13, 0.125, 0.215)))
        depth = np.clip((canvas.y / canvas.stretch + 0.05) * 2.6, 0, 1)[..., None]
        canvas.paint(disc, iris * (0.4 + 0.75 * depth) + 36 * depth)
        pupil = canvas.cover(surface(_oval(s * 0.275, 0.11, 0.055, 0.095)))
        canvas.paint(disc * pupil * 0.85, iris * 0.2)
        glints = _oval(s * 0.275 - 0.05, 0.05, 0.055, 0.065), _oval(s * 0.275 + 0.055, 0.25, 0.032, 0.032)
        canvas.paint(canvas.cover(*map(surface, glints)), np.float32((255, 255, 255)))
        lash = np.array(((-0.18, 0.03), (-0.1, -0.11), (0.08, -0.13), (0.19, -0.03), (0.25, -0.05)))
        lash = surface(lash * (s, 1) + (s * 0.28, 0.105))
        canvas.paint(canvas.cover(lash, line=0.065), INK * 0.6)
        under = surface(np.array(((-0.08, 0.345), (0.03, 0.36), (0.12, 0.33))) * (s, 1) + (s * 0.28, 0))
        canvas.paint(canvas.cover(under, line=0.025) * 0.7, INK)
        brow = np.array(((-0.15, -0.2), (0.02, -0.25), (0.17, -0.2))) * (s, 1) + (s * 0.28, 0.1)
        canvas.paint(canvas.cover(surface(brow), line=0.03) * 0.9, hair_shadow * 0.7)

    front = cover * (1 - canvas.cover(window))
    canvas.paint(front, hair, hair=True)
    angle = np.linspace(-0.9, 0.9, 13)
    ring = np.stack([np.sin(angle) * width * 1.05, -np.cos(angle) * 0.72 - 0.02], axis=1)
    jagged = ring * np.where(np.arange(13) % 2, 0.8, 0.9)[:, None]
    band = np.concatenate([ring, jagged[::-1]])
    canvas.paint(front * canvas.cover(band) * 0.75, hair * 0.5 + np.float32((128, 128, 128)), hair=True)
    for gap in window[1:12:2]:
        strand = np.array((gap, gap * (0.75, 1) - (0, 0.16)))
        canvas.paint(front * canvas.cover(strand, line=0.025) * 0.7, hair_shadow * 0.8, hair=True)
    canvas.paint(canvas.outline(front), INK, hair=True)
    if factors.glasses:
        frames = [surface(_oval(s * 0.28, 0.14, 0.25, 0.225)) for s in (-1, 1)]
        frames = [np.concatenate([f, f[:2]]) for f in frames]
        frames.append(surface(np.array(((-0.04, 0.1), (0, 0.09), (0.04, 0.1)))))
        canvas.paint(canvas.cover(*frames, line=0.04), np.float32((52, 40, 60)))


def _colours(factors: Factors, column: int) -> list[np.ndarray]:
    """Skin, hair, iris and wall colours (3,) in one column of the palettes."""
    names = (factors.skin, SKIN), (factors.hair_colour, HAIR), (factors.eye_colour, EYES)
    names += ((factors.background, BACKGROUND),)
    return [np.float32(palette[name][column]) for name, palette in names]


def _render(factors: Factors, style: str, image_size: int, texture_seed: int) -> Canvas:
    """Paint one face; the canvas holds the picture and where its hair is."""
    canvas = Canvas(factors, style, image_size)
    if style == "anime":
        _paint_anime(canvas, factors)
    else:
        _paint_person(canvas, factors, np.random.default_rng(texture_seed))
    return canvas


def draw_face(
    factors: Factors, style: str, image_size: int = 64, texture_seed: int = 0
) -> Image.Image:
    """Draw one RGB face in a style, 'anime' or 'person'; equal inputs give equal bits."""
    pixels = _render(factors, style, image_size, texture_seed).pixels
    return Image.fromarray(np.uint8(np.clip(pixels + 0.5, 0, 255)))


def draw_mask(factors: Factors, style: str, image_size: int = 64) -> np.ndarray:
    """Hair pixels (H, W) bool of that drawing, without what covers them."""
    return _render(factors, style, image_size, 0).hair > 0.5


def draw_grid(factors: Sequence[Factors], image_size: int = 64, columns: int = 10) -> Image.Image:
    """Draw true pairs: a row of persons over a row of the same faces as anime, and so on."""
    rows = -(-len(factors) // columns) * 2
    grid = Image.new("RGB", (columns * image_size, rows * image_size), "white")
    for i, one in enumerate(factors):
        for row, style in enumerate(("person", "anime")):
            corner = i % columns * image_size, (i // columns * 2 + row) * image_size
            grid.paste(draw_face(one, style, image_size, texture_seed=i), corner)
    return grid


MARK = b"demo_faces"  # in every picture's header: only such files are ever overwritten
PNG_INFO = PngImagePlugin.PngInfo()
PNG_INFO.add_text("Software", MARK.decode())


def _remove_old(folders: Sequence[Path]) -> None:
    """Remove an earlier set; raises UserError, with nothing removed, at a file of someone else."""
    old = [path for folder in folders for path in sorted(folder.glob("[!.]*.png"))]
    for path in old:
        with open(path, "rb") as file:
            head = file.read(128)
        if head and MARK not in head:  # an interrupted write can leave an empty file
            raise UserError(f"{path}: is not a picture of the demo set; choose another folder")
    for path in old:
        path.unlink()


def make_demo(
    folder: Path, seed: int = 0, count: int = 2000, test_count: int = 200, image_size: int = 64
) -> None:
    """Write `anime/` and `person/` (count each, unpaired) and true pairs with factors in `test/`.

    A finished set with the same settings is left alone; `demo.json`, written last, tells. Raises
    UserError when the folder cannot be written or holds PNG files that this script did not draw.
    """
    folder = Path(folder)
    settings = dict(version=DRAWING_VERSION, seed=seed, count=count, test_count=test_count)
    settings["image_size"] = image_size
    finished = folder / "demo.json"
    # Which factors go where: the domains have generators of their own, the test styles share one.
    parts = {"anime": (("anime",), count), "person": (("person",), count)}
    parts["test"] = (STYLES, test_count)
    try:
        if finished.is_file() and finished.read_bytes() == json.dumps(settings).encode():
            return
        finished.unlink(missing_ok=True)
        _remove_old([folder / "anime", folder / "person", *(folder / "test" / s for s in STYLES)])
        with tqdm(total=2 * (count + test_count), desc=f"drawing {folder}", unit="face") as bar:
            for i, (part, (styles, total)) in enumerate(parts.items()):
                generator = torch.Generator().manual_seed(3 * seed + i)
                factors = [sample_factors(generator) for _ in range(total)]
                for style in styles:
                    place = folder / part / style if part == "test" else folder / part
                    place.mkdir(parents=True, exist_ok=True)
                    for n, one in enumerate(factors):
                        image = draw_face(one, style, image_size, texture_seed=3 * n + i)
                        image.save(place / f"{n:05d}.png", pnginfo=PNG_INFO)
                        bar.update()
        with atomic_write(folder / "test" / "factors.json") as file:
            file.write(json.dumps([asdict(one) for one in factors], indent=1).encode())
        with atomic_write(finished) as file:
            file.write(json.dumps(settings).encode())
    except OSError as error:
        raise UserError(
            f"{folder}: the demo set cannot be written ({error.strerror or error}); free some "
            "space or choose another folder"
        ) from error


def load_pairs(folder: Path) -> list[Factors]:
    """Read the factors of the held-out pairs, in the order of their file numbers."""
    path = Path(folder) / "test" / "factors.json"
    try:
        return [Factors(**one) for one in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: no readable factors of a demo set; draw it with "
                        f"`python demo_faces.py --output {folder}`") from error


def _oklab(colours: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) in 0..255 -> OKLab (..., 3), where distances are as the eye sees them.

    Source: Björn Ottosson, "A perceptual color space for image processing" (2020).
    """
    rgb = np.asarray(colours, np.float64) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
         (0.0883024619, 0.2817188376, 0.6299787005))
    )
    lab = np.array(
        ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
         (0.0259040371, 0.7827717662, -0.8086757660))
    )
    return np.cbrt(linear @ cones.T) @ lab.T


@lru_cache(maxsize=None)
def _reference_colours(style: str) -> np.ndarray:
    """Median hair colours (6, 3) in OKLab, as drawn: light and shadow move them off the palette."""
    medians = []
    for hair in HAIR_COLOURS:
        face = Factors(0, 0, 0, 0, "fair", hair, "medium", "side", "blue", "neutral", False, "sand")
        drawn = [np.asarray(draw_face(face, style, texture_seed=seed)) for seed in range(5)]
        medians.append(np.median(np.stack(drawn)[:, draw_mask(face, style)], axis=(0, 1)))
    return _oklab(np.array(medians))


def read_hair_colour(image: np.ndarray, factors: Factors, style: str) -> str:
    """Name the hair colour of an image (H, W, 3) uint8 from the pixels where `factors` have hair."""
    hair = np.median(image[draw_mask(factors, style, len(image))], axis=0)
    distances = np.linalg.norm(_reference_colours(style) - _oklab(hair), axis=1)
    return HAIR_COLOURS[int(distances.argmin())]


def hair_agreement(
    images: np.ndarray, factors: Sequence[Factors], style: str
) -> tuple[float, float]:
    """Share of images (N, H, W, 3) uint8 with the hair colour of their factors, and by chance.

    Chance is the same share after a fixed shuffle of the factors: both the hair regions and the
    colours looked for are then those of other faces.
    """
    if not len(images) == len(factors) > 0:
        raise ValueError(f"{len(images)} images do not go with {len(factors)} factors")
    order = torch.randperm(len(factors), generator=torch.Generator().manual_seed(0)).tolist()

    def share(people: Sequence[Factors]) -> float:
        pairs = zip(images, people, strict=True)
        return float(np.mean([read_hair_colour(i, f, style) == f.hair_colour for i, f in pairs]))

    return share(factors), share([factors[i] for i in order])


@one_line_errors
def main() -> None:
    """Draw the data set, or a preview of true pairs."""
    parser = argparse.ArgumentParser(description="Draw the demo faces.")
    parser.add_argument("--output", type=Path, default=Path("data/demo"), help="folder to fill")
    parser.add_argument("--count", type=int, default=2000, help="training images per domain")
    parser.add_argument("--test_count", type=int, default=200, help="held-out true pairs")
    parser.add_argument("--image_size", type=int, default=64, help="pixels per side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preview", type=Path, help="only write a grid of true pairs, a PNG file")
    options = parser.parse_args()
    if options.preview:
        generator = torch.Generator().manual_seed(options.seed)
        grid = draw_grid([sample_factors(generator) for _ in range(20)], options.image_size)
        with atomic_write(options.preview) as file:
            grid.save(file, "PNG")
    else:
        make_demo(options.output, options.seed, options.count, options.test_count,
                  options.image_size)


if __name__ == "__main__":
    main()
