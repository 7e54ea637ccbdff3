"""One process at a time in a folder, and the removal of what a killed one left there.

The lock is filelock's on the folder's file `.lock`; the system releases it, however the process
ends.
"""

import functools
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import UserError

TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")  # how files.atomic_write names them: NAME, PID


@contextmanager
def alone_in(folder: Path, user: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, made if it is missing, and clear the folder of strays first.

    user: the flag or file that led here, for the line if another process holds it: UserError, or
    what is said before waiting for it. Where no lock can be had, since the file system knows none
    (one line says so) or nothing can be written there (whoever writes next will say so), the block
    runs without.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = _acquire(folder / ".lock", user, wait)
    try:
        if lock:
            remove_strays(folder)
        yield
    finally:
        if lock:
            with suppress(OSError):
                os.unlink(lock.lock_file)  # while it is held, so that it is nobody else's
            lock.release()
            with suppress(OSError):
                for path in made:
                    path.rmdir()  # where nothing came of it


def sweep(folder: Path) -> None:
    """Clear a folder of what a killed holder of its lock left, unless another one is in it."""
    if (Path(folder) / ".lock").exists():
        with suppress(UserError), alone_in(folder, str(folder)):
            pass


def _acquire(path: Path, user: str, wait: bool) -> FileLock | None:
    """The lock of a file, held; None where no lock can be had."""
    told = False
    for _ in range(1000):
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                at_work = f"another process is at work in {path.parent}/"
                if not wait:
                    raise UserError(
                        f"{user}: {at_work}; wait for its end, stop it, or choose another one"
                    ) from None
                if not told:
                    print(f"{user}: waiting, since {at_work}", file=sys.stderr, flush=True)
                told = True
                lock.acquire()
        except FileNotFoundError:  # a holder that ended has just removed its empty folder
            continue
        except (OSError, NotImplementedError) as error:
            if path.parent.is_dir() and os.access(path.parent, os.W_OK):
                print(
                    f"warning: {path}: this file system has no locks ({error}); see to it that no "
                    "other process works in this folder",
                    file=sys.stderr,
                )
            return None
        if path.exists():
            return lock
        lock.release()  # of a file that the last holder has removed
    return None


def remove_strays(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; only for who holds a lock on it."""
    for strays in _temporaries(folder).values():
        _remove_of_the_dead(strays)


def remove_strays_of(path: Path) -> None:
    """Remove what killed processes left of a file that is about to be written, without a lock.

    Of that file only: where a disk is shared, the processes of another machine look dead.
    """
    _remove_of_the_dead(_listed_once(path.parent.absolute()).pop(path.name, []))


def _temporaries(folder: Path) -> dict[str, list[tuple[Path, int]]]:
    """The temporary files in a folder and the PIDs of their writers, by what they were to become.

    None on Windows, where to ask for a process is to end it.
    """
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in Path(folder).glob(".*.tmp") if os.name == "posix" else ():
        if match := TEMPORARY.fullmatch(path.name):
            found.setdefault(match[1], []).append((path, int(match[2])))
    return found


_listed_once = functools.cache(_temporaries)  # listing a folder per picture would take hours


def _remove_of_the_dead(temporaries: list[tuple[Path, int]]) -> None:
    for path, pid in temporaries:
        if not _lives(pid):
            with suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    if pid == os.getpid():
        return False  # an earlier one: PIDs are reused, soonest in containers
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    return True
