"""What the gallery shows of a run: its grids, the figures of its log, its options.

Everything is read from save_image/<name>/ and test_image/ and given back as plain dicts and lists
that become JSON. Files that are missing, torn or broken are passed over, with a note that the page
shows. Names, options and logs are somebody's text: the pages never take them for markup.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from arguments import defaults_beside
from evaluation.metrics import COLLAPSE_DUPLICATES, COLLAPSE_SPREAD

DIRECTIONS = (("person", "anime"), ("anime", "person"))  # what goes in, what comes out
RUN_GRID = re.compile(r"(\d{4,9})_epoch_(anime|person)\.png")
TEST_GRID = re.compile(r"(\d{1,9})__(anime|person)_(real|test)\.png")
PADDING = 2  # pixels around each tile, as torchvision lays out what grids.save_grid writes
MOST_NESTED = 100  # dicts in a line of the log; usual are 8
TEST_COLUMNS = 8  # of the grids that test.py writes
# Found out on the machine that trained, or no choice at all: never shown as changed.
NO_CHOICE = ("name", "gpu_ids", "num_workers", "amp")

# Charts in the order of the page, with their titles; figures that are not listed come between.
FIRST = {
    "losses cycle": "cycle loss",
    "losses G": "adversarial loss of the generators",
    "losses D": "loss of the discriminators",
    "losses idt": "identity loss",
    "spread": "spread of outputs (1 = as real images)",
    "figures fd": "FD of outputs to real images",
    "figures swd": "SWD of outputs to real images",
    "figures top5": "outputs whose own input is found (share)",
    "figures near_duplicates": "near duplicates among outputs (share)",
    "figures cycle_l1": "error of reconstructions (L1)",
}
LAST = {
    "gammas": "weights gamma of the attention layers",
    "lr": "learning rate",
    "images_per_s": "images per second",
    "seconds": "seconds per epoch",
    "peak_memory_mb": "peak memory, MiB",
}
NOT_DRAWN = ("epoch", "step", "top5_chance", "near_duplicates_real")
# Heights worth a line: outputs are collapsed below the one or above the other.
MARKS = {"spread": COLLAPSE_SPREAD, "figures near_duplicates": COLLAPSE_DUPLICATES}
SIDES = ("A", "B", "G", "D", "anime", "person", "AtoB", "BtoA")  # lines that share a chart


# ------------------------------------------------------------------------------------- runs


def find_runs(root: Path) -> list[Path]:
    """Folders of `root` that hold a log or a grid, those changed last first."""
    folders = root.iterdir() if root.is_dir() else ()
    runs = [path for path in folders if path.is_dir() and not path.name.startswith(".")]
    return sorted(filter(last_change, runs), key=last_change, reverse=True)


def last_change(folder: Path) -> float:
    """When a log or a grid was last written in `folder`, seconds since 1970; 0 without any."""
    times = [
        path.lstat().st_mtime
        for path in folder.iterdir()
        if path.name == "log.jsonl" or RUN_GRID.fullmatch(path.name)
    ]
    return max(times, default=0.0)


def read_run(folder: Path) -> dict:
    """All that the pages show of the run in `folder`.

    "name"; "folder", the way from the page to its pictures; "sections": see _section; "epochs":
    those logged, ascending; "charts": see read_charts; "options": [name, value, default, changed]
    each, the changed ones first; "planned": epochs in all, 0 if unknown; "notes": what could not
    be read.
    """
    notes: list[str] = []
    records = _read_log(folder / "log.jsonl", notes)
    options = _read_options(folder / "options.json", notes)
    planned = [options.get(key) for key in ("niter", "niter_decay")]
    whole = all(isinstance(epochs, int) for epochs in planned)
    return {
        "name": folder.name,
        "folder": "",
        "sections": _run_sections(folder, notes),
        "epochs": [record["epoch"] for record in records],
        "charts": read_charts(records),
        "options": _against_defaults(options),
        "planned": sum(planned) if whole else 0,
        "notes": notes,
    }


def _read_log(path: Path, notes: list[str]) -> list[dict]:
    """Records of log.jsonl by epoch; of two with the same epoch the later."""
    if not path.is_file():
        notes.append("There is no log.jsonl, so there are no curves.")
        return []
    records, torn = {}, 0
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        notes.append(f"log.jsonl cannot be read ({error.strerror}), so there are no curves.")
        return []
    for line in lines:
        try:
            record = json.loads(line)
            if line.count("{") > MOST_NESTED:
                raise ValueError("nested too deep")
            if type(record["epoch"]) is not int or not 0 < record["epoch"] < 10**9:
                raise ValueError("no epoch")
            records[record["epoch"]] = record
        except (ValueError, TypeError, KeyError, RecursionError):
            torn += bool(line.strip())
    if torn:
        notes.append(f"{torn} unreadable line(s) of log.jsonl passed over.")
    return [records[epoch] for epoch in sorted(records)]


def _read_options(path: Path, notes: list[str]) -> dict:
    if not path.is_file():
        notes.append("There is no options.json, so the run's options are unknown.")
        return {}
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(options, dict):
            raise ValueError("no dict")
    except (OSError, ValueError, RecursionError):
        notes.append("options.json is broken, so the run's options are unknown.")
        return {}
    return options


def _against_defaults(options: dict) -> list[list]:
    """Options as [name, value, default, changed], the changed ones first, then by name."""
    defaults = defaults_beside(options)
    rows = []
    for name, value in options.items():
        changed = name not in NO_CHOICE and (name not in defaults or value != defaults[name])
        rows.append([name, str(value), str(defaults.get(name, "")), changed])
    return sorted(rows, key=lambda row: (not row[3], row[0]))


# ------------------------------------------------------------------------------------ curves


def read_charts(records: list[dict]) -> list[dict]:
    """Charts of every number in the log, however deep it is nested.

    Returns dicts: "title"; "mark", a height worth a line of its own, or None; "lines", each with a
    "label" and "values", one for each record, None where the log has no finite number. Figures of
    the two domains, directions or nets share a chart: losses D_A and D_B, lr_G and lr_D, or
    figures.anime.swd and figures.person.swd.
    """
    charts: dict[str, dict[str, list]] = {}
    for index, record in enumerate(records):
        for path, value in _numbers(record):
            if path[-1] not in NOT_DRAWN:
                chart, label = _place(path)
                values = charts.setdefault(chart, {}).setdefault(label, [None] * len(records))
                values[index] = value
    titles = FIRST | {key: key for key in charts if key not in FIRST and key not in LAST} | LAST
    return [
        {
            "title": title,
            "mark": MARKS.get(key),
            "lines": [
                {"label": label, "values": charts[key][label]} for label in sorted(charts[key])
            ],
        }
        for key, title in titles.items()
        if key in charts
    ]


def _numbers(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) < 1e300:  # neither NaN nor infinite, nor an int that is no float
            yield path, float(f"{value:.5g}")


def _place(path: tuple[str, ...]) -> tuple[str, str]:
    """The chart that a figure belongs to, and its label there."""
    *outer, leaf = path
    stem, _, side = leaf.rpartition("_")
    if stem and side in SIDES:  # losses.D_A, lr_G
        return " ".join([*outer, stem]), leaf
    sides = [part for part in path if part in SIDES]
    if sides:  # spread.anime, figures.person.swd
        return " ".join(part for part in path if part not in SIDES) or leaf, " ".join(sides)
    if outer == ["gammas"]:
        return "gammas", leaf
    return " ".join(path), leaf


# ------------------------------------------------------------------------------------- grids


def _section(real: str, shown: str, frames: list[dict]) -> dict:
    """One direction: "real" and "shown" domain, and "frames", what the slider steps through.

    A frame is "at" (epoch, or number of a grid), "count" faces of "size" pixels, in grids of
    "columns" tiles with "padding" around them, and for each row ("real", "fake", ...) the file and
    the number of its first tile there, or None: face i of the row is tile first + i.
    """
    return {"real": real, "shown": shown, "frames": sorted(frames, key=lambda f: f["at"])}


def _run_sections(folder: Path, notes: list[str]) -> list[dict]:
    frames: dict[str, list[dict]] = {"anime": [], "person": []}
    broken = 0
    for path in folder.iterdir():
        match = RUN_GRID.fullmatch(path.name)
        if match:
            layout = sample_layout(*_size(path))
            if layout is None:
                broken += 1
                continue
            columns, height, size = layout
            tiles = [[path.name, row * columns] for row in range(height)]
            shown, other = match[2], "person" if match[2] == "anime" else "anime"
            frame = {
                "at": int(match[1]),
                "count": columns,
                "columns": columns,
                "size": size,
                "padding": PADDING,
            }
            if height == 3:
                frames[shown].append({**frame, "rows": tiles})
            else:  # of a DTN: below its translations what it makes of real images of their domain
                frames[shown].append({**frame, "rows": [*tiles[:2], None]})
                frames[other].append({**frame, "rows": [tiles[2], None, tiles[3]]})
    if broken:
        notes.append(f"{broken} grid(s) passed over: not pictures that train.py wrote.")
    return [_section(real, shown, frames[shown]) for real, shown in DIRECTIONS]


def read_test_grids(folder: Path) -> dict:
    """The grids of test.py in `folder`, as a run of which a frame is a pair of grids."""
    notes: list[str] = []
    sides: dict[tuple[str, str], set[int]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = TEST_GRID.fullmatch(path.name)
        if match:
            sides.setdefault((match[2], match[3]), set()).add(int(match[1]))
    sections = []
    for real, shown in DIRECTIONS:
        reals, tests = sides.get((real, "real"), set()), sides.get((shown, "test"), set())
        frames = []
        for number in reals & tests:
            files = [f"{number}__{real}_real.png", f"{number}__{shown}_test.png"]
            layout, other = (pair_layout(*_size(folder / file)) for file in files)
            if layout and layout == other:
                columns, rows, size, padding = layout
                count = columns * rows
                if rows > 1:
                    count -= _empty_tiles(folder / files[0], columns, rows, size + padding)
                frames.append(
                    {
                        "at": number,
                        "count": count,
                        "columns": columns,
                        "size": size,
                        "padding": padding,
                        "rows": [[f, 0] for f in files],
                    }
                )
        passed = len(reals | tests) - len(frames)
        if passed:
            notes.append(
                f"{real} to {shown}: {passed} grid(s) passed over, without a partner or "
                "not as test.py writes them."
            )
        sections.append(_section(real, shown, frames))
    return {
        "name": folder.name,
        "folder": "",
        "sections": sections,
        "planned": 0,
        "notes": notes,
        "epochs": [],
        "charts": [],
        "options": [],
    }


def _size(path: Path) -> tuple[int, int]:
    """Width and height from a picture's header; (0, 0) for what is none."""
    if not path.is_file():  # opening a named pipe would wait for ever
        return 0, 0
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.size
    except Exception:  # hostile files: struct.error, MemoryError and others
        return 0, 0


def sample_layout(width: int, height: int) -> tuple[int, int, int] | None:
    """Columns, rows and tile size of a grid of three rows, or four; None if it cannot be one.

    Only sizes that are multiples of 4 are possible, which no grid of four rows has as one of three.
    """
    for rows in (3, 4):
        unit, rest = divmod(height - PADDING, rows)
        if rest or unit <= PADDING or width <= PADDING or (width - PADDING) % unit:
            continue
        if (unit - PADDING) % 4 == 0:
            return (width - PADDING) // unit, rows, unit - PADDING
    return None


def pair_layout(width: int, height: int) -> tuple[int, int, int, int] | None:
    """Columns, rows, tile size and padding of a grid of test.py; None if it cannot be one.

    Only sizes that are multiples of 4 are possible (networks.image_size_problem), which tells
    two rows of eight small tiles from one row of four large ones.
    """
    if width == height and width % 4 == 0 and width:
        return 1, 1, width, 0  # torchvision puts no padding around a single picture
    for columns in range(TEST_COLUMNS, 0, -1):
        unit, rest = divmod(width - PADDING, columns)
        if rest or unit <= PADDING or (unit - PADDING) % 4 or (height - PADDING) % unit:
            continue
        rows = (height - PADDING) // unit
        if columns == TEST_COLUMNS or rows == 1:
            return columns, rows, unit - PADDING, PADDING
    return None


def _empty_tiles(path: Path, columns: int, rows: int, unit: int) -> int:
    """How many tiles at the end of a grid are black, because there were no more pictures."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            pixels = image.convert("RGB")
    except Exception:
        return 0
    x, y = (columns - 1) * unit, (rows - 1) * unit
    empty = 0
    while empty < columns - 1:
        if pixels.crop((x, y, x + unit, y + unit)).getbbox():
            break
        x, empty = x - unit, empty + 1
    return empty
