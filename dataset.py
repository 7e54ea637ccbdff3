"""Folders of images, decoded once into one array on disk, and batches that are drawn from two.

`load_folder` decodes into a uint8 array that later runs memory-map. `UnpairedBatches.batch(step)`
is a pure function of (seed, step): a run resumes to the bit anywhere, also in the middle of an
epoch, and processes that share a batch need not talk about it.

H = W = image_size, N images of a folder, B batch, b a process's share of it. Domain A is anime,
domain B is person.
"""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.errors import UserError, say
from common.tensors import derived_generator, to_float, upload
from pictures.decode import CHUNK, UnreadableImage, load_image
from pictures.folders import find_images_or_explain, first_of
from storage.files import atomic_write
from storage.locks import alone_in, sweep

CPU = torch.device("cpu")
CACHE = Path("data/cache")  # folder for the decoded images, made once
CACHE_FORMAT = 3  # raise it when load_image changes what it returns, or the index what it holds


# ---- one folder --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageArray:
    """The readable images of a folder.

    images   read-only memory map, uint8 (N, H, W, 3)
    paths    N posix paths relative to the folder, in sorted order
    skipped  number of files that could not be read
    content  hash of all pixels
    hashes   "<of the file>-<of its pixels>" for each of the N: another size or crop leaves the
             first as it was, a loss-free copy in another format the second
    """

    images: np.ndarray
    paths: list[str]
    skipped: int
    content: str
    hashes: list[str]

    def fingerprint(self) -> str:
        """Tells whether a folder still holds the same images: "<of names>-<of pixels>"."""
        names = hashlib.sha256("\n".join(self.paths).encode(errors="replace")).hexdigest()
        return f"{names[:16]}-{self.content[:16]}"


def load_folder(
    folder: Path,
    flag: str,
    dataset_size: int,
    image_size: int,
    crop: str,
    cache_dir: Path,
    num_workers: int,
) -> ImageArray:
    """Memory-map the first `dataset_size` images of a folder, decoding them if it is not done yet.

    A line says how many of which order are left out.
    The cache is `<folder>_<key>.u8`, the frames one after the other, and `.json`, written last.
    Its key covers the files' paths below the folder, sizes, times and places on the disk: another
    folder, or a changed one, gets a new cache, but one that was only moved keeps its own.
    `flag` is the option that named the folder. Unreadable files are skipped, one line each.
    Raises UserError: folder missing, a file, unlistable, without images, or none readable.
    """
    folder = Path(folder)
    names = first_of(find_images_or_explain(folder, flag), dataset_size, folder)
    stats = [_state_of(f"{folder}/{name}") for name in names]
    key = json.dumps([CACHE_FORMAT, image_size, crop, names, stats]).encode()
    stem = f"{folder.resolve().name[:40]}_{hashlib.sha256(key).hexdigest()[:16]}"
    array_path, index_path = Path(cache_dir, f"{stem}.u8"), Path(cache_dir, f"{stem}.json")

    index = read_index(index_path, array_path, names, image_size)
    if index is not None:
        sweep(Path(cache_dir))  # a builder may have been killed after its last write
    else:
        with alone_in(Path(cache_dir), str(folder), wait=True):
            index = read_index(index_path, array_path, names, image_size, say)
            if index is None:
                index = build_cache(folder, names, array_path, image_size, crop, num_workers)
                with atomic_write(index_path) as file:
                    file.write(json.dumps(index, indent=1).encode())
    paths, skipped = index["paths"], index["skipped"]
    if not paths:
        raise UserError(
            f"{flag} {folder}: readable images were looked for, none of the {len(names)} files is "
            f"one ({names[0]!r}: {skipped[names[0]]}); mend them or set {flag} to another folder"
        )
    if skipped:
        say(f"{folder}: {len(skipped)} of {len(names)} files unreadable, skipped ({index_path})")
    images = np.memmap(array_path, np.uint8, "r", shape=(len(paths), image_size, image_size, 3))
    return ImageArray(images, paths, len(skipped), index["content"], index["hashes"])


def _state_of(path: str) -> tuple[int, ...]:
    """What changes when a file does; zeros for one that has vanished, which is then unreadable.

    Archives set size and time of modification, so that two can agree in both; but not the inode and
    its time of change. The mode counts since a file skipped for it may be mended by chmod.
    """
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0, 0, 0, 0
    return stat.st_size, stat.st_mtime_ns, stat.st_mode, stat.st_ino, stat.st_ctime_ns


def read_index(
    index_path: Path,
    array_path: Path,
    names: list[str],
    size: int,
    tell: Callable[[str], None] = lambda line: None,
) -> dict | None:
    """The index of a complete cache, else None; `tell` gets a line if there is a damaged one."""
    if not (index_path.exists() or array_path.exists()):
        return None
    try:
        index = json.loads(index_path.read_bytes())
        if sorted([*index["paths"], *index["skipped"]]) != sorted(names):
            raise ValueError("its index lists other files")
        if array_path.stat().st_size != len(index["paths"]) * size * size * 3:
            raise ValueError("its array has the wrong length")
        if not isinstance(index["content"], str) or len(index["hashes"]) != len(index["paths"]):
            raise ValueError("its index lacks hashes of the pixels")
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        tell(f"{array_path}: the cache is incomplete or damaged ({error}); it is built again")
        return None


def build_cache(
    folder: Path, names: list[str], array_path: Path, image_size: int, crop: str, num_workers: int
) -> dict:
    """Decode the files and write the array; returns the index: "paths", "hashes" and "content" as
    in ImageArray, and "skipped", why by name.

    Threads, not processes: Pillow releases the GIL. Raises UserError if the disk is full.
    """

    def decode(name: str) -> tuple[np.ndarray, str] | UnreadableImage:
        try:
            pixels = load_image(folder / name, image_size, crop)
            file = (folder / name).read_bytes()
        except UnreadableImage as error:
            return error
        except OSError as error:
            return UnreadableImage(error.strerror)
        hashes = (hashlib.sha256(data).hexdigest()[:16] for data in (file, pixels.tobytes()))
        return pixels, "-".join(hashes)

    index: dict = {"paths": [], "hashes": [], "skipped": {}}
    content = hashlib.sha256()
    bar = tqdm(total=len(names), desc=f"decoding {folder.name}", unit="image", disable=None)
    with bar, ThreadPoolExecutor(max(1, num_workers)) as pool, atomic_write(array_path) as file:
        run = pool.map if num_workers else map
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            for name, result in zip(chunk, run(decode, chunk), strict=True):
                if isinstance(result, UnreadableImage):
                    index["skipped"][name] = str(result)
                    say(f"{folder}: skipped {name!r}: {result}")  # !r: a name may hold line breaks
                else:
                    pixels, hashes = result
                    index["paths"].append(name)
                    index["hashes"].append(hashes)
                    file.write(pixels.tobytes())
                    content.update(pixels.tobytes())
                bar.update()
    return index | {"content": content.hexdigest()}


# ---- batches of two domains --------------------------------------------------------------------


class UnpairedBatches:
    """Batches of two unpaired domains, each a pure function of (seed, step).

    Sample number k = step * batch_size + i of a domain with n images is image k % n of pass k // n,
    and every pass is a new permutation: each image comes once per pass, and the smaller domain
    starts new passes while the larger one is still in its first.

    images_A, images_B    uint8 (N, H, W, 3), memory maps welcome: only the rows of a batch are read
    indices_A, indices_B  the rows to draw from, the training split; all rows if None
    flip                  mirror each image left to right with probability one half
    device                where batches are wanted; where the images fit on a GPU, they move there
                          once and a batch is an index into them, else a thread prepares the next
                          batch in pinned memory
    rank, world_size      of several processes this is the rank-th, which gets its equal share of
                          every batch

    Raises UserError if a domain has fewer images than one batch.
    """

    def __init__(
        self,
        images_A: np.ndarray,
        images_B: np.ndarray,
        batch_size: int,
        seed: int,
        flip: bool = True,
        indices_A: np.ndarray | None = None,
        indices_B: np.ndarray | None = None,
        device: torch.device = CPU,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images: dict[str, np.ndarray | Tensor] = {"A": images_A, "B": images_B}
        self.device, self.rank, self.world_size = device, rank, world_size
        self.indices = {
            "A": torch.as_tensor(np.arange(len(images_A)) if indices_A is None else indices_A),
            "B": torch.as_tensor(np.arange(len(images_B)) if indices_B is None else indices_B),
        }
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self.cached_pass: dict[str, tuple[int, Tensor]] = {}
        n_A, n_B = len(self.indices["A"]), len(self.indices["B"])
        if min(n_A, n_B) < batch_size:
            raise UserError(
                f"--batch_size {batch_size}: larger than a domain (training images: A {n_A}, B "
                f"{n_B}); use --batch_size {min(n_A, n_B)} or less, add images, or raise "
                "--dataset_size"
            )
        self.steps_per_epoch = max(n_A, n_B) // batch_size
        self.places: dict[str, Tensor] = {}  # of the rows that moved to the device, among these
        self.prefetcher = None
        if device.type == "cuda" and not self.move_to_device():
            self.prefetcher = ThreadPoolExecutor(1)
            self.ahead: tuple[int, Future] | None = None

    def move_to_device(self) -> bool:
        """Move the training images to the GPU if they fit in a quarter of its free memory."""
        size = sum(len(self.indices[d]) * self.images[d][0].nbytes for d in "AB")
        free, _ = torch.cuda.mem_get_info(self.device)
        fits = size < free / 4
        if fits:
            where = f"held on {self.device}"
        else:
            why = f"since {self.device} has {free >> 20} MiB free"
            where = f"read from the cache for every batch, {why}"
        say(f"images: {size >> 20} MiB, {where}")
        if fits:
            for domain, rows in self.indices.items():
                images = np.ascontiguousarray(self.images[domain][rows.numpy()])
                self.places[domain] = torch.zeros(len(self.images[domain]), dtype=torch.int64)
                self.places[domain][rows] = torch.arange(len(rows))
                self.images[domain] = torch.from_numpy(images).to(self.device)
        return fits

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """(real_A, real_B) of a step counted from 0: float32 (B, 3, H, W) in [-1, 1], on device."""
        if self.prefetcher is None:
            pixels = self.gather(step)
        else:
            if self.ahead is None or self.ahead[0] != step:
                self.ahead = step, self.prefetcher.submit(self.gather, step)
            pixels = self.ahead[1].result()
            self.ahead = step + 1, self.prefetcher.submit(self.gather, step + 1)
        (images_A, flips_A), (images_B, flips_B) = pixels
        return self.finish(images_A, flips_A), self.finish(images_B, flips_B)

    def gather(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """For each domain this rank's uint8 images (b, H, W, 3) of a step, and flips, bool (b,)."""
        pixels = []
        for domain, array in self.images.items():
            rows, flips = (x.chunk(self.world_size)[self.rank] for x in self.draw(domain, step))
            if isinstance(array, Tensor):  # moved to the device
                images = array[upload(self.places[domain][rows], self.device)]
            else:
                images = torch.from_numpy(np.asarray(array[rows.numpy()]))
                images = images.pin_memory() if self.prefetcher else images
            pixels.append((images, flips))
        return pixels

    def finish(self, images: Tensor, flips: Tensor) -> Tensor:
        """Mirror and scale on the device: uint8 (b, H, W, 3) -> float32 (b, 3, H, W)."""
        images = images.to(self.device, non_blocking=True)
        flips = upload(flips, self.device)[:, None, None, None]
        return to_float(torch.where(flips, images.flip(2), images))

    def draw(self, domain: str, step: int) -> tuple[Tensor, Tensor]:
        """What a batch is made of: rows of the domain's array, int64 (B,), and flips, bool (B,).

        The rows are those of the array that was passed, wherever its images are now.
        """
        n = len(self.indices[domain])
        k = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        first_pass, last_pass = int(k[0]) // n, int(k[-1]) // n
        passes = range(first_pass, last_pass + 1)  # two where the batch spans a pass's end
        order = torch.cat([self.permutation(domain, p)[k[k // n == p] % n] for p in passes])
        generator = derived_generator(self.seed, "flip", domain, step)
        flips = torch.rand(self.batch_size, generator=generator) < 0.5
        return self.indices[domain][order], flips & self.flip

    def permutation(self, domain: str, number: int) -> Tensor:
        """The order of a domain's images in a pass, int64 (n,); the latest pass is kept.

        Threads may ask at once: what one has read, no other changes.
        """
        kept = self.cached_pass.get(domain)
        if kept is None or kept[0] != number:
            generator = derived_generator(self.seed, domain, number)
            kept = number, torch.randperm(len(self.indices[domain]), generator=generator)
            self.cached_pass[domain] = kept
        return kept[1]
