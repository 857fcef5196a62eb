"""Files from the network: taken up where a connection broke, and kept only with the right checksum."""

import dataclasses
import hashlib
import http.client
import os
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

from tqdm import tqdm

from dfc_jax._bar import progress_bar


_TIMEOUT = 30  # seconds without a byte
_BLOCK = 2**16


@dataclasses.dataclass(frozen=True)
class Archive:
    """A published file: its size in bytes, its SHA-256, and the addresses of the folders that hold it."""

    name: str
    size: int
    sha256: str
    mirrors: tuple[str, ...]

    def is_in(self, path: pathlib.Path) -> bool:
        """Whether a file is this one."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


class Unserved(Exception):
    """No mirror has served a file; says why of each."""


def fetch(archive: Archive, folder: pathlib.Path, *, progress: bool) -> None:
    """The file in `folder`, from the first mirror that serves it, with what earlier calls have left of it.

    **Raises:** `Unserved`, and `OSError` for what goes wrong on this machine.
    """
    part = folder / f"{archive.name}.part"
    reasons = []
    options = {"total": archive.size, "desc": archive.name, "unit": "B", "unit_scale": True}
    bar = progress_bar(progress=progress, **options)
    with bar:
        for mirror in archive.mirrors:
            problem = _complete(mirror + archive.name, archive, part, bar)
            if problem is None:
                os.replace(part, folder / archive.name)
                return
            reasons.append(f"{urllib.parse.urlsplit(mirror).netloc}: {problem}")
    raise Unserved(f"{archive.name}: {'; '.join(reasons)}")


def _complete(url: str, archive: Archive, part: pathlib.Path, bar: tqdm) -> str | None:
    """What `part` lacks, in as many answers as it takes while each brings more; returns what went wrong."""
    begun = part.exists()
    while (held := _size(part)) < archive.size:
        problem = _receive(url, archive.size, part, held, bar)
        if _size(part) <= held:
            return problem
    if archive.is_in(part):
        return None
    part.unlink()
    if begun:  # what was there before may be what is wrong
        return _complete(url, archive, part, bar)
    return "what it serves has another checksum"


def _receive(url: str, size: int, part: pathlib.Path, held: int, bar: tqdm) -> str:
    """Add what one answer brings to the `held` bytes of `part`; returns why it brought no more."""
    asked = {"Range": f"bytes={held}-"} if held else {}
    request = urllib.request.Request(url, headers={"User-Agent": "dfc_jax", **asked})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except (OSError, http.client.HTTPException) as error:
        return _reason(error)
    with answer, part.open("ab") as file:
        problem, position = _fits(answer, held, size)
        while not problem and position < size:
            try:
                block = answer.read1(min(_BLOCK, size - position))
            except (OSError, http.client.HTTPException) as error:
                problem = _reason(error)
            else:
                file.write(block[max(held - position, 0) :])  # one that ignores `Range` begins at 0
                position += len(block)
                bar.update(max(position, held) - bar.n)
                problem = "" if block else f"the connection ended after {position} of {size} bytes"
    return problem


def _fits(answer: http.client.HTTPResponse, held: int, size: int) -> tuple[str, int]:
    """What is wrong with an answer, if anything, and where in the file it begins."""
    if answer.status == 206:
        said = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said)
        fine = found is not None and int(found[1]) == held and found[2] in (str(size), "*")
        return "" if fine else f"it serves {said!r} where {held} to {size} was asked for", held
    length = answer.headers.get("Content-Length", str(size))
    return "" if length == str(size) else f"it serves {length} bytes where {size} belong", 0


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return f"HTTP {error.code} {error.reason}"
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return f"no answer within {_TIMEOUT} s"
    return str(getattr(inner, "strerror", None) or inner) or type(inner).__name__
