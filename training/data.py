"""What a run trains on: the images of both domains, and which of them it holds out."""

from argparse import Namespace
from pathlib import Path

import torch

from common import distributed
from common.tensors import to_float
from dataset import CACHE, ImageArray, load_folder
from demo.make import make_demo
from pictures.folders import check_domains
from pictures.splits import refuse_swapped, split

FLAGS = {"A": "domain_A_path", "B": "domain_B_path"}


class TrainingData:
    """Both domains, by "A" (anime) and "B" (persons), and by the name of their option.

    images        uint8 (N, H, W, 3), memory maps
    rows          those to train on, int64
    held_rows     those held out, int64
    held          the held-out images, float (n, 3, H, W) in [-1, 1]
    fingerprints  of the folders, by option: whether they still hold the same images
    held_out      hashes of the images that are held out, by option: see splits.split

    opt: resolved options; saved: the checkpoint of a run that is resumed, which decided what is
    held out. Raises UserError for folders that cannot be trained on, or whose domains are swapped.
    """

    def __init__(self, opt: Namespace, saved: dict | None = None) -> None:
        with distributed.first_on_each_host():
            loaded = load_domains(opt)
        self.images = {domain: found.images for domain, found in loaded.items()}
        self.fingerprints = {FLAGS[domain]: loaded[domain].fingerprint() for domain in "AB"}
        if saved:
            refuse_swapped(self.fingerprints, saved.get("data", {}), f"the run {opt.name}")
        self.held_out = dict(saved.get("held_out", {})) if saved else {}
        self.rows, self.held_rows, self.held = {}, {}, {}
        for domain, key in FLAGS.items():
            hashes, flag = loaded[domain].hashes, f"--{key} {getattr(opt, key)}"
            rows, held = split(hashes, opt.holdout, self.held_out.get(key), flag)
            self.rows[domain], self.held_rows[domain] = rows, held
            self.held_out.setdefault(key, [hashes[i] for i in held])
            self.held[domain] = to_float(torch.from_numpy(self.images[domain][held]))

    def __str__(self) -> str:
        (train_A, train_B), (held_A, held_B) = (
            [len(rows[domain]) for domain in "AB"] for rows in (self.rows, self.held_rows)
        )
        copies = sum(len(self.images[d]) for d in "AB") - train_A - train_B - held_A - held_B
        return (
            f"Data: {train_A} anime, {train_B} persons to train on; "
            f"{held_A} + {held_B} held out for grids"
            + (f"; {copies} copies of these left out" if copies else "")
        )


def load_domains(opt: Namespace) -> dict[str, ImageArray]:
    """The images of both domains. Raises UserError."""
    if opt.demo:
        make_demo(Path("data/demo"))
    check_domains(opt.domain_A_path, opt.domain_B_path)
    rest = opt.image_size, opt.crop, CACHE, opt.num_workers
    return {
        domain: load_folder(Path(getattr(opt, key)), f"--{key}", opt.dataset_size, *rest)
        for domain, key in FLAGS.items()
    }
