"""What the tests share: tiny folders of faces, tiny options, and a way to run the scripts."""

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
SOURCES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).glob("*.py"))]
torch.set_num_threads(1)  # nets this small only lose by a second thread


# What tests/faults attacked and survived: COUNTS["kills survived"] += 1.
COUNTS: Counter = Counter()


def pytest_addoption(parser):
    parser.addoption(
        "--long", action="store_true", help="the long form of tests/faults: half an hour"
    )


# Minutes in all: `-m "not slow"` is what a change is tried with first.
SLOW = (
    "tests/faults/",
    "tests/benchmarks/",
    "_browser.py",
    "test_screenshots.py",
    "test_distributed.py",
    "test_memory_format.py",
    "test_dtn_scripts.py",
    "test_no_photographs.py",
)


def pytest_configure(config):
    # xdist begins with the files of most tests; ours of fewest tests take longest.
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    for item in items:
        if any(part in item.nodeid for part in SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # the slow ones first


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of the processes of -n 2
        session.config.workeroutput["counts"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    COUNTS.update(getattr(node, "workeroutput", {}).get("counts", {}))


def pytest_terminal_summary(terminalreporter):
    if COUNTS:
        line = ", ".join(f"{name}: {number:,}" for name, number in sorted(COUNTS.items()))
        terminalreporter.write_line(f"faults -- {line}")
    skipped = Counter(
        report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", ())
        if "tests/faults/" in report.nodeid
    )
    for reason, number in skipped.items():
        terminalreporter.write_line(f"faults -- NOT ATTACKED ({number} tests): {reason}")


@pytest.fixture(scope="session")
def long(request):
    """Whether the long form of tests/faults was asked for."""
    return request.config.getoption("--long")


@pytest.fixture
def options():
    """Resolved training options of tiny nets; keyword arguments become flags."""
    from arguments import train_options

    def make(**kwargs):
        tiny = {"ngf": 4, "ndf": 4, "batch_size": 2, "amp": "off"}
        if kwargs.get("model") != "dtn":
            tiny |= {"pool_size": 3, "shift": 0, "generator": "resnet"}
            tiny |= {"n_blocks": 1} if "resnet" in kwargs.get("generator", "resnet") else {}
        kwargs = tiny | kwargs
        flags = []
        for key, value in kwargs.items():
            if isinstance(value, bool):
                flags.append(f"--{key}" if value else f"--no-{key}")
            else:
                flags += [f"--{key}", str(value)]
        return train_options([*flags, "--gpu_ids", "-1"])[0]

    return make


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with data/anime and data/person, 12 pictures each."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for folder in ("anime", "person"):
        path = tmp_path / "data" / folder
        path.mkdir(parents=True)
        for i in range(12):
            coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((64, 64)).save(path / f"{i:02}.png")
    return tmp_path


def bright_anime_dark_persons():
    """Change the pictures of workplace so that the domains can be told apart."""
    for folder, shift in (("anime", 60), ("person", -60)):
        for file in sorted(Path("data", folder).iterdir()):
            pixels = np.array(Image.open(file)).astype(int) // 2 + 64 + shift
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)


RESNET = "--generator resnet --n_blocks 1".split()
TINY = (
    RESNET
    + (
        "--ngf 4 --ndf 4 --batch_size 4 --niter 2 --niter_decay 1 --pool_size 5 "
        "--shift 0 --warm_steps 0 --gpu_ids -1"
    ).split()
)


TINY_DTN = (
    "--model dtn --f_encoder f.pth --ngf 2 --ndf 4 --batch_size 4 --niter 2 "
    "--niter_decay 1 --gpu_ids -1"
).split()


@pytest.fixture
def script(monkeypatch, capsys):
    """Run a script of the repository in this process, with its exit code and output."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(name, *args):
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code or 0, out=out, err=err)

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def train_dtn(workplace, script):
    """Run train.py --model dtn with tiny nets, and an untrained encoder in f.pth."""
    from dtn.encoder import Encoder, save_encoder

    torch.manual_seed(0)
    save_encoder(Path("f.pth"), Encoder(2, 6, 64))
    return lambda *args: script("train.py", *TINY_DTN, *args)


@pytest.fixture
def train(script):
    """Run train.py with tiny nets."""
    other = TINY[len(RESNET) :]
    return lambda *args: script("train.py", *(other if "--generator" in args else TINY), *args)


@pytest.fixture
def prepare(tmp_path, monkeypatch, script):
    """Run prepare_data.py in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(source, output, *flags):
        return script("prepare_data.py", "--source", source, "--output", output, *flags)

    return run


@pytest.fixture
def data_options(workplace):
    """Flags of benchmarks.modes.Data for the tiny folders of workplace."""
    return SimpleNamespace(
        domain_A_path=Path("data/anime"),
        domain_B_path=Path("data/person"),
        images=12,
        test_A_path=Path("data/anime"),
        test_B_path=Path("data/person"),
        test_images=12,
        work=Path("out"),
        attributes=None,
    )


@pytest.fixture(scope="module")
def server():
    from harness import Server

    with Server() as server:
        yield server


@pytest.fixture
def nothing_is_executed(tmp_path, monkeypatch):
    """An empty working directory, in which no code of a hostile file leaves its mark."""
    from hostile_files import CANARY

    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CANARY).exists()
