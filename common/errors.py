"""Errors that the user can mend: one clear line, exit code 2, no traceback."""

import errno
import functools
import os
import sys
from collections.abc import Callable

from tqdm import tqdm

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
    """Wrap a script's main(): a UserError is printed as one line and exits with code 2.

    Each line that it prints is written at once, into a file or a pipe too; what their encoding
    lacks, such as in a file's name, is written as \\xff or \\u4eba. A full disk ends in one
    line as well where nobody thought of it, such as that of standard output. Where nobody reads
    what is printed any more, as after `| head -1`, the script ends like others there.
    """

    @functools.wraps(main)
    def wrapped() -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace", line_buffering=True)
        try:
            main()
            if sys.stdout:  # None where it was closed
                sys.stdout.flush()
        except BrokenPipeError:
            print_nowhere()
            sys.exit(128 + 13)  # as SIGPIPE would end it
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            print_nowhere()
            print(
                f"error: {error.filename or 'standard output'}: cannot be written "
                f"({error.strerror}); free some space",
                file=sys.stderr,
            )
            sys.exit(2)
        except UserError as error:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            sys.exit("interrupted")

    return wrapped


def print_nowhere() -> None:
    """Drop what was printed and not written, which Python would try once more at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):  # no real file, or closed
        sys.stdout = None


def say(line: str) -> None:
    """One line on stderr, above the progress bar if there is one."""
    tqdm.write(one_line(line), file=sys.stderr)
