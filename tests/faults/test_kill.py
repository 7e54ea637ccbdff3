"""SIGKILL at any moment: what goes on afterwards ends where an undisturbed process would have."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import count

import pytest
import torch
from conftest import COUNTS, ROOT

if sys.platform == "win32":
    pytest.skip("no SIGKILL and no fork there", allow_module_level=True)

from harness import (
    FLAGS,
    HANG,
    RESUME,
    SAVE_EVERY_STEP,
    assert_same_run,
    bytes_lost,
    events,
    make_pictures,
)

from dtn.encoder import Encoder, save_encoder

BUILDING = ("decode", "write cache", "write index")
TRAINING = (
    "step",
    "fsync",
    "replace",
    "unlink",
    "write checkpoint",
    "write grid",
    "write log",
    "write options",
    "write page",
    "at some time",
)
AT_ANY_MOMENT, AT_A_LOCK, OF_THEIR_OWN, OF_A_DTN = 34, 1, 2, 4
TRAININGS_KILLED = AT_ANY_MOMENT + AT_A_LOCK + OF_THEIR_OWN + OF_A_DTN  # docs tell this


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """A folder with a run that nothing disturbed; with how often it saved, and its seconds."""
    root = tmp_path_factory.mktemp("kills")
    make_pictures(root)
    started = time.monotonic()
    code, output = server.run(root / "unbroken", "train", *FLAGS, *SAVE_EVERY_STEP, "--name", "run")
    assert code == 0, output
    (root / "unbroken" / "seconds").write_text(str(time.monotonic() - started))
    return root / "unbroken"


def run_and_kill(server, cwd, event, number, *command):
    """Start a command and kill it at the so-manieth event, or after so many seconds."""
    if event != "at some time":
        return server.run(cwd, *command, trap=(event, number))
    pid = server.start(cwd, *command)
    waited = time.monotonic() + number
    while time.monotonic() < waited and server.lives(pid):
        time.sleep(min(0.01, number))
    os.kill(pid, signal.SIGKILL)
    return server.wait(pid)


def next_command(cwd, *flags):
    """What a user would give now: --resume, or the first command if nothing is saved yet."""
    started = (cwd / "model_ckpt/run/latest.pth").exists()
    return ("train", *RESUME) if started else ("train", *FLAGS, *flags, "--name", "run")


def finish(server, cwd, *flags):
    """Let nothing disturb the last command: it goes on from the last complete save, to the end."""
    saved, place = cwd / "model_ckpt/run/latest.pth", ""
    if saved.exists():
        state = torch.load(saved)
        place = f"Resuming run in epoch {state['epoch'] + 1} after {state['batch']} steps of it"
    code, output = server.run(cwd, *next_command(cwd, *flags))
    assert code == 0 and place in output, output


def assert_nothing_lost(unbroken, cwd):
    """A run that was killed ended as the unbroken one; what it lost is counted in any case."""
    COUNTS["bytes lost"] += bytes_lost(unbroken, cwd)
    assert_same_run(unbroken, cwd)


def test_killed_at_any_moment_and_resumed_equals_unbroken_to_the_bit(server, unbroken, long):
    chance, survived, missed = random.Random(0), Counter(), Counter()
    often, seconds = events(unbroken), float((unbroken / "seconds").read_text())
    # A story each for the first and the last time of everything, then stories by chance.
    places = [
        (event, number) for event in (*BUILDING, *TRAINING[:-1]) for number in (1, often[event])
    ]
    wanted = 500 if long else AT_ANY_MOMENT
    for story in count():
        if survived.total() == wanted:
            break
        assert story < len(places) + 2 * wanted, f"something never happens: {survived}"
        cwd = unbroken.parent / f"{story}"
        flags = SAVE_EVERY_STEP if story % 2 else ()  # the last times are those of many saves
        planned, trail = places[story : story + 1], []
        most = len(planned) or chance.randint(2, 8)
        for kills in range(min(most, wanted - survived.total())):
            whole_cache = len(list(cwd.glob("data/cache/*.json"))) == 2
            possible = TRAINING if whole_cache else BUILDING + TRAINING
            event = min(possible, key=lambda event: (survived[event], chance.random()))
            # What comes after a kill is shorter by what was saved; the machine may be faster now.
            part = chance.random() / (kills + 1 + missed[event])
            number = part * seconds if event == "at some time" else 1 + int(part * often[event])
            event, number = planned[0] if planned else (event, number)
            trail.append((event, number))
            command = next_command(cwd, *flags)
            code, output = run_and_kill(server, cwd, event, number, *command)
            assert code == -signal.SIGKILL or code == 0 and not planned, (trail, output)
            missed[event] = 0 if code else missed[event] + 1
            if code == 0:
                break
            survived[event] += 1
        try:
            finish(server, cwd, *flags)
            assert_nothing_lost(unbroken, cwd)
        except AssertionError as error:
            raise AssertionError(f"{cwd} after {trail}: {error}") from error
    assert survived.keys() == {*BUILDING, *TRAINING}
    COUNTS["trainings killed"] += survived.total()


def test_killed_while_giving_back_the_finished_cache_leaves_no_lock_behind(server, unbroken):
    cwd = unbroken.parent / "lock"
    trap = ("unlink", 2)  # that of the cache's lock, when the second folder's images are there
    code, output = server.run(cwd, *next_command(cwd), trap=trap)
    assert code == -signal.SIGKILL and (cwd / "data/cache/.lock").exists(), output
    COUNTS["trainings killed"] += AT_A_LOCK
    finish(server, cwd)
    assert_nothing_lost(unbroken, cwd)


def test_processes_of_their_own_that_are_killed_go_on_too(server, unbroken):
    cwd = unbroken.parent / "fresh"
    cwd.mkdir()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    code = (
        "import train; from evaluation import metrics\n"
        "metrics.COLLAPSE_SPREAD, metrics.COLLAPSE_DUPLICATES = -1, 2\n"
        "train.main()"
    )
    saved = cwd / "model_ckpt/run/latest.pth"
    for _ in range(OF_THEIR_OWN):
        _, *flags = next_command(cwd)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *flags],
            cwd=cwd,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        waited = time.monotonic() + HANG
        while process.poll() is None and time.monotonic() < waited:
            if saved.exists() and saved.stat().st_mtime_ns > before:
                break
            time.sleep(0.001)
        process.kill()
        assert process.wait(HANG) == -signal.SIGKILL
        COUNTS["trainings killed"] += 1
    finish(server, cwd)
    assert_nothing_lost(unbroken, cwd)


DTN = (
    "--model dtn --f_encoder ../f.pth --domain_A_path ../data/anime --domain_B_path "
    "../data/person --image_size 32 --discriminator patch --ngf 2 --ndf 2 "
    "--batch_size 18 --holdout 6 --niter 2 --niter_decay 1 --ckpt_num 2 --amp off "
    "--num_workers 0 --gpu_ids -1 --name run"
).split()


def test_a_dtn_that_is_killed_again_and_again_equals_unbroken_to_the_bit(server, unbroken):
    save_encoder(unbroken.parent / "f.pth", Encoder(2, 6, 32))
    one, two = (unbroken.parent / name for name in ("dtn", "killed_dtn"))
    code, output = server.run(one, "train", *DTN)
    assert code == 0, output
    command = ("train", *DTN, *SAVE_EVERY_STEP)
    for trap in (("step", 2), ("write checkpoint", 3), ("write grid", 1), ("write log", 1)):
        code, output = server.run(two, *command, trap=trap)
        assert code == -signal.SIGKILL, (trap, output)
        COUNTS["trainings killed"] += 1
        command = ("train", *RESUME)
    finish(server, two)
    assert_nothing_lost(one, two)


FOLDERS = (
    "--domain_A_path",
    "../data/anime",
    "--domain_B_path",
    "../data/person",
    "--image_size",
    "24",
)
HERE = ("--name", "run", "--gpu_ids", "-1")


@pytest.mark.parametrize(
    "script, flags",
    [
        ("test", (*HERE, "--output", "out")),
        ("gallery", ()),
        ("publish", (*HERE[:2], "--output", "out")),
        ("evaluate", ("--floors_only", *FOLDERS)),
        (
            "pretrain_encoder",
            (
                *FOLDERS,
                *HERE[2:],
                "--steps",
                "1",
                "--batch_size",
                "4",
                "--width",
                "2",
                "--dim",
                "4",
                "--output",
                "f.pth",
            ),
        ),
    ],
)
def test_what_a_killed_script_left_is_gone_after_the_same_call(server, unbroken, script, flags):
    cwd = unbroken.parent / script
    shutil.copytree(unbroken, cwd)
    code, output = server.run(cwd, script, *flags, trap=("replace", 1))
    assert code == -signal.SIGKILL and len([*cwd.rglob("*.tmp")]) == 1, output
    COUNTS["other scripts killed"] += 1
    code, output = server.run(cwd, script, *flags)
    assert code == 0 and not [*cwd.rglob("*.tmp")], output


DRAWING = ("draw", "write demo", "write picture", "replace", "unlink")
PREPARING = ("write picture", "write report", "replace", "fsync", "unlink")


@pytest.mark.parametrize("script, kinds", [("make_demo", DRAWING), ("prepare_data", PREPARING)])
def test_killed_drawing_or_preparing_and_begun_again_gives_the_same_files(
    server, unbroken, tmp_path, long, script, kinds
):
    flags = (
        "--source",
        unbroken.parent / "data",
        "--output",
        "out",
        "--min_size",
        "8",
        "--image_size",
        "16",
        "--num_workers",
        "0",
    )
    command = (script, *flags) if script == "prepare_data" else (script,)

    def files(cwd):
        found = [path for path in cwd.rglob("*") if path.is_file() and path.name != "events.json"]
        return {path.relative_to(cwd): path.read_bytes() for path in found}

    chance = random.Random(script)
    code, output = server.run(tmp_path / "unbroken", *command)
    assert code == 0, output
    often, outputs = events(tmp_path / "unbroken"), ""
    places = [(kind, number) for kind in kinds for number in (1, often[kind])]
    if long:
        places += [(kind, chance.randint(1, often[kind])) for kind in kinds * 20]
    for number, place in enumerate(places):
        cwd = tmp_path / f"{number}"
        for trap in (place, (place[0], chance.randint(1, often[place[0]]))):
            code, output = server.run(cwd, *command, trap=trap)
            assert code == -signal.SIGKILL or code == 0 and trap is not place, (trap, output)
            outputs += output
            COUNTS["other scripts killed"] += code < 0
            if script == "prepare_data":  # which does not wait for the disk for each picture
                for path in sorted(cwd.glob("out/*.png"))[:1]:
                    path.write_bytes(b"")
        code, output = server.run(cwd, *command)
        assert code == 0, (trap, output)
        assert files(cwd) == files(tmp_path / "unbroken"), trap
    assert script != "prepare_data" or "goes on after" in outputs


def test_the_document_tells_how_often_a_training_is_killed():
    text = (ROOT / "docs/reliability.md").read_text("utf-8")
    assert f"{TRAININGS_KILLED} times SIGKILL" in text
