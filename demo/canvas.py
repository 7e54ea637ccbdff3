"""A canvas that shapes are painted on, in the coordinates of a face."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.factors import Factors

SUPERSAMPLING = 4


def smooth(points: np.ndarray, steps: int = 4) -> np.ndarray:
    """Closed Catmull-Rom curve through points (P, 2) -> (P * steps, 2)."""
    before, after, beyond = (np.roll(points, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(steps) / steps)[:, None, None]
    bend = 2 * before - 5 * points + 4 * after - beyond
    curve = after - before + t * (bend + t * (3 * (points - after) + beyond - before))
    return (points + 0.5 * t * curve).transpose(1, 0, 2).reshape(-1, 2)


def mirrored(*numbers: float) -> np.ndarray:
    """Close a right half x, y, x, y, ... listed from top to bottom with its mirror image."""
    half = np.reshape(numbers, (-1, 2))
    return np.concatenate([half, half[::-1] * (-1, 1)])


def oval(x: float, y: float, width: float, height: float) -> np.ndarray:
    """Ellipse with these half axes -> (25, 2), the last point on the first."""
    angle = np.linspace(0, 2 * np.pi, 25)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


class Canvas:
    """One drawing under way: `pixels` (H, W, 3) in 0..255.

    `x` and `y` (H, W) are the pixels' coordinates in the frame of the tilted head, which is the
    frame of all shapes (P, 2).
    """

    def __init__(self, factors: Factors, style: str, size: int) -> None:
        self.size, self.turn, self.anime = size, factors.turn, style == "anime"
        self.half_width = (0.58 if self.anime else 0.55) * (1 + 0.07 * factors.head_width)
        self.stretch = 1 + 0.06 * factors.head_height
        angle = np.radians(factors.tilt)
        self.rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        axis = (np.arange(size) + 0.5) * (2 / size) - 1
        grid = np.stack(np.meshgrid(axis, axis), axis=-1) @ self.rotation
        self.x, self.y = grid[..., 0].astype(np.float32), grid[..., 1].astype(np.float32)
        self.pixels = np.zeros((size, size, 3), np.float32)

    def surface(self, points: np.ndarray) -> np.ndarray:
        """Move points (P, 2) on the front of the head with its turn, foreshortened."""
        radius = 1.2 * self.half_width
        angle = np.arcsin(np.clip(points[:, 0] / radius, -1, 1)) + 0.3 * self.turn
        return np.stack([radius * np.sin(angle), points[:, 1] * self.stretch], axis=1)

    def feature(self, *numbers: float, side: int = 1, at: float = 0) -> np.ndarray:
        """Points x, y, x, y, ... of the face, mirrored where `side` is -1, around x = side * at."""
        return self.surface((np.reshape(numbers, (-1, 2)) + (at, 0)) * (side, 1))

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
        ((x, y),) = self.feature(x, y)
        return np.exp(-(((self.x - x) / width) ** 2) - ((self.y - y) / height) ** 2)

    def rim(self, cover: np.ndarray) -> np.ndarray:
        """Line (H, W) along the edge of a cover: where the cover, slightly blurred, is half."""
        image = Image.fromarray(np.uint8(cover * 255))
        soft = np.asarray(image.filter(ImageFilter.BoxBlur(0.012 * self.size)), np.float32) / 255
        return 0.8 * np.clip(5 * soft * (1 - soft) - 0.25, 0, 1)

    def paint(self, cover: np.ndarray, colour: np.ndarray) -> None:
        """Lay a colour, (3,) or (H, W, 3), over the picture where `cover` (H, W) says."""
        self.pixels += cover[..., None] * (colour - self.pixels)
