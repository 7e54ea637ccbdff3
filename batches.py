"""Batches that are a pure function of (seed, step), and bytes to pixels in [-1, 1] and back.

`UnpairedBatches.batch(step)` gives the same tensors at any time, so a run resumes to the bit
anywhere, also in the middle of an epoch, and processes that share a batch need not talk about it.

B batch, b a process's share of it, H = W = image_size. Domain A is anime, domain B is person.
"""

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dataset import say
from errors import UserError

CPU = torch.device("cpu")


def split_holdout(count: int, holdout: int) -> tuple[np.ndarray, np.ndarray]:
    """Split range(count) into sorted (training, held-out) indices, int64.

    Held out are `holdout` indices, evenly spaced, but at most a tenth of all and at least one.
    Raises UserError if count < 2.
    """
    if count < 2:
        raise UserError(
            f"--holdout {holdout}: {count} readable image in a domain, needed are 2 or more (one "
            "to train on, one held out); add images or raise --dataset_size"
        )
    held = max(1, min(holdout, count // 10))
    parts = np.arange(held, dtype=np.int64)  # Windows' default was int32 before numpy 2
    held_out = (2 * parts + 1) * count // (2 * held)  # the middle of each part
    return np.setdiff1d(np.arange(count, dtype=np.int64), held_out), held_out


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, without making the host wait for the device's queue."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1], contiguous; 0 is -1 and 255 is 1."""
    return images.permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """float (B, 3, H, W) in [-1, 1], clamped -> uint8 (B, H, W, 3); the inverse of to_float."""
    images = images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0)
    return images.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def derived_generator(seed: int, *keys: int | str) -> torch.Generator:
    """A CPU generator that depends on (seed, keys) alone."""
    text = "/".join(map(str, (seed, *keys)))
    digest = hashlib.sha256(text.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


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
        self.images = {"A": images_A, "B": images_B}
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
        self.on_device = device.type == "cuda" and self.move_to_device()
        self.prefetcher = None
        if device.type == "cuda" and not self.on_device:
            self.prefetcher = ThreadPoolExecutor(1)
            self.ahead: tuple[int, Future] | None = None

    def move_to_device(self) -> bool:
        """Move the training images to the GPU if they fit in a quarter of its free memory."""
        size = sum(len(self.indices[d]) * self.images[d][0].nbytes for d in "AB")
        free, _ = torch.cuda.mem_get_info(self.device)
        fits = size < free / 4
        say(f"images: {size >> 20} MiB, " + (f"held on {self.device}" if fits else "read from the "
            f"cache for every batch, since {self.device} has {free >> 20} MiB free"))  # fmt: skip
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
            if self.on_device:
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
        """The order of a domain's images in a pass, int64 (n,); the latest pass is kept."""
        if self.cached_pass.get(domain, (None,))[0] != number:
            generator = derived_generator(self.seed, domain, number)
            order = torch.randperm(len(self.indices[domain]), generator=generator)
            self.cached_pass[domain] = (number, order)
        return self.cached_pass[domain][1]
