"""The parser of all scripts, and types of options, which say in one line what a value must be."""

import argparse
import math
import shlex
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import NoReturn

from common.errors import UserError


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults behind the help texts; short names of values; examples as they were written."""

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        if action.type in (None, run_name):
            return action.dest.rpartition("_")[2].upper()  # domain_A_path: PATH
        return "N"

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action, argparse._StoreTrueAction):
            return action.help  # which says itself what happens if it is not given
        return super()._get_help_string(action)


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def make_parser(description: str, usage: str | None = None) -> OneLineParser:
    """A parser that takes no abbreviations; usage: a line in place of the list of all options."""
    return OneLineParser(description=description, usage=usage, formatter_class=_Help,
                         allow_abbrev=False)  # fmt: skip


def flags_that_differ(opt: Namespace, usual: Namespace, keys: Sequence[str]) -> list[str]:
    """What must be typed to have the values of opt in the place of the usual ones."""
    changed = [key for key in keys if getattr(opt, key) != getattr(usual, key)]
    return [f"--{key} {shlex.quote(str(getattr(opt, key)))}" for key in changed]


def given_options(parser: OneLineParser, argv: Sequence[str] | None = None) -> dict:
    """The options that stand on the command line, without any default."""
    absent = object()  # where a value is there already, argparse leaves out the default
    blank = Namespace(**{action.dest: absent for action in parser._actions})
    found = vars(parser.parse_args(argv, blank))
    return {key: value for key, value in found.items() if value is not absent}


def whole(least: int, most: int = 2**53) -> Callable[[str], int]:
    """Type of an option that is a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least {least}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at most {most}")
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
            f'{text!r}: must be a plain folder name (no / \\ : * ? " < > |, no leading . or -)'
        )
    return text
