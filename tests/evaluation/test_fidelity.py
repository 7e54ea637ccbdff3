import json
import os
import sys

import numpy as np
import pytest
import torch

from common.errors import UserError
from dtn.encoder import FORMAT, Encoder, ResnetEncoder, load_encoder, save_encoder
from evaluation import fidelity
from storage.files import write_tensors

SIZE = 16
MEAN_1, MEAN_2 = np.array([120.0, 130.0, 110.0]), np.array([135.0, 120.0, 125.0])
COVARIANCE_1 = np.array([[400.0, 120.0, 40.0], [120.0, 300.0, -60.0], [40.0, -60.0, 200.0]])
COVARIANCE_2 = np.array([[150.0, -50.0, 0.0], [-50.0, 350.0, 90.0], [0.0, 90.0, 500.0]])


@pytest.fixture
def colour(tmp_path):
    """A file of an encoder whose features are the three colours / 255 of a plain image."""
    encoder = Encoder(3, 3, SIZE)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        for i, conv in enumerate(encoder.convs[::2]):
            for channel in range(3):  # the middle tap of the kernel is the pixel itself
                conv.weight[channel, channel, 1, 1] = 0.5 if i == 0 else 1.0
        encoder.convs[0].bias[:3] = 0.5  # [-1, 1] -> [0, 1], which ReLU lets through
        encoder.linear.weight[:, :3] = torch.eye(3)
    path = tmp_path / "colour.pth"
    save_encoder(path, encoder)
    return path


@pytest.fixture
def library():
    return pytest.importorskip("torch_fidelity", reason="needs torch-fidelity (optional)")


def plain_images(seed, n, mean=MEAN_1, covariance=COVARIANCE_1):
    """uint8 images (n, SIZE, SIZE, 3) of one colour each; the colours (n, 3) are Gaussian."""
    colours = np.random.default_rng(seed).multivariate_normal(mean, covariance, n)
    colours = colours.round().clip(0, 255).astype(np.uint8)
    return np.tile(colours[:, None, None], (1, SIZE, SIZE, 1))


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values.clip(0)) @ vectors.T


def frechet(mean_1, covariance_1, mean_2, covariance_2):
    root_1 = root(covariance_1)
    cross = np.trace(root(root_1 @ covariance_2 @ root_1))
    squared_distance = ((mean_1 - mean_2) ** 2).sum()
    return squared_distance + np.trace(covariance_1) + np.trace(covariance_2) - 2 * cross


def unbiased_mmd(x, y):
    def kernel(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    within_x = kernel(x, x)[~np.eye(n, dtype=bool)].sum() / (n * (n - 1))
    within_y = kernel(y, y)[~np.eye(m, dtype=bool)].sum() / (m * (m - 1))
    return within_x + within_y - 2 * kernel(x, y).mean()


def test_fid_of_gaussians_is_the_closed_form(library, colour):
    images = plain_images(0, 3000)
    reference = plain_images(1, 2000, MEAN_2, COVARIANCE_2)
    fid = fidelity.fid_kid(images, reference, 0, features=colour)["fid"]
    x, y = (array[:, 0, 0] / 255 for array in (images, reference))
    of_samples = frechet(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    of_distributions = frechet(MEAN_1, COVARIANCE_1, MEAN_2, COVARIANCE_2) / 255**2
    assert fid == pytest.approx(of_samples, rel=1e-4)  # the encoder itself computes in float32
    assert fid == pytest.approx(of_distributions, rel=0.1)


def test_fid_of_a_shift_alone_is_its_squared_length(library, colour):
    images = plain_images(0, 200).clip(0, 250)
    fid = fidelity.fid_kid(images + np.uint8(5), images, 0, features=colour)["fid"]
    assert fid == pytest.approx(3 * (5 / 255) ** 2, rel=1e-4)


def test_fid_of_a_set_with_itself_is_0_in_any_order(library, colour):
    images = plain_images(0, 300)
    assert abs(fidelity.fid_kid(images, images[::-1], 0, features=colour)["fid"]) < 1e-9


def test_kid_over_all_images_is_the_unbiased_mmd(library, colour):
    images, reference = plain_images(0, 120), plain_images(1, 120, MEAN_2, COVARIANCE_2)
    result = fidelity.fid_kid(images, reference, 0, features=colour, subset_size=120)
    expected = unbiased_mmd(images[:, 0, 0] / 255, reference[:, 0, 0] / 255)
    assert expected > 1e-3
    assert result["kid"] == pytest.approx(expected, rel=1e-4)
    assert result["kid_std"] < 1e-9  # every subset is the whole set


def test_kid_of_equal_distributions_is_0_on_average(library, colour):
    kids = []
    for pair in range(24):
        images, reference = plain_images(2 * pair, 100), plain_images(2 * pair + 1, 100)
        kids.append(fidelity.fid_kid(images, reference, 0, features=colour)["kid"])
    standard_error = np.std(kids, ddof=1) / np.sqrt(len(kids))
    assert min(kids) < 0 < max(kids)
    assert abs(np.mean(kids)) < 3 * standard_error


def test_the_seed_alone_draws_the_subsets(library, colour):
    images, reference = plain_images(0, 250), plain_images(1, 250)
    state = torch.get_rng_state()
    first, again, other = (
        fidelity.fid_kid(images, reference, seed, features=colour) for seed in (1, 1, 2)
    )
    assert first == again and first["fid"] == other["fid"] and first["kid"] != other["kid"]
    assert first["kid_subset_size"] == 125 and first["kid_std"] > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_two_encoders_in_one_process_stay_apart(library, colour, tmp_path):
    encoder, options = load_encoder(colour)
    with torch.no_grad():
        encoder.linear.weight *= 2
    double = tmp_path / "double.pth"
    save_encoder(double, encoder)
    images, reference = plain_images(0, 100), plain_images(1, 100, MEAN_2)
    first, second = (
        fidelity.fid_kid(images, reference, 0, features=path) for path in (colour, double)
    )
    assert second["fid"] == pytest.approx(4 * first["fid"], rel=1e-4)
    assert second["extractor"] != first["extractor"]


def test_the_result_says_what_it_was_computed_with(library, colour):
    result = fidelity.fid_kid(plain_images(0, 100), plain_images(1, 101), 0, features=colour)
    assert (result["images"], result["reference_images"]) == (100, 101)
    assert result["resize"] == "none" and result["comparable_to"] == "only under this encoder"
    assert result["extractor"].startswith("encoder-")
    assert json.loads(json.dumps(result)) == result


def test_inception_gets_the_local_weights_and_nothing_is_cached(library, tmp_path, monkeypatch):
    asked = {}

    def calculate_metrics(**kwargs):
        asked.update(kwargs)
        return {
            "frechet_inception_distance": 1.0,
            "kernel_inception_distance_mean": 2.0,
            "kernel_inception_distance_std": 3.0,
        }

    monkeypatch.setattr(library, "calculate_metrics", calculate_metrics)
    weights = tmp_path / "weights.pth"
    torch.save({"w": torch.zeros(1)}, weights)
    images = np.random.default_rng(0).integers(0, 256, (2500, 4, 6, 3), dtype=np.uint8)
    result = fidelity.fid_kid(images, images, 7, weights)
    assert (result["fid"], result["kid"], result["kid_std"]) == (1.0, 2.0, 3.0)
    assert "299x299" in result["resize"] and result["extractor"] == "inception-v3-compat"
    assert result["comparable_to"] == "FID computed by torch-fidelity"
    assert asked["feature_extractor_weights_path"] == str(weights) and asked["rng_seed"] == 7
    assert asked["feature_layer_fid"] == asked["feature_layer_kid"] == "2048"
    assert not (asked["cache"] or asked["verbose"] or asked["cuda"])
    assert asked["kid_subset_size"] == 1000
    item = asked["input1"][3]
    assert item.dtype == torch.uint8 and np.array_equal(item.permute(1, 2, 0), images[3])


def test_inception_resizes_on_the_grid_that_the_result_names(library):
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    row = torch.arange(64.0).expand(1, 1, 64, 64)
    resized = inception.interpolate_bilinear_2d_like_tensorflow1x(
        row, size=(299, 299), align_corners=False
    )[0, 0, 0]
    expected = (torch.arange(299) * 64 / 299).clamp(max=63)
    assert torch.allclose(resized, expected, atol=1e-4)


def test_without_network_the_flag_for_local_weights_is_named(library, tmp_path, monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    images = plain_images(0, 100)
    with pytest.raises(UserError, match=r"cannot be fetched \(no route\).*--inception_weights"):
        fidelity.fid_kid(images, images, 0)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "weights.pth: no such file"),
        (Evil(), "weights.pth: not loaded, it is Python objects"),
        (torch.zeros(1), "weights.pth: not a dict of tensors"),
        ({"w": torch.zeros(1)}, "weights.pth: tensors, but not those of torch-fidelity's"),
    ],
)
def test_wrong_inception_weights_are_refused_and_run_no_code(
    library, tmp_path, monkeypatch, content, message
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    images = plain_images(0, 100)
    with pytest.raises(UserError, match=message) as caught:
        fidelity.fid_kid(images, images, 0, path)
    assert "\n" not in str(caught.value) and not os.path.exists("executed")


def test_without_the_library_the_command_that_installs_it_is_told(colour, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    images = plain_images(0, 100)
    with pytest.raises(UserError, match="pip install -r requirements-eval.txt"):
        fidelity.fid_kid(images, images, 0, features=colour)


@pytest.mark.parametrize(
    ("n", "m", "subset_size", "needed"),
    [(1, 1, None, 100), (99, 500, None, 100), (500, 99, None, 100), (50, 50, 51, 51), (9, 9, 1, 2)],
)
def test_too_few_images_are_refused_with_the_number_needed(colour, n, m, subset_size, needed):
    images, reference = plain_images(0, n), plain_images(0, m)
    with pytest.raises(UserError, match=f"at least {needed} images.*not {n} and {m}"):
        fidelity.fid_kid(images, reference, 0, features=colour, subset_size=subset_size)


def test_arrays_of_another_type_or_shape_are_refused(colour):
    images = plain_images(0, 100)
    for bad in (images / 255, images[..., :1], images[0]):
        with pytest.raises(ValueError, match=r"need uint8 \(N, H, W, 3\)"):
            fidelity.fid_kid(images, bad, 0, features=colour)


def test_features_and_inception_exclude_each_other(colour):
    images = plain_images(0, 100)
    with pytest.raises(UserError, match="leave out --inception_weights"):
        fidelity.fid_kid(images, images, 0, colour, colour)


def test_images_of_another_size_than_the_encoders_are_refused(library, colour):
    images = plain_images(0, 100)
    with pytest.raises(UserError, match="--features .*16x16, but these are 8x16"):
        fidelity.fid_kid(images, images[:, :, :8], 0, features=colour)


def test_an_encoder_comes_back_as_it_was_saved_and_draws_nothing(tmp_path):
    options = {"width": 4, "dim": 5, "image_size": 64, "note": "kept"}
    encoder = Encoder(4, 5, 64)
    save_encoder(tmp_path / "new" / "encoder.pth", encoder, {"note": "kept"})
    state = torch.get_rng_state()
    loaded, read = load_encoder(tmp_path / "new" / "encoder.pth")
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    assert read == options and not loaded.training
    assert loaded(x).shape == (2, 5) and torch.equal(loaded(x), encoder(x))
    assert os.listdir(tmp_path / "new") == ["encoder.pth"]


def test_encoder_files_that_are_damaged_or_something_else_are_refused(colour, monkeypatch):
    monkeypatch.chdir(colour.parent)
    whole, state = colour.read_bytes(), torch.load(colour)
    infinite = {k: v / 0 for k, v in state["encoder"].items()}
    cases = [
        ({"w": torch.zeros(1)}, "not an encoder"),
        ({**state, "evil": Evil()}, "not loaded, it is Python objects"),
        ({**state, "format": "encoder-9"}, "format 'encoder-9'"),
        ({**state, "options": {"width": 3}}, "not those of an encoder"),
        ({**state, "options": {**state["options"], "width": 10**9}}, "not those of an encoder"),
        ({**state, "options": {**state["options"], "dim": 1}}, "not those of an encoder"),
        ({**state, "options": {**state["options"], "width": "3"}}, "not those of an encoder"),
        ({**state, "options": {**state["options"], "image_size": "64"}}, "not those of an encoder"),
        ({**state, "encoder": [1]}, "not those of an encoder"),
        ({**state, "encoder": {}}, "not those of an encoder"),
        ({**state, "encoder": infinite}, "not finite"),
    ]
    for content, message in cases:
        torch.save(content, colour)
        with pytest.raises(UserError, match=f"colour.pth: .*{message}") as caught:
            load_encoder(colour)
        assert "\n" not in str(caught.value)
    colour.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="colour.pth: not loaded, it is damaged"):
        load_encoder(colour)
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        load_encoder(colour.with_name("nowhere.pth"))
    assert not os.path.exists("executed")


def test_a_file_that_says_it_is_a_net_of_torchvision_is_no_encoder_of_ours(tmp_path):
    options = {"resnet": "resnet18", "image_size": 64}
    state = {
        "format": FORMAT,
        "options": options,
        "encoder": ResnetEncoder("resnet18").state_dict(),
    }
    write_tensors(tmp_path / "f.pth", state)
    with pytest.raises(UserError, match="f.pth: options and weights are not those of an encoder"):
        load_encoder(tmp_path / "f.pth")


@pytest.mark.parametrize(("width", "dim", "size"), [(0, 4, 64), (4, 1, 64), (4, 4, 0)])
def test_encoders_without_channels_covariance_or_pixels_are_refused(width, dim, size):
    with pytest.raises(ValueError, match=f"width {width}.*image_size {size}.*dim {dim}"):
        Encoder(width, dim, size)
