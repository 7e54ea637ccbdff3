"""Procedural faces in two styles: the data set that `train.py --demo` draws when there is none.

Training never sees a true pair: each domain samples its own factors. Held-out true pairs under
`test/` measure the result.

    python -m demo.make --output data/demo --count 2000 --seed 0
    python -m demo.make --preview pairs.png
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from PIL import PngImagePlugin
from tqdm import tqdm

from common.errors import UserError, one_line_errors
from demo.drawing import STYLES, draw_face, draw_pairs
from demo.factors import Factors, sample_factors
from storage.files import atomic_write
from storage.locks import alone_in, remove_strays, sweep

DRAWING_VERSION = 1  # raise it when the pictures change: finished sets are then redrawn
MARK = b"demo_faces"  # in the header of every picture: no other file is ever overwritten
PNG_INFO = PngImagePlugin.PngInfo()
PNG_INFO.add_text("Software", MARK.decode())


def _remove_old(folders: Sequence[Path]) -> None:
    """Remove an earlier set; raises UserError, with nothing removed, at a file that is not ours."""
    old = [path for folder in folders for path in sorted(folder.glob("[!.]*"))]
    for path in old:
        with open(path, "rb") as file:
            head = file.read(128)
        if head and MARK not in head:  # an interrupted write can leave an empty file
            raise UserError(f"{path}: was not drawn by demo.make; choose another folder")
    for path in old:
        path.unlink()


def make_demo(
    folder: Path, seed: int = 0, count: int = 2000, test_count: int = 200, image_size: int = 64
) -> None:
    """Write `anime/` and `person/` (count each, unpaired) and true pairs with factors in `test/`.

    A finished set with the same settings is left alone; `demo.json`, written last, tells. If
    another process is drawing there, its set is waited for. Raises UserError when the folder cannot
    be written or holds pictures that this script did not draw.
    """
    folder = Path(folder)
    settings = {
        "version": DRAWING_VERSION,
        "seed": seed,
        "count": count,
        "test_count": test_count,
        "image_size": image_size,
    }
    finished = folder / "demo.json"

    def is_finished() -> bool:
        return finished.is_file() and finished.read_bytes() == json.dumps(settings).encode()

    try:
        if is_finished():
            return sweep(folder)  # whoever drew it may have been killed after its last write
        with alone_in(folder, str(folder), wait=True):
            if not is_finished():
                _draw(folder, seed, count, test_count, image_size)
                with atomic_write(finished) as file:
                    file.write(json.dumps(settings).encode())
    except OSError as error:
        raise UserError(
            f"{folder}: the demo set cannot be written ({error.strerror or error}); free some "
            "space or choose another folder"
        ) from error


def _draw(folder: Path, seed: int, count: int, test_count: int, image_size: int) -> None:
    # Streams of factors: one per training domain, so that they share no face, one for the pairs.
    parts = [(folder / style, style, count, stream) for stream, style in enumerate(STYLES)]
    parts += [(folder / "test" / style, style, test_count, 2) for style in STYLES]
    (folder / "demo.json").unlink(missing_ok=True)
    for place in (folder / "test", *(place for place, *_ in parts)):
        remove_strays(place)
    _remove_old([place for place, *_ in parts])
    with tqdm(total=2 * (count + test_count), desc="drawing demo faces", disable=None) as bar:
        for place, style, total, stream in parts:
            for i, one in enumerate(_factors(seed, stream, total)):
                image = draw_face(one, style, image_size, texture_seed=3 * i + stream)
                with atomic_write(place / f"{i:05d}.png", durable=False) as file:
                    image.save(file, "PNG", pnginfo=PNG_INFO)
                bar.update()
    with atomic_write(folder / "test" / "factors.json") as file:
        file.write(json.dumps([asdict(one) for one in _factors(seed, 2, test_count)]).encode())


def _factors(seed: int, stream: int, count: int) -> list[Factors]:
    generator = torch.Generator().manual_seed(3 * seed + stream)
    return [sample_factors(generator) for _ in range(count)]


def training_factors(folder: Path) -> dict[str, list[Factors]]:
    """Factors of the training images of a finished set by style, in the order of their numbers."""
    path = Path(folder) / "demo.json"
    try:
        settings = json.loads(path.read_bytes())
        seed, count = settings["seed"], settings["count"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path}: not of a finished demo set; draw one with "
            f"`python -m demo.make --output {folder}`"
        ) from error
    return {style: _factors(seed, stream, count) for stream, style in enumerate(STYLES)}


def load_pairs(
    folder: Path, names: Sequence[str] | None = None, count: int | None = None
) -> list[Factors]:
    """Read the factors of held-out pairs: those of pictures `names`, or all in file order.

    count: of how many pairs, the first ones, all pictures should be there. Raises UserError, also
    at a picture without a pair or a pair without its picture.
    """
    path = Path(folder) / "test" / "factors.json"
    try:
        pairs = [Factors(**one) for one in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path}: no readable factors of a demo set; draw one with "
            f"`python -m demo.make --output {folder}`"
        ) from error
    if names is None:
        return pairs
    of = {f"{number:05d}.png": one for number, one in enumerate(pairs[:count])}
    if left := sorted(set(names) ^ of.keys()):
        raise UserError(
            f"{path.parent}: {left[0]} is not both a picture that can be read and one of the "
            f"{len(of)} true pairs; remove {folder}, and it is drawn again"
        )
    return [of[name] for name in names]


@one_line_errors
def main() -> None:
    """Draw the data set, or a preview of true pairs."""
    parser = argparse.ArgumentParser(description="Draw the demo faces.")
    parser.add_argument("--output", type=Path, default=Path("data/demo"), help="folder to fill")
    parser.add_argument("--count", type=int, default=2000, help="training images per domain")
    parser.add_argument("--seed", type=int, default=0, help="of the hidden factors")
    parser.add_argument("--preview", type=Path, help="write only a grid of true pairs, a PNG file")
    options = parser.parse_args()
    if options.count < 1:
        raise UserError(f"--count {options.count}: must be at least 1")
    if options.preview:
        generator = torch.Generator().manual_seed(options.seed)
        grid = draw_pairs([sample_factors(generator) for _ in range(20)])
        with atomic_write(options.preview) as file:
            grid.save(file, "PNG")
    else:
        make_demo(options.output, options.seed, options.count)


if __name__ == "__main__":
    main()
