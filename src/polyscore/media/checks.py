"""What every reader and writer asks of a file or a value before it touches it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.files import atomic

__all__ = ["check_finite", "check_suffix", "existing", "first_line", "fit_length", "save_bytes"]


def existing(path: str | os.PathLike[str], kind: str, suffixes: Collection[str]) -> Path:
    """The path, if it is a readable, non-empty file whose suffix suits the kind.

    Raises:
        DataError: missing, a folder, empty, not readable, or of another suffix.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise DataError(f"{file}: expected {article(kind)} file, found nothing there")
        if not file.is_file():
            raise DataError(f"{file}: expected {article(kind)} file, found {'a folder' if file.is_dir() else 'something else'}")
        check_suffix(file, kind, suffixes)
        if file.stat().st_size == 0:
            raise DataError(f"{file}: expected {article(kind)} file, found an empty file")
        with file.open("rb"):
            return file
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error


def check_suffix(path: str | os.PathLike[str], kind: str, suffixes: Collection[str]) -> str:
    """The lower-case suffix of a path, if it is one of `suffixes`; DataError otherwise."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise DataError(f"{path}: expected {article(kind)} file ({', '.join(sorted(suffixes))}), found suffix {suffix or 'none'!r}")
    return suffix


def check_finite(value: Tensor, source: object, what: str) -> Tensor:
    """The value itself, if it holds no NaN and no infinity; DataError otherwise."""
    bad = value.numel() - int(torch.isfinite(value).sum()) if value.is_floating_point() else 0
    if bad:
        raise DataError(f"{source}: expected finite {what}, found {bad} of {value.numel()} NaN or infinite")
    return value


def fit_length(wave: Tensor, length: int | None) -> Tensor:
    """Crop a (..., L) waveform at its end, or pad it with silence, to `length` samples (None: as it is)."""
    if length is None:
        return wave
    return torch.nn.functional.pad(wave[..., :length], (0, max(0, length - wave.shape[-1])))


def save_bytes(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a whole file at once: all of it or, on any error, none of it."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def article(kind: str) -> str:
    """The kind with its article: "an image", "a video"."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its name."""
    return (str(error).splitlines() or [type(error).__name__])[0]
