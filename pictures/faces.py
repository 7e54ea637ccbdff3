"""Faces in photographs, found by OpenCV's cascade and framed as CelebA's aligned pictures are.

    python -m pictures.faces data/person   # how squares of faces lie to the boxes found in them

OpenCV is optional and imported where it is used. The command above, on 600 of the tight squares
that `--crop celeba` cuts out of CelebA, said: found in 96 %; the square is 1.27 times as wide as
the box (1.19 to 1.36 for the middle 80 %), and its centre lies 0.12 of the box's side above that
of the box (0.10 to 0.15). That is how faces are cut out of photographs here. On a training set of
your own, framed in another way or with another cascade, it tells the --face_margin to use. Anime
faces need another cascade: of 600, the bundled one finds 3 %.
"""

import argparse
import threading
from argparse import Namespace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from common.errors import UserError, one_line_errors, say
from common.options import make_parser, number, whole
from pictures.decode import (
    UnreadableImage,
    crop_box,
    load_image,
    to_rgb,
    unreadable_if_it_fails,
)
from pictures.folders import find_images_or_explain

# Of three bundled frontal cascades: a second face in none of 600 such squares (the default
# one: in 5), and boxes that vary least in size.
CASCADE = "haarcascade_frontalface_alt2.xml"
FACE_MARGIN = 1.27
FACE_RISE = 0.12
PROFILES = "haarcascade_profileface.xml"  # those that look to the left
LONG_SIDE = 1024  # larger photographs are searched at this size: the time grows with the area
SMALLEST_FACE = 32  # pixels at that size; smaller ones are mostly none, and too coarse to use

Box = tuple[int, int, int, int]  # left, top, right, bottom


def add_face_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--detect_faces",
        action="store_true",
        help="cut out each face that OpenCV finds (pip install -r requirements-app.txt)",
    )
    group.add_argument(
        "--cascade",
        metavar="FILE",
        help="another cascade for --detect_faces, such as one for anime faces; "
        "the default one is for photographs",
    )
    group.add_argument(
        "--face_margin",
        type=number(least=1),
        default=FACE_MARGIN,
        help="side of the square that is cut out, over the side of the detected "
        "box (default: %(default)s, as --crop celeba; 1.77: as --crop center of "
        "CelebA's 178x218 pictures)",
    )


def face_detector(opt: Namespace) -> "FaceDetector | None":
    """The detector that the options ask for, None without --detect_faces. Raises UserError."""
    return FaceDetector(opt.cascade, opt.face_margin) if opt.detect_faces else None


class FaceDetector:
    """Finds faces and says which square to cut out for each. It may be shared by threads.

    cascade  file, None for the one that OpenCV brings, which is for frontal human faces
    margin   side of the square over the side of the detected box

    Raises UserError if OpenCV, or its cascades, or `cascade` are missing.
    """

    def __init__(self, cascade: str | None = None, margin: float = FACE_MARGIN):
        try:
            import cv2

            self.load = cv2.CascadeClassifier
            bundled = Path(cv2.data.haarcascades)  # type: ignore[attr-defined]  # not in its stubs
            self.file = cascade or str(bundled / CASCADE)
            self.profiles = "" if cascade else str(bundled / PROFILES)
        except (ImportError, AttributeError) as error:  # OpenCV 5 has no cascades any more
            raise UserError(
                f"--detect_faces: needs OpenCV 4 with its cascades ({error}); install it with "
                "pip install -r requirements-app.txt"
            ) from error
        cv2.setNumThreads(1)  # callers have threads of their own
        self.margin = margin
        self.of_thread = threading.local()
        if not Path(self.file).is_file():
            raise UserError(f"--cascade {self.file}: no such file; check the path")
        try:
            readable = not self.load(self.file).empty()
        except Exception:  # cv2.error and SystemError, by version
            readable = False
        if not readable:
            raise UserError(f"--cascade {self.file}: OpenCV reads no cascade from it; name another")

    def boxes(self, image: Image.Image) -> list[Box]:
        """The square of each face, from left to right, in pixels; it may leave the image.

        Raises UnreadableImage if the image cannot be converted.
        """
        return self._search(self.file, image)

    def profile_boxes(self, image: Image.Image) -> list[Box]:
        """As `boxes`, of faces seen from the side; none with a cascade of the user's own."""
        if not Path(self.profiles).is_file():
            return []
        if boxes := self._search(self.profiles, image):
            return boxes
        mirrored = self._search(self.profiles, ImageOps.mirror(image))
        return [
            (image.width - right, top, image.width - left, bottom)
            for left, top, right, bottom in reversed(mirrored)
        ]

    def _search(self, file: str, image: Image.Image) -> list[Box]:
        cascades = self.of_thread.__dict__  # one cascade keeps the state of one search
        if file not in cascades:
            cascades[file] = self.load(file)
        with unreadable_if_it_fails():
            grey = to_rgb(image).convert("L")
            scale = min(1.0, LONG_SIDE / max(grey.size))
            size = max(1, round(grey.width * scale)), max(1, round(grey.height * scale))
            pixels = np.asarray(grey.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
            # A face that fills its picture is found more often with something around it.
            edge = max(size) // 8
            found = cascades[file].detectMultiScale(
                np.pad(pixels, edge, mode="edge"),
                scaleFactor=1.1,
                minNeighbors=5,
                minSize=(SMALLEST_FACE, SMALLEST_FACE),
            )
        squares = []
        for left, top, width, height in sorted(map(tuple, np.reshape(found, (-1, 4)).tolist())):
            side = max(1, round(self.margin * width / scale))
            x = (left + width / 2 - edge) / scale
            y = (top + height / 2 - FACE_RISE * height - edge) / scale
            left, top = round(x - side / 2), round(y - side / 2)
            squares.append((left, top, left + side, top + side))
        return squares


def squares_of_faces(
    photo: Image.Image, detector: FaceDetector, of_model: Namespace
) -> tuple[list[Box], list[str]]:
    """The squares to cut out of a photograph, and what to tell its owner about them.

    of_model: options of the model, for image_size and crop. Without a face from the front these
    are the faces from the side, and without such the photograph's middle. Raises UnreadableImage.
    """
    boxes, notes = detector.boxes(photo), []
    if not boxes and (boxes := detector.profile_boxes(photo)):
        notes = ["a face from the side: the model learned them from the front; expect little"]
    if not boxes:
        least = round(SMALLEST_FACE * max(1, max(photo.size) / LONG_SIDE))
        notes = [
            "no face found (upright, from the front, at least "
            f"{least} pixels wide), its middle is taken"
        ]
        return [crop_box(photo.size, of_model.crop)], notes
    for place, (left, _, right, _) in enumerate(boxes, 1):
        if right - left < of_model.image_size:
            notes.append(
                f"face {place} of {len(boxes)} is only {right - left} pixels wide, and "
                f"the model takes {of_model.image_size}; expect a blur"
            )
    return boxes, notes


def measure(folder: Path, count: int, cascade: str | None = None) -> dict[str, np.ndarray]:
    """How the middle squares of a folder's pictures lie to the boxes that are found in them.

    Of `count` pictures, evenly spaced, each searched at 64x64 and at 256x256. Returns "found" (a
    share), and the 10th, 50th and 90th percentile of "margin" (side of the square over that of
    the box) and "rise" (how far its centre lies higher, over the side of the box).
    Pictures that cannot be read are left out, with a line each. Raises UserError.
    """
    names = find_images_or_explain(folder, "FOLDER")
    if len(names) > count:
        say(f"{folder}: --dataset_size {count} looks at so many of {len(names)}, evenly spaced")
    names = [names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)]
    detector = FaceDetector(cascade, margin=1.0)
    margins, rises, read = [], [], 0
    for name in tqdm(names, desc="finding faces", disable=None):
        try:
            pictures = {size: load_image(folder / name, size) for size in (64, 256)}
        except UnreadableImage as error:
            tqdm.write(f"skipped {str(folder / name)!r}: {error}")
            continue
        read += 1
        for size, pixels in pictures.items():
            boxes = detector.boxes(Image.fromarray(pixels))
            if boxes:
                _, top, _, bottom = box = max(boxes, key=lambda box: box[2] - box[0])
                side = box[2] - box[0]
                margins.append(size / side)
                rises.append(((top + bottom) / 2 - size / 2) / side + FACE_RISE)
    if not margins:
        raise UserError(f"FOLDER {folder}: no face found in {read} pictures; try --cascade")
    return {
        "found": np.array(len(margins) / read / 2),
        "margin": np.percentile(margins, [10, 50, 90]),
        "rise": np.percentile(rises, [10, 50, 90]),
    }


@one_line_errors
def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="pictures of faces, framed as for training")
    parser.add_argument("--cascade", metavar="FILE", help="in place of OpenCV's frontal one")
    parser.add_argument("--dataset_size", type=whole(1), default=600, help="look at N pictures")
    opt = parser.parse_args()
    figures = measure(opt.folder, opt.dataset_size, opt.cascade)
    print(f"found in {figures['found']:.1%}")
    for name in ("margin", "rise"):
        low, middle, high = figures[name]
        print(f"{name} {middle:.2f} (middle 80 %: {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
