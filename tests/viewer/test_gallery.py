import builtins
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image

from arguments import train_options
from common.errors import UserError
from pictures.grids import save_grid
from viewer import pages as gallery
from viewer.data import (
    find_runs,
    pair_layout,
    read_charts,
    read_run,
    read_test_grids,
    sample_layout,
)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'&"


def record(epoch, **more):
    losses = {"D_A": 1.0, "D_B": 2.0, "cycle_A": 3.0 / epoch, "cycle_B": 4.0 / epoch}
    return {
        "epoch": epoch,
        "step": 9 * epoch,
        "losses": losses,
        "lr_G": 1e-4,
        "lr_D": 4e-4,
        "spread": {"person": 0.5, "anime": None},
        "seconds": 5.0,
        **more,
    }


def make_run(folder, epochs=(1, 2, 3), columns=3, options=None, size=16, rows=3):
    """A run whose grids are solid tiles: red tells the epoch, green the row, blue the column.

    With four rows it is a DTN's, of one direction.
    """
    folder.mkdir(parents=True)
    for epoch in epochs:
        for shown in ("anime", "person") if rows == 3 else ("anime",):
            tiles = [
                (epoch * 20, row * 300 // rows, column * 40 + (shown == "person") * 20)
                for row in range(rows)
                for column in range(columns)
            ]
            images = torch.tensor(tiles).view(-1, 3, 1, 1).expand(-1, -1, size, size)
            save_grid(folder / f"{epoch:04}_epoch_{shown}.png", images / 127.5 - 1, columns)
    log = "".join(json.dumps(record(epoch)) + "\n" for epoch in epochs)
    (folder / "log.jsonl").write_text(log)
    options = vars(train_options([])[0]) | {"niter": 3, "niter_decay": 0} | (options or {})
    (folder / "options.json").write_text(json.dumps(options))
    return folder


def make_test_grids(folder, counts=(8, 3)):
    """What test.py writes for as many pictures as named; blue tells the tile, red real or not."""
    for number, count in enumerate(counts):
        for domain in ("anime", "person"):
            for kind, red in (("real", 200), ("test", 100)):
                tiles = torch.tensor([(red, 10, 30 * i) for i in range(count)])
                images = tiles.view(-1, 3, 1, 1).expand(-1, -1, 16, 16) / 127.5 - 1
                save_grid(folder / f"{number}__{domain}_{kind}.png", images, 8)


class Reader(HTMLParser):
    """Elements of a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.references = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for key, value in attributes if key in ("src", "href")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data


def data_of(path):
    return json.loads(Reader(path.read_text()).scripts[0])


# ------------------------------------------------------------------------------------- data


def test_figures_of_both_domains_share_a_chart_however_deep_they_lie():
    records = [
        {"epoch": 1, "lr_G": 1, "lr_D": 2, "losses": {"D_A": 3, "D_B": 4}, "new": 5},
        {"epoch": 2, "lr_G": 1, "losses": {"D_A": 6}, "figures": {"anime": {"swd": 7}}},
        {"epoch": 3, "figures": {"person": {"swd": 8}, "fid_anime": 9, "fid_person": 10}},
    ]
    charts = {
        c["title"]: {line["label"]: line["values"] for line in c["lines"]}
        for c in read_charts(records)
    }
    assert charts == {
        "loss of the discriminators": {"D_A": [3, 6, None], "D_B": [4, None, None]},
        "new": {"new": [5, None, None]},
        "SWD of outputs to real images": {"anime": [None, 7, None], "person": [None, None, 8]},
        "figures fid": {"fid_anime": [None, None, 9], "fid_person": [None, None, 10]},
        "learning rate": {"lr_G": [1, 1, None], "lr_D": [2, None, None]},
    }
    assert list(charts)[0] == "loss of the discriminators" and list(charts)[-1] == "learning rate"


def test_only_finite_numbers_are_drawn():
    values = (float("nan"), float("inf"), True, "x", None, [1], 10**400)
    odd = {f"odd{i}": value for i, value in enumerate(values)}
    assert read_charts([{"epoch": 1, **odd, "h": 0.123456789}]) == [
        {"title": "h", "mark": None, "lines": [{"label": "h", "values": [0.12346]}]}
    ]


def test_what_chance_gives_is_no_chart():
    figures = {"anime": {"top5": 0.5, "top5_chance": 0.25, "near_duplicates_real": 0.1}}
    (chart,) = read_charts([{"epoch": 1, "step": 9, "figures": figures}])
    assert chart["title"] == "outputs whose own input is found (share)"


def test_torn_and_foreign_lines_of_a_log_are_passed_over_and_counted(tmp_path):
    folder = make_run(tmp_path / "run", epochs=(1, 2))
    lines = [
        json.dumps(record(2, seconds=7.0)),
        "[" * 100000,
        "[1]",
        '{"step": 1}',
        '{"epoch": "x"}',
        '{"epoch": -1}',
        '{"epoch": 3, "losses": {"D_',
    ]
    with open(folder / "log.jsonl", "ab") as file:
        file.write(b"\xff\xfe\n" + "\n".join(lines).encode())
    run = read_run(folder)
    assert run["epochs"] == [1, 2]
    seconds = next(c for c in run["charts"] if c["title"] == "seconds per epoch")
    assert seconds["lines"][0]["values"] == [5.0, 7.0]  # the later of two lines of an epoch
    assert run["notes"] == ["7 unreadable line(s) of log.jsonl passed over."]


@pytest.mark.parametrize(
    "flags,changed",
    [
        ("--model dtn", {"model"}),
        ("--gan_mode wgan", {"gan_mode"}),
        ("--demo", {"demo"}),
        ("--demo --model dtn --ngf 64", {"demo", "model", "ngf"}),
        ("--ngf 8", {"ngf"}),
    ],
)
def test_a_run_is_shown_as_changed_where_it_differs_from_its_own_model_and_mode(
    tmp_path, flags, changed
):
    options = json.dumps(vars(train_options(flags.split())[0]))
    (tmp_path / "options.json").write_text(options)
    rows = read_run(tmp_path)["options"]
    assert {name for name, _, _, marked in rows if marked} == changed


def test_options_that_differ_from_the_defaults_come_first(tmp_path):
    run = read_run(make_run(tmp_path / "run", options={"ngf": 8, "of_the_future": 1, "amp": "off"}))
    changed = [row for row in run["options"] if row[3]]
    assert run["options"][: len(changed)] == changed
    assert changed == [
        ["ngf", "8", "64", True],
        ["niter", "3", "100", True],
        ["niter_decay", "0", "100", True],
        ["of_the_future", "1", "", True],
    ]
    assert run["planned"] == 3


@pytest.mark.parametrize("text", [None, "{", "[1]", '"x"', "\xff"])
def test_missing_or_broken_options_are_a_note_on_the_page(tmp_path, text):
    folder = make_run(tmp_path / "run")
    (folder / "options.json").unlink()
    if text:
        (folder / "options.json").write_bytes(text.encode("latin-1"))
    run = read_run(folder)
    assert run["options"] == [] and run["planned"] == 0
    assert len(run["notes"]) == 1 and "options" in run["notes"][0]


def test_epochs_without_a_grid_or_with_a_broken_one_are_left_out(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "0002_epoch_anime.png").unlink()
    (folder / "0003_epoch_person.png").write_bytes(b"no picture")
    Image.new("RGB", (30, 31)).save(folder / "0004_epoch_person.png")
    run = read_run(folder)
    at = [[frame["at"] for frame in section["frames"]] for section in run["sections"]]
    assert [section["shown"] for section in run["sections"]] == ["anime", "person"]
    assert at == [[1, 3], [1, 2]]
    assert run["notes"] == ["2 grid(s) passed over: not pictures that train.py wrote."]


def test_layout_of_a_grid_is_found_from_its_size_alone(tmp_path):
    for size in (8, 16, 20, 64):
        for n in (1, 2, 3, 7, 8, 9, 16, 17, 32):
            save_grid(tmp_path / "grid.png", torch.zeros(n, 3, size, size), 8)
            with Image.open(tmp_path / "grid.png") as image:
                columns, rows, found, padding = pair_layout(*image.size)
            assert (columns, found, padding) == (min(n, 8), size, 2 if n > 1 else 0)
            assert rows == -(-n // 8)
        for columns in (1, 2, 5, 12):
            for rows in (3, 4):
                tiles = torch.zeros(rows * columns, 3, size, size)
                save_grid(tmp_path / "grid.png", tiles, columns)
                with Image.open(tmp_path / "grid.png") as image:
                    assert sample_layout(*image.size) == (columns, rows, size)
    assert pair_layout(0, 0) is None and sample_layout(0, 0) is None
    assert pair_layout(101, 57) is None and sample_layout(101, 57) is None


def test_a_grid_of_four_rows_is_a_translation_and_what_becomes_of_real_targets(tmp_path):
    run = read_run(make_run(tmp_path / "dtn", rows=4))
    to_anime, anime = run["sections"]
    assert [frame["at"] for frame in to_anime["frames"]] == [1, 2, 3] and run["notes"] == []
    name = "0001_epoch_anime.png"
    assert to_anime["frames"][0]["rows"] == [[name, 0], [name, 3], None]
    assert anime["real"] == "anime" and anime["frames"][0]["rows"] == [[name, 6], None, [name, 9]]


def test_grids_of_test_py_are_paired_without_empty_tiles(tmp_path):
    make_test_grids(tmp_path, counts=(15, 8, 11))
    (tmp_path / "1__anime_test.png").unlink()
    run = read_test_grids(tmp_path)
    to_anime, to_person = (section["frames"] for section in run["sections"])
    assert [(frame["at"], frame["count"]) for frame in to_anime] == [(0, 15), (2, 11)]
    assert [frame["at"] for frame in to_person] == [0, 1, 2]
    assert to_anime[0]["rows"] == [["0__person_real.png", 0], ["0__anime_test.png", 0]]
    assert len(run["notes"]) == 1 and run["notes"][0].startswith("person to anime: 1 grid(s)")


def test_runs_are_folders_with_a_log_or_a_grid(tmp_path):
    make_run(tmp_path / "b")
    make_run(tmp_path / ".hidden")
    (tmp_path / "empty").mkdir()
    (tmp_path / "log_only").mkdir()
    (tmp_path / "log_only" / "log.jsonl").touch()
    (tmp_path / "README.md").touch()
    assert {folder.name for folder in find_runs(tmp_path)} == {"b", "log_only"}
    assert find_runs(tmp_path / "none") == []


# ------------------------------------------------------------------------------------ pages


def test_every_run_gets_a_page_and_all_are_listed_and_compared(workplace, script):
    make_run(Path("save_image/one"))
    make_run(Path("save_image/two"), epochs=(1,))
    make_test_grids(Path("test_image"))
    done = script("gallery.py")
    assert done.code == 0, done.err
    assert "save_image/index.html (runs: 2)" in done.out and "test_image/index.html" in done.out
    assert [run["name"] for run in data_of(Path("save_image/one/index.html"))["runs"]] == ["one"]
    both = data_of(Path("save_image/compare.html"))["runs"]
    assert {(run["name"], run["folder"]) for run in both} == {("one", "one/"), ("two", "two/")}
    pages = [*Path("save_image").rglob("*.html"), Path("test_image/index.html")]
    assert len(pages) == 5
    for path in pages:
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg\b)", text), path
        for reference in Reader(text).references:
            assert (path.parent / reference.partition("#")[0]).exists(), (path, reference)
        if 'id="data"' in text:
            for run in data_of(path)["runs"]:
                frames = [frame for section in run["sections"] for frame in section["frames"]]
                files = {path.parent / run["folder"] / row[0] for f in frames for row in f["rows"]}
                assert files and all(file.exists() for file in files)


def test_name_writes_the_page_of_that_run_alone(workplace, script):
    make_run(Path("save_image/one"))
    make_run(Path("save_image/two"))
    assert script("gallery.py", "--name", "two").code == 0
    assert [str(path) for path in Path().rglob("*.html")] == ["save_image/two/index.html"]
    assert Reader(Path("save_image/two/index.html").read_text()).references == []


def test_animate_shows_every_epoch_that_has_both_grids(workplace, script):
    folder = make_run(Path("save_image/run"), epochs=(1, 2, 5), columns=10, size=64)
    (folder / "0002_epoch_anime.png").unlink()
    done = script("gallery.py", "--name", "run", "--animate")
    assert done.code == 0 and "epochs.webp (2 epochs, " in done.out
    with Image.open(folder / "epochs.webp") as moving:
        assert moving.n_frames == 2 and moving.info["loop"] == 0
        height, width = 24 + 3 * 66 + 2, 2 * (8 * 66 + 2) + 16
        assert moving.size == (width, height)
        for number, epoch in enumerate((1, 5)):
            moving.seek(number)
            frame = moving.convert("RGB")
            for shown, left in ((0, 0), (20, width - 8 * 66 - 2)):  # as make_run drew them
                for row, column in ((0, 0), (2, 7)):
                    there = frame.getpixel((left + column * 66 + 34, 24 + row * 66 + 34))
                    drawn = (epoch * 20, row * 100, column * 40 + shown)
                    assert max(abs(a - min(b, 255)) for a, b in zip(there, drawn, strict=True)) < 9


def test_a_dtn_has_one_grid_for_both_sections_and_is_animated_once(workplace, script):
    folder = make_run(Path("save_image/dtn"), rows=4)
    assert script("gallery.py", "--name", "dtn", "--animate").code == 0
    with Image.open(folder / "epochs.webp") as moving:
        assert moving.size == (3 * 18 + 2, 24 + 4 * 18 + 2) and moving.n_frames == 3


def test_what_cannot_be_animated_ends_in_one_line(workplace, script):
    folder = make_run(Path("save_image/run"), epochs=(1, 2))
    torn = (folder / "0001_epoch_anime.png").read_bytes()[:80]
    (folder / "0002_epoch_anime.png").write_bytes(torn)
    for more, line in (([], "--animate: animates one run"), (["--name", "run"], "cannot be read")):
        done = script("gallery.py", *more, "--animate")
        assert done.code == 2 and line in done.err and len(done.err.splitlines()) == 1
    make_run(Path("save_image/other"), epochs=(1,))
    make_run(Path("save_image/large"), epochs=(2,), size=32)
    for path in Path("save_image/large").glob("*.png"):
        path.rename(Path("save_image/other", path.name))
    assert "epoch 2 are of another size" in script("gallery.py", "--name", "other", "--animate").err
    make_run(Path("save_image/none"), epochs=())
    assert "no epoch has its grids" in script("gallery.py", "--name", "none", "--animate").err
    assert not list(Path("save_image").glob("*/*.webp"))


@pytest.mark.parametrize("name", ["example_demo", "example_dtn"])
def test_the_examples_in_the_repository_are_read_without_a_note(name):
    run = read_run(ROOT / "save_image" / name)
    assert run["notes"] == [] and run["planned"] == run["epochs"][-1] and run["options"]


def test_a_run_that_is_alone_is_not_compared(workplace, script):
    make_run(Path("save_image/one"))
    Path("save_image/compare.html").write_text("of runs that are gone")
    assert script("gallery.py").code == 0
    assert not Path("save_image/compare.html").exists()
    page = Reader(Path("save_image/one/index.html").read_text())
    assert page.references == ["../index.html"]


def test_a_run_with_a_torn_log_and_nothing_else_still_has_a_page(workplace, script):
    folder = Path("save_image/run")
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"epoch": 1, "los')
    assert script("gallery.py").code == 0
    assert len(data_of(folder / "index.html")["runs"][0]["notes"]) == 2


def test_what_there_is_not_is_told_in_one_line(workplace, script):
    make_run(Path("save_image/there"))
    for flags, words in (
        (["--name", "gone"], ["--name gone", "save_image/gone", "there"]),
        (["--name", "../x"], ["--name", "folder name"]),
        (["--nonsense"], ["--nonsense"]),
    ):
        done = script("gallery.py", *flags)
        assert done.code == 2 and done.err.count("\n") == 1
        assert all(word in done.err for word in words)
    Path("save_image").rename("elsewhere")
    done = script("gallery.py")
    assert done.code == 2 and done.err.count("\n") == 1 and "train.py --demo" in done.err


def test_names_options_and_logs_are_never_markup(workplace, script):
    name = HOSTILE.replace("/", "") + " #%?\\"
    folder = make_run(Path("save_image") / name, options={"crop": HOSTILE, HOSTILE: 1})
    make_run(Path("save_image/tame"))
    with open(folder / "log.jsonl", "a") as file:
        file.write(json.dumps(record(4, **{HOSTILE: 4.0, "figures": {HOSTILE: 1.0}})) + "\n")
    assert script("gallery.py").code == 0
    tame = Reader(Path("save_image/tame/index.html").read_text())
    page = Reader((folder / "index.html").read_text())
    assert page.tags == tame.tags  # not an element more than a tame run has
    [run] = json.loads(page.scripts[0])["runs"]
    assert run["name"] == name and HOSTILE in [row[1] for row in run["options"]]
    assert HOSTILE in [chart["title"] for chart in run["charts"]]
    for path in ("index.html", "compare.html"):
        page = Reader((Path("save_image") / path).read_text())
        assert page.tags.count("script") == (2 if path == "compare.html" else 0)
        assert not {"x", "alert(1)"} & set(page.references)


# --------------------------------------------------------------------------------- training


def forget(monkeypatch):
    """jinja2 as if it were not installed."""
    gallery.environment.cache_clear()
    gallery.warn_once.cache_clear()
    really = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "jinja2":
            raise ImportError(name)
        return really(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)


def test_training_keeps_the_page_of_its_run_up_to_date(workplace, train):
    assert train("--name", "run").code == 0
    [run] = data_of(Path("save_image/run/index.html"))["runs"]
    assert run["epochs"] == [1, 2, 3] and run["notes"] == []
    assert [len(section["frames"]) for section in run["sections"]] == [3, 3]


def test_without_jinja2_training_goes_on_and_says_so_once(workplace, train, monkeypatch):
    forget(monkeypatch)
    done = train("--name", "run")
    assert done.code == 0 and done.out.count("pip install jinja2") == 1
    assert not Path("save_image/run/index.html").exists()
    with pytest.raises(UserError, match="pip install jinja2"):
        gallery.write_run_page(Path("save_image/run"))
