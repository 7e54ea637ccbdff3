"""Pages to look through the sample grids, the curves and the options of all runs."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from common.errors import UserError, one_line_errors
from common.options import make_parser, run_name
from storage.files import atomic_write
from viewer.animation import animate
from viewer.data import find_runs, last_change, read_run, read_test_grids

if TYPE_CHECKING:
    from jinja2 import Environment

RUNS, TESTS = Path("save_image"), Path("test_image")
TEMPLATES = Path(__file__).resolve().parent / "templates"
ROWS = ["real", "fake", "reconstructed"]


@one_line_errors
def main() -> None:
    parser = make_parser("Write pages to look through the grids, curves and options of all runs.")
    parser.add_argument("--name", type=run_name, help="run in save_image/; if not given: all")
    parser.add_argument(
        "--animate",
        action="store_true",
        help="also write the epochs of the run --name as an animated picture, epochs.webp",
    )
    opt = parser.parse_args()
    if opt.animate and not opt.name:
        raise UserError("--animate: animates one run; name it with --name")
    folders = find_runs(RUNS)
    if opt.name:
        if RUNS / opt.name not in folders:
            names = ", ".join(sorted(folder.name for folder in folders)) or "none"
            raise UserError(
                f"--name {opt.name}: {RUNS / opt.name}/ has no log.jsonl and no grid; "
                f"runs that have: {names}"
            )
        run = read_run(RUNS / opt.name)
        write_run_page(RUNS / opt.name, run)
        print(f"Page: {RUNS / opt.name / 'index.html'}")
        if opt.animate:
            target = RUNS / opt.name / "epochs.webp"
            epochs = animate(RUNS / opt.name, run["sections"], target)
            print(f"Animation: {target} ({epochs} epochs, {target.stat().st_size // 1000} kB)")
        return

    tests = read_test_grids(TESTS)
    has_tests = any(section["frames"] for section in tests["sections"])
    if not folders and not has_tests:
        raise UserError(
            f"{RUNS}/: no run here (no folder with a log.jsonl or a grid like "
            "0001_epoch_anime.png); train one first: python train.py --demo"
        )
    runs = [read_run(folder) for folder in folders]
    if runs:
        write_list(folders, runs, has_tests)
        for folder, run in zip(folders, runs, strict=True):
            write_run_page(folder, run)
        print(f"Page: {RUNS / 'index.html'} (runs: {len(runs)})")
    if has_tests:
        print(f"Page: {write_tests_page(TESTS, tests)}")


def write_run_page(folder: Path, run: dict | None = None) -> None:
    """Write `folder`/index.html, the page of the run in that folder.

    run: what read_run gives, if it was read already. Raises UserError if jinja2 is missing or the
    page cannot be written.
    """
    run = run or read_run(folder)
    links = []
    if (folder.parent / "index.html").exists():
        links.append(("all runs", "../index.html"))
    if (folder.parent / "compare.html").exists():
        links.append(("compare with another run", f"../compare.html#a={quoted(folder.name)}"))
    page = {"step": "epoch", "rows": ROWS, "runs": [run]}
    write_page(folder / "index.html", "viewer.html", title=run["name"], page=page, links=links)


def write_tests_page(folder: Path, tests: dict | None = None) -> Path:
    """Write the page of the grids that test.py wrote to `folder`; returns its file.

    tests: what read_test_grids gives, if they were read already. Raises UserError.
    """
    page = {"step": "grid", "rows": ROWS[:2], "runs": [tests or read_test_grids(folder)]}
    runs = RUNS / "index.html"
    links = [("runs", f"../{runs}")] if folder == TESTS and runs.exists() else []
    write_page(folder / "index.html", "viewer.html", title=folder.name, page=page, links=links)
    return folder / "index.html"


def refresh_page(folder: Path, write: Callable[[Path], object] = write_run_page) -> None:
    """Write a page at the end of other work, which no fault of a page may stop."""
    try:
        write(folder)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        warn_once(f"warning: no page to look through the grids: {reason}")


@functools.cache
def warn_once(line: str) -> None:
    print(line)


def write_list(folders: list[Path], runs: list[dict], has_tests: bool) -> None:
    """Write the list of runs, and the page that compares any two of them. Raises UserError."""
    links = [("compare", "compare.html")] if len(runs) > 1 else []
    if has_tests:
        links.append(("grids of test.py", f"../{TESTS}/index.html"))
    cards = [card(folder, run) for folder, run in zip(folders, runs, strict=True)]
    write_page(RUNS / "index.html", "list.html", title="Runs", cards=cards, links=links)
    if len(runs) == 1:
        return (RUNS / "compare.html").unlink(missing_ok=True)
    # Pages on the disk may not read each other's data, so this one holds that of all runs.
    there = [{**run, "folder": quoted(run["name"]) + "/"} for run in runs]
    page = {"step": "epoch", "rows": ROWS, "runs": there}
    links = [("all runs", "index.html")]
    write_page(RUNS / "compare.html", "viewer.html", title="Compare", page=page, links=links)


def card(folder: Path, run: dict) -> dict:
    """What the list of runs tells of one: its newest grid, how far it is, its main options."""
    newest = [
        (section, section["frames"][-1])
        for section in run["sections"]
        if section["frames"] and section["frames"][-1]["rows"][1]
    ]
    pictures = [
        (
            f"{quoted(folder.name)}/{frame['rows'][0][0]}",
            f"{section['real']} to {section['shown']}, epoch {frame['at']}",
        )
        for section, frame in newest
    ]
    spread: list[dict] = next(
        (c["lines"] for c in run["charts"] if c["title"].startswith("spread")), []
    )
    return {
        "name": run["name"],
        "url": quoted(folder.name),
        "pictures": pictures,
        "epoch": max([0, *run["epochs"], *(frame["at"] for _, frame in newest)]),
        "planned": run["planned"],
        "spread": [(line["label"], line["values"][-1]) for line in spread],
        "changed": [row[:2] for row in run["options"] if row[3]],
        "when": time.strftime("%Y-%m-%d %H:%M", time.localtime(last_change(folder))),
    }


def quoted(name: str) -> str:
    """A file name as part of a URL, whatever it may hold."""
    return quote(os.fsencode(name))


def write_page(path: Path, template: str, **values: object) -> None:
    """Fill in a template and write the page, whole or not at all. Raises UserError."""
    text = environment().get_template(template).render(**values)
    with atomic_write(path) as file:
        file.write(text.encode(errors="backslashreplace"))


@functools.cache
def environment() -> "Environment":
    """jinja2's environment: everything that is filled in is escaped. Raises UserError."""
    try:
        import jinja2
    except ImportError as error:
        raise UserError("jinja2 is not installed; get it with: pip install jinja2") from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
