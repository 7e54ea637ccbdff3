"""What the attacks with signals share: processes that are cheap to start, and traps that kill them.

A server imports torch and the scripts once and forks a process for every run of a script, so that
one costs what the script does and not the seconds of the imports. A trap is (event, number): the
process kills itself with SIGKILL at the so-manieth such event; (event, number, SIGSTOP) stops it
there. Events:

    step               an optimiser's step is done
    decode             an image was decoded for the cache
    draw               a demo face was drawn
    fsync, replace     before the disk is waited for, before a file gets its name
    unlink             before a file is removed
    write checkpoint   in the middle of a write to a file: half of it comes through; also
                       cache, demo, grid, index, log, options, page, picture, report
"""

import builtins
import ctypes
import io
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from compare import same, without_time
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
HANG = 300  # seconds, after which a test gives up on a process
KINDS = {
    "latest.pth": "checkpoint",
    "best.pth": "checkpoint",
    "log.jsonl": "log",
    "options.json": "options",
    "index.html": "page",
    "report.json": "report",
    "demo.json": "demo",
    "factors.json": "demo",
}

# A training of 3 epochs with 3 steps each; six images held out, so that there are figures.
FLAGS = (
    "--domain_A_path ../data/anime --domain_B_path ../data/person "
    "--image_size 24 --discriminator patch --ngf 2 --ndf 2 --generator resnet --n_blocks 1 "
    "--warm_steps 0 --shift 0 --batch_size 18 "
    "--holdout 6 --niter 2 --niter_decay 1 --pool_size 5 --ckpt_num 2 --lr_G 0.01 --amp off "
    "--num_workers 0 --gpu_ids -1"
).split()
RESUME = "--resume --name run --num_workers 0 --gpu_ids -1".split()
SAVE_EVERY_STEP = ("--save_minutes", "1e-9")


def make_pictures(folder):
    """Two folders of 60 pictures for FLAGS, in data/ beside the folders of the runs."""
    random = np.random.default_rng(0)
    for domain in ("anime", "person"):
        Path(folder, "data", domain).mkdir(parents=True)
        for i in range(60):
            pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((24, 24))
            image.save(Path(folder, "data", domain, f"{i:02}.png"))


# ---- results -----------------------------------------------------------------------------------


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def log(cwd):
    """The records of the run's log without what depends on the clock or the machine."""
    lines = Path(cwd, "save_image/run/log.jsonl").read_text().splitlines()
    return without_time(map(json.loads, lines))


def options(cwd):
    found = json.loads(Path(cwd, "save_image/run/options.json").read_text())
    return {k: v for k, v in found.items() if k not in ("resume", "save_minutes")}


def bytes_lost(one, two):
    """Size of the checkpoints, grids and caches of a run that another has not, or has otherwise."""

    def content(path):
        if path.suffix == ".pth" and path.exists():
            return torch.load(path)["model"]
        return path.read_bytes() if path.exists() else None

    patterns = (
        "model_ckpt/run/*.pth",
        "save_image/run/*.png",
        "data/cache/*.u8",
        "data/cache/*.json",
    )
    files = [path for pattern in patterns for path in one.glob(pattern)]
    return sum(
        path.stat().st_size
        for path in files
        if not same(content(path), content(two / path.relative_to(one)))
    )


def assert_same_run(one, two):
    """Two folders hold the same run: tensors, log, grids and cache to the bit, and nothing else."""
    for folder in ("model_ckpt/run", "save_image/run"):
        assert names(one / folder) == names(two / folder)
    for path in (one / "model_ckpt/run").glob("*"):
        a, b = (torch.load(root / "model_ckpt/run" / path.name) for root in (one, two))
        for part in ("model", "epoch", "batch", "totals", "best", "data"):
            assert same(a[part], b[part]), (path.name, part)
    assert log(one) == log(two) and options(one) == options(two)
    for pattern in ("save_image/run/*.png", "data/cache/*.u8", "data/cache/*.json"):
        files = sorted(one.glob(pattern))
        assert files and names(one / "data/cache") == names(two / "data/cache")
        for path in files:
            assert path.read_bytes() == (two / path.relative_to(one)).read_bytes(), path.name
    assert (two / "save_image/run/index.html").read_text().endswith("</html>")
    assert not [*two.rglob("*.tmp")]


# ---- the client's side -------------------------------------------------------------------------


class Server:
    """Forks a process for each run of a script; with `with`, none of them outlives the block."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            },
        )
        self.running = set()
        self.outputs = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *error):
        for pid in self.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.stdin.close()
        self.process.wait(HANG)
        self.process.stdout.close()
        self.outputs.cleanup()

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        if not select.select([self.process.stdout], [], [], HANG)[0]:
            raise TimeoutError(request)
        return json.loads(self.process.stdout.readline())

    def start(self, cwd, script, *argv, trap=None):
        """Start a script in the folder; returns its process's number."""
        Path(cwd).mkdir(parents=True, exist_ok=True)
        argv = [f"{script}.py", *map(str, argv)]
        pid = self.ask(cwd=str(cwd), script=script, argv=argv, trap=trap, out=self.outputs.name)
        self.running.add(pid)
        return pid

    def wait(self, pid):
        """The exit code of a process, minus the signal if one ended it, and what it printed."""
        code = self.ask(wait=pid)
        self.running.discard(pid)
        return code, self.output(pid)

    def lives(self, pid):
        """Whether a process has not ended yet; it is to be waited for all the same."""
        return not self.ask(ended=pid)

    def output(self, pid):
        """What a process has printed so far."""
        path = Path(self.outputs.name, str(pid))
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_until_stopped(self, pid):
        """Wait for a trap that stops the process, which lets go on with SIGCONT."""
        assert self.ask(stopped=pid), self.output(pid)

    def run(self, cwd, script, *argv, trap=None):
        return self.wait(self.start(cwd, script, *argv, trap=trap))


def events(cwd):
    """How often each event happened in the last process there that ended by itself."""
    return json.loads(Path(cwd, "events.json").read_text())


# ---- the server's side -------------------------------------------------------------------------


def serve():
    """Fork and wait as asked, until the client hangs up."""
    sys.path.insert(0, str(ROOT))
    import torchvision.utils  # noqa: F401

    import test
    import train
    from demo import make as demo_faces
    from dtn import pretraining as pretrain_encoder
    from evaluation import evaluate, metrics
    from interop import publish
    from pictures import prepare as prepare_data
    from viewer import pages as gallery

    torch.set_num_threads(1)
    gallery.environment().get_template("viewer.html")
    metrics.COLLAPSE_SPREAD, metrics.COLLAPSE_DUPLICATES = -1, 2  # nets this small always are
    prepare_data.CHUNK, prepare_data.SAVE_SECONDS = 8, 0  # or 120 pictures have one report
    scripts = {
        "evaluate": evaluate,
        "gallery": gallery,
        "prepare_data": prepare_data,
        "pretrain_encoder": pretrain_encoder,
        "publish": publish,
        "test": test,
        "train": train,
    }
    scripts["make_demo"] = SimpleNamespace(
        main=lambda: demo_faces.make_demo(Path("demo"), count=4, test_count=3, image_size=32)
    )
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif "ended" in request:
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            answer = os.waitid(os.P_PID, request["ended"], look) is not None
        elif "stopped" in request:
            answer = os.WIFSTOPPED(os.waitpid(request["stopped"], os.WUNTRACED)[1])
        else:
            answer = os.fork()
            if answer == 0:
                run_child(scripts[request["script"]].main, request)
        print(json.dumps(answer), flush=True)


def run_child(main, request):
    """Be the process that was asked for; never returns."""
    code = 1
    if sys.platform == "linux":  # a stopped process would outlive tests that are killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: as soon as the server ends
    try:
        output = os.open(f"{request['out']}/{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, output, output)):
            os.dup2(file, number)
        os.chdir(request["cwd"])
        sys.argv = request["argv"]
        counts = set_traps(*(request["trap"] or ("", 0)))
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        Path("events.json").write_text(json.dumps(counts))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def kind_of(path):
    """What is written to a path, which may be a temporary one: .NAME.PID.tmp."""
    name = os.path.basename(path)
    if name.endswith(".tmp"):
        name = name[1:].rsplit(".", 2)[0]
    if name in KINDS:
        return KINDS[name]
    kinds = {".pth": "checkpoint", ".u8": "cache", ".json": "index"}
    kinds[".png"] = "grid" if "_epoch_" in name else "picture"
    return kinds.get(os.path.splitext(name)[1])


def set_traps(event, number, signal_number=signal.SIGKILL):
    """Count all events, and get a signal at one. Returns the counts, which grow."""
    counts = Counter()

    def die():
        os.kill(os.getpid(), signal_number)

    def happens(name):
        counts[name] += 1
        return (name, counts[name]) == (event, number)

    def trap(module, function, name, after=False):
        original = getattr(module, function)

        def trapped(*args, **kwargs):
            fatal = happens(name)
            if fatal and not after:
                die()
            result = original(*args, **kwargs)
            if fatal:
                die()
            return result

        setattr(module, function, trapped)

    class Torn(io.BufferedWriter):
        def write(self, data):
            data = memoryview(data).cast("B")
            if happens(self.event):
                half = super().write(data[: len(data) // 2])
                self.flush()
                die()
                return half + super().write(data[half:])
            return super().write(data)

    plain_open = builtins.open

    def trapped_open(file, mode="r", *args, encoding=None, **kwargs):
        kind = kind_of(os.fspath(file)) if isinstance(file, str | Path) else None
        if kind is None or mode[0] not in "wa":
            return plain_open(file, mode, *args, encoding=encoding, **kwargs)
        torn = Torn(io.FileIO(file, mode[0]))
        torn.event = f"write {kind}"
        return torn if "b" in mode else io.TextIOWrapper(torn, encoding=encoding)

    from torch.optim.optimizer import register_optimizer_step_post_hook

    import dataset
    from demo import make as demo_faces

    builtins.open = trapped_open
    register_optimizer_step_post_hook(lambda *_: happens("step") and die())
    trap(dataset, "load_image", "decode", after=True)
    trap(demo_faces, "draw_face", "draw", after=True)
    for function in ("fsync", "replace", "unlink"):
        trap(os, function, function)
    return counts


if __name__ == "__main__":
    serve()
