"""Types of options: each turns text into a value, or says in one line what it must be."""

import argparse
import math
from collections.abc import Callable


def whole(least: int) -> Callable[[str], int]:
    """Type of an option that is a whole number of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least {least}")
        return value

    return parse


def number(
    least: float | None = None, above: float | None = None, below: float | None = None
) -> Callable[[str], float]:
    """Type of an option that is a finite number within the given bounds."""
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (("at least", least), ("above", above), ("below", below))
        if bound is not None
    ]

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (
            math.isfinite(value)
            and (least is None or value >= least)
            and (above is None or value > above)
            and (below is None or value < below)
        ):
            raise argparse.ArgumentTypeError(f"{text}: must be a number {' and '.join(bounds)}")
        return value

    return parse


def run_name(text: str) -> str:
    """Type of --name: one folder name, which cannot lead out of model_ckpt/."""
    bad = any(c in '/\\:*?"<>|' or not c.isprintable() for c in text)
    if bad or not text or text[0] in ".-":
        raise argparse.ArgumentTypeError(
            f"{text!r}: must be a plain folder name (no / \\ : * ? \" < > |, no leading . or -)"
        )
    return text
