"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

import functools
import sys
from collections.abc import Callable

LONGEST_LINE = 4000


class UserError(Exception):
    """Bad input. The message names the flag or file, the value, and the remedy, in one line."""


def one_line(text: str) -> str:
    """Text of any origin as one line to print, of a length that can be read.

    File names, and names in files, may hold line breaks, commands to a terminal, or bytes that are
    no text.
    """
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's main(): a UserError is printed as one line and exits with code 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit("interrupted")

    return wrapped
