"""CelebA's tables: what a picture is for (training, validation, testing), 40 attributes, who it is.

Both the text files of the official download and the CSV files of its Kaggle edition are read.

    list_eval_partition.txt    000001.jpg 0                          0 train, 1 valid, 2 test
    list_eval_partition.csv    image_id,partition / 000001.jpg,0
    list_attr_celeba.txt       202599 / 5_o_Clock_Shadow ... / 000001.jpg -1 1 ...
    list_attr_celeba.csv       image_id,5_o_Clock_Shadow,... / 000001.jpg,-1,1,...
    identity_CelebA.txt        000001.jpg 2880                       a number for each person
"""

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath

from common.errors import UserError

PARTITION_TABLES = ("list_eval_partition.txt", "list_eval_partition.csv")
ATTRIBUTE_TABLES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
IDENTITY_TABLES = ("identity_CelebA.txt",)
PARTITIONS = ("train", "valid", "test")


@dataclass(frozen=True)
class Table:
    """Numbers by picture.

    where    the file, for messages
    columns  their names
    rows     a number per column, by the picture's name without folder and type
    """

    where: str
    columns: list[str]
    rows: dict[str, tuple[int, ...]]

    def row(self, name: str) -> tuple[int, ...] | None:
        """The row of a picture, by its path."""
        return self.rows.get(stem(name))

    def column(self, name: str) -> int:
        """Where a column stands. Raises UserError with all names if there is none like that."""
        if name not in self.columns:
            raise UserError(
                f"--attributes {name}: {self.where} has no such column; it has "
                f"{', '.join(self.columns)}"
            )
        return self.columns.index(name)


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def read_table(where: str, text: str, allowed: Sequence[int], columns: int | None = None) -> Table:
    """Read any of the forms above, told apart by their content.

    allowed: the values that may stand in it, a range or a few; columns: how many, None for any
    number.
    Raises UserError that names the line.
    """
    # One line at a time: CelebA's 200,000 lines take half a gigabyte when they are all split.
    lines = (line.replace(",", " ").split() for line in text.splitlines())
    content = ((number, cells) for number, cells in enumerate(lines, 1) if cells)
    first = next(content, (0, []))
    if len(first[1]) == 1:  # the number of rows
        first = next(content, (0, []))
    header = []
    if numbers(first[1][-1:]) is None:
        header = first[1]
        first = next(content, (0, []))
    width = max(0, len(first[1]) - 1)
    names = header[-width:] if header else [f"column {i}" for i in range(1, width + 1)]
    if not width or len(header) not in (0, width, width + 1) or columns not in (None, width):
        wanted = f"{columns or 'attributes'} for each picture"
        raise UserError(
            f"{where}: wrong columns: its first row has {width} values, its header "
            f"{len(header)} names, {wanted} were expected; download it again, unchanged"
        )
    rows = {}
    for number, (name, *cells) in chain([first], content):
        values = numbers(cells)
        if values is None or len(values) != width or any(value not in allowed for value in values):
            raise UserError(
                f"{where}: line {number} is not a picture's name and {width} values out of "
                f"{_listed(allowed)}; download it again, unchanged"
            )
        rows[stem(name)] = values
    return Table(where, names, rows)


def numbers(cells: list[str]) -> tuple[int, ...] | None:
    try:
        return tuple(map(int, cells))
    except ValueError:
        return None


def _listed(allowed: Sequence[int]) -> str:
    return ", ".join(map(str, allowed)) if len(allowed) < 10 else f"{allowed[0]} to {allowed[-1]}"


def attributes_csv(table: Table, people: Table | None, pictures: dict[str, str]) -> bytes:
    """The table that evaluate.py and pretrain_encoder.py read: file, identity, 0 or 1 each.

    people: CelebA's identities, without which there is no such column. pictures: names of written
    pictures by that of their source; sources without a row of attributes are left out.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *(["identity"] if people else []), *table.columns])
    for source, picture in pictures.items():
        if row := table.row(source):
            person = (people.row(source) or ("",)) if people else ()
            writer.writerow([picture, *person, *(int(value > 0) for value in row)])
    return text.getvalue().encode()


def attribute(text: str) -> str:
    """Type of --attributes."""
    name, _, value = text.partition("=")
    if not name or value not in ("0", "1"):
        raise argparse.ArgumentTypeError(f"{text}: must be a name and 0 or 1, such as Male=0")
    return text
