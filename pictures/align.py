"""Faces turned, scaled and moved until their eyes are where all others have them.

A table says where the eyes are: a row per picture with its name and eye1_x, eye1_y, eye2_x, eye2_y
in pixels, eye1 on the left (what an anime face detector prints), or CelebA's own
list_landmarks_celeba or list_landmarks_align_celeba. A column `likelihood` is optional.

Aligned faces are easier to learn (Karras et al. 2020, StyleGAN2, have FFHQ aligned so), and a face
whose eyes a detector does not see well is better left out (DeVries et al. 2020, instance
selection). Which ones are, `Selection` says.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from common.errors import UserError
from pictures.celeba import stem

# Where eyes are to be, in parts of the side: anime faces here, and faces as CelebA's tight crops
# have them, on average.
ANIME_EYES = (19.5 / 64, 31 / 64), (44.5 / 64, 31 / 64)
PERSON_EYES = (22.2 / 64, 32.2 / 64), (41.3 / 64, 32.2 / 64)
COLUMNS = ("eye1_x", "eye1_y", "eye2_x", "eye2_y")
CELEBA_COLUMNS = ("lefteye_x", "lefteye_y", "righteye_x", "righteye_y")

Eyes = tuple[float, float, float, float]  # x and y of the left one in the picture, then the other
Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Selection:
    """Which faces are left out, and what is kept.

    likelihood  least likelihood of the detector, where the table has it
    tilt        degrees that the line of the eyes may be off the horizontal
    enlarged    how far a small face may be enlarged
    missing     share of the aligned picture that may lie outside of the source
    sharpness   least deviation of the Laplacian of grey values in [0, 1], of the aligned picture
    contrast    least deviation of those grey values
    """

    likelihood: float = 0.99
    tilt: float = 15.0
    enlarged: float = 1.47
    missing: float = 0.18
    sharpness: float = 0.125
    contrast: float = 0.12


# CelebA's photographs are upright and clear: nothing but what lies outside of them is left out.
PERSONS = Selection(likelihood=0, tilt=45, enlarged=4, missing=0.18, sharpness=0, contrast=0)


@dataclass(frozen=True)
class EyeTable:
    """Where the eyes of each picture are, and where they go.

    rows    eyes, and the likelihood of the face (1 in a table without), by the picture's name
            without folder and type; pictures whose row has no eyes are not among them
    target  the place of both eyes in the aligned picture, in parts of its side
    rule    which faces are left out
    """

    rows: dict[str, tuple[Eyes, float]]
    target: tuple[tuple[float, float], tuple[float, float]]
    rule: Selection

    def cut(self, name: str, image: Image.Image, size: int) -> tuple[np.ndarray | None, str]:
        """The aligned picture, uint8 (size, size, 3), or None and why it is left out.

        name: the picture's; image: RGB.
        """
        if stem(name) not in self.rows:
            return None, "no eyes in the table"
        eyes, likelihood = self.rows[stem(name)]
        if why := self._why_left_out(eyes, likelihood, size):
            return None, why
        aligned, missing = align(image, eyes, size, self.target)
        if why := why_unclear(aligned, missing, self.rule):
            return None, why
        return aligned, ""

    def _why_left_out(self, eyes: Eyes, likelihood: float, size: int) -> str | None:
        if likelihood < self.rule.likelihood:
            return f"doubtful: likelihood {likelihood:g}, less than {self.rule.likelihood:g}"
        if abs(tilt_of(eyes)) > self.rule.tilt:
            return f"tilted: by {abs(tilt_of(eyes)):.0f} degrees, more than {self.rule.tilt:g}"
        apart = math.hypot(eyes[2] - eyes[0], eyes[3] - eyes[1])
        wanted = (self.target[1][0] - self.target[0][0]) * size
        if wanted > self.rule.enlarged * apart:
            return f"small: its eyes are {apart:.0f} pixels apart, to be enlarged to {wanted:.0f}"
        return None


def read_eyes(where: str, text: str) -> EyeTable:
    """The table in a text, of any of the forms above. Raises UserError."""
    lines = text.removeprefix("\ufeff").splitlines()
    if lines and lines[0].strip().isdecimal():  # CelebA's: a number of rows, and spaces
        lines = lines[1:]
    if lines and "," not in lines[0]:
        lines = [",".join(line.split()) for line in lines]
        if lines[0].startswith("lefteye_x"):
            lines[0] = f"name,{lines[0]}"
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    header = rows[0] if rows else []
    columns = next((c for c in (COLUMNS, CELEBA_COLUMNS) if set(c) <= set(header)), None)
    if columns is None:
        raise UserError(
            f"--eyes {where}: no header with {', '.join(COLUMNS)}, and not CelebA's landmarks; "
            "name a table of eyes"
        )
    found: dict[str, tuple[Eyes, float]] = {}
    for number, cells in enumerate(rows[1:], 2):
        if not cells:
            continue
        row = dict(zip(header, cells, strict=False))
        try:
            numbers = [float(row[key]) for key in columns if row[key] != ""]
            likelihood = float(row.get("likelihood") or (0 if "likelihood" in header else 1))
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--eyes {where}: row {number} holds no numbers below {', '.join(columns)}; "
                "mend or remove it"
            ) from error
        if len(numbers) == 4 and all(map(math.isfinite, numbers)):
            x1, y1, x2, y2 = numbers
            found[stem(cells[0])] = (x1, y1, x2, y2), likelihood
    if columns == COLUMNS:
        return EyeTable(found, ANIME_EYES, Selection())
    return EyeTable(found, PERSON_EYES, PERSONS)


def align(
    image: Image.Image, eyes: Eyes, size: int, target: Sequence[tuple[float, float]] = ANIME_EYES
) -> tuple[np.ndarray, float]:
    """The picture with its eyes at `target`, uint8 (size, size, 3), and the share that it lacked.

    image: RGB; target: both at one height. What lies outside the picture repeats its edge. Raises
    ValueError where both eyes are in one place.
    """
    (left, top), (right, bottom) = ((x * size, y * size) for x, y in target)
    x1, y1, x2, y2 = eyes
    # As complex numbers: source = turn * aligned + move.
    scale = math.hypot(x2 - x1, y2 - y1) / (right - left)
    if not 0 < scale < math.inf:
        raise ValueError("both eyes are in one place")
    angle = math.radians(tilt_of(eyes))
    turn = complex(scale * math.cos(angle), scale * math.sin(angle))
    factor = max(1, int(scale))  # a large picture is made smaller first: no aliasing
    if factor > 1:
        image = image.reduce(factor)
        turn /= factor
    move = complex(
        x1 / factor - (turn.real * left - turn.imag * top),
        y1 / factor - (turn.imag * left + turn.real * top),
    )

    grid = np.arange(0.5, size, 3)
    places = turn * (grid[None, :] + 1j * grid[:, None]) + move
    inside = (places.real >= 0) & (places.real < image.width)
    inside &= (places.imag >= 0) & (places.imag < image.height)

    # Edges are repeated as far as the corners of the aligned picture reach, and no farther.
    corners = [turn * complex(x, y) + move for x in (0, size) for y in (0, size)]
    reach = max(
        -min(c.real for c in corners),
        -min(c.imag for c in corners),
        max(c.real for c in corners) - image.width,
        max(c.imag for c in corners) - image.height,
    )
    edge = min(max(size // 2, math.ceil(reach) + 4), 2 * max(image.size))
    padded = np.pad(np.asarray(image), ((edge, edge), (edge, edge), (0, 0)), mode="edge")
    data: Affine = (turn.real, -turn.imag, move.real + edge, turn.imag, turn.real, move.imag + edge)
    aligned = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC
    )
    return np.asarray(aligned), 1 - float(inside.mean())


def tilt_of(eyes: Eyes) -> float:
    """Degrees by which the right eye in the picture is lower than the left one."""
    x1, y1, x2, y2 = eyes
    return math.degrees(math.atan2(y2 - y1, x2 - x1))


def why_unclear(aligned: np.ndarray, missing: float, rule: Selection) -> str | None:
    """Why an aligned picture (H, W, 3) is left out, or None."""
    if missing > rule.missing:
        return f"cut off: {missing:.0%} of it would lie outside of the picture"
    grey = np.asarray(Image.fromarray(aligned).convert("L")).astype(np.float32) / 255
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    if (4 * middle - around).std() < rule.sharpness:
        return "blurred"
    if grey.std() < rule.contrast:
        return "washed out"
    return None
