"""Which options are read only beside others; one that is given and would not be read is refused.

Options of where and how fast (--gpu_ids, --num_workers, --batch_size where it only saves
memory) have no row: they change no result.
"""

from argparse import Namespace
from collections.abc import Callable

from common.errors import UserError

Rule = Callable[[Namespace], str | None]  # resolved options -> why an option is not read, or None


def only(**choices: tuple[str, ...]) -> Rule:
    """Read where any of these options has one of these values."""

    def rule(opt: Namespace) -> str | None:
        if any(getattr(opt, key) in values for key, values in choices.items()):
            return None
        wanted = " or ".join(
            f"--{key} {value}" for key in choices for value in choices[key] if value
        )
        have = " ".join(f"--{key} {getattr(opt, key)}" for key in choices)
        return f"is read only with {wanted}, and this is {have}; leave it out"

    return rule


def beside(other: str) -> Rule:
    """Read where another option is given."""

    def rule(opt: Namespace) -> str | None:
        return None if getattr(opt, other) else f"goes with --{other}; add that, or leave it out"

    return rule


def without(other: str) -> Rule:
    """Read where another option is not given."""

    def rule(opt: Namespace) -> str | None:
        value = getattr(opt, other)
        return value and f"is not read beside {as_flag(other, value)}; leave one of them out"

    return rule


def unless_resumed(opt: Namespace) -> str | None:
    """Read where a run begins; 0 is true of any other."""
    return opt.warm_steps and without("resume")(opt)


def refuse_unread(rows: dict[str, list[Rule]], given: dict, opt: Namespace) -> None:
    """Raise UserError if an option that stands on the command line would not be read.

    rows: one of the tables below; given: the options on the command line; opt: all, resolved.
    """
    for key in rows:
        for rule in rows[key] if key in given else ():
            if why := rule(opt):
                raise UserError(f"{as_flag(key, given[key])}: {why}")


def as_flag(key: str, value: object) -> str:
    """An option as it would be typed."""
    if isinstance(value, bool):
        return f"--{key}" if value else f"--no-{key}"
    return f"--{key} {' '.join(value) if isinstance(value, list) else value}"


DEMO_HAS_OWN = [without("demo")]
