"""Broken and hostile images: a square of pixels, or one line that says why not."""

import json
import os
import socket
import stat
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import COUNTS
from hostile_files import child, fuzz, mutated, run_state
from hostile_images import MODES, bomb, gif_of_frames, png, png_chunk, saved, tiff, tiff_of

import dataset
from common.errors import UserError
from dataset import load_folder
from evaluation.attributes import read_attributes
from pictures import decode
from pictures.decode import UnreadableImage, load_image
from pictures.folders import find_images
from storage.checkpoint import save_checkpoint
from training.logbook import keep_log_before

MOST_GROWTH_MB = 128  # of a process that reads small files, whatever they claim
MOST_MB_OF_ONE = 1200  # for the largest images that are taken, 64 million pixels: 977 measured
posix = pytest.mark.skipif(sys.platform == "win32", reason="files that Windows has not")
BIG = 100_000

# Headers that promise 100,000 x 100,000 pixels.
LYING = {
    "png": png(BIG, BIG),
    "bmp": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, BIG, BIG, 1, 24, 0, 0, 0, 0, 0, 0)
    + bytes(16),
    "tif": tiff_of(BIG, BIG),
    "ppm": b"P6 100000 100000 255\n" + bytes(100),
    "pgm": b"P5 100000 100000 65535\n" + bytes(100),
    "gif": b"GIF89a"
    + struct.pack("<HH", 65535, 65535)
    + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0"
    + struct.pack("<HH", 65535, 65535)
    + b"\0\2\2D\1\0;",
    "webp": b"RIFF\x26\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0\x9f\x86\1\x9f\x86\1VP8 \x0a\0\0\0" + bytes(10),
    "jpg": saved("JPEG").replace(
        b"\xff\xc0\0\x11\x08\0\x10\0\x14", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff"
    ),
}
PACKED = bomb(600)  # 600 MB of zeros in 0.6 MB
BOMBS = {
    "pixels": png(4, 4, pixels=PACKED),
    "zTXt": png(more=[(b"zTXt", b"Comment\0\0" + PACKED)]),
    "iTXt": png(more=[(b"iTXt", b"Comment\0\1\0\0\0" + PACKED)]),
    "iCCP": png(more=[(b"iCCP", b"profile\0\0" + PACKED)]),
    "a chunk of 2 GB": png().replace(b"\0\0\0\x0dIHDR", b"\x7f\xff\xff\xffIHDR"),
    "a hundred thousand texts": png(more=[(b"tEXt", b"a\0b")] * 100_000),
    "a million frames": gif_of_frames(1_000_000),
    "ten thousand pages": tiff_of(pages=10_000),
    "a tag of 16 GB": tiff_of(more=[(700, 1, 2**32 - 1, 8)]),
    "tags of 16 GB": tiff([(256 + i, 4, 2**32 - 1, 8) for i in range(40)]),
    "a page that is its own next": tiff([(256, 4, 1, 4), (257, 4, 1, 4)])[:-4] + b"\x08\0\0\0",
    "a strip beyond the end": tiff_of(data=b""),
    "a deflated strip": tiff_of(compression=8, data=PACKED),
    **{f"compression {n}": tiff_of(compression=n) for n in (2, 3, 4, 5, 6, 7, 32773, 34925, 50000)},
    **{f"{n} bits": tiff_of(bits=n) for n in (0, 3, 16, 32, 64, 65535)},
    "a profile of noise": saved("JPEG", icc_profile=bytes(range(256)) * 100),
    "exif of noise": saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(50)),
    "exif that turns by 200": saved(
        "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\xc8\0\0\0\0\0\0"
    ),
    "an animation": b"".join([png()[:33], png_chunk(b"acTL", b"\xff" * 8), png()[33:]]),
}


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as dataset.py has it


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(path: Path) -> str | None:
    """Why an image is refused; None if it is a square of pixels."""
    COUNTS["hostile images"] += 1
    try:
        pixels = load_image(path, 8)
    except UnreadableImage as error:
        assert str(error) and "\n" not in str(error)
        return str(error)
    assert pixels.shape == (8, 8, 3) and pixels.dtype == np.uint8


MEASURE = """
import sys; from concurrent.futures import ThreadPoolExecutor; from pathlib import Path
from dataset import UnreadableImage, load_image; from hostile_files import peak_mb
def load(path):
    try: load_image(Path(path), 64)
    except UnreadableImage: pass
threads, good, *paths = sys.argv[1:]
load(good); start = peak_mb(forget=True)
with ThreadPoolExecutor(int(threads)) as pool: list(pool.map(load, paths))
print(peak_mb() - start)
"""


# ---- content -----------------------------------------------------------------------------------


@posix
def test_no_fault_in_an_image_takes_memory_hangs_or_stops_the_others(long):
    count = 20_000 if long else 1_200
    became = fuzz("images", long, count)
    assert became["read"] + became["skipped"] == count
    # A header that was changed may claim as many pixels as are taken.
    assert became["grew_mb"] < MOST_MB_OF_ONE
    COUNTS["images fuzzed"] += count


@pytest.mark.parametrize("kind", LYING)
def test_a_header_of_ten_thousand_million_pixels_is_refused(kind):
    path = Path(f"x.{kind}")
    path.write_bytes(LYING[kind])
    assert read(path)


@posix
def test_bombs_are_refused_or_read_in_little_memory():
    Path("good.png").write_bytes(png())
    paths = []
    for number, content in enumerate([*BOMBS.values(), *LYING.values()]):
        paths.append(Path(f"{number}.png"))  # Pillow goes by content
        paths[-1].write_bytes(content)
        read(paths[-1])
    assert int(child(MEASURE, 1, "good.png", *paths)) < MOST_GROWTH_MB


SIDE = int(decode.MAX_PIXELS**0.5)


def large(kind: str, side: int = SIDE) -> bytes:
    """A small file of an image of side x side black pixels."""
    if kind == "wide":
        pixels = zlib.compress(bytes(4 * side**2 + 1), 1)
        return png(side**2, 1, pixels=pixels, colour=6)
    if kind in ("RGBA", "I;16"):
        size, colour, depth = {"RGBA": (4, 6, 8), "I;16": (2, 0, 16)}[kind]
        row = zlib.compressobj(1)
        pixels = b"".join(row.compress(bytes(1 + size * side)) for _ in range(side)) + row.flush()
        return png(side, side, pixels=pixels, colour=colour, depth=depth)
    number, *turned = {"F": [3], "I": [2], "F, turned": [3, (274, 3, 1, 6)]}[kind]
    return tiff_of(
        side, side, 8, 32, zlib.compress(bytes(4 * side**2), 1), more=[(339, 3, 1, number), *turned]
    )


@posix
@pytest.mark.parametrize("kind", ["RGBA", "wide", "I;16", "I", "F", "F, turned"])
def test_the_largest_images_that_are_taken_need_less_memory_than_is_stated(kind):
    Path("good.png").write_bytes(png())
    Path("large").write_bytes(large(kind))
    assert read(Path("large")) is None
    assert int(child(MEASURE, 1, "good.png", "large")) < MOST_MB_OF_ONE


@posix
@pytest.mark.parametrize("kind", ["RGBA", "F"])
def test_images_a_little_larger_are_refused_by_their_header(kind):
    Path("good.png").write_bytes(png())
    Path("large").write_bytes(large(kind, SIDE + 1))
    assert "pixels, accepted are 1 to" in read(Path("large"))
    assert int(child(MEASURE, 1, "good.png", "large")) < MOST_GROWTH_MB


@posix
def test_threads_that_decode_the_largest_images_need_no_more_memory_than_one():
    Path("good.png").write_bytes(png())
    for number in range(8):
        Path(f"large{number}").write_bytes(large("RGBA", SIDE if number % 2 else SIDE // 2))
    assert int(child(MEASURE, 8, "good.png", *Path().glob("large?"))) < MOST_MB_OF_ONE


def test_every_mode_of_every_type_is_read():
    for kind, modes in MODES.items():
        for mode, save in modes:
            Path("x").write_bytes(saved(kind, mode, **save))
            assert read(Path("x")) is None


# ---- names and kinds of files ------------------------------------------------------------------

NAMES = [
    "a\nb.png",
    "--help.png",
    "-rf.png",
    "\x1b[2J.png",
    "*.png",
    "$(touch executed).png",
    "'\".png",
    "x" * 250 + ".png",
    " .png",
    "ä\u202egnp.png",
]


def folder_of_horrors() -> tuple[Path, list[str]]:
    """A folder with one good image, files of odd names, and what only looks like images."""
    folder = Path("horrors\n\x1b[2J")  # named in lines as it is
    (folder / "folder.png").mkdir(parents=True)
    for name in ("good.png", *NAMES):
        (folder / name).write_bytes(saved("PNG"))
    good = ["good.png", *NAMES]
    try:
        (folder / os.fsdecode(b"\xff\xfe.png")).write_bytes(saved("PNG"))
        good.append(os.fsdecode(b"\xff\xfe.png"))
    except OSError:  # macOS takes UTF-8 alone
        pass
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no image")
    (folder / "bad\n\x1b[2J.png").write_text("no")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "around").symlink_to(".")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "random.png").symlink_to("/dev/urandom")
    os.mkfifo(folder / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(folder / "socket.png"))
    server.close()
    (folder / "locked.png").write_bytes(saved("PNG"))
    (folder / "locked.png").chmod(0)
    return folder, good


@posix
def test_odd_names_are_read_and_what_is_no_file_is_passed_over(capsys):
    folder, good = folder_of_horrors()
    loaded = load_folder(folder, "--domain_A_path", 99, 8, "center", Path("cache"), 2)
    assert set(good) <= set(loaded.paths) <= {*good, "locked.png"}  # which root may read
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert len(lines) == loaded.skipped + 2 and all(map(str.isprintable, lines))
    assert sum("passed over" in line and ": 5 .png" in line for line in lines) == 1  # no files
    assert sum(r"skipped 'bad\n\x1b[2J.png': its content is" in line for line in lines) == 1
    for name in ("zero.png", "pipe.png", "random.png", "socket.png", "loop.png", "folder.png"):
        assert read(folder / name)
    again = load_folder(folder, "--domain_A_path", 99, 8, "center", Path("cache"), 0)
    assert again.paths == loaded.paths
    assert not Path("executed").exists()


@posix
def test_photographs_of_odd_names_are_translated_and_the_others_skipped(script):
    save_checkpoint(Path("model_ckpt/run/latest.pth"), run_state())
    folder, good = folder_of_horrors()
    done = script(
        "test.py",
        "--name",
        "run",
        "--input",
        folder,
        "--direction",
        "AtoB",
        "--output",
        "out",
        "--gpu_ids",
        "-1",
    )
    made = set(find_images(Path("out")))
    assert done.code in (0, 1, 2) and set(good) <= made <= {*good, "locked.png"}, done.err
    assert "Traceback" not in done.err
    for name in ("pipe.png", "zero.png", "empty.png", "text.png"):
        done = script(
            "test.py",
            "--name",
            "run",
            "--input",
            folder / name,
            "--direction",
            "AtoB",
            "--output",
            "out2",
            "--gpu_ids",
            "-1",
        )
        assert done.code == 2 and "Traceback" not in done.err, done.err


def test_images_that_vanish_between_listing_and_reading_are_skipped(monkeypatch, capsys):
    folder = Path("folder")
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.png").write_bytes(saved("PNG"))
    listed = find_images(folder)
    (folder / "b.png").unlink()
    monkeypatch.setattr(dataset, "find_images_or_explain", lambda *_: listed)
    loaded = load_folder(folder, "--domain_A_path", 99, 8, "center", Path("cache"), 0)
    assert loaded.paths == ["a.png", "c.png"] and loaded.skipped == 1
    assert "skipped 'b.png': No such file" in capsys.readouterr().err


# ---- zip archives ------------------------------------------------------------------------------


def packed(names_and_contents, **more) -> bytes:
    with zipfile.ZipFile("made.zip", "w", **more) as file:
        for name, content in names_and_contents:
            file.writestr(name, content)
    return Path("made.zip").read_bytes()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def test_names_and_links_in_an_archive_lead_nowhere(prepare):
    names = [
        "../../out.png",
        "/tmp/absolute.png",
        "C:\\windows.png",
        "a/../../b.png",
        "-rf.png",
        "a\nb.png",
        "good.png",
    ]
    contents = [(name, saved("PNG", size=(40 + i, 40))) for i, name in enumerate(names)]
    packed([*contents, (link("link.png"), b"/etc/passwd")])
    done = prepare("made.zip", "out/in")
    assert done.code == 0, done.err
    assert len(find_images(Path("out/in"))) == len(names)
    assert {p.name for p in Path().iterdir()} == {"made.zip", "out"}
    assert not Path("/tmp/absolute.png").exists()
    assert "link.png" in json.loads(Path("out/in/report.json").read_text())["left_out"]


@posix
def test_archives_that_unpack_to_absurd_sizes_take_no_memory(prepare):
    good = ("good.png", saved("PNG", size=(40, 40)))
    packed([good, ("bomb.png", bytes(300 << 20))], compression=zipfile.ZIP_DEFLATED)
    done = prepare("made.zip", "out")
    assert done.code == 0 and "1 pictures of 2 files" in done.out
    data = Path("made.zip").read_bytes()
    for claimed in (2**31, 100):  # more than it unpacks to, and less
        lying = bytearray(data)
        place = lying.rindex(b"PK\1\2")
        lying[place + 24 : place + 28] = struct.pack("<L", claimed)
        Path("lying.zip").write_bytes(lying)
        done = prepare("lying.zip", f"out{claimed}", "--num_workers", "0")
        assert done.code in (0, 2) and "Traceback" not in done.err


def test_faults_in_an_archive_are_one_line_or_leave_its_other_pictures(prepare, long):
    import random

    content = saved("PNG", size=(40, 40))
    data = packed([(f"{i}.png", content) for i in range(4)], compression=zipfile.ZIP_DEFLATED)
    chance = random.Random(1)
    for number in range(1000 if long else 60):
        Path("x.zip").write_bytes(mutated(data, chance))
        done = prepare("x.zip", f"out{number}", "--num_workers", "0")
        assert done.code in (0, 2), done.err
        assert "Traceback" not in done.err and done.err.count("error: ") == (done.code == 2)
        COUNTS["archives fuzzed"] += 1


# ---- small files beside pictures ---------------------------------------------------------------

NONSENSE = [
    b"",
    b"{",
    b"[]",
    b"7",
    b'"x"',
    b"null",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"a":' * 900,
    b'{"epoch": "x"}',
    b'{"epoch": [1]}',
    b'{"epoch": 1, "losses": {"G": "x"}}',
    b'{"epoch": 1, "a": ' + b'{"a":' * 600 + b"1" + b"}" * 601,
    b"1" * 5000,
    b'{"epoch": 1, "lr_G": ' + b"9" * 400 + b"}",
    b'{"niter": "x", "niter_decay": {}}',
    b'{"epoch": 1, "losses": {"<script>": 1}}',
    b"NaN",
    b"\0" * 100,
]


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_nonsense_in_logs_options_and_reports_stops_nothing(script, prepare, number):
    folder = Path("save_image/run")
    folder.mkdir(parents=True)
    for name in ("log.jsonl", "options.json"):
        (folder / name).write_bytes(NONSENSE[number])
    (folder / "0001_epoch_anime.png").write_bytes(LYING["png"])
    done = script("gallery.py")
    assert done.code == 0 and "<script>1" not in (folder / "index.html").read_text(), done.err
    keep_log_before(5, folder / "log.jsonl")

    Path("source").mkdir()
    Path("source/a.png").write_bytes(saved("PNG", size=(40, 40)))
    assert prepare("source", "out").code == 0
    Path("out/report.json").write_bytes(NONSENSE[number])
    done = prepare("source", "out")
    assert done.code == 2 and done.err.count("\n") == 1 and "--output out" in done.err
    COUNTS["nonsense in small files"] += 3


@posix
def test_pipes_loops_and_pictures_of_other_types_among_grids_stop_no_gallery(script):
    folder = Path("save_image/run")
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text('{"epoch": 1, "losses": {"G": 1.0}}\n')
    os.mkfifo(folder / "0001_epoch_anime.png")
    (folder / "0002_epoch_anime.png").symlink_to("0002_epoch_anime.png")
    (folder / "0003_epoch_anime.png").symlink_to("/dev/zero")
    script_of_pictures = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    (folder / "0004_epoch_anime.png").write_bytes(script_of_pictures)
    (folder / "0005_epoch_anime.png").mkdir()
    done = script("gallery.py")
    assert done.code == 0, done.err
    assert "5 grid(s) passed over" in (folder / "index.html").read_text()


def test_a_report_that_leads_elsewhere_is_refused(prepare):
    Path("source").mkdir()
    Path("source/a.png").write_bytes(saved("PNG", size=(40, 40)))
    assert prepare("source", "out").code == 0
    report = json.loads(Path("out/report.json").read_text())
    for pictures in ({"a.png": ["../a.png"]}, {"a.png": "a.png"}, {"a.png": [3]}, [], {"a.png": 5}):
        Path("out/report.json").write_text(json.dumps({**report, "pictures": pictures}))
        done = prepare("source", "out")
        assert done.code == 2 and "report.json is damaged" in done.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"file",
        b"file,Male\n",
        b"file,Male\na.png\n",
        b"file,Male\na.png,x\n",
        b"Male\n1\n",
        b"file,Male\na.png," + b"1" * 5000,
        b"file,Male\n\0\0\n",
        b"\xff\xfe",
        b'file,Male\n"a',
        b"file,Male\n" + b"x" * 200_000 + b",1\n",
    ],
)
def test_a_broken_table_of_attributes_is_one_line(content):
    Path("a.csv").write_bytes(content)
    try:
        (rows,) = read_attributes(Path("a.csv"))
        assert all(set(row.values()) <= {0, 1} for row in rows.values())
    except UserError as error:
        assert "--attributes a.csv: " in str(error)
