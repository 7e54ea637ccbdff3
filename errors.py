"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input. The message names the flag or file, the value, and the remedy, in one line."""


def one_line_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's main(): a UserError is printed as one line and exits with code 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            # File names may hold line breaks or bytes that are no text; the line stays one line.
            line = str(error).encode(errors="backslashreplace").decode().replace("\n", "\\n")
            print(f"error: {line}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit("interrupted")

    return wrapped
