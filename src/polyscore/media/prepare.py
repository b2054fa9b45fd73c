"""A modality's own way with files, as a composer stores it: {"kind": "audio", "rate": 8000, "prepare": "clip"}."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.media.api import read, write
from polyscore.media.image import as_digit
from polyscore.media.text import text_codes

__all__ = ["SUFFIXES", "read_prepared", "write_prepared"]

SUFFIXES = {"image": ".png", "audio": ".wav", "video": ".mp4", "tokens": ".json", "text": ".json", "vector": ".json", "json": ".json"}
PREPARERS = ("digit", "clip")


def read_prepared(path: str | os.PathLike[str], shape: Sequence[int], media: Mapping[str, Any]) -> Tensor:
    """Read a file of a modality with this shape. `prepare`: "digit" (white ink centred in the frame), "clip" (silence cut, centred).

    Where text is expected, a name without a suffix that is no file is the text itself.

    Raises:
        DataError: a file that cannot be used. PolyscoreError: an unknown way to prepare.
    """
    kind, prepare = str(media.get("kind", "json")), media.get("prepare")
    options = {k: v for k, v in media.items() if k not in ("kind", "prepare", "sound")}
    if kind == "text" and not Path(path).suffix and not Path(path).exists():
        return text_codes(str(path), int(shape[0]))
    if prepare is None:
        return read(path, kind, shape=shape, **options)
    if prepare not in PREPARERS:
        raise PolyscoreError(f"media: prepare {prepare!r}: expected one of {', '.join(PREPARERS)}")
    if prepare == "digit":
        return as_digit(read(path, kind, **options), source=path)
    from polyscore.data.digits import fit_clip

    return fit_clip(read(path, kind, **options), samples=shape[0])


def write_prepared(
    path: str | os.PathLike[str],
    value: Tensor,
    media: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    sound: Tensor | None = None,
) -> Path:
    """Write one row of data; the suffix is the kind's own if `path` has none. `sound`: the waveform of a video, at media["rate"]."""
    kind = str(media.get("kind", "json"))
    target = Path(path)
    target = target if target.suffix else target.with_suffix(SUFFIXES[kind])
    options: dict[str, Any] = {k: v for k, v in media.items() if k in ("rate", "fps")}
    if sound is not None:
        options["waveform"] = sound
    return write(target, value, kind, metadata, **options)
