"""Clips with sound, cut into pieces of a model's own length: frames at its rate and size, its sample rate, both from the same instant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from polyscore.errors import DataError
from polyscore.media import read_video
from polyscore.media.video import READS, read_soundtrack

__all__ = ["CLIPS", "clip_files", "clips_of"]

CLIPS = tuple(sorted(READS))


def clip_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The video files in a folder and its subfolders, by name.

    Raises:
        DataError: no such folder, or no video in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{folder}: expected a folder of clips ({', '.join(CLIPS)}), found none")
    found = sorted(f for f in root.rglob("*") if f.suffix.lower() in READS)
    if not found:
        raise DataError(f"{folder}: expected clips ({', '.join(CLIPS)}), found none")
    return found


def clips_of(
    file: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]], media: Mapping[str, Mapping[str, Any]], most: int = 8
) -> list[dict[str, Tensor]]:
    """Pieces of one clip, {video: (F, C, H, W), audio: (L,)}, one after the other without overlap; at least one.

    A clip shorter than a piece is continued with its last frame and silence; what is left after the last whole piece is dropped.

    Raises:
        DataError: unreadable, or without a picture or a sound.
    """
    video, audio = (next(n for n, m in media.items() if m["kind"] == kind) for kind in ("video", "audio"))
    (frames, *size), length = shapes[video], int(shapes[audio][0])
    rate, fps = int(media[audio]["rate"]), float(media[video]["fps"])
    wave, own = read_soundtrack(Path(file))
    pieces = max(1, min(most, int(len(wave) / own * fps / frames + 1e-6)))
    clip = read_video(file, shape=(frames * pieces, *size), fps=fps, rate=rate)
    if clip.waveform is None:
        raise DataError(f"{file}: expected a clip with sound, found none")
    found = []
    for k in range(pieces):
        start = round(k * frames / fps * rate)
        part = clip.waveform[start : start + length]
        found.append({video: clip.frames[k * frames : (k + 1) * frames], audio: functional.pad(part, (0, length - len(part)))})
    return found
