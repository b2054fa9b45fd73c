"""Words as files: JSON {"text": ..., "polyscore": metadata}, or plain .txt; in memory character codes, 0 after the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.media.checks import check_suffix, existing, first_line, save_bytes
from polyscore.media.metadata import KEY, pack

__all__ = ["READS", "WRITES", "code_text", "read_text", "text_codes", "write_text_file"]

READS = frozenset({".json", ".txt"})
WRITES = frozenset({".json"})
MAX_BYTES = 1_000_000


def text_codes(text: str, length: int | None = None) -> Tensor:
    """Character codes of a text, padded with 0 to `length`, int64.

    Raises:
        DataError: more than `length` characters.
    """
    size = len(text) if length is None else length
    if len(text) > size:
        raise DataError(f"text {text[:40]!r}: expected at most {size} characters, found {len(text)}")
    return torch.tensor([ord(c) for c in text] + [0] * (size - len(text)), dtype=torch.int64)


def code_text(codes: Tensor) -> str:
    """The text of character codes, all that are not 0."""
    return "".join(chr(c) for c in codes.tolist() if c)


def read_text(path: str | os.PathLike[str], *, shape: Sequence[int] | None = None) -> Tensor:
    """Read a word or text as codes (L,); with `shape` (L,) padded to it.

    Raises:
        DataError: unreadable, empty, or longer than `shape` allows.
    """
    file = existing(path, "text", READS)
    if file.stat().st_size > MAX_BYTES:
        raise DataError(f"{file}: expected at most {MAX_BYTES} bytes of text, found {file.stat().st_size}")
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix.lower() == ".json":
            content = json.loads(text)
            text = content["text"] if isinstance(content, dict) and "text" in content else content
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: expected text, found {first_line(error)}") from error
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{file}: expected text, found {'nothing' if isinstance(text, str) else type(text).__name__}")
    try:
        return text_codes(text.strip(), None if shape is None else int(shape[0]))
    except DataError as error:
        raise DataError(f"{file}: {error}") from error


def write_text_file(path: str | os.PathLike[str], value: Tensor, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write codes as JSON {"text": ...} with its metadata."""
    check_suffix(path, "text", WRITES)
    if value.is_floating_point() or value.ndim != 1:
        raise DataError(f"{path}: expected one row of character codes, found {value.dtype} of shape {tuple(value.shape)}")
    content: dict[str, Any] = {"text": code_text(value)}
    if metadata is not None:
        content[KEY] = json.loads(pack(metadata, path))[KEY]
    return save_bytes(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())
