"""Fashion-MNIST (Xiao et al. 2017, MIT): 60 000 + 10 000 pictures of clothes, 28 x 28, ten classes, in MNIST's own file format.

Read from `$POLYSCORE_DATA/fashion-mnist`, or from where Debian's package `dataset-fashion-mnist` puts it.
"""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from polyscore.data.digits import SPLITS, Labelled, load_mnist
from polyscore.errors import DataError

__all__ = ["CLOTHES", "DEBIAN", "Pictures", "load_fashion", "load_pictures", "read_idx"]

CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
Pictures = Literal["mnist", "fashion"]


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from an idx file, gzipped: two zero bytes, type 8, rank, big-endian sizes, data.

    Raises:
        DataError: missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: expected a gzipped idx file (Debian: apt-get install dataset-fashion-mnist)")
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: expected a gzipped idx file ({error})") from error
    rank = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    shape = tuple(int(v) for v in np.frombuffer(content[4 : 4 + 4 * rank], dtype=">u4"))
    data = np.frombuffer(content[4 + 4 * rank :], dtype=np.uint8)
    if not rank or len(data) != int(np.prod(shape)):
        raise DataError(f"{path}: expected an idx file of bytes, found {len(data)} bytes for a shape of {shape}")
    return data.reshape(shape)


def load_fashion(split: str = "train", folder: str | os.PathLike[str] | None = None) -> Labelled:
    """Fashion-MNIST with its official split.

    Raises:
        DataError: missing or damaged files, or an unknown split.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}: expected train or test")
    chosen = folder or os.environ.get("POLYSCORE_DATA")
    own = Path(chosen) / "fashion-mnist" if chosen else DEBIAN
    place = own if own.is_dir() else DEBIAN
    start = "train" if split == "train" else "t10k"
    images, labels = read_idx(place / f"{start}-images-idx3-ubyte.gz"), read_idx(place / f"{start}-labels-idx1-ubyte.gz")
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        raise DataError(f"{place}: expected pictures of 28 x 28 and as many labels, found {images.shape} and {labels.shape}")
    return Labelled(torch.from_numpy(images.copy()).unsqueeze(1).float() / 255, torch.from_numpy(labels.copy()).long())


def load_pictures(dataset: Pictures, split: str, folder: str | os.PathLike[str] | None = None) -> Labelled:
    """MNIST or Fashion-MNIST.

    Raises:
        DataError: as their loaders; another name.
    """
    if dataset not in ("mnist", "fashion"):
        raise DataError(f"pictures {dataset!r}: expected mnist or fashion")
    return load_mnist(split, folder) if dataset == "mnist" else load_fashion(split, folder)
