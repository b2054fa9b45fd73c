"""One door for every kind of file: `read(path, kind)`, `write(path, value, kind)`, `read_metadata(path)`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from polyscore.errors import DataError
from polyscore.media import audio, image, text, values, video
from polyscore.media.checks import existing
from polyscore.media.metadata import unpack

__all__ = ["KINDS", "read", "read_metadata", "write"]


def _read_frames(path: str | os.PathLike[str], **options: Any) -> Tensor:
    return video.read_frames(path, **options)[0]


_READERS: dict[str, Callable[..., Tensor]] = {
    "image": image.read_image,
    "audio": audio.read_audio,
    "video": _read_frames,
    "text": text.read_text,
    **{kind: partial(values.read_values, kind=kind) for kind in ("tokens", "vector", "json")},
}
_WRITERS: dict[str, Callable[..., Path]] = {
    "image": image.write_image,
    "audio": audio.write_audio,
    "video": video.write_video,
    "text": text.write_text_file,
    **{kind: partial(values.write_values, kind=kind) for kind in ("tokens", "vector", "json")},
}
KINDS = tuple(_READERS)
_COMMENTS: tuple[tuple[frozenset[str], Callable[[Path], str | None]], ...] = (
    (image.READS, image.image_comment),
    (audio.READS, audio.audio_comment),
    (video.READS, video.video_comment),
    (values.READS, values.values_comment),
)


def read(path: str | os.PathLike[str], kind: str, **options: Any) -> Tensor:
    """Read a file as a modality tensor.

    | kind | tensor | options |
    |---|---|---|
    | image | (C, H, W) in [0, 1] | shape, fit, max_pixels |
    | audio | (L,) in [-1, 1] | shape, rate, trim_silence, max_seconds |
    | video | (F, C, H, W) in [0, 1] | shape, fps, fit, max_seconds; the soundtrack: kind "audio", or `read_video` |
    | text | (L,) int64 character codes, 0 after the end | shape |
    | tokens, vector, json | (L,) int64, (D,), any shape | shape, vocabulary |

    Raises:
        DataError: an unknown kind or option, or a file that cannot be used; the line names it.
    """
    _check_options(kind, options, _READERS, video.read_frames)
    return _READERS[kind](path, **options)


def write(path: str | os.PathLike[str], value: Tensor, kind: str, metadata: Mapping[str, Any] | None = None, **options: Any) -> Path:
    """Write a modality tensor as a file, whole or not at all, with `metadata` (JSON-able) inside.

    Options: audio: rate; video: fps, waveform, rate.

    Raises:
        DataError: an unknown kind, suffix or option, a value of another shape, NaN or infinity.
        PolyscoreError: the file cannot be written (full disk, no permission).
    """
    _check_options(kind, options, _WRITERS, video.write_video)
    return _WRITERS[kind](path, value, metadata=metadata, **options)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata that `write` put into a file. DataError if there is none."""
    file = existing(path, "result", frozenset().union(*(suffixes for suffixes, _ in _COMMENTS)))
    comment = next(comment for suffixes, comment in _COMMENTS if file.suffix.lower() in suffixes)
    return unpack(comment(file), file)


def _check_options(kind: str, options: Mapping[str, Any], doors: Mapping[str, Callable[..., Any]], video_door: Callable[..., Any]) -> None:
    if kind not in doors:
        raise DataError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    signature = inspect.signature(video_door if kind == "video" else doors[kind])
    keywords = [p for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY and p.name not in ("kind", "metadata")]
    unknown = sorted(set(options) - {p.name for p in keywords})
    if unknown:
        raise DataError(f"{kind}: expected options {', '.join(p.name for p in keywords) or 'none'}, found {unknown[0]!r}")
    missing = [p.name for p in keywords if p.default is p.empty and p.name not in options]
    if missing:
        raise DataError(f"{kind}: the option {missing[0]!r} is missing")
