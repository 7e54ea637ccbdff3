"""Count by eye how many faces are whole, with real images among the tiles.

    python test.py --input data/person_test --direction BtoA --output out/ours
    python benchmarks/blind.py sheets --real data/anime_test --source ours=out/ours \\
        --source theirs=anime_test.webp --each 60 --output blind/anime --key blind/anime.json
    python benchmarks/blind.py score --key blind/anime.json rater1.txt rater2.txt

`sheets` draws as many images of each source at random, mixes them, and writes them enlarged onto
sheets of numbered tiles; which tile is whose stands in the key, which no rater sees. A source is a
folder, or one picture that is a sheet of 64x64 tiles without gaps; --clip clips those named.

Two raters, who know nothing of the sources and made none of the images, write a line per tile, its
number and a verdict: "17 whole", "18 eye", "19 broken" or "20 eye broken". An anime face is whole
if a fan would take it for drawn by a person, a person if one would take it for a photograph: two
eyes that belong together, no smudge, nothing torn; in doubt it is not. `eye` is a fault of an eye,
`broken` anything else that is torn or smeared.

`score` prints for each source and rater the share of whole tiles with its 95 % interval (Wilson
1927), that share over the real images', the faults, and how far two raters agree (Cohen 1960).
"""

import argparse
import json
import math
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import UserError, one_line_errors
from common.tensors import derived_generator
from pictures.decode import load_image
from pictures.folders import find_images_or_explain

TILE, SHOWN, MARGIN = 64, 192, 22  # pixels: of a tile, as shown, above it for its number
COLUMNS, ROWS = 6, 5
VERDICTS = {"whole", "eye", "broken"}


def main_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Count whole faces, real images among them.")
    commands = parser.add_subparsers(dest="command", required=True)
    sheets = commands.add_parser("sheets", help="write sheets of tiles and their key")
    sheets.add_argument("--real", required=True, metavar="PATH", help="real images of the domain")
    sheets.add_argument(
        "--source", action="append", default=[], metavar="NAME=PATH", help="outputs"
    )
    sheets.add_argument("--clip", nargs="*", default=[], metavar="NAME", help="clip these sources")
    sheets.add_argument("--each", type=int, default=60, help="tiles of each source (%(default)s)")
    sheets.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    sheets.add_argument("--output", type=Path, required=True, help="new folder for the sheets")
    sheets.add_argument("--key", type=Path, required=True, help="new JSON file, not below --output")
    score = commands.add_parser("score", help="count the raters' labels")
    score.add_argument("--key", type=Path, required=True)
    score.add_argument("labels", type=Path, nargs="+", help="a file per rater")
    return parser


def draw_tiles(path: Path, flag: str, count: int, generator: torch.Generator) -> list[np.ndarray]:
    """`count` images of a folder, or of a sheet of tiles, drawn at random: uint8 (64, 64, 3).

    Raises UserError if there are fewer.
    """
    if path.is_file():
        with Image.open(path) as image:
            sheet = np.asarray(image.convert("RGB"))
        down, across = sheet.shape[0] // TILE, sheet.shape[1] // TILE
        grid = sheet[: down * TILE, : across * TILE].reshape(down, TILE, across, TILE, 3)
        found = list(grid.transpose(0, 2, 1, 3, 4).reshape(-1, TILE, TILE, 3))
    else:
        found = [path / name for name in find_images_or_explain(path, flag)]
    if len(found) < count:
        raise UserError(f"{flag} {path}: {len(found)} images, fewer than --each {count}")
    chosen = [found[i] for i in torch.randperm(len(found), generator=generator)[:count].tolist()]
    return [x if isinstance(x, np.ndarray) else load_image(x, TILE) for x in chosen]


def clipped(tile: np.ndarray) -> np.ndarray:
    """A tile as anime_person_translation saved its own: contrast doubled, the rest cut off."""
    return (2 * tile.astype(int) - 128).clip(0, 255).astype(np.uint8)


def write_sheets(opt: argparse.Namespace) -> None:
    """Write sheet_01.png ... and the key: the names of the sources in the order of the tiles."""
    sources = {"real": Path(opt.real)}
    for text in opt.source:
        name, _, path = text.partition("=")
        if not name or not path or name in sources:
            raise UserError(f"--source {text}: give NAME=PATH, each name once, none of them real")
        sources[name] = Path(path)
    for name in opt.clip:
        if name not in sources:
            raise UserError(f"--clip {name}: no source of this name; there is {', '.join(sources)}")
    if opt.each < 1:
        raise UserError(f"--each {opt.each}: give at least 1")
    for path, flag in ((opt.output, "--output"), (opt.key, "--key")):
        if path.exists():
            raise UserError(f"{flag} {path}: exists; choose a new one")
    if opt.output.resolve() in opt.key.resolve().parents:
        raise UserError(f"--key {opt.key}: lies beside the sheets, where raters see it; move it")

    tiles, names = [], []
    for name, path in sources.items():
        flag = "--real" if name == "real" else f"--source {name}"
        found = draw_tiles(path, flag, opt.each, derived_generator(opt.seed, name))
        tiles += [clipped(tile) if name in opt.clip else tile for tile in found]
        names += [name] * len(found)
    order = torch.randperm(len(tiles), generator=derived_generator(opt.seed, "order")).tolist()

    opt.output.mkdir(parents=True)
    per_sheet = COLUMNS * ROWS
    for start in range(0, len(order), per_sheet):
        numbered = [(k + 1, tiles[order[k]]) for k in range(start, len(order))[:per_sheet]]
        draw_sheet(numbered).save(opt.output / f"sheet_{start // per_sheet + 1:02}.png")
    opt.key.parent.mkdir(parents=True, exist_ok=True)
    opt.key.write_text(json.dumps([names[i] for i in order]) + "\n")
    print(f"{opt.output}: {len(order)} tiles; key: {opt.key}")


def draw_sheet(numbered: list[tuple[int, np.ndarray]]) -> Image.Image:
    """Tiles (64, 64, 3) enlarged, each under its number."""
    rows = math.ceil(len(numbered) / COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SHOWN + 8), rows * (SHOWN + MARGIN + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for place, (number, tile) in enumerate(numbered):
        x, y = place % COLUMNS * (SHOWN + 8) + 4, place // COLUMNS * (SHOWN + MARGIN + 4)
        draw.text((x, y), str(number), "black", font)
        large = Image.fromarray(tile).resize((SHOWN, SHOWN), Image.Resampling.BICUBIC)
        sheet.paste(large, (x, y + MARGIN))
    return sheet


def read_labels(path: Path, count: int) -> list[set[str]]:
    """The verdicts of one rater, in the order of the tiles. Raises UserError if one is missing."""
    found: dict[int, set[str]] = {}
    for n, line in enumerate(read_text(path).splitlines(), 1):
        number, *words = line.replace(",", " ").split() or [""]
        if not number:
            continue
        verdict = set(words)
        good = number.isdecimal() and verdict and verdict <= VERDICTS
        if not good or ("whole" in verdict and len(verdict) > 1):
            raise UserError(f"{path}, line {n}: {line!r} is no number and whole, eye or broken")
        if not 1 <= int(number) <= count or int(number) in found:
            raise UserError(f"{path}, line {n}: tile {number} is there twice, or beyond {count}")
        found[int(number)] = verdict
    missing = [str(k) for k in range(1, count + 1) if k not in found]
    if missing:
        raise UserError(f"{path}: no verdict on tiles {', '.join(missing[:9])}; rate them all")
    return [found[k] for k in range(1, count + 1)]


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the path") from error


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `hits` in `n`. Source: Wilson 1927."""
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z * math.sqrt(hits * (n - hits) / n + z * z / 4) / (n + z * z)
    return max(0.0, middle - half), min(1.0, middle + half)


def kappa(first: list[bool], second: list[bool]) -> float:
    """Agreement beyond chance of two raters; 1 is full. Source: Cohen 1960."""
    n = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True)) / n
    yes = sum(first) / n, sum(second) / n
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return 1.0 if chance == 1 else (agreed - chance) / (1 - chance)


def score(key: list[str], raters: dict[str, list[set[str]]]) -> list[dict]:
    """A row per source and rater: n, whole, interval, of_real, eye, broken (shares of 1)."""
    rows = []
    for source in dict.fromkeys(["real", *sorted(key)]):
        for rater, verdicts in raters.items():
            share = {
                word: {
                    name: sum(word in v for v, k in zip(verdicts, key, strict=True) if k == name)
                    / key.count(name)
                    for name in ("real", source)
                }
                for word in sorted(VERDICTS)
            }
            n, whole = key.count(source), share["whole"]
            rows.append(
                {
                    "source": source,
                    "rater": rater,
                    "n": n,
                    "whole": whole[source],
                    "interval": wilson(round(whole[source] * n), n),
                    "of_real": whole[source] / whole["real"] if whole["real"] else None,
                    "eye": share["eye"][source],
                    "broken": share["broken"][source],
                }
            )
    return rows


def print_scores(opt: argparse.Namespace) -> None:
    key = json.loads(read_text(opt.key))
    raters = {path.stem: read_labels(path, len(key)) for path in opt.labels}
    print("| source | rater | N | whole (95 %) | of what real ones have | eye | broken |")
    print("| --- " * 7 + "|")
    for row in score(key, raters):
        low, high = row["interval"]
        of_real = "not defined" if row["of_real"] is None else f"{row['of_real']:.0%}"
        print(
            f"| {row['source']} | {row['rater']} | {row['n']} | {row['whole']:.0%} "
            f"({low:.0%} to {high:.0%}) | {of_real} | {row['eye']:.0%} | {row['broken']:.0%} |"
        )
    for one, other in combinations(raters, 2):
        first, second = ([v == {"whole"} for v in raters[name]] for name in (one, other))
        same = sum(a == b for a, b in zip(first, second, strict=True)) / len(key)
        print(f"{one} and {other} agree on {same:.0%}; kappa {kappa(first, second):.2f}")


@one_line_errors
def main() -> None:
    opt = main_parser().parse_args()
    (write_sheets if opt.command == "sheets" else print_scores)(opt)


if __name__ == "__main__":
    main()
