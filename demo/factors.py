"""The hidden factors of a drawn face: what both of its styles show."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

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
    "dark": ((120, 80, 60), (158, 108, 80)),
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
HAIR_LENGTHS = ("short", "medium", "long")
FRINGES = ("none", "straight", "side")
MOUTHS = ("neutral", "smile", "open")


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
    background: str
    glasses: bool


def sample_factors(generator: torch.Generator) -> Factors:
    """Draw independent factors, uniform but for the tilt (normal) and glasses (one in five)."""

    def choose(values: Iterable[str]) -> str:
        values = tuple(values)
        return values[int(torch.randint(len(values), (), generator=generator))]

    width, height, turn = (torch.rand(3, generator=generator) * 2 - 1).tolist()
    tilt = float(torch.randn((), generator=generator).clamp(-2, 2)) * 4
    return Factors(
        width,
        height,
        turn,
        tilt,
        skin=choose(SKIN),
        hair_colour=choose(HAIR),
        hair_length=choose(HAIR_LENGTHS),
        fringe=choose(FRINGES),
        eye_colour=choose(EYES),
        mouth=choose(MOUTHS),
        background=choose(BACKGROUND),
        glasses=bool(torch.rand((), generator=generator) < 0.2),
    )
