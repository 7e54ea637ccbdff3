import os
import pickle
import subprocess
import sys

import pytest
import torch
from compare import same
from conftest import ROOT

from common.errors import UserError
from storage.checkpoint import find_checkpoint, free_names, load_checkpoint, save_checkpoint
from storage.files import atomic_write

STATE = {
    "options": {"ngf": 4},
    "epoch": 1,
    "batch": 0,
    "totals": {},
    "model": {"nets": {"netG_A": {"w": torch.arange(1000.0)}}, "steps": 3},
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model_ckpt" / "run" / "latest.pth"
    save_checkpoint(path, STATE)
    return path


def test_what_is_saved_comes_back(path):
    state = load_checkpoint(path)
    assert same(state, {"format": 1, **STATE})
    assert os.listdir(path.parent) == ["latest.pth"]


@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="latest.pth: not loaded, it is damaged"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("dump", [torch.save, lambda x, p: p.write_bytes(pickle.dumps(x))])
def test_pickled_code_is_refused_and_never_executed(path, dump):
    dump({**STATE, "format": 1, "evil": Evil()}, path)
    with pytest.raises(UserError, match="not loaded"):
        load_checkpoint(path)
    assert not os.path.exists("executed")


def test_other_files_of_tensors_and_other_formats_are_refused(path):
    torch.save({"w": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a checkpoint that train.py wrote"):
        load_checkpoint(path)
    torch.save({**STATE, "format": 99}, path)
    with pytest.raises(UserError, match="format 99"):
        load_checkpoint(path)


def test_a_missing_file_or_run_is_named_beside_what_is_there(path):
    with pytest.raises(UserError, match="nowhere.pth: no such checkpoint.*run"):
        load_checkpoint(path.with_name("nowhere.pth"))
    with pytest.raises(UserError, match="--name other.*runs in .*: run"):
        find_checkpoint("other")


def test_the_newest_run_is_found(path):
    newer = path.parent.parent / "demo-2" / "latest.pth"
    save_checkpoint(newer, STATE)
    os.utime(path, (1, 1))
    assert find_checkpoint(None).parent.name == "demo-2"
    os.utime(newer, (0, 0))
    assert find_checkpoint(None).parent.name == "run"
    assert find_checkpoint(None, "demo*").parent.name == "demo-2"


def test_without_any_run_the_way_to_make_one_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="train.py --demo"):
        find_checkpoint(None)


def test_a_taken_name_gets_a_number(path):
    assert [next(free_names(name)) for name in ("new", "run")] == ["new", "run-2"]


def test_a_failed_write_leaves_the_old_file_and_no_other(path):
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == before and os.listdir(path.parent) == ["latest.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a Unix thing")
def test_a_full_disk_while_saving_is_one_line_and_the_old_checkpoint_stays(path):
    before = path.read_bytes()
    code = (
        "import resource, torch, pathlib; from storage import checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "state = {'options': {}, 'model': {'w': torch.zeros(1_000_000)}}\n"
        f"save = lambda: checkpoint.save_checkpoint(pathlib.Path({str(path)!r}), state)\n"
        "from common import errors; errors.one_line_errors(save)()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "latest.pth: cannot be written" in done.stderr
    assert path.read_bytes() == before and os.listdir(path.parent) == ["latest.pth"]


def test_what_a_script_prints_is_written_at_once_into_a_file_too():
    code = (
        "from common import errors; import os\n"
        "errors.one_line_errors(lambda: (print('started'), os._exit(0)))()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "started\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs Unix")
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "latest.pth", STATE)
