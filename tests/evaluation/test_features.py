"""features.py: the network's shapes, its batch norms folded in, its fitted layers, its files."""

import pytest
import torch

from common.errors import UserError
from evaluation.features import (
    SHARES,
    SHIPPED,
    VARIANCE,
    FeatureNet,
    embed,
    load_features,
    save_features,
)


def images(count=12, seed=0, size=64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, size, size, generator=generator) * 2 - 1


@pytest.fixture
def net():
    torch.manual_seed(0)
    return FeatureNet(4).eval()


def test_folded_batch_norms_change_no_feature():
    torch.manual_seed(0)
    net = FeatureNet(2, norm=True)
    for _ in range(3):
        net(images())
    net.eval()
    plain = net.fold()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    assert torch.allclose(net(images()), plain(images()), atol=1e-4)


def test_features_of_an_image_do_not_depend_on_its_batch(net):
    x = images(150)
    assert torch.allclose(embed(net, x)[101:103], embed(net, x[101:103]), atol=1e-5)


def test_fitted_features_have_the_stated_variance_within_a_domain_by_depth(net):
    domains = {"A": images(80), "B": 0.3 * images(80, seed=1) + 0.5}
    with torch.no_grad():
        net.fit({key: net.statistics(x) for key, x in domains.items()})
    rows = [embed(net, x) for x in domains.values()]
    within = sum(x.var(dim=0) for x in rows) / 2
    assert within.sum().item() == pytest.approx(VARIANCE, rel=0.01)
    first = net.project[0].out_features
    assert within[:first].sum().item() == pytest.approx(SHARES[0] * VARIANCE, rel=0.01)
    assert torch.cat(rows).mean(dim=0).abs().max() < 0.01


def test_images_of_another_size_are_scaled(net):
    assert embed(net, images(3, size=32)).shape == embed(net, images(3)).shape


def test_a_written_file_gives_the_same_features_up_to_half_precision(net, tmp_path):
    save_features(tmp_path / "f.pth", net, {"steps": 3})
    loaded = load_features(tmp_path / "f.pth")
    a, b = embed(net, images()), embed(loaded, images())
    assert (a - b).abs().max() < 0.01 * a.abs().max()
    assert not loaded.training


def test_weights_that_are_not_finite_are_not_written(net, tmp_path):
    net.project[0].bias.data[0] = torch.nan
    with pytest.raises(UserError, match="project.0.bias is not finite"):
        save_features(tmp_path / "f.pth", net, {})


def state_of(net):
    return {"format": "features-1", "options": {"width": 4}, "weights": net.state_dict()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("weights"), "not what train_features.py wrote"),
        (lambda s: s.update(format="features-9"), "format 'features-9'"),
        (lambda s: s.update(format=[0] * 1000), "format"),
        (lambda s: s.update(options={}), "not those of a feature network"),
        (lambda s: s.update(options=3), "not those of a feature network"),
        (lambda s: s.update(options={"width": "4"}), "not those of a feature network"),
        (lambda s: s.update(options={"width": 5}), "not those of a feature network"),
        (lambda s: s.update(options={"width": 10**9}), "not those of a feature network"),
        (lambda s: s["weights"].popitem(), "not those of a feature network"),
        (lambda s: s["weights"]["project.0.bias"].fill_(torch.inf), "project.0.bias is not finite"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused_in_one_line(net, tmp_path, change, message):
    state = state_of(net)
    change(state)
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(UserError, match=message) as refusal:
        load_features(tmp_path / "f.pth")
    assert len(str(refusal.value)) < 300


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="evaluation.train_features"):
        load_features(tmp_path / "nowhere.pth")


def test_the_network_that_comes_along_is_small_and_loads():
    assert SHIPPED.stat().st_size < 8 << 20
    rows = embed(load_features(), images(2))
    assert rows.shape == (2, 256)
    assert rows.dtype == torch.float64
    assert rows.isfinite().all()
