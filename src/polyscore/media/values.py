"""Tokens, vectors and arrays as JSON: {"values": [...], "polyscore": metadata}. Plain text, CSV and .npy are read too."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.media.checks import check_finite, check_suffix, existing, first_line, save_bytes
from polyscore.media.metadata import KEY, pack

__all__ = ["READS", "WRITES", "as_values", "read_values", "values_comment", "write_values"]

READS = frozenset({".json", ".txt", ".csv", ".npy"})
WRITES = frozenset({".json"})
MAX_BYTES = 100_000_000


def read_values(
    path: str | os.PathLike[str], *, kind: str = "vector", shape: Sequence[int] | None = None, vocabulary: int | None = None
) -> Tensor:
    """Read numbers: "tokens" are integers in [0, vocabulary), (L,) int64; a "vector" is (D,) float32; "json" has any shape.

    Raises:
        DataError: unreadable, not numbers, NaN or infinite, another shape, a token outside the vocabulary.
    """
    file = existing(path, kind, READS)
    if file.stat().st_size > MAX_BYTES:
        raise DataError(f"{file}: expected at most {MAX_BYTES // 10**6} MB of numbers, found {file.stat().st_size // 10**6} MB")
    try:
        content = _parse(file)
    except (ValueError, OSError, EOFError, RecursionError) as error:
        raise DataError(f"{file}: expected numbers, found {first_line(error)}") from error
    return as_values(content, file, kind=kind, shape=shape, vocabulary=vocabulary)


def as_values(
    content: Any, source: object, *, kind: str = "vector", shape: Sequence[int] | None = None, vocabulary: int | None = None
) -> Tensor:
    """Numbers already in memory (a nested list) as a checked tensor. See `read_values`."""
    try:
        value = torch.tensor(content, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{source}: expected a list of numbers, found {first_line(error)}") from error
    check_finite(value, source, "numbers")
    if kind != "json" and value.ndim != 1:
        raise DataError(f"{source}: expected one list of numbers, found shape {tuple(value.shape)}")
    if shape is not None and tuple(shape) != tuple(value.shape):
        raise DataError(f"{source}: expected shape {tuple(shape)}, found {tuple(value.shape)}")
    return _tokens(value, source, vocabulary) if kind == "tokens" else value.float()


def write_values(path: str | os.PathLike[str], value: Tensor, *, kind: str = "vector", metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a tensor of numbers as JSON with its metadata."""
    check_suffix(path, kind, WRITES)
    value = check_finite(value.detach().cpu(), path, "numbers")
    content: dict[str, Any] = {"values": value.tolist()}
    if metadata is not None:
        content[KEY] = json.loads(pack(metadata, path))[KEY]
    return save_bytes(path, (json.dumps(content) + "\n").encode())


def values_comment(path: str | os.PathLike[str]) -> str | None:
    """The metadata text of a JSON file, or None."""
    file = Path(path)
    return (
        file.read_text(encoding="utf-8", errors="replace") if file.suffix.lower() == ".json" and file.stat().st_size <= MAX_BYTES else None
    )


def _tokens(value: Tensor, source: object, vocabulary: int | None) -> Tensor:
    most = vocabulary if vocabulary is not None else 2**31
    bad = value[(value != value.round()) | (value < 0) | (value >= most)]
    if len(bad):
        raise DataError(f"{source}: expected whole token numbers from 0 to {most - 1}, found {bad[0].item():g}")
    return value.long()


def _parse(file: Path) -> Any:
    import numpy as np

    if file.suffix.lower() == ".npy":
        array = np.load(file, allow_pickle=False)
        if array.dtype.kind not in "iufb":
            raise ValueError(f"an array of {array.dtype}")
        return array.tolist()
    text = file.read_text(encoding="utf-8")
    if file.suffix.lower() == ".json":
        content = json.loads(text)
        return content["values"] if isinstance(content, dict) and "values" in content else content
    return [float(word) for word in text.replace(",", " ").replace(";", " ").split()]
