"""Two processes at once: two trainings of one name, two builders of one cache, readers of a run."""

import os
import signal
import sys
import threading
import time

import pytest
import torch
from conftest import COUNTS

if sys.platform == "win32":
    pytest.skip("no locks and no fork there", allow_module_level=True)

from harness import (
    FLAGS,
    HANG,
    RESUME,
    SAVE_EVERY_STEP,
    assert_same_run,
    events,
    make_pictures,
)

from common.errors import UserError
from storage import locks
from storage.checkpoint import load_checkpoint
from storage.files import atomic_write
from storage.locks import alone_in

RUN = ("train", *FLAGS, "--name", "run")
STOP = int(signal.SIGSTOP)


@pytest.fixture(scope="module")
def root(server, tmp_path_factory):
    """A folder with pictures, and with a run that nothing disturbed in unbroken/."""
    root = tmp_path_factory.mktemp("two")
    make_pictures(root)
    code, output = server.run(root / "unbroken", *RUN)
    assert code == 0, output
    return root


def start_and_stop(server, cwd, event, number, *command):
    """Start a command and stop it at an event, so that another one surely comes in between."""
    pid = server.start(cwd, *command, trap=(event, number, STOP))
    server.wait_until_stopped(pid)
    return pid


def go_on(server, pid):
    os.kill(pid, signal.SIGCONT)
    code, output = server.wait(pid)
    assert code == 0, output
    return output


@pytest.mark.parametrize("event, number", [("write log", 1), ("step", 3)])
def test_the_second_training_of_a_name_is_refused_and_the_first_undisturbed(
    server, root, event, number
):
    cwd = root / event.replace(" ", "")
    first = start_and_stop(server, cwd, event, number, *RUN)
    saved = (cwd / "model_ckpt/run/latest.pth").exists()
    for command in (RUN, ("train", *RESUME), ("train", "--resume")) if saved else (RUN,):
        code, output = server.run(cwd, *command)
        assert code == 2 and "Traceback" not in output
        line = output.strip().splitlines()[-1]
        assert line.startswith("error: --name run: another process is at work in model_ckpt/run/")
        assert "wait for its end, stop it, or choose another one" in line
        COUNTS["second trainings refused"] += 1
    go_on(server, first)
    assert_same_run(root / "unbroken", cwd)


def test_a_killed_training_holds_its_name_no_longer(server, root):
    cwd = root / "killed"
    first = start_and_stop(server, cwd, "step", 3, *RUN)
    assert server.run(cwd, "train", *RESUME)[0] == 2
    os.kill(first, signal.SIGKILL)
    assert server.wait(first)[0] == -signal.SIGKILL
    assert (cwd / "model_ckpt/run/.lock").exists()  # which means nothing any more
    code, output = server.run(cwd, "train", *RESUME)
    assert code == 0, output
    assert_same_run(root / "unbroken", cwd)


def test_of_two_trainings_without_a_name_the_second_takes_the_next_one(server, root):
    cwd = root / "unnamed"
    first = start_and_stop(server, cwd, "write checkpoint", 1, "train", *FLAGS)
    assert not list(cwd.glob("model_ckpt/*/latest.pth"))
    code, output = server.run(cwd, "train", *FLAGS)
    assert code == 0 and "test.py --name sn_60-2" in output, output
    assert "test.py --name sn_60\n" in go_on(server, first)
    states = [torch.load(cwd / f"model_ckpt/{name}/latest.pth") for name in ("sn_60", "sn_60-2")]
    assert [state["epoch"] for state in states] == [3, 3]


def test_whoever_reads_a_run_that_is_being_trained_gets_a_whole_checkpoint(server, root):
    cwd = root / "read"
    path = cwd / "model_ckpt/run/latest.pth"
    long_run = ("--niter", "4", *SAVE_EVERY_STEP)
    pid = start_and_stop(server, cwd, "step", 1, *RUN, *long_run)
    os.kill(pid, signal.SIGCONT)
    reads, translations, seen = 0, [], set()
    waited = time.monotonic() + HANG
    while path.parent.joinpath(".lock").exists():
        assert time.monotonic() < waited
        state = load_checkpoint(path)
        seen.add((state["epoch"], state["batch"]))
        reads += 1
        if reads % 20 == 1 and len(translations) < 2:
            flags = f"--name run --gpu_ids -1 --output out{reads}".split()
            translations.append(server.start(cwd, "test", *flags))
        time.sleep(0.002)
    for process in (pid, *translations):
        code, output = server.wait(process)
        assert code == 0, output
    assert len(translations) > 0 and len(seen) > 1
    COUNTS["reads of a run in training"] += reads + len(translations)


@pytest.mark.parametrize("killed", [False, True])
def test_the_second_builder_of_a_cache_waits_and_uses_it_or_takes_over(server, root, killed):
    cache, folders = root / f"cache{killed}", [root / f"builder{n}{killed}" for n in (1, 2)]
    cache.mkdir()
    for folder in folders:
        (folder / "data").mkdir(parents=True)
        (folder / "data/cache").symlink_to(cache)
    first = start_and_stop(server, folders[0], "decode", 5, *RUN)
    second = server.start(folders[1], *RUN)
    waited = time.monotonic() + HANG
    line = "waiting, since another process is at work in "
    while line not in server.output(second):
        assert server.lives(second) and time.monotonic() < waited, server.output(second)
        time.sleep(0.01)
    if killed:
        os.kill(first, signal.SIGKILL)
        assert server.wait(first)[0] == -signal.SIGKILL
    else:
        go_on(server, first)
    code, output = server.wait(second)
    assert code == 0 and output.count(f"data/anime: {line}") == 1, output
    # Who gets the lock of the other folder next is chance; each picture is decoded once.
    decoded = [events(folder).get("decode", 0) for folder in folders[killed:]]
    assert sum(decoded) == 120, decoded
    caches = [
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (cache, root / "unbroken/data/cache")
    ]
    assert caches[0] == caches[1]


# ---- the lock itself ---------------------------------------------------------------------------


def test_a_lock_leaves_no_file_and_no_folder_that_it_made(tmp_path):
    with alone_in(tmp_path / "new" / "run", "--name run"):
        assert (tmp_path / "new/run/.lock").exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with alone_in(tmp_path / "old", "--name old"):
        pass
    assert list((tmp_path / "old").iterdir()) == []


def test_a_lock_that_changes_hands_is_never_held_twice(tmp_path, monkeypatch, capsys):
    taken, enough, unlink = threading.Event(), threading.Event(), os.unlink

    def wait_for_it():
        with alone_in(tmp_path, "the second", wait=True):
            taken.set()
            enough.wait(HANG)

    def unlink_late(path):  # time for the second one to take what is let go of too early
        time.sleep(0.2)
        unlink(path)

    second, said, waited = threading.Thread(target=wait_for_it), "", time.monotonic() + HANG
    with alone_in(tmp_path, "the first"):
        second.start()
        while "waiting, since" not in said:  # said once the file is open
            assert second.is_alive() and time.monotonic() < waited
            said += capsys.readouterr().err
            time.sleep(0.001)
        monkeypatch.setattr(locks.os, "unlink", unlink_late)
    assert taken.wait(HANG)
    try:
        with pytest.raises(UserError, match="is at work"), alone_in(tmp_path, "the third"):
            pass
    finally:
        enough.set()
        second.join(HANG)
    assert list(tmp_path.iterdir()) == []


def number_of_a_dead_process():
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    return dead


def test_strays_of_the_dead_are_removed_and_those_of_the_living_are_not(tmp_path):
    dead, living = number_of_a_dead_process(), os.getppid()
    names = [f".latest.pth.{pid}.tmp" for pid in (dead, os.getpid(), 10**30, living)]
    for name in (*names, "mine.tmp", ".notes.tmp"):
        (tmp_path / name).touch()
    with alone_in(tmp_path, "--name run"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [names[-1], "mine.tmp", ".notes.tmp"]
    )
    with atomic_write(tmp_path / "x"):  # the name that is looked for is the one that is written
        (written,) = tmp_path.glob(".x*")
        assert locks.TEMPORARY.fullmatch(written.name).groups() == ("x", str(os.getpid()))


def test_a_write_without_a_lock_removes_strays_of_its_own_target_only(tmp_path):
    dead, living = number_of_a_dead_process(), os.getppid()
    strays = [f".grid.png.{dead}.tmp", f".other.png.{dead}.tmp", f".grid.png.{living}.tmp"]
    for name in strays:
        (tmp_path / name).touch()
    with atomic_write(tmp_path / "grid.png"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"grid.png", *strays[1:]}


def test_where_the_file_system_has_no_locks_it_is_said_and_work_goes_on(
    tmp_path, monkeypatch, capsys
):
    def unsupported(*args, **kwargs):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.FileLock, "acquire", unsupported)
    done = False
    with alone_in(tmp_path, "--name run"):
        done = True
    line = capsys.readouterr().err
    assert done and line.count("\n") == 1
    assert line.startswith("warning: ") and "no locks ([Errno 95] Operation not supported)" in line
