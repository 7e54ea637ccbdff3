"""No picture in the tree shows an image of the data sets: not whole, not as a tile of a grid.

Those who gave the images allow research, not publication; what a model makes of them may be shown.
A copy and a model's reconstruction differ in fine structure. Measured at 32x32, less the mean of
5x5 pixels, the correlation with the image is at least 0.956 in copies (of 2,400 images, as JPEG of
quality 75, WebP of 80, GIF of 64 colours, at half or three quarters of the size) and at most 0.914
in as many reconstructions by the pretrained model, which are its work and may be shown.
"""

import base64
import binascii
import io
import re
import subprocess
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from PIL import Image, ImageSequence, UnidentifiedImageError
from torch import Tensor

COPY = 0.935  # fine structure shared with an image from which on a tile is that image
PER_OCTAVE = 4  # widths of tiles that are tried, from 32 pixels on
SMALLEST = 32
GROUPS, NEAREST, DIMENSIONS = 256, 6, 32
URI = re.compile(rb"data:image/[\w.+-]+;base64,([\w+/=\s]+)")


# ---- pictures: files, members of archives, data URIs; every frame -------------------------------


def pictures(name, content):
    """(name, RGB image) of every picture in a file's bytes."""
    try:
        for number, frame in enumerate(ImageSequence.Iterator(Image.open(io.BytesIO(content)))):
            yield f"{name} frame {number}", frame.convert("RGB")
        return
    except UnidentifiedImageError:
        pass
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield from pictures(f"{name}/{member}", archive.read(member))
        return
    for number, found in enumerate(URI.finditer(content)):
        try:
            yield from pictures(f"{name} URI {number}", base64.b64decode(found[1]))
        except binascii.Error:
            continue  # a piece of code, such as that which writes such pages


def tracked():
    done = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.splitlines()]
    return [path for path in files if path.is_file()]


# ---- the images that must not be shown ----------------------------------------------------------


@dataclass
class Images:
    """Images by their looks at 8x8, in groups, so that a window is compared with few of them.

    names, pixels  of N images, uint8 (N, 64, 64, 3); those from N on are their mirror images
    looks          (2N, 192), mean 0, length 1
    filters        (32, 3, 8, 8): from looks to the `rows` (2N, 32) that are compared first
    """

    names: list[str]
    pixels: np.ndarray
    looks: Tensor
    filters: Tensor
    rows: Tensor
    centres: Tensor
    members: list[Tensor]

    def at(self, index, size):
        pixels = self.pixels[index % len(self.pixels)]
        pixels = pixels if index < len(self.pixels) else np.ascontiguousarray(pixels[:, ::-1])
        return reduced(Image.fromarray(pixels), size)


def index(names, pixels):
    looks = np.stack([np.asarray(Image.fromarray(x).reduce(8), np.float32) for x in pixels])
    looks = torch.from_numpy(np.concatenate([looks, looks[:, :, ::-1]])).flatten(1)
    looks = F.normalize(looks - looks.mean(1, keepdim=True))
    _, scale, axes = torch.linalg.svd(looks[:: 1 + len(looks) // 8000], full_matrices=False)
    filters = axes[:DIMENSIONS] * (scale[:DIMENSIONS, None] / scale[0]) ** -0.5
    rows = F.normalize(looks @ filters.T)
    centres = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:GROUPS]]
    for _ in range(6):  # k-means
        nearest = torch.cat([(x @ centres.T).argmax(1) for x in rows.split(8192)])
        centres = F.normalize(torch.zeros_like(centres).index_add_(0, nearest, rows))
    nearest = torch.cat([(x @ centres.T).argmax(1) for x in rows.split(8192)])
    members = [torch.nonzero(nearest == group).flatten() for group in range(len(centres))]
    filters = filters.reshape(DIMENSIONS, 8, 8, 3).permute(0, 3, 1, 2).contiguous()
    return Images(names, pixels, looks, filters, rows, centres, members)


@pytest.fixture(scope="module")
def private():
    shared = ROOT.parent / "shared"
    names, pixels = [], []
    for path in sorted(shared.glob("faces64/*.zip")):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with Image.open(archive.open(name)) as image:
                    pixels.append(np.asarray(image.convert("RGB")))
                names.append(f"{path.stem}/{name}")
    for path in sorted(shared.glob("original/*.webp")):
        with Image.open(path) as sheet:
            tiles = np.asarray(sheet.convert("RGB")).reshape(32, 64, 40, 64, 3)
        pixels += list(tiles.swapaxes(1, 2).reshape(-1, 64, 64, 3))
        names += [f"{path.stem} {number}" for number in range(32 * 40)]
    if not names:
        pytest.skip("the images are not here: ../shared/faces64, ../shared/original")
    return index(names, np.stack(pixels))


# ---- the search ---------------------------------------------------------------------------------


def reduced(image, size, box=None):
    """A part of an image as (size, size, 3) float; where it overlaps the edge, moved inside."""
    if box:
        x, y, width = box
        width = min(width, *image.size)
        x, y = (min(max(0, c), full - width) for c, full in zip((x, y), image.size, strict=True))
        box = (x, y, x + width, y + width)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box), np.float32)


def look(x):
    """What a window is moved by, of (16, 16, 3): the image less its mean."""
    return x - x.mean()


def structure(x):
    """What tells a copy, of (32, 32, 3): each pixel less the mean of the 5x5 around it."""
    sums = np.pad(x, ((3, 2), (3, 2), (0, 0)), mode="edge").cumsum(0).cumsum(1)
    return x - (sums[5:, 5:] - sums[:-5, 5:] - sums[5:, :-5] + sums[:-5, :-5]) / 25


# How a window is moved, in 64ths of its width, to look like an image; as little as it then must.
STEPS = (
    *((look, 2, 0.8), (look, 2, 0.82), (look, 2, 0.85), (look, 1, 0.9), (look, 1, 0.93)),
    *((look, 0.5, 0.95), (structure, 0.5, 0.5), (structure, 0.25, 0.7), (structure, 0.12, COPY)),
)


def likeness(image, box, part, wanted):
    x = part(reduced(image, len(wanted), box))
    return float((x * wanted).sum() / (np.linalg.norm(x) * np.linalg.norm(wanted) + 1e-6))


def windows(image, width, images):
    """Windows of one width that look most like an image, among their neighbours: (x, y), image."""
    size = [round(16 * side / width) for side in image.size]  # a window has 16 pixels, so steps are
    pixels = np.array(image.resize(size, Image.Resampling.BILINEAR))  # a sixteenth of its width
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    pairs = F.avg_pool2d(x, 2, 1)
    found = F.conv2d(pairs, images.filters, dilation=2)[0]
    height, columns = found.shape[1:]
    mean, square = (F.avg_pool2d(v.mean(1, keepdim=True), 16, 1) for v in (x, x**2))
    kept = torch.nonzero((square - mean**2).flatten() > 8**2).flatten()  # else it shows nothing
    rows = F.normalize(found.flatten(1).T[kept])
    groups = [(some @ images.centres.T).topk(NEAREST).indices for some in rows.split(8192)]
    group = torch.cat(groups or [torch.zeros(0, NEAREST, dtype=torch.int64)]).flatten()
    by_group = (group.argsort() // NEAREST).split(
        torch.bincount(group, minlength=len(images.members)).tolist()
    )
    best, who = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.int64)
    for members, asking in zip(images.members, by_group, strict=True):
        if not len(members):
            continue
        for some in asking.split(4096):
            likest, place = (rows[some] @ images.rows[members].T).max(1)
            better = likest > best[some]
            best[some[better]] = likest[better]
            who[some[better]] = members[place[better]]
    every = torch.zeros(height * columns).index_put((kept,), best).view(1, height, columns)
    of = torch.zeros(height * columns, dtype=torch.int64).index_put((kept,), who)
    peaks = (every == F.max_pool2d(every, 5, 1, 2)) & (every > 0.6)
    _, ys, xs = peaks.nonzero(as_tuple=True)
    of = of.view(height, columns)[ys, xs]
    looks = pairs[0].unfold(1, 15, 1).unfold(2, 15, 1)[:, ys, xs, ::2, ::2]  # (3, n, 8, 8)
    looks = looks.permute(1, 2, 3, 0).flatten(1)
    like = F.cosine_similarity(looks - looks.mean(1, keepdim=True), images.looks[of]) > 0.8
    for y, x, who in zip(ys[like].tolist(), xs[like].tolist(), of[like].tolist(), strict=True):
        yield (x * width / 16, y * width / 16), who


def climb(image, box, images, who):
    """Likeness of a window at its best place and width near by to an image, or 0 for little."""
    wanted = {look: look(images.at(who, 16)), structure: structure(images.at(who, 32))}
    likest = 0.0
    for part, step, needed in STEPS:
        d = step * box[2] / 64
        moves = [(0, 0, 0), (d, 0, 0), (-d, 0, 0), (0, d, 0), (0, -d, 0)]
        moves += [(-d, -d, 2 * d), (d, d, -2 * d)]
        tried = [tuple(a + b for a, b in zip(box, move, strict=True)) for move in moves]
        likest, box = max((likeness(image, b, part, wanted[part]), b) for b in tried)
        if likest < needed:
            return 0.0, box
    return likest, box


def shown(image, images):
    """Which of the images a picture shows: [(name, likeness, (x, y, width))]."""
    found = {}
    for octave in range(100):
        width = SMALLEST * 2 ** (octave / PER_OCTAVE)
        if round(16 * min(image.size) / width) < 16:
            break
        for (x, y), who in windows(image, width, images):
            likest, box = climb(image, (x, y, width), images, who)
            name = images.names[who % len(images.names)]
            if likest > found.get(name, (0,))[0]:
                found[name] = likest, tuple(map(round, box))
    return [(name, *rest) for name, rest in found.items()]


# ---- tests --------------------------------------------------------------------------------------


def test_no_picture_in_the_tree_shows_an_image_of_the_data_sets(private):
    seen = []
    for path in tracked():
        for name, image in pictures(str(path.relative_to(ROOT)), path.read_bytes()):
            seen += [f"{name}: {of} at {at}" for of, _, at in shown(image, private)]
    assert not seen, "\n".join(seen)


@pytest.fixture(scope="module")
def blots():
    """300 images with nothing in common, which need no data sets."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (300, 12, 12, 3), dtype=np.uint8)
    pixels = np.stack([np.asarray(Image.fromarray(x).resize((64, 64))) for x in coarse])
    return index([str(number) for number in range(300)], pixels)


def others(blots, width=64, columns=3):
    """A grid of blots that are none of these: the same mixed with each other, like translations."""
    grid = Image.new("RGB", (2 + columns * (width + 2), 2 + 2 * (width + 2)))
    for i in range(2 * columns):
        mixed = blots.pixels[i] * 0.75 + blots.pixels[i + 100] * 0.25
        tile = Image.fromarray(mixed.astype(np.uint8)).resize((width, width))
        grid.paste(tile, (2 + i % columns * (width + 2), 2 + i // columns * (width + 2)))
    return grid


def test_a_grid_of_other_images_shows_none(blots):
    assert shown(others(blots), blots) == []


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
@pytest.mark.parametrize(
    "width,place,mirror", [(64, (68, 2), False), (64, (31, 47), True), (110, (50, 70), False)]
)
def test_one_tile_in_a_grid_is_found(blots, kind, width, place, mirror):
    grid, tile = others(blots, width), Image.fromarray(blots.pixels[7]).resize((width, width))
    grid.paste(tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else tile, place)
    file = io.BytesIO()
    grid.save(file, kind, quality=75)
    ((name, _, (x, y, found)),) = shown(Image.open(file).convert("RGB"), blots)
    assert name == "7"
    assert (x, y) == pytest.approx(place, abs=2) and found == pytest.approx(width, abs=3)


def test_pictures_are_found_in_frames_archives_and_pages():
    still, moving, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    colours = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    colours[0].save(still, "PNG")
    colours[0].save(moving, "GIF", save_all=True, append_images=colours[1:])
    page = b'<img src="data:image/png;base64,' + base64.b64encode(still.getvalue()) + b'">'
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.gif", moving.getvalue())
        archive.writestr("b/page.html", page)
    found = [name for name, _ in pictures("c.zip", packed.getvalue())]
    assert len(found) == 4 and sum("a.gif" in name for name in found) == 3
    assert list(pictures("code.py", b'"data:image/png;base64," + text')) == []
