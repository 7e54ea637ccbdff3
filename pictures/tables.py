"""CSV tables of attributes: a row per image."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError


def read_table(path: Path) -> tuple[list[str], dict[str, list[float]]]:
    """All attributes of a CSV: their names, and values by file name (without folder and type).

    Attributes are the columns that hold 0, 1, -1 (read as 0) or nothing (NaN) alone. Raises
    UserError if the file is missing or has none.
    """
    rows = _rows(path)
    names = [
        name
        for name in rows[0]
        if name not in ("file", "split", "identity")
        and {row[name] for row in rows} <= {"0", "1", "-1", ""}
    ]
    if not names:
        raise UserError(f"--attributes {path}: no column holds 0 and 1 alone, beside 'file'")
    values = {"0": 0.0, "-1": 0.0, "1": 1.0, "": float("nan")}
    return names, {Path(row["file"]).stem: [values[row[n]] for n in names] for row in rows}


def read_column(path: Path, name: str) -> dict[str, str]:
    """What stands in a column, by file name without folder and type; empty without that column."""
    return {Path(row["file"]).stem: row[name] for row in _rows(path) if row.get(name)}


def _rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV with a column "file", at least one. Raises UserError."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restval=""))
        if not rows or "file" not in rows[0]:
            raise ValueError("no row below a header with 'file'")
        if any(None in row for row in rows):
            raise ValueError("a row has more cells than the header")
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"--attributes {path}: not a table with a header, a column 'file' and attributes as "
            f"0 or 1 ({error})"
        ) from error
    first: dict[str, dict[str, str]] = {}
    for row in rows:
        other = first.setdefault(Path(row["file"]).stem, row)
        if other | {"file": ""} != row | {"file": ""}:
            raise UserError(
                f"--attributes {path}: {other['file']} and {row['file']} have one name "
                "and differ; give each folder a table of its own"
            )
    return rows


def refuse_ambiguous(table: Mapping[str, object], *folders: tuple[list[str], Iterable]) -> None:
    """Raise UserError if one row of a table, by file name, would be that of different images.

    folders: the names of the images of each, and the images, as tensors or arrays of one type.
    """
    seen: dict[str, tuple[str, Any]] = {}
    for names, images in folders:
        for name, image in zip(names, images, strict=True):
            stem = Path(name).stem
            if stem in table:
                other, before = seen.setdefault(stem, (name, image))
                if not bool((before == image).all()):
                    raise UserError(
                        f"--attributes: one row, {stem}, for two images, {other} and "
                        f"{name}; name one table for each folder, that of training "
                        "first, and no two images of a folder alike"
                    )
