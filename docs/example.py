"""Write the picture of what a model makes of random images, without showing any of them.

    python docs/example.py --domain_A_path data/anime_test --domain_B_path data/person_test
    python docs/example.py --domain_A_path data/anime_test --domain_B_path data/person_test \\
        --count 12 --seed 1 --inputs test_image/inputs     # faces for others to try it on

Rows: anime faces that the model makes of random persons, and what it makes of those on the way
back; persons that it makes of random anime faces, and the way back. So all tiles are generated.
--inputs writes the first and the third row as single files instead, anime/01.png and so on, and
mirrors them: a generator knows the other's outputs again, and would take the softer way back.
Which images are taken hangs on --seed alone: the sample is not chosen.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from common.errors import one_line_errors
from common.options import make_parser, whole
from common.tensors import derived_generator, to_float, to_uint8
from interop.generators import PRETRAINED, load_generators
from pictures.decode import load_image
from pictures.folders import find_images_or_explain
from pictures.grids import save_grid
from pictures.photos import save_picture


@one_line_errors
def main() -> None:
    parser = make_parser("Write a grid of what a model makes of a random sample.")
    parser.add_argument("--ckpt", type=Path, default=ROOT / PRETRAINED, help="as in test.py")
    parser.add_argument("--domain_A_path", type=Path, required=True, help="anime to sample from")
    parser.add_argument("--domain_B_path", type=Path, required=True, help="persons to sample from")
    parser.add_argument("--count", type=whole(1), default=16, help="tiles in a row")
    parser.add_argument("--seed", type=whole(0), default=0, help="of the sample")
    files = parser.add_mutually_exclusive_group()
    files.add_argument(
        "--output", type=Path, default=ROOT / PRETRAINED / "example.png", help="file to write"
    )
    files.add_argument("--inputs", type=Path, help="folder for single faces, in place of the grid")
    opt = parser.parse_args()
    model, _ = load_generators(opt.ckpt, [], batch_size=opt.count)
    size, rows = model.opt.image_size, []
    for folder, flag, there, back in (
        (opt.domain_B_path, "--domain_B_path", "BtoA", "AtoB"),
        (opt.domain_A_path, "--domain_A_path", "AtoB", "BtoA"),
    ):
        sample = random_images(folder, flag, opt.count, size, opt.seed)
        generated, _ = model.translate(sample, there, and_back=False)
        rows += [generated, model.translate(generated, back, and_back=False)[0]]
    if opt.inputs:
        for domain, faces in (("anime", rows[0]), ("person", rows[2])):
            for number, pixels in enumerate(to_uint8(faces.flip(-1)).numpy(), 1):
                save_picture(opt.inputs / domain / f"{number:02}.png", Image.fromarray(pixels))
    else:
        save_grid(opt.output, torch.cat(rows), opt.count)
    print(f"{opt.inputs or opt.output}: {opt.count} random images of each domain, seed {opt.seed}")


def random_images(folder: Path, flag: str, count: int, size: int, seed: int) -> Tensor:
    """Random images of a folder, float (count, 3, size, size) in [-1, 1]; fewer if it has fewer."""
    names = find_images_or_explain(folder, flag)
    order = torch.randperm(len(names), generator=derived_generator(seed, "example", flag))
    images = [load_image(folder / names[i], size) for i in order[:count].tolist()]
    return to_float(torch.from_numpy(np.stack(images)))


if __name__ == "__main__":
    main()
