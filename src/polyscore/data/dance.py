"""Real dances and their music (Tang, Jia and Mao 2018): waltz, rumba and cha-cha, 23 joints, mono sound at 16 kHz.

Read from `$POLYSCORE_DATA/dance` (dance.npz, dance.json, music_ogg.tar; for research only). The motion is beat-synchronous: a beat has 4
frames (waltz) or 12.5, and music and motion start together on a beat, so frames show where quarters of beats are.
"""

from __future__ import annotations

import io
import json
import math
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyscore.data.digits import data_folder
from polyscore.data.rows import Rows
from polyscore.errors import DataError

__all__ = ["COUNT", "GENRES", "RATE", "VISUAL", "Clips", "Dance", "cut", "load_dances", "pictures", "pose"]

RATE = 16_000
GENRES = ("waltz", "rumba", "cha-cha")
FRAME = 1024
"""Samples a motion frame of a clip: 64 ms."""
COUNT = 2
"""Numbers at the end of a motion frame that say where in a beat it is."""
SIDE = 12
VISUAL = (8, SIDE**2)
"""Pictures of a clip, and their cells."""


@dataclass(frozen=True)
class Dance:
    """joints (frames, 23, 3) in cm around the centre (frames, 3), y up, at `fps`; wave (L,) at 16 kHz; beats in seconds.

    `frames_per_beat` is of the dance's own count: frame i falls on its beat i / frames_per_beat. `beats` were heard in the music.
    """

    name: str
    genre: int
    joints: Tensor
    center: Tensor
    fps: float
    wave: Tensor
    beats: Tensor
    edges: tuple[tuple[int, int], ...] = ()
    frames_per_beat: float = 4.0

    @property
    def seconds(self) -> float:
        """What motion and music both cover."""
        return min(len(self.joints) / self.fps, len(self.wave) / RATE)


def load_dances(folder: str | os.PathLike[str] | None = None, clean: bool = True) -> list[Dance]:
    """All dances, or those whose tempo is sure (mismatch <= .05, beat grid consistency >= .85).

    Raises:
        DataError: no folder, or missing or damaged files.
    """
    place = data_folder(folder) / "dance"
    try:
        items = json.loads((place / "dance.json").read_text(encoding="utf-8"))
        with np.load(place / "dance.npz", allow_pickle=False) as arrays, tarfile.open(place / "music_ogg.tar") as music:
            edges = tuple((int(a), int(b)) for a, b in arrays["edges"])
            chosen = [i for i in items if not clean or (i["tempo_mismatch"] <= 0.05 and i["beat_grid_consistency"] >= 0.85)]
            return [_dance(item, arrays, music, edges) for item in chosen]
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        raise DataError(f"{place}: expected dance.npz, dance.json and music_ogg.tar ({error})") from error


def _dance(item: dict[str, object], arrays: np.lib.npyio.NpzFile, music: tarfile.TarFile, edges: tuple[tuple[int, int], ...]) -> Dance:
    import soundfile

    name = str(item["id"])
    file = music.extractfile(f"{name}.ogg")
    if file is None:
        raise KeyError(f"{name}.ogg")
    wave, rate = soundfile.read(io.BytesIO(file.read()), dtype="float32")
    if rate != RATE or wave.ndim != 1:
        raise ValueError(f"{name}.ogg: expected mono sound at {RATE} Hz, found {wave.ndim} dimensions at {rate} Hz")
    joints, center, beats = (torch.from_numpy(arrays[f"{name}/{part}"].astype(np.float32)) for part in ("joints", "center", "beats"))
    fps, count = (float(str(item[key])) for key in ("fps", "frames_per_beat"))
    return Dance(name, GENRES.index(str(item["genre"])), joints, center, fps, torch.from_numpy(wave), beats, edges, count)


def pose(dance: Dance, times: Tensor) -> Tensor:
    """Joints (T, 23, 3) around the centre at times in seconds, between frames linearly."""
    return _between(dance.joints, times * dance.fps)


def _between(values: Tensor, place: Tensor) -> Tensor:
    place = place.clamp(0, len(values) - 1)
    low = place.floor().long().clamp(max=len(values) - 2)
    share = (place - low).reshape(-1, *[1] * (values.ndim - 1)).float()
    return values[low] * (1 - share) + values[low + 1] * share


def pictures(dance: Dance, times: Tensor, side: int = SIDE, points: int = 6) -> Tensor:
    """What a camera in front sees of the skeleton, (T, side * side): the share of its bones' points in each cell, at times in seconds.

    The picture spans 2.4 m around the centre.
    """
    flat = pose(dance, times)[..., :2]
    ends = torch.tensor(dance.edges)
    share = torch.linspace(0, 1, points)[:, None]
    drawn = flat[:, ends[:, :1]] * (1 - share) + flat[:, ends[:, 1:]] * share  # (T, bones, points, 2)
    cells = ((drawn / 240 + 0.5) * side).floor().long().clamp(0, side - 1)
    place = (cells[..., 1] * side + cells[..., 0]).flatten(1)
    return torch.zeros(len(times), side * side).scatter_add_(1, place, torch.full(place.shape, 1 / place.shape[1]))


@dataclass(frozen=True)
class Clips(Rows):
    """waves (N, samples); motion (N, frames, features): poses and speeds; labels (N,); which dance, and start in s; pictures, if any."""

    waves: Tensor
    motion: Tensor
    labels: Tensor
    dances: Tensor
    starts: Tensor
    visual: Tensor | None = None

    columns = ("waves", "motion", "visual")


def cut(dances: Sequence[Dance], samples: int, every: float, span: tuple[float, float], visual: bool = False) -> Clips:
    """Clips of `samples` samples, one every so many seconds of the part of each dance from span[0] to span[1], shares of its length.

    Motion has a frame every 64 ms: joints around the centre at its middle, their speeds, the centre's speed (141 numbers), and cos and sin
    of where in a beat of the dance's own count the frame's middle is. `visual`: with `pictures` of the dancer, evenly over the clip, times
    20 (about 1 in size).

    Raises:
        DataError: no clip fits.
    """
    waves, motion, labels, seen = [], [], [], []
    places: list[tuple[int, float]] = []
    for number, dance in enumerate(dances):
        first, last = (share * dance.seconds for share in span)
        for start in np.arange(first, last - samples / RATE, every):
            begin = round(float(start) * RATE)
            waves.append(dance.wave[begin : begin + samples])
            motion.append(_features(dance, begin / RATE, samples // FRAME))
            labels.append(dance.genre)
            places.append((number, begin / RATE))
            if visual:
                middles = begin / RATE + (torch.arange(VISUAL[0], dtype=torch.float64) + 0.5) * samples / RATE / VISUAL[0]
                seen.append(20 * pictures(dance, middles))
    if not waves or any(len(w) != samples for w in waves):
        raise DataError(f"dance: expected dances of more than {samples / RATE:.1f} s in the part {span}, found none")
    which, starts = (torch.tensor(part) for part in zip(*places, strict=True))
    return Clips(torch.stack(waves), torch.stack(motion), torch.tensor(labels), which, starts, torch.stack(seen) if visual else None)


def _features(dance: Dance, start: float, frames: int) -> Tensor:
    step = FRAME / RATE
    times = start + step * (torch.arange(frames + 1, dtype=torch.float64))
    joints = pose(dance, times)
    center = _between(dance.center, times * dance.fps)
    middle = (joints[1:] + joints[:-1]) / 2
    speed, drift = (joints[1:] - joints[:-1]) / step, (center[1:] - center[:-1]) / step
    angle = 2 * math.pi * (times[:-1] + step / 2) * dance.fps / dance.frames_per_beat
    return torch.cat([middle.flatten(1), speed.flatten(1), drift, torch.stack([angle.cos(), angle.sin()], 1)], 1).float()
