"""A run's epochs as one animated picture: the same held-out faces, epoch after epoch."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from pictures.decode import UnreadableImage, open_image
from storage.files import atomic_write

FACES = 8  # of each grid, from the left
MILLISECONDS, LAST_MILLISECONDS = 800, 3000
CAPTION, GAP = 24, 16  # pixels above the faces, and between the two directions
QUALITY = 80


def animate(folder: Path, sections: list[dict], target: Path) -> int:
    """Write the sample grids of the run in `folder` as an animated WebP; returns its epochs.

    sections: see data.read_run. The directions stand side by side. Epochs without a grid
    of each are left out. Raises UserError if none is left, a grid is broken or of another size, or
    the file cannot be written.
    """
    sections = [section for section in sections if section["frames"]]
    frames = [{frame["at"]: frame for frame in section["frames"]} for section in sections]
    epochs = sorted(set.intersection(*map(set, frames))) if frames else []
    if not epochs:
        raise UserError(f"{folder}: no epoch has its grids there; name another run")
    pictures = []
    for epoch in epochs:
        sides: dict[Path, tuple[str, dict]] = {}  # by file: a DTN has one grid for both sections
        for section, by_epoch in zip(sections, frames, strict=True):
            file = folder / by_epoch[epoch]["rows"][0][0]
            words = f"{section['real']} to {section['shown']}, epoch {epoch}"
            sides.setdefault(file, (words, by_epoch[epoch]))
        pictures.append(picture_of(sides))
        if pictures[-1].size != pictures[0].size:
            raise UserError(
                f"{folder}: the grids of epoch {epoch} are of another size than those "
                f"of epoch {epochs[0]}; move one of them away"
            )
    times = [MILLISECONDS] * (len(epochs) - 1) + [LAST_MILLISECONDS]
    with atomic_write(target) as file:
        pictures[0].save(
            file,
            "WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=times,
            loop=0,
            quality=QUALITY,
            method=6,
        )
    return len(epochs)


def picture_of(sides: dict[Path, tuple[str, dict]]) -> Image.Image:
    """The grids of one epoch side by side, each below its words."""
    grids = []
    for path, (_, frame) in sides.items():
        width = min(FACES, frame["count"]) * (frame["size"] + frame["padding"]) + frame["padding"]
        try:
            with open_image(path) as grid:
                grids.append(grid.convert("RGB").crop((0, 0, width, grid.height)))
        except UnreadableImage as error:
            raise UserError(f"{path}: cannot be read ({error}); move it away") from error
    width = sum(grid.width for grid in grids) + GAP * (len(grids) - 1)
    picture = Image.new("RGB", (width, CAPTION + max(grid.height for grid in grids)), "white")
    pen, x = ImageDraw.Draw(picture), 0
    for grid, (words, _) in zip(grids, sides.values(), strict=True):
        pen.text((x + 2, 3), words, "black", ImageFont.load_default(15))
        picture.paste(grid, (x, CAPTION))
        x += grid.width + GAP
    return picture
