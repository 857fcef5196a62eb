"""Archives written here, whole and damaged: their arrays, or a sentence."""

import gzip
import io
import pathlib
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays
from small_archives import idx, records, tar

from dfc_jax._data.formats import read_cifar, read_idx


LABELS = np.arange(6, dtype=np.uint8)
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
ROWS = records(IMAGES, LABELS)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("formats") / "archive.gz"


def written(path: pathlib.Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=3)))
def test_idx_files_give_the_array_that_was_written(array, path):
    found = read_idx(written(path, gzip.compress(idx(array))), array.shape)
    assert found.dtype == np.uint8 and np.array_equal(found, array)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(samples=st.integers(1, 4), before=st.integers(0, 2), seed=st.integers(0, 99))
def test_records_give_the_images_and_labels_that_were_written(samples, before, seed, path):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (samples, 32, 32, 3), np.uint8)
    labels = random.integers(0, 256, samples, np.uint8)
    content = gzip.compress(
        tar({"other": b"text", "in/it": records(images, labels, before), "in/it.txt": b""})
    )
    found = read_cifar(written(path, content), {"in/it": samples}, before + 1)
    assert list(found) == ["in/it"]
    assert np.array_equal(found["in/it"][0], images) and np.array_equal(found["in/it"][1], labels)


WHOLE = gzip.compress(idx(LABELS))

BAD_IDX = {
    "its header is 00000d0100000006 where": gzip.compress(b"\0\0\x0d\1" + idx(LABELS)[4:]),  # floats
    "its header is 0000080100000005 where": gzip.compress(idx(LABELS[:5])),
    "its header is 0000080200000003 where": gzip.compress(idx(LABELS.reshape(3, 2))),
    "its header is  where": gzip.compress(b""),
    "its header is 0000 where": gzip.compress(b"\0\0"),
    "it ends after 13 of 14 bytes": gzip.compress(idx(LABELS)[:-1]),
    "more follows the 14 bytes": gzip.compress(idx(LABELS) + b"\0"),
    "Compressed file ended": WHOLE[:-9],
    "CRC check failed": WHOLE[:-5] + b"????" + WHOLE[-1:],
    "Not a gzipped file": idx(LABELS),
}


@pytest.mark.parametrize("reason", BAD_IDX)
def test_wrong_idx_files_are_named(reason, path):
    with pytest.raises(ValueError, match=r"archive.gz' is damaged or another file \(" + reason):
        read_idx(written(path, BAD_IDX[reason]), (6,))


def twice() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for _ in range(2):
            member = tarfile.TarInfo("a")
            member.size = len(ROWS)
            archive.addfile(member, io.BytesIO(ROWS))
    return gzip.compress(file.getvalue())


def link() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    return gzip.compress(file.getvalue())


TAR = gzip.compress(tar({"a": ROWS}))
BAD_TAR = {
    "it lacks 'a'": gzip.compress(tar({"./a": ROWS, "b/a": ROWS})),
    "it holds 'a' twice": twice(),
    "'a' is no regular file": link(),
    "'a' has 18437 bytes where 18438 belong": gzip.compress(tar({"a": ROWS[:-1]})),
    "'a' has 18439 bytes where 18438 belong": gzip.compress(tar({"a": ROWS + b"\0"})),
    "Compressed file ended": TAR[:-9],
    "CRC check failed": TAR[:-5] + b"????" + TAR[-1:],
    "unexpected end of data": gzip.compress(tar({"a": ROWS})[:9000]),
    "invalid header|bad checksum|truncated header": gzip.compress(b"text" * 300),
    "empty file": gzip.compress(b""),
    "Not a gzipped file": tar({"a": ROWS}),
}


@pytest.mark.parametrize("reason", BAD_TAR)
def test_wrong_tar_archives_are_named(reason, path):
    with pytest.raises(ValueError, match=r"archive.gz' is damaged or another file \(.*(" + reason + ")"):
        read_cifar(written(path, BAD_TAR[reason]), {"a": 6}, 1)


def test_a_bomb_is_not_unpacked(path, monkeypatch):
    """An archive of a thousand times what belongs there is told by its first bytes."""
    content = gzip.compress(idx(LABELS) + bytes(10**8))
    taken = []
    original = gzip.GzipFile.read

    def read(file, size=-1):
        taken.append(size)
        return original(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", read)
    with pytest.raises(ValueError, match="more follows"):
        read_idx(written(path, content), (6,))
    assert taken == [15]


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut, lengthened, or with some bytes changed."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(found) - 1))
        match draw(st.sampled_from(["change", "cut", "insert", "zero"])):
            case "change":
                found[place] = draw(st.integers(0, 255))
            case "cut":
                del found[max(place, 1) :]
            case "insert":
                found[place:place] = draw(st.binary(max_size=600))
            case "zero":
                found[place : place + 512] = bytes(len(found[place : place + 512]))
    return bytes(found)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), inside=st.booleans())
def test_damaged_idx_files_give_a_sentence_or_the_array(data, inside, path):
    """Within the compressed bytes, or before they were compressed."""
    raw = damaged(data.draw, idx(LABELS) if inside else WHOLE)
    try:
        found = read_idx(written(path, gzip.compress(raw) if inside else raw), (6,))
    except ValueError as error:
        assert "archive.gz' is damaged or another file (" in str(error) and "\n" not in str(error)
    else:
        assert found.shape == (6,) and (inside or np.array_equal(found, LABELS))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data(), inside=st.booleans())
def test_damaged_tar_archives_give_a_sentence_or_the_arrays(data, inside, path):
    raw = damaged(data.draw, tar({"a": ROWS, "b": ROWS[:3073]}) if inside else TAR)
    try:
        found = read_cifar(written(path, gzip.compress(raw, 1) if inside else raw), {"a": 6}, 1)
    except ValueError as error:
        assert "archive.gz' is damaged or another file (" in str(error) and "\n" not in str(error)
    else:
        images, labels = found["a"]
        assert images.shape == (6, 32, 32, 3) and labels.shape == (6,)
        assert inside or np.array_equal(images, IMAGES)
