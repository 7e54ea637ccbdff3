"""Translate faces with a trained model.

    python test.py me.jpg                        # to test_image/me_anime.png, by the pretrained one
    python test.py party.jpg --detect_faces --paste                   # every face, in its place
    python test.py --demo                        # the newest demo run, on pairs held out of it
    python test.py --name sn_50000               # held-out images of that run's own folders
    python test.py --ckpt model_ckpt/sn_50000/epoch_0200.pth --domain_B_path data/person_test
    python test.py --input photo.jpg --direction BtoA --output out    # one in, one out
    python test.py --input photo.jpg --direction BtoA --output out --detect_faces --compare
    python test.py --ckpt model_ckpt/pretrained  # the published model, on the bundled inputs
    python test.py --ckpt latest_net_G.pth --direction BtoA --domain_B_path data/person_test

--ckpt takes the files of other projects too (interop/layouts.py). Without it and --name the newest
run is taken or, where there is none, the pretrained model; for your own pictures, named without a
flag, always that one, and persons become anime unless --direction says otherwise.

Without pictures, writes grids to test_image/: 0__person_real.png beside 0__anime_test.png, its
translation tile for tile, 0__anime_real.png beside 0__person_test.png, and so on; grids of an
earlier call are replaced.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from arguments import test_options
from common.errors import one_line_errors
from common.tensors import to_float, to_uint8
from dataset import CACHE, load_folder
from demo.make import load_pairs, make_demo
from demo.truth import hair_agreement
from interop.generators import bundled, check_model, find_generators, load_generators
from interop.layouts import Found
from pictures.folders import check_domains, first_of
from pictures.grids import save_grid
from pictures.photos import translate_files
from pictures.splits import refuse_swapped, split, tell_if_changed
from translation_model import TranslationModel
from viewer.data import TEST_GRID
from viewer.pages import refresh_page, write_tests_page

GRID_COLUMNS = 8
# What a model without folders of its own is shown.
BUNDLED = {"domain_A_path": "test_image/inputs/anime", "domain_B_path": "test_image/inputs/person"}


@one_line_errors
def main() -> None:
    opt, given = test_options()
    path = find_generators(opt, opt.demo, published=opt.photos)
    model, found = load_generators(path, opt.gpu_ids, opt.batch_size, opt.direction, opt.image_size)
    check_model(opt.model, found)
    print(f"Model: {path} ({found.about}) on {model.device}")
    if opt.input:
        translate_files(model, opt)
    else:
        translate_domains(model, opt, given, found)


def translate_domains(model: TranslationModel, opt: Namespace, given: dict, found: Found) -> None:
    """Translate a folder of each domain and write grids of inputs and outputs."""
    directions = [opt.direction] if opt.direction else model.directions
    asked = given
    if model.opt.domain_A_path is None:  # published, or of another project
        given = {key: str(bundled(Path(folder))) for key, folder in BUNDLED.items()} | given
    if opt.demo:
        make_demo(Path("data/demo"))
        given = {"domain_A_path": "data/demo/test/anime", "domain_B_path": "data/demo/test/person"}
    images, names, folders, now = {}, {}, {}, {}
    for key, domain, direction in (
        ("domain_A_path", "anime", "AtoB"),
        ("domain_B_path", "person", "BtoA"),
    ):
        if direction not in directions:
            if key in asked:
                print(f"--{key} {asked[key]}: not read, since only {directions[0]} is translated")
            continue
        held_out = key not in given
        folders[domain] = Path(given.get(key, getattr(model.opt, key)))
        size = model.opt.dataset_size if held_out else opt.dataset_size
        loaded = load_folder(
            folders[domain],
            f"--{key}",
            size,
            model.opt.image_size,
            model.opt.crop,
            CACHE,
            opt.num_workers,
        )
        images[domain], names[domain] = loaded.images, loaded.paths
        now[key] = loaded.fingerprint()
        if held_out:
            _, indices = split(
                loaded.hashes,
                model.opt.holdout,
                found.held_out.get(key),
                f"--{key} {folders[domain]}",
            )
            held = [loaded.paths[i] for i in indices]
            names[domain] = first_of(held, opt.dataset_size, f"{folders[domain]}, held out")
            images[domain] = loaded.images[indices[: len(names[domain])]]
            tell_if_changed(
                folders[domain],
                now[key],
                found.data.get(key),
                "training",
                "some of the images held out now may have been trained on",
            )
        what = "images that training held out" if held_out else "images"
        print(f"{folders[domain]}: {len(images[domain])} {what}")
    refuse_swapped(now, found.data, "the model's training")
    if len(folders) == 2:
        check_domains(folders["anime"], folders["person"])

    output = Path(opt.output)
    outputs, written = {}, set()
    for real, shows, direction in (("anime", "person", "AtoB"), ("person", "anime", "BtoA")):
        if direction not in directions:
            continue
        fakes = []
        starts = range(0, len(images[real]), opt.batch_size)
        for start in tqdm(starts, desc=direction, disable=None):
            pixels = np.array(images[real][start : start + opt.batch_size])
            chunk = to_float(torch.from_numpy(pixels))
            fake, _ = model.translate(chunk, direction, and_back=False)
            number = start // opt.batch_size
            for name, grid in (
                (f"{number}__{real}_real.png", chunk),
                (f"{number}__{shows}_test.png", fake),
            ):
                save_grid(output / name, grid, GRID_COLUMNS)
                written.add(name)
            fakes.append(to_uint8(fake))
        outputs[real, shows] = torch.cat(fakes).numpy()
    for path in output.iterdir():  # of an earlier call, perhaps of another model
        if TEST_GRID.fullmatch(path.name) and path.name not in written:
            path.unlink()
    refresh_page(output, write_tests_page)
    print(f"Grids: {output}/, and a page to look through them: {output / 'index.html'}")

    if opt.demo:
        for (real, shows), pixels in outputs.items():
            factors = load_pairs(Path("data/demo"), names[real], opt.dataset_size)
            agreement, chance = hair_agreement(pixels, factors, shows)
            print(
                f"hair colour of {len(pixels)} {shows} outputs agrees with the true pair in "
                f"{agreement:.1%}, with a shuffled one in {chance:.1%}"
            )


if __name__ == "__main__":
    main()
