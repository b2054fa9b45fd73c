"""Fashion-MNIST's files, small and made up."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from polyscore.data.fashion import load_fashion, load_pictures, read_idx
from polyscore.errors import DataError
from tiny import write_idx


def test_both_splits_are_read(tmp_path: Path) -> None:
    pixels = np.arange(3 * 784, dtype=np.uint64).astype(np.uint8).reshape(3, 28, 28)
    for start in ("train", "t10k"):
        write_idx(tmp_path / "fashion-mnist" / f"{start}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / "fashion-mnist" / f"{start}-labels-idx1-ubyte.gz", np.array([9, 0, 4], dtype=np.uint8))
    found = load_pictures("fashion", "test", tmp_path)
    assert found.x.shape == (3, 1, 28, 28)
    assert found.labels.tolist() == [9, 0, 4]
    assert float(found.x[0, 0, 0, 5]) == pytest.approx(5 / 255)
    with pytest.raises(DataError, match="expected train or test"):
        load_fashion("valid", tmp_path)
    with pytest.raises(DataError, match="mnist or fashion"):
        load_pictures("clothes", "test", tmp_path)  # type: ignore[arg-type]
    write_idx(tmp_path / "fashion-mnist" / "train-labels-idx1-ubyte.gz", np.zeros(2, dtype=np.uint8))
    with pytest.raises(DataError, match="as many labels"):
        load_fashion("train", tmp_path)


def test_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    with pytest.raises(DataError, match="is missing"):
        read_idx(file)
    for content in (b"", b"abc", gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"), gzip.compress(b"\0\0\x0d\x01"), gzip.compress(b"\0\0")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.gz"):
            read_idx(file)
