"""A long run: memory, open files and threads stay as they were; log and grids are complete."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import COUNTS, ROOT
from PIL import Image

# Usual are 100 to 1,000: the allocator's, and the page of the run, made anew of a log that is a
# line longer each epoch. The images of one step, kept by mistake, would be 14,000.
BYTES_PER_STEP = 4000
STEPS = 20  # of an epoch
FLAGS = (
    "--ngf 2 --ndf 2 --n_blocks 1 --discriminator patch --image_size 24 --batch_size 1 "
    "--warm_steps 0 --lambda_idt 0 --pool_size 4 --num_workers 0 --amp off --gpu_ids -1 "
    "--ckpt_num 1000 --name run --niter_decay 0"
).split()
# train.py, with a look at the process after every epoch.
WATCHED = """
import json, os, sys, threading, torch, train
from training import run
torch.set_num_threads(1)
seen = []
def look():
    pages = int(open("/proc/self/statm").read().split()[1])
    seen.append([pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd")),
                 len(os.listdir("/proc/self/task")), threading.active_count()])
run.print_record = lambda record: look()
train.main()
json.dump(seen, open("seen.json", "w"))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_a_long_run_needs_no_more_of_anything_at_its_end(tmp_path, long):
    random = np.random.default_rng(0)
    for folder in ("anime", "person"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for i in range(STEPS + 2):  # two are held out
            pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{i}.png")
    epochs, every = (2500, 100) if long else (60, 10)
    command = [
        sys.executable,
        "-c",
        WATCHED,
        *FLAGS,
        "--niter",
        str(epochs),
        "--every_save_images",
        str(every),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    # The first half warms up allocators and caches.
    seen = np.array(json.loads((tmp_path / "seen.json").read_text()), float)[epochs // 2 :]
    slope = np.polyfit(STEPS * np.arange(len(seen)), seen[:, 0], 1)[0]
    assert slope < BYTES_PER_STEP, f"{slope:.0f} bytes of memory more per step"
    for column, what in enumerate(("open files", "threads", "Python's threads"), 1):
        assert len(set(seen[:, column])) == 1, what

    records = [json.loads(line) for line in open(tmp_path / "save_image/run/log.jsonl")]
    expected = [(epoch, STEPS * epoch) for epoch in range(1, epochs + 1)]
    assert [(record["epoch"], record["step"]) for record in records] == expected
    grids = sorted(path.name for path in Path(tmp_path, "save_image/run").glob("*.png"))
    assert grids == [
        f"{epoch:04}_epoch_{shows}.png"
        for epoch in range(every, epochs + 1, every)
        for shows in ("anime", "person")
    ]
    COUNTS["steps of a long run"] += STEPS * epochs
    COUNTS["bytes of memory per step"] += max(0, round(slope))
