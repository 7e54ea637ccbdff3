"""common/tensors.py: the split, bytes to pixels and back, and what is drawn."""

import subprocess
import sys
from threading import Thread

import numpy as np
import pytest
import torch
from conftest import ROOT

from common.errors import UserError
from common.tensors import derived_generator, to_float, to_uint8
from dataset import UnpairedBatches
from pictures.splits import split_holdout

SIZE = 8


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 99, 1000, 60_000])
@pytest.mark.parametrize("holdout", [0, 1, 7, 500, 10**6])
def test_split_is_disjoint_complete_and_evenly_spaced(count, holdout):
    train, held = split_holdout(count, holdout)
    assert len(held) == max(1, min(holdout, count // 10))
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(count))
    assert (np.diff(train) > 0).all() and train.dtype == held.dtype == np.int64
    assert len(held) == 1 or np.ptp(np.diff(held)) <= 1


def test_a_single_image_cannot_be_split():
    with pytest.raises(UserError, match="--holdout 500: 1 readable .* raise --dataset_size"):
        split_holdout(1, 500)


def test_float_and_uint8_are_exact_inverses():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    floats = to_float(values)
    assert floats.shape == (2, 3, 16, 16) and floats.dtype == torch.float32
    assert floats.is_contiguous() and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), values) and to_uint8(floats).is_contiguous()


def test_channels_keep_their_place_and_values_outside_are_clamped():
    pixels = torch.from_numpy(noise(4, 6))[None]
    assert torch.equal(to_float(pixels)[0, 2], pixels[0, :, :, 2].float() / 127.5 - 1)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    outside = torch.tensor([-9.0, 0.0, 9.0]).reshape(1, 3, 1, 1).requires_grad_()
    assert to_uint8(outside).flatten().tolist() == [0, 128, 255]


def numbered(count: int) -> np.ndarray:
    """Images that can be told apart: image n is (n, n + 100) from left to right."""
    images = np.zeros((count, 2, 2, 3), np.uint8)
    images[:, :, 0] = np.arange(count)[:, None, None]
    images[:, :, 1] = images[:, :, 0] + 100
    return images


def drawn(batch: torch.Tensor) -> list[int]:
    """The image numbers of a batch, whether flipped or not."""
    return to_uint8(batch).amin(dim=(1, 2, 3)).tolist()


def make_batches(n_A: int = 30, n_B: int = 11, **changes) -> UnpairedBatches:
    options = dict(batch_size=4, seed=1)
    return UnpairedBatches(numbered(n_A), numbered(n_B), **{**options, **changes})


def test_a_batch_is_a_function_of_seed_and_step_alone():
    in_order, steps = make_batches(), range(20)
    want = [in_order.batch(step) for step in steps]
    backwards = make_batches()
    torch.manual_seed(99)
    for step in reversed(steps):
        torch.rand(3)
        assert all(map(torch.equal, backwards.batch(step), want[step]))
    assert all(map(torch.equal, make_batches().batch(13), want[13]))


def test_another_seed_another_order_and_the_domains_are_independent():
    one, two = make_batches(30, 30), make_batches(30, 30, seed=2)
    assert drawn(one.batch(0)[0]) != drawn(two.batch(0)[0])
    assert drawn(one.batch(0)[0]) != drawn(one.batch(0)[1])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 11])
def test_every_image_comes_once_per_pass_and_the_smaller_domain_starts_again(batch_size):
    batches = make_batches(batch_size=batch_size)
    steps = range(-(-60 // batch_size))
    for n, domain in [(30, 0), (11, 1)]:
        order = [k for step in steps for k in drawn(batches.batch(step)[domain])]
        passes = [order[start : start + n] for start in range(0, 60 - n + 1, n)]
        assert len(passes) == 60 // n
        assert all(sorted(one) == list(range(n)) for one in passes)
        assert passes[0] != passes[1]


def test_a_pass_keeps_its_order_wherever_another_thread_asks_for_another_pass(monkeypatch):
    """The prefetching thread draws the next batch while others draw theirs."""
    batches = make_batches()
    orders = [make_batches().permutation("A", number) for number in (0, 1)]
    assert not torch.equal(*orders)
    code, seen = UnpairedBatches.permutation.__code__, []

    def trace(frame, event, _):
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":  # threads may change before any instruction
            other = Thread(target=lambda: seen.append(batches.permutation("A", 1)))
            other.start()
            other.join(5)
            assert not other.is_alive(), "it waits for this thread"
        return trace

    for kept in (0, 1):  # with the order at hand, and without it
        batches.permutation("A", kept)
        sys.settrace(trace)
        try:
            order = batches.permutation("A", 0)
        finally:
            sys.settrace(None)
        assert torch.equal(order, orders[0])
    assert len(seen) > 20 and all(torch.equal(order, orders[1]) for order in seen)


def test_an_epoch_is_one_pass_of_the_larger_domain():
    assert make_batches(30, 11, batch_size=4).steps_per_epoch == 7
    assert make_batches(11, 30, batch_size=10).steps_per_epoch == 3


def test_only_the_given_indices_are_drawn():
    train, held = split_holdout(30, 3)
    batches = make_batches(indices_A=train, batch_size=9)
    order = [k for step in range(3) for k in drawn(batches.batch(step)[0])]
    assert sorted(order) == train.tolist() and not set(order) & set(held.tolist())


def test_rows_and_images_are_the_same_wherever_the_images_lie(monkeypatch):
    train, held = split_holdout(30, 3)
    plain, moved = (make_batches(indices_A=train, batch_size=9) for _ in range(2))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    moved.on_device = moved.move_to_device()
    assert moved.on_device and len(moved.images["A"]) == len(train)
    for step in range(7):
        rows, flips = moved.draw("A", step)
        assert torch.equal(rows, plain.draw("A", step)[0]) and not set(rows.tolist()) & set(held)
        assert drawn(moved.batch(step)[0]) == rows.tolist()
        assert all(map(torch.equal, moved.batch(step), plain.batch(step)))


def test_flip_mirrors_about_half_and_nothing_without_it():
    batches, plain = make_batches(), make_batches(flip=False)
    flips = []
    for step in range(300):
        for flipped, straight in zip(batches.batch(step), plain.batch(step), strict=True):
            mirrored = (flipped == straight.flip(3)).all(dim=(1, 2, 3))
            assert (mirrored | (flipped == straight).all(dim=(1, 2, 3))).all()
            assert (straight[..., 0] < straight[..., 1]).all()
            flips.append(mirrored)
    assert abs(torch.cat(flips).float().mean() - 0.5) < 0.05  # 2,400 draws: 5 sigma
    assert not torch.equal(flips[0], flips[2]) or not torch.equal(flips[1], flips[3])


def test_batches_are_contiguous_floats_from_a_memory_map(tmp_path):
    np.stack([noise(SIZE, SIZE)] * 6).tofile(tmp_path / "images.u8")
    images = np.memmap(tmp_path / "images.u8", np.uint8, "r", shape=(6, SIZE, SIZE, 3))
    for batch in UnpairedBatches(images, images, batch_size=5, seed=0).batch(3):
        assert batch.shape == (5, 3, SIZE, SIZE) and batch.dtype == torch.float32
        assert batch.is_contiguous() and batch.min() >= -1 and batch.max() <= 1


def test_a_domain_smaller_than_a_batch_is_refused():
    with pytest.raises(UserError) as caught:
        make_batches(30, 11, batch_size=12)
    for part in ("--batch_size 12", "A 30", "B 11", "use --batch_size 11 or less"):
        assert part in str(caught.value)


def test_derived_generators_differ_by_key_and_not_by_process_or_number_type():
    def value(*keys):
        return torch.rand(1, generator=derived_generator(*keys)).item()

    assert value(1, "A", 0) == value(1, "A", np.int64(0))
    assert len({value(1, "A", 0), value(1, "A", 1), value(1, "B", 0), value(2, "A", 0)}) == 4
    code = "import torch; from common import tensors; g = tensors.derived_generator(1, 'A', 0)\n"
    code += "print(torch.rand(1, generator=g).item())"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert float(other.stdout) == value(1, "A", 0)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_all_processes_make_up_the_batch(world_size):
    shares = [make_batches(rank=r, world_size=world_size).batch(5) for r in range(world_size)]
    for whole, parts in zip(make_batches().batch(5), zip(*shares, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))
