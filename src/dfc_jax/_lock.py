"""One process at a time writes to a folder."""

import contextlib
import errno
import os
import pathlib
import socket
import sys
import weakref

from dfc_jax._checks import warn


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # what is locked cannot be read: not what says whose it is
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class Lock:
    """That nothing else writes to a folder, which is made if need be: until `release`, or this is forgotten.

    The operating system takes it back from a process that was killed. The file says who holds it.

    **Arguments:**

    - `name`: of the argument that names the folder.

    **Raises:** `ValueError` if another process, or something else in this one, holds it; `OSError` if the
    folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        path, subject = folder / ".lock", f"`{name}` is {str(folder)!r}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(path, subject)
        except OSError as error:
            no_folder = isinstance(error, FileExistsError | NotADirectoryError)
            reason = "there is a file of that name" if no_folder else error.strerror or error
            problem = f"{subject}, which cannot be written ({reason})"
            raise OSError(f"{problem}; name another folder, or free it.") from error
        os.lseek(descriptor, 0, os.SEEK_SET)
        with contextlib.suppress(OSError):  # on a full disk it says nothing
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} {socket.gethostname()}".encode())
        self.release = weakref.finalize(self, _give_back, descriptor, path, os.getpid())


_HELD: weakref.WeakValueDictionary[pathlib.Path, Lock] = weakref.WeakValueDictionary()


def lock_of_process(folder: pathlib.Path, name: str) -> Lock:
    """The lock of a folder, which all parts of this process share.

    **Raises:** as `Lock`.
    """
    place = folder.resolve()
    held = _HELD.get(place)
    if held is None or not held.release.alive:
        held = _HELD[place] = Lock(folder, name)
    return held


def _locked(path: pathlib.Path, subject: str) -> int:
    """The descriptor of the file, which is locked and there."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            if _is_same(descriptor, path):
                return descriptor
        except OSError as error:
            if error.errno not in _TAKEN and not _alive(path):
                warn(
                    f"{subject}, which cannot be locked ({error.strerror}): let no other process write there."
                )
                return descriptor
            os.close(descriptor)
            problem = f"{subject}, which {_owner(path)} is writing"
            raise ValueError(f"{problem}; wait until it has ended, or name another folder.") from error
        os.close(descriptor)  # the one before deleted it in the meantime


def _is_same(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _held_by(path: pathlib.Path) -> tuple[int, str] | None:
    """Process and machine; None where the file does not say."""
    try:
        process, machine = path.read_text(encoding="utf-8").split()
        return int(process), machine
    except (OSError, ValueError):
        return None


def _owner(path: pathlib.Path) -> str:
    found = _held_by(path)
    if found is None:
        return "another process"
    if found == (os.getpid(), socket.gethostname()):
        return "this very process"
    return "process {} on {}".format(*found)


def _alive(path: pathlib.Path) -> bool:
    """Whether the process that the file names is known to be at work, on this machine."""
    found = _held_by(path)
    if found is None or found[1] != socket.gethostname() or found[0] == os.getpid():
        return False
    try:
        os.kill(found[0], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _give_back(descriptor: int, path: pathlib.Path, process: int) -> None:
    if os.getpid() == process:  # a fork has a copy
        with contextlib.suppress(OSError):  # Windows deletes no open files
            path.unlink(missing_ok=True)
    os.close(descriptor)
