"""The images of a run: which of them it holds out, and whether its folders still hold them all.

What a run holds out is decided at its start and kept in its checkpoints by content, whatever
becomes of names: an image that was trained on can be held out no more. A fingerprint is
ImageArray.fingerprint()'s, "<of names>-<of pixels>", or only the first half where an older version
saved it.
"""

import hashlib
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from common.errors import UserError


def split(
    hashes: list[str], holdout: int, held_out: list[str] | None = None, flag: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted rows of a folder's images, int64: those to train on, those held out.

    Copies of a held-out image are in neither; of other copies all are trained on.

    hashes: ImageArray's; two images are one where the file is the same, or the pixels.
    held_out: those of what the run holds out; without them, in a new run, it is what split_holdout
    says. Raises UserError, naming `flag` where given, if none of them is left.
    """
    parts = [entry.split("-") for entry in hashes]
    seen: set[str] = set()
    first = []  # rows, but for copies of earlier ones
    for row, own in enumerate(parts):
        if seen.isdisjoint(own):
            first.append(row)
        seen.update(own)
    if held_out is None:
        _, chosen = split_holdout(len(first), holdout)
        held_out = [hashes[first[i]] for i in chosen]
    known = {part for entry in held_out for part in entry.split("-")}
    held = [row for row in first if not known.isdisjoint(parts[row])]
    if flag and not held:
        raise UserError(
            f"{flag}: none of the {len(held_out)} images that the run holds out is among "
            f"the {len(hashes)} there, by content; set it to the run's own folder, or start a new "
            "run from this one with --init_from"
        )
    training = [row for row in range(len(hashes)) if known.isdisjoint(parts[row])]
    return np.array(training, np.int64), np.array(held, np.int64)


def refuse_changes(given: dict, saved: dict, name: str) -> None:
    """Raise UserError for options that a run cannot change, or not where it stopped.

    given: options beside --resume; saved: the checkpoint; name: the run's.
    """
    before = saved["options"]
    holdout = before.get("holdout")
    if given.get("holdout", holdout) != holdout:
        raise UserError(
            f"--holdout {given['holdout']}: {name} was begun with {holdout}, "
            "and has trained on all others; leave it out, or start a new "
            "run"
        )
    for key in ("batch_size", "dataset_size", "seed"):
        if saved["batch"] and given.get(key, before.get(key)) != before.get(key):
            raise UserError(
                f"--{key} {given[key]}: {name} stopped in the middle of an epoch, whose order "
                f"depends on it; resume with {before.get(key)}, and change it after the epoch's end"
            )


def held_out_is_other(
    opt: Namespace, now: dict[str, str], measured_on: str | None, saved: dict, path: Path
) -> bool:
    """Whether figures of a run's held-out images no longer compare; one line per changed folder.

    now: fingerprints by "domain_A_path" and "domain_B_path"; measured_on: Yardstick's;
    saved: the checkpoint of `path`, which may be an older version's.
    """
    so = "the order of the images is another now"
    if "held_out" not in saved:
        so += ", and some of those held out now may have been trained on"
    changed = [
        tell_if_changed(
            getattr(opt, key), now[key], saved.get("data", {}).get(key), f"{path} was saved", so
        )
        for key in now
    ]
    return saved["measured_on"] != measured_on if "measured_on" in saved else any(changed)


def digest(arrays: Iterable[np.ndarray]) -> str:
    """Tells what a figure was measured with from all else: figures of others do not compare."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype} {array.shape} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def refuse_swapped(now: dict[str, str], before: dict[str, str], whose: str) -> None:
    """Raise UserError if each folder holds what the other domain's held, in `whose` training.

    now, before: fingerprints by "domain_A_path" and "domain_B_path".
    """
    other = {"domain_A_path": "domain_B_path", "domain_B_path": "domain_A_path"}
    for part in (0, 1):  # names, and contents where the training knew them

        def known(found: dict[str, str], key: str, part: int = part) -> str | None:
            parts = str(found.get(key, "")).split("-")
            return parts[part] if part < len(parts) else None

        if all(known(now, k) == known(before, other[k]) != known(before, k) for k in now):
            flags = " and ".join(f"--{key}" for key in now)
            raise UserError(
                f"{flags}: the domains are swapped, as {whose} shows: its files of one "
                "are those of the other here; A is anime, B is persons"
            )


def tell_if_changed(folder: Path | str, now: str, before: object, since: str, so: str) -> bool:
    """Whether a folder's fingerprint is not what it was; one line if so, or if it is not known.

    before: its fingerprint then; without its second part, or None, as older versions saved it.
    since: when that was; so: what follows from a change.
    """
    parts = [] if before is None else str(before).split("-")
    changed = any(old != new for old, new in zip(parts, now.split("-"), strict=False))
    if changed:
        print(f"warning: {folder} has changed since {since}; {so}")
    elif len(parts) < 2:
        print(
            f"{folder}: whether its images are those of {since} is not known, since an older "
            "version did not save what they held"
        )
    return changed


def split_holdout(count: int, holdout: int) -> tuple[np.ndarray, np.ndarray]:
    """Split range(count) into sorted (training, held-out) indices, int64.

    Held out are `holdout` indices, evenly spaced, but at most a tenth of all and at least one.
    Raises UserError if count < 2.
    """
    if count < 2:
        raise UserError(
            f"--holdout {holdout}: {count} readable image in a domain, copies not counted; needed "
            "are 2 or more (one to train on, one held out); add images or raise --dataset_size"
        )
    held = max(1, min(holdout, count // 10))
    parts = np.arange(held, dtype=np.int64)  # Windows' default was int32 before numpy 2
    held_out = (2 * parts + 1) * count // (2 * held)  # the middle of each part
    return np.setdiff1d(np.arange(count, dtype=np.int64), held_out), held_out
