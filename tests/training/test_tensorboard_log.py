"""train.py --tensorboard shows what log.jsonl says, also after a run was interrupted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REASON = "optional: pip install tensorboard"


def shown(folder):
    """What TensorBoard would show of a folder."""
    pytest.importorskip("tensorboard", reason=REASON)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def steps_of(events, tag):
    return [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]


def test_steps_that_are_trained_again_are_shown_once(tmp_path):
    pytest.importorskip("tensorboard", reason=REASON)
    from training.tensorboard_log import TensorBoard

    def record(epoch, loss):
        return {"epoch": epoch, "step": 3 * epoch, "losses": {"G_A": loss}, "spread": {"x": None}}

    for epoch in (1, 2):
        Image.fromarray(np.full((4, 4, 3), epoch, np.uint8)).save(
            tmp_path / f"{epoch:04}_epoch_anime.png"
        )
    board = TensorBoard(tmp_path, steps=0)
    for epoch in (1, 2):
        board.add(record(epoch, 0.5))
    board.writer.close()
    board = TensorBoard(tmp_path, steps=3)  # killed before epoch 2 was saved
    board.add(record(2, 0.25))
    board.writer.close()

    events = shown(tmp_path / "tensorboard")
    assert steps_of(events, "losses/G_A") == [(3, 0.5), (6, 0.25)]
    assert events.Tags()["scalars"] == ["epoch", "losses/G_A"]
    assert [image.step for image in events.Images("anime")] == [3, 6]


def test_a_run_and_its_resumption_show_the_log_and_its_grids(workplace, train, script):
    pytest.importorskip("tensorboard", reason=REASON)
    assert train("--name", "run", "--tensorboard", "--every_save_images", 2).code == 0
    assert script("train.py", "--resume", "--name", "run", "--niter", 3).code == 0
    log = [json.loads(line) for line in open("save_image/run/log.jsonl")]
    events = shown("save_image/run/tensorboard")
    assert len(log) == 4
    for tag in ("losses/cycle_A", "spread/anime", "lr_G", "images_per_s"):
        part, _, key = tag.partition("/")
        expected = [(r["step"], r[part][key] if key else r[part]) for r in log]
        if all(value is not None for _, value in expected):
            assert steps_of(events, tag) == expected
    grids = [
        r["step"] for r in log if Path(f"save_image/run/{r['epoch']:04}_epoch_anime.png").exists()
    ]
    assert [image.step for image in events.Images("anime")] == grids and grids


def test_a_missing_package_is_one_line_before_any_work(workplace, train, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = train("--tensorboard")
    assert done.code == 2 and "pip install tensorboard" in done.err
    assert done.err.count("\n") == 1 and not Path("model_ckpt").exists()
