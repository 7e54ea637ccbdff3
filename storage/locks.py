"""One process at a time in a folder, and the removal of what a killed one left there.

The lock is flock's on the folder's file `.lock`, which names its holder; the kernel releases it,
however the process ends. Windows has no flock: everything there goes on without locks.
"""

import functools
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl

    HAS_LOCKS = True
except ImportError:  # Windows
    HAS_LOCKS = False

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
    file = _acquire(folder / ".lock", user, wait) if HAS_LOCKS else None
    try:
        if file is not None:
            remove_strays(folder)
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                os.unlink(folder / ".lock")  # while it is held, so that it is nobody else's
            os.close(file)
            with suppress(OSError):
                for path in made:
                    path.rmdir()  # where nothing came of it


def sweep(folder: Path) -> None:
    """Clear a folder of what a killed holder of its lock left, unless another one is in it."""
    if (Path(folder) / ".lock").exists():
        with suppress(UserError), alone_in(folder, str(folder)):
            pass


def _acquire(path: Path, user: str, wait: bool) -> int | None:
    """Open and lock the file; returns its descriptor, or None where no lock can be had."""
    told = False
    for _ in range(1000):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # a holder that ended has just removed its empty folder
            continue
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 200, 0).decode(errors="replace") or "another process"
            if not wait:
                os.close(file)
                raise UserError(
                    f"{user}: {holder} is at work in {path.parent}/; wait for its end, "
                    "stop it, or choose another one"
                ) from None
            if not told:
                print(
                    f"{user}: waiting for {holder}, which is at work in {path.parent}/",
                    file=sys.stderr,
                    flush=True,
                )
            told = True
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            os.close(file)
            print(
                f"warning: {path}: this file system has no locks ({error.strerror}); see to it "
                "that no other process works in this folder",
                file=sys.stderr,
            )
            return None
        # The last holder has removed its file: was it this one?
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                with suppress(OSError):  # a full disk: the lock is held all the same
                    os.ftruncate(file, 0)
                    os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
                return file
        os.close(file)
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

    None where nobody has locks.
    """
    found: dict[str, list[tuple[Path, int]]] = {}
    for path in Path(folder).glob(".*.tmp") if HAS_LOCKS else ():
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
