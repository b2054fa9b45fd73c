"""Where the dances of a dance-to-music recipe come from: the real dances, or AIST++ and TikTok segments for who has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from polyscore.data.dance import COUNT, FRAME, GENRES, RATE, Clips, Dance, cut, load_dances
from polyscore.data.segments import AIST_GENRES, Segments
from polyscore.errors import DataError

__all__ = ["SAMPLES", "DanceSet", "Parts", "load_parts"]

DanceSet = Literal["dances", "aist", "aist-6s", "tiktok"]
SAMPLES = 32 * FRAME
"""2.048 s of a real dance: 32 tokens of 64 ms."""
TRAIN, TEST = (0.0, 0.68), (0.7, 1.0)


@dataclass(frozen=True)
class Parts:
    """Clips to train and to test; their genres; what is measured of a clip (s); numbers at the end of a motion frame that are kept as they
    are; the dances they were cut from; for each training clip the numbers of others that are its negatives."""

    name: str
    train: Clips
    test: Clips
    genres: tuple[str, ...] = GENRES
    seconds: float = 2.0
    count: int = 0
    dances: list[Dance] = field(default_factory=list)
    negatives: Tensor | None = None


def load_parts(dataset: DanceSet = "dances", data: str | None = None, visual: bool = False) -> Parts:
    """The real dances (the first 68 % of each to train, the last 30 % to test), or the published splits of segments.

    Args:
        dataset: "aist" and "tiktok" have segments of two seconds. data: for these the folder of lists and media; else default
            $POLYSCORE_DATA. visual: pictures of the dancer, or the listed video features.

    Raises:
        DataError: missing or damaged files, or segments whose motion differs in length.
    """
    if dataset == "dances":
        dances = load_dances(data)
        train, test = cut(dances, SAMPLES, 0.256, TRAIN, visual), cut(dances, SAMPLES, SAMPLES / RATE, TEST, visual)
        return Parts("dances, first 68 %", train, test, count=COUNT, dances=dances)
    if data is None:
        raise DataError(f"{dataset}: expected --data with the folder of the published lists and what they name")
    kind: Literal["aist", "tiktok"] = "tiktok" if dataset == "tiktok" else "aist"
    seconds: Literal[2, 6] = 6 if dataset == "aist-6s" else 2
    train_part, test_part = (Segments(data, data, split, kind, seconds, RATE, video=visual) for split in ("train", "test"))
    genres = AIST_GENRES if kind == "aist" else ("any",)
    negatives = train_part.negatives()
    return Parts(f"{dataset}, train", _clips(train_part), _clips(test_part), genres, float(seconds), negatives=negatives)


def _clips(segments: Segments) -> Clips:
    """Whole tokens of every segment; sound that is too short ends in silence, as in the authors' loader."""
    samples = segments.seconds * RATE // FRAME * FRAME
    rows = list(segments)
    shapes = {"motion": [tuple(s.motion.shape) for s in rows], "video": [tuple(s.video.shape) for s in rows if s.video is not None]}
    for what, found in shapes.items():
        if len(set(found)) > 1:
            raise DataError(
                f"{segments.dataset}: expected {what} of one shape in all {segments.split} segments, found {sorted(set(found))}"
            )
    waves = [torch.nn.functional.pad(s.wave, (0, max(0, samples - len(s.wave))))[:samples] for s in rows]
    labels = torch.tensor([max(s.genre, 0) for s in rows])
    seen = [s.video for s in rows if s.video is not None]
    places = torch.arange(len(rows))
    motion = torch.stack([s.motion for s in rows])
    return Clips(torch.stack(waves), motion, labels, places, torch.zeros(len(rows)), torch.stack(seen) if seen else None)
