import pytest
import torch

from cyclegan_model import ImagePool


def test_pool_returns_the_batch_until_it_is_full_then_exchanges_half():
    pool = ImagePool(10, torch.Generator().manual_seed(0))
    images = torch.arange(1010.0).view(-1, 1, 1, 1)
    assert torch.equal(pool.query(images[:10]), images[:10])
    out = pool.query(images[10:])
    kept = (out == images[10:]).float().mean().item()
    assert kept == pytest.approx(0.5, abs=0.05)
    everything = torch.cat([out.flatten(), pool.images.flatten()])
    assert torch.equal(everything.sort().values, images.flatten())  # nothing lost or doubled


def test_pool_of_size_zero_passes_the_batch_on():
    x = torch.randn(3, 1, 1, 1)
    assert ImagePool(0, torch.Generator()).query(x) is x


def test_pool_keeps_its_own_copies():
    pool, x = ImagePool(2, torch.Generator()), torch.zeros(2, 1, 1, 1)
    pool.query(x)
    x += 1
    assert (pool.images == 0).all() and pool.images.untyped_storage().nbytes() == 8
