"""FID and KID between two sets of images, computed by the optional library torch-fidelity.

    pip install -r requirements-eval.txt

The features are those of the Inception network that published numbers rest on, or of an encoder of
one's own (dtn/encoder.py). Inception was trained on ImageNet's photographs; Morozov et al. 2021
("On self-supervised image representations for GAN evaluation") find that away from ImageNet it can
rank models misleadingly, self-supervised encoders more sensibly. They show it for photographs, not
for drawings. Numbers compare only under the same features.
"""

import copy
import hashlib
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import UserError
from dtn.encoder import Encoder, load_encoder
from storage.files import read_tensors

INCEPTION = "inception-v3-compat"
INCEPTION_RESIZE = (
    "bilinear to 299x299 inside torch-fidelity, on TensorFlow 1's grid "
    "(corner pixels aligned at the top left, no half-pixel centres, no antialiasing)"
)
KID_SUBSETS = 100


class Images(Dataset):
    """uint8 images (N, H, W, 3) in memory -> uint8 tensors (3, H, W), as torch-fidelity reads."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(self.images[index]).permute(2, 0, 1)


def fid_kid(
    images: np.ndarray,
    reference: np.ndarray,
    seed: int,
    inception_weights: Path | None = None,
    features: Path | None = None,
    subset_size: int | None = None,
) -> dict:
    """FID and KID between uint8 images (N, H, W, 3) and reference images (M, H, W, 3).

    FID: Heusel et al. 2017, "Performance Measure": the squared Frechet distance of two Gaussians
    fitted to the features; it is biased upwards for few images, so compare it only at equal N and
    M. KID: Binkowski et al. 2018, "Kernel Inception Distance": the unbiased squared MMD under a
    cubic kernel, mean and standard deviation over 100 random subsets drawn with `seed`; it may be
    slightly below 0.
    `subset_size` is half of the smaller set, within 100 and 1000, unless given. Subsets of a whole
    set are all the same, so that their deviation says nothing.

    `features` is a file of an encoder (see dtn/encoder.py), in the place of Inception.
    `inception_weights` is the file that torch-fidelity otherwise fetches at its first use.
    The global random state of torch is left as it was.

    Raises UserError for too few images, a missing library, weights that are neither here nor to be
    had, and a file that cannot be used; ValueError for arrays of another type or shape.
    """
    for array in (images, reference):
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] != 3:
            raise ValueError(f"need uint8 (N, H, W, 3), not {array.dtype} {array.shape}")
    if features and inception_weights:
        raise UserError("--features takes Inception's place; leave out --inception_weights")
    smaller = min(len(images), len(reference))
    if subset_size is None:
        subset_size = min(max(smaller // 2, 100), 1000)
    if smaller < max(subset_size, 2) or subset_size < 2:
        raise UserError(
            f"subsets of {subset_size} need at least {max(subset_size, 2)} "
            f"images in both sets and subsets of 2, not {len(images)} and {len(reference)} images"
        )
    torch_fidelity = _library()
    # torch-fidelity draws from the global generator: initial weights, a seed per data loader.
    with torch.random.fork_rng(devices=[]):
        if features:
            encoder, options = load_encoder(features)
            _check_size(features, options["image_size"], images, reference)
            extractor, layer = _register(torch_fidelity, features, encoder), "features"
            weights, resize, comparable_to = None, "none", "only under this encoder"
        else:
            extractor, layer = INCEPTION, "2048"
            weights, resize = _inception_weights(inception_weights), INCEPTION_RESIZE
            comparable_to = "FID computed by torch-fidelity"
        try:
            metrics = torch_fidelity.calculate_metrics(
                input1=Images(images),
                input2=Images(reference),
                cuda=False,
                fid=True,
                kid=True,
                feature_extractor=extractor,
                feature_layer_fid=layer,
                feature_layer_kid=layer,
                feature_extractor_weights_path=weights,
                kid_subsets=KID_SUBSETS,
                kid_subset_size=subset_size,
                rng_seed=seed,
                cache=False,
                save_cpu_ram=True,  # no worker processes: the images are in memory
                verbose=False,
            )
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise UserError(
                f"{weights}: tensors, but not those of torch-fidelity's Inception; the right "
                f"file for --inception_weights is {_inception_url()}"
            ) from error
    return {
        "fid": metrics["frechet_inception_distance"],
        "kid": metrics["kernel_inception_distance_mean"],
        "kid_std": metrics["kernel_inception_distance_std"],
        "kid_subset_size": subset_size,
        "images": len(images),
        "reference_images": len(reference),
        "extractor": extractor,
        "resize": resize,
        "comparable_to": comparable_to,
        "library": f"torch-fidelity {torch_fidelity.__version__}",
    }


def _library() -> ModuleType:
    try:
        import torch_fidelity
    except ImportError as error:
        raise UserError(
            f"torch-fidelity is needed ({error}); pip install -r requirements-eval.txt"
        ) from error
    return torch_fidelity


def _check_size(path: Path, size: int, *arrays: np.ndarray) -> None:
    for array in arrays:
        height, width = array.shape[1:3]
        if (height, width) != (size, size):
            raise UserError(
                f"--features {path}: an encoder of images {size}x{size}, but these are "
                f"{width}x{height}; train an encoder at their size"
            )


def _register(torch_fidelity: ModuleType, path: Path, encoder: Encoder) -> str:
    """Make the encoder known to torch-fidelity; its name there ends with the file's digest."""
    from torch_fidelity import FeatureExtractorBase

    name = f"encoder-{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]}"

    class Extractor(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.encoder = copy.deepcopy(encoder)  # a call on a GPU moves its own copy there

        @staticmethod
        def get_provided_features_list() -> tuple[str]:
            return ("features",)

        def forward(self, x: Tensor) -> tuple[Tensor]:
            # float64, as torch-fidelity would sum the mean and the kernels in float32 otherwise.
            return (self.encoder(x.float() / 127.5 - 1).double(),)

    if name not in torch_fidelity.registry.FEATURE_EXTRACTORS_REGISTRY:
        torch_fidelity.register_feature_extractor(name, Extractor)
    return name


def _inception_weights(path: Path | None) -> str:
    """The file of the weights, or torch-fidelity's copy in torch's cache, fetched if need be.

    Reads it once without executing anything, which torch-fidelity itself does not take care of.
    """
    if path is None:
        path = Path(torch.hub.get_dir(), "checkpoints", _inception_url().rpartition("/")[2])
        if not path.is_file():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(_inception_url(), str(path), progress=False)
            except (OSError, HTTPException) as error:
                raise UserError(
                    f"the Inception weights are not here and cannot be fetched ({error}); fetch "
                    f"{_inception_url()} elsewhere and give the file with --inception_weights, or "
                    "use an encoder of your own with --features"
                ) from error
    if not isinstance(read_tensors(path), dict):
        raise UserError(f"{path}: not a dict of tensors; use another file of Inception weights")
    return str(path)


def _inception_url() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return URL_INCEPTION_V3
