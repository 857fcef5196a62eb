"""Files that are there as a whole or not at all."""

import contextlib
import errno
import functools
import os
import pathlib
import uuid

from dfc_jax._checks import warn


# What file systems answer that cannot make a file or a folder last through a loss of power.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF}


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Write a file, in place of an earlier one if there is one. It is on disk when this returns.

    What stops it on the way leaves the earlier one as it is.

    **Raises:** `OSError` if it cannot be written.
    """
    temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            sync(file.fileno(), path)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def clear_parts(folder: pathlib.Path) -> None:
    """Delete what was being written in a folder when its writer was killed."""
    for part in folder.glob("*.part"):
        delete(part)


def delete(path: pathlib.Path) -> None:
    """Delete a file that is no longer of use; warn, once, where that is not possible."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _warn_once(f"{str(path)!r} could not be deleted ({error.strerror}); it is of no further use.")


def sync(descriptor: int, path: pathlib.Path) -> None:
    """Make what was written last through a loss of power, where the file system can.

    **Raises:** `OSError` if it could not be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
        _warn_unsafe(path.parent, error)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a renaming in the folder last through a loss of power, where the file system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:  # Windows opens no folders
        if os.name == "posix":
            _warn_unsafe(folder, error)
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        _warn_unsafe(folder, error)
    finally:
        os.close(descriptor)


def _warn_unsafe(folder: pathlib.Path, error: OSError) -> None:
    problem = f"{str(folder)!r} is on a file system that does not say when files are safely on disk"
    _warn_once(f"{problem} ({error.strerror}): after a loss of power the newest may be missing.")


@functools.cache
def _warn_once(message: str) -> None:
    warn(message)
