"""Draw one procedural face from hidden factors, as `person` (shaded, photograph-like) or as `anime`
(flat, outlined, large eyes). The same factors in both styles are a true pair.

Geometry is in picture units: x right and y down, both -1..1 over the picture. A drawing is painted
back to front with covers (H, W) in 0..1.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from demo.canvas import Canvas, mirrored, oval, smooth
from demo.factors import BACKGROUND, EYES, HAIR, SKIN, Factors

STYLES = ("anime", "person")


def rgb(*channels: float) -> np.ndarray:
    """A colour (3,) in 0..255, or a factor for each channel, in float32."""
    return np.array(channels, np.float32)


INK = rgb(52, 36, 48)


def _face_shape(canvas: Canvas) -> np.ndarray:
    """Outline of the face from forehead to chin; the chin follows the turn."""
    if canvas.anime:
        half = mirrored(0.6, -0.66, 0.95, -0.32, 1, 0.05, 0.9, 0.34, 0.52, 0.6, 0.11, 0.75)
    else:
        half = mirrored(0.6, -0.62, 0.93, -0.32, 0.97, 0.02, 0.9, 0.36, 0.66, 0.63, 0.28, 0.79)
    points = smooth(half) * (canvas.half_width, canvas.stretch)
    points[:, 0] += canvas.turn * (0.05 + 0.05 * np.clip(points[:, 1], 0, 1))
    return points


def _hair_shapes(canvas: Canvas, length: str, fringe: str) -> tuple[np.ndarray, np.ndarray]:
    """Outline of all hair, and the window in it through which face, neck and shoulders show."""
    sides, hem = {
        "short": ((1.15, -0.16, 1.06, 0.14, 0.85, 0.3, 0.3, 0.34), (0.96, 0.02, 1.5, 0.2)),
        "medium": ((1.24, -0.12, 1.3, 0.28, 1.24, 0.58, 0.96, 0.76), (0.86, 0.3, 0.8, 0.6, 1.5, 1)),
        "long": ((1.25, -0.12, 1.33, 0.35, 1.38, 0.8, 1.45, 1.4), (0.86, 0.3, 0.78, 0.7, 0.8, 1)),
    }[length]
    hairline = {  # from the left temple over the forehead to the right temple
        "none": (
            -0.86,
            -0.12,
            -0.74,
            -0.36,
            -0.38,
            -0.49,
            0,
            -0.54,
            0.38,
            -0.49,
            0.74,
            -0.36,
            0.86,
            -0.12,
        ),
        "straight": (
            -0.9,
            0.02,
            -0.66,
            -0.2,
            -0.33,
            -0.17,
            0,
            -0.2,
            0.33,
            -0.17,
            0.66,
            -0.2,
            0.9,
            0.02,
        ),
        "side": (
            -0.88,
            -0.14,
            -0.72,
            -0.42,
            -0.46,
            -0.58,
            -0.1,
            -0.44,
            0.28,
            -0.28,
            0.62,
            -0.14,
            0.88,
            0.06,
        ),
    }[fringe]
    outer = smooth(mirrored(0.2, -0.92, 0.66, -0.83, 1.02, -0.56, *sides), 12)
    edge: np.ndarray = np.reshape(hairline, (-1, 2))
    below = np.reshape((*hem, 1.6, 1.5), (-1, 2))
    if canvas.anime:  # spikes all around short hair, at the ends of longer hair, and in the fringe
        turns = np.arctan2(outer[:, 0], 0.1 - outer[:, 1]) / np.pi  # 0 top .. +-1 bottom
        teeth = (turns * 8 + 0.4) % 1 if length == "short" else np.abs(turns) * 11 % 1
        depth = 0.15 if length == "short" else 0.22 * np.clip(np.abs(turns) - 0.55, 0, 1)
        outer = outer * (0.98 + depth * teeth)[:, None]
        gaps = (edge[1:] + edge[:-1]) / 2 - (0, 0.07)
        edge = np.insert(edge + (0, 0.11), range(1, len(edge)), gaps, axis=0)
    window = np.concatenate([edge, below, below[::-1] * (-1, 1)])
    window = window if canvas.anime else smooth(window)
    outer, window = (points * (canvas.half_width, canvas.stretch) for points in (outer, window))
    outer[:, 0] -= 0.03 * canvas.turn
    window[:, 0] += canvas.turn * 0.09 * np.clip(1 - window[:, 1], 0, 1)
    return outer, window


def _paint_person(canvas: Canvas, factors: Factors, random: np.random.Generator) -> None:
    """Paint a lit, soft, slightly noisy face; `random` decides light, strands and sensor noise."""
    skin, hair, iris, wall = _colours(factors, 0)
    x, y, width, cover, paint = canvas.x, canvas.y, canvas.half_width, canvas.cover, canvas.paint
    outer, window = _hair_shapes(canvas, factors.hair_length, factors.fringe)
    face, feature = _face_shape(canvas), canvas.feature
    side = random.uniform(-0.7, 0.7)  # where the light comes from

    def lit(colour: np.ndarray, shade: np.ndarray) -> np.ndarray:
        return colour * shade[..., None] ** rgb(0.85, 1.05, 1.2)  # shadows turn red

    paint(np.ones_like(x), wall * (1 - 0.16 * y + 0.12 * side * x)[..., None])
    for u, v, bright in random.uniform((-1, -1, 0.75), (1, 1, 1.2), (3, 3)):
        paint(0.35 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 0.2), wall * bright)

    root = np.arctan2(x, y + 0.78) + 0.06 * np.sin(5 * y + 4 * side)
    strands = np.interp(root * 14, np.arange(-48, 49), random.normal(0, 1, 97))
    strands += np.interp(root * 30, np.arange(-96, 97), random.normal(0, 0.7, 193))
    strands *= np.clip(1.6 * np.hypot(x, y + 0.78), 0, 1)  # too fine for the pixels at the root
    dome = np.hypot(x / (1.25 * width), y)
    sheen = np.exp(-(((dome - 0.68) / 0.13) ** 2)) * np.clip(0.2 - 1.4 * y + 0.5 * side * x, 0, 1)
    shade = 0.96 + 0.09 * strands + 0.15 * side * x - 0.25 * np.clip(dome - 0.75, 0, 1)
    locks = np.clip(hair * shade[..., None] + (sheen * (34 + 9 * strands))[..., None], 0, 255)

    all_hair = cover(outer, blur=0.02)
    paint(all_hair, locks * 0.72)
    neck = mirrored(0.25, 0.4, 0.27, 0.86, 0.5, 1, 0.5, 1.6)
    shadow = 1 - 0.42 * cover(face + (-0.08 * side, 0.14), blur=0.07)
    paint(cover(neck, blur=0.02), lit(skin, (0.88 + 0.2 * side * x) * shadow))
    shirt = smooth(mirrored(0.26, 0.9, 0.62, 0.93, 0.98, 1.12, 1.1, 1.8))
    paint(cover(shirt, blur=0.015), wall * (0.55 + 0.1 * side * x)[..., None])
    ears = [oval(s * width * 0.98 + 0.03 * canvas.turn, 0.08, 0.07, 0.15) for s in (-1, 1)]
    paint(cover(*ears, blur=0.015), lit(skin, 0.8 + 0.2 * side * x))

    across, down = (x - 0.07 * canvas.turn) / (1.12 * width), (y - 0.02) / 0.95
    facing = np.sqrt(np.clip(1 - across**2 - down**2, 0, 1))
    shade = 0.56 + 0.5 * np.clip(0.62 * side * across - 0.3 * down + 0.82 * facing, 0, 1)
    shade *= random.normal(1.05, 0.012, x.shape)
    for depth, *spot in (
        (-0.13, -0.25, -0.06, 0.17, 0.11),
        (-0.13, 0.25, -0.06, 0.17, 0.11),  # eye sockets
        (-0.12, -0.09 * np.sign(side), 0.16, 0.06, 0.22),
        (0.1, 0.02, 0.2, 0.05, 0.1),  # nose
        (-0.2, 0, 0.335, 0.1, 0.035),
        (-0.12, 0, 0.61, 0.15, 0.04),  # under nose and lip
    ):
        shade += depth * canvas.spot(*spot)
    shade = np.clip(shade, 0.05, 1.3) * (0.72 + 0.28 * cover(window + (0, 0.08), blur=0.05))
    paint(cover(face, blur=0.012), lit(skin, shade))
    for s in (-1, 1):
        paint(0.2 * canvas.spot(s * 0.3, 0.28, 0.14, 0.12), skin * (1, 0.62, 0.58))
        paint(0.5 * canvas.spot(s * 0.05, 0.33, 0.025, 0.02), skin * 0.3)

    w, up, drop = {
        "neutral": (0.17, 0.5, 0),
        "smile": (0.24, 0.44, 0.035),
        "open": (0.18, 0.49, 0.11),
    }[factors.mouth]
    lip = skin * 0.45 + rgb(74, 28, 29)
    low = 0.09, 0.56 + drop, -0.09, 0.56 + drop
    lips = feature(-w, up, -0.05, 0.45, 0, 0.465, 0.05, 0.45, w, up, *low)
    paint(cover(smooth(lips), blur=0.012), lit(lip, shade + 0.1))
    seam = -0.8 * w, up + 0.005, 0, 0.495, 0.8 * w, up + 0.005
    if drop:
        gap = cover(smooth(feature(*seam, 0.09, 0.51 + drop, -0.09, 0.51 + drop)), blur=0.006)
        paint(gap, rgb(84, 30, 34))
        teeth = np.clip((0.54 - y / canvas.stretch) * 20, 0, 0.92)
        paint(gap * teeth, rgb(232, 224, 216))
    else:
        paint(cover(feature(*seam), line=0.025, blur=0.01) * 0.7, lip * 0.4)

    for s in (-1, 1):

        def eye(*numbers: float, s: int = s) -> np.ndarray:
            return feature(*numbers, side=s, at=0.25)

        ball = smooth(eye(-0.15, 0.02, -0.05, -0.062, 0.06, -0.06, 0.15, 0, 0, 0.055))
        ball = cover(ball, blur=0.008)
        paint(ball, rgb(226, 218, 212) * (0.86 + 0.1 * side * x)[..., None])
        for colour, size in ((iris, 0.07), (iris * 0.18, 0.034)):
            paint(ball * cover(eye(*oval(0, -0.01, size, size).ravel()), blur=0.006), colour)
        glint = oval(s * 0.25 + 0.025 * np.sign(side), -0.035, 0.022, 0.022)
        paint(cover(canvas.surface(glint)) * 0.9, rgb(255, 255, 255))
        lid = eye(-0.16, 0.02, -0.06, -0.06, 0.06, -0.065, 0.17, -0.01)
        paint(cover(lid, line=0.03, blur=0.008) * 0.85, skin * 0.18)
        brow = eye(-0.16, -0.155, -0.05, -0.18, 0.07, -0.185, 0.18, -0.14)
        paint(cover(brow, line=0.045, blur=0.014) * 0.8, hair * 0.5 + rgb(24, 18, 16))

    front = all_hair * (1 - cover(window, blur=0.025))
    paint(np.clip(front * (1.12 + 0.1 * strands) - 0.06, 0, 1), locks)
    if factors.glasses:
        frames = [canvas.surface(oval(s * 0.255, 0.005, 0.2, 0.155)) for s in (-1, 1)]
        paint(cover(*frames) * 0.12, rgb(200, 220, 235))
        frames.append(feature(-0.07, -0.03, 0, -0.05, 0.07, -0.03))
        paint(cover(*frames, line=0.038, blur=0.006), rgb(38, 32, 34))
    canvas.pixels += random.normal(0, 2.2, canvas.pixels.shape)


def _paint_anime(canvas: Canvas, factors: Factors) -> None:
    """Paint flat colours with one shadow tone each, dark outlines and large shiny eyes."""
    skin, hair, iris, wall = _colours(factors, 1)
    outer, window = _hair_shapes(canvas, factors.hair_length, factors.fringe)
    face, feature, cover, paint = _face_shape(canvas), canvas.feature, canvas.cover, canvas.paint
    skin_shadow, hair_shadow = skin * (0.86, 0.74, 0.76), hair * (0.7, 0.68, 0.78)
    white = rgb(255, 255, 255)

    def inked(cover: np.ndarray, colour: np.ndarray) -> None:
        paint(cover, colour)
        paint(canvas.rim(cover), INK)

    paint(np.ones_like(canvas.x), wall)
    all_hair, forehead = cover(outer), cover(face)
    inked(all_hair, hair_shadow)
    neck = cover(mirrored(0.17, 0.4, 0.18, 0.88, 0.4, 1, 0.4, 1.6))
    inked(neck, skin)
    paint(neck * cover(face + (0, 0.1)), skin_shadow)
    inked(cover(smooth(mirrored(0.2, 0.93, 0.55, 0.95, 0.85, 1.12, 1, 1.8))), wall * 0.55)
    ear = canvas.half_width * 0.98
    inked(cover(*(oval(s * ear + 0.03 * canvas.turn, 0.16, 0.07, 0.13) for s in (-1, 1))), skin)
    inked(forehead, skin)
    paint(forehead * (1 - cover(window + (0, 0.075))), skin_shadow)
    paint(cover(feature(0.02, 0.4, -0.015, 0.435, 0.02, 0.44), line=0.025) * 0.6, skin * 0.5)
    if factors.mouth == "open":
        lips = smooth(feature(-0.12, 0.53, 0, 0.52, 0.12, 0.53, 0.06, 0.63, -0.06, 0.63))
        inked(cover(lips), rgb(206, 78, 84))
    else:
        w, up = {"neutral": (0.07, 0.565), "smile": (0.14, 0.53)}[factors.mouth]
        lips = feature(-w, up, -0.45 * w, 0.575, 0.45 * w, 0.575, w, up)
        paint(cover(lips, line=0.03), skin * (0.5, 0.3, 0.34))

    shine = np.clip((canvas.y / canvas.stretch + 0.05) * 2.6, 0, 1)[..., None]
    for s in (-1, 1):

        def eye(*numbers: float, s: int = s) -> np.ndarray:
            return feature(*numbers, side=s, at=0.28)

        paint(0.45 * canvas.spot(s * 0.35, 0.42, 0.1, 0.05), skin * (1, 0.62, 0.64))
        ball = cover(
            smooth(
                eye(
                    -0.17,
                    0.14,
                    -0.1,
                    0,
                    0.08,
                    -0.02,
                    0.18,
                    0.09,
                    0.15,
                    0.29,
                    0.02,
                    0.355,
                    -0.12,
                    0.31,
                )
            )
        )
        paint(ball, white)
        paint(
            ball * cover(eye(*oval(0, 0.13, 0.125, 0.215).ravel())),
            iris * (0.4 + 0.75 * shine) + 36 * shine,
        )
        paint(ball * cover(eye(*oval(0, 0.11, 0.055, 0.095).ravel())) * 0.85, iris * 0.2)
        for at, *glint in ((-0.05, 0.05, 0.055, 0.065), (0.055, 0.25, 0.03, 0.03)):
            paint(cover(canvas.surface(oval(s * 0.28 + at, *glint))), white)
        lash = eye(-0.18, 0.135, -0.1, -0.005, 0.08, -0.025, 0.19, 0.075, 0.25, 0.055)
        paint(cover(lash, line=0.065), INK * 0.6)
        paint(cover(eye(-0.08, 0.345, 0.03, 0.36, 0.12, 0.33), line=0.025) * 0.7, INK)
        brow = eye(-0.15, -0.1, 0.02, -0.15, 0.17, -0.1)
        paint(cover(brow, line=0.03) * 0.9, hair_shadow * 0.7)

    front = all_hair * (1 - cover(window))
    paint(front, hair)
    angle = np.linspace(-0.9, 0.9, 13)
    ring = np.stack([np.sin(angle) * ear * 1.07, -np.cos(angle) * 0.72 - 0.02], axis=1)
    jagged = ring * np.where(np.arange(13) % 2, 0.8, 0.9)[:, None]
    band = cover(np.concatenate([ring, jagged[::-1]]))
    paint(front * band * 0.75, (hair + 255) / 2)
    partings = [np.array((gap, gap * (0.75, 1) - (0, 0.16))) for gap in window[1:12:2]]
    paint(front * cover(*partings, line=0.025) * 0.7, hair_shadow * 0.8)
    paint(canvas.rim(front), INK)
    if factors.glasses:
        frames = [canvas.surface(oval(s * 0.28, 0.14, 0.25, 0.225)) for s in (-1, 1)]
        frames.append(feature(-0.04, 0.1, 0, 0.09, 0.04, 0.1))
        paint(cover(*frames, line=0.04), INK)


def _colours(factors: Factors, column: int) -> list[np.ndarray]:
    """Skin, hair, iris and wall colours (3,) in one column of the palettes."""
    palettes = (
        (SKIN, factors.skin),
        (HAIR, factors.hair_colour),
        (EYES, factors.eye_colour),
        (BACKGROUND, factors.background),
    )
    return [rgb(*palette[name][column]) for palette, name in palettes]


def _render(factors: Factors, style: str, image_size: int, texture_seed: int) -> Canvas:
    """Paint one face."""
    if style not in STYLES:
        raise ValueError(f"style {style!r}: must be one of {STYLES}")
    canvas = Canvas(factors, style, image_size)
    if canvas.anime:
        _paint_anime(canvas, factors)
    else:
        _paint_person(canvas, factors, np.random.default_rng(texture_seed))
    return canvas


def draw_face(
    factors: Factors, style: str, image_size: int = 64, texture_seed: int = 0
) -> Image.Image:
    """Draw one RGB face in a style, 'anime' or 'person'; equal inputs give equal bits.

    The texture seed moves what is no factor: a person's light, strands and noise.
    """
    pixels = _render(factors, style, image_size, texture_seed).pixels
    return Image.fromarray(np.uint8(np.clip(pixels + 0.5, 0, 255)))


def draw_pairs(factors: Sequence[Factors], image_size: int = 64, columns: int = 10) -> Image.Image:
    """Draw true pairs as a grid: a row of persons over a row of the same as anime, and so on."""
    rows = -(-len(factors) // columns) * 2
    grid = Image.new("RGB", (columns * image_size, rows * image_size), "white")
    for i, one in enumerate(factors):
        for row, style in enumerate(("person", "anime")):
            corner = i % columns * image_size, (i // columns * 2 + row) * image_size
            grid.paste(draw_face(one, style, image_size, texture_seed=i), corner)
    return grid
