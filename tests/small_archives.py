"""Small archives in the formats of the published ones, and a server that hands them out, well or badly."""

import dataclasses
import gzip
import hashlib
import http.server
import io
import pathlib
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Mapping

import numpy as np
import pytest

import dfc_jax as dfc
from dfc_jax._data import archives, loading
from dfc_jax._data.fetching import Archive


SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
CLASSES = {"mnist": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100}
TRAIN, TEST = 25, 10


def samples_of(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels."""
    number = {"train": TRAIN, "test": TEST}[split]
    random = np.random.default_rng([number, *source.encode()])
    images = random.integers(0, 256, (number, *SHAPES[source]), np.uint8)
    return images, random.integers(0, CLASSES[source], number, np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def tar(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def records(images: np.ndarray, labels: np.ndarray, before: int = 0) -> bytes:
    """CIFAR's: `before` other labels, the label, all reds, all greens and all blues."""
    each = zip(images, labels, strict=True)
    return b"".join(
        bytes([7] * before + [label]) + image.transpose(2, 0, 1).tobytes() for image, label in each
    )


def files_of(source: str) -> dict[str, bytes]:
    """Every archive of a data set."""
    train, test = samples_of(source, "train"), samples_of(source, "test")
    if source == "cifar10":
        fifths = zip(np.split(train[0], 5), np.split(train[1], 5), strict=True)
        members = {f"data_batch_{i}.bin": records(*fifth) for i, fifth in enumerate(fifths, 1)}
        members |= {"batches.meta.txt": b"airplane\n", "test_batch.bin": records(*test)}
        members = {f"cifar-10-batches-bin/{name}": content for name, content in members.items()}
        return {"cifar-10-binary.tar.gz": gzip.compress(tar(members))}
    if source == "cifar100":
        members = {
            "train.bin": records(*train, 1),
            "fine_label_names.txt": b"a\n",
            "test.bin": records(*test, 1),
        }
        members = {f"cifar-100-binary/{name}": content for name, content in members.items()}
        return {"cifar-100-binary.tar.gz": gzip.compress(tar(members))}
    found = {}
    for prefix, (images, labels) in (("train", train), ("t10k", test)):
        found[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(images[..., 0]))
        found[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels))
    return found


def expect(
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    files: Mapping[str, bytes],
    mirrors: tuple[str, ...],
    samples: tuple[int, int] = (TRAIN, TEST),
) -> None:
    """Let the library expect these archives there, in place of those published, with so many samples."""
    expected = tuple(
        Archive(name, len(content), hashlib.sha256(content).hexdigest(), mirrors)
        for name, content in files.items()
    )
    monkeypatch.setitem(archives.SOURCES, source, archives.Source(archives.SOURCES[source].read, expected))
    for name, spec in loading._IMAGE_SETS.items():
        if spec.source == source:
            smaller = dataclasses.replace(spec, train_samples=samples[0], test_samples=samples[1])
            monkeypatch.setitem(loading._IMAGE_SETS, name, smaller)


class Server(http.server.ThreadingHTTPServer):
    """Hands out `files` by path, and remembers what was asked for.

    - `cuts`: after how many bytes of the next answers the connection ends; `reset`: with an error.
    - `knows_ranges`: whether it heeds `Range`; `said_range`: what it says in its answer instead of the truth.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.reset = False
        self.knows_ranges = True
        self.says_length = True
        self.said_range: str | None = None
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def address(self, folder: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{folder}"

    def stop(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        if self.path not in server.files:
            self.send_error(404)
            return
        content, begin = server.files[self.path], 0
        if asked and server.knows_ranges:
            begin = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send_response(206)
            truth = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", server.said_range or truth)
        else:
            self.send_response(200)
        if server.says_length:
            self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        body = content[begin:]
        if server.cuts:
            body = body[: server.cuts.pop(0)]
            if server.reset:
                self.wfile.write(body)
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
MNIST = files_of("mnist")


def assert_fetched(folder: pathlib.Path) -> None:
    """All of MNIST is there, and nothing else."""
    assert {path.name: path.read_bytes() for path in (folder / "mnist").iterdir()} == MNIST


def fetch(folder: pathlib.Path) -> pathlib.Path:
    return dfc.download("mnist", folder, progress=False)


def refused(folder: pathlib.Path) -> str:
    """The sentence in which the download fails."""
    with pytest.raises(RuntimeError) as caught:
        fetch(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"mnist could not be fetched to {str(folder / 'mnist')!r} (")
    assert "copy the folder from a machine that has it" in sentence and "TFDS_DATA_DIR" in sentence
    return sentence
