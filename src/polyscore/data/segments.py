"""AIST++ and TikTok segments for who has them, listed as CDCD and D2M-GAN publish them.

A list is a text file, DATASET_PART_SPLIT_segment.txt (PART motion, audio or video; "_s6" before ".txt" for six seconds). It has one path a
line, such as /home/someone/aistplus/motion_s2/test/gPO_sBM_c01_d11_mPO1_ch02_seg1.npy, of which only the last folders count, below one of
yours. AIST++ names say genre (g), situation (s), camera (c), dancer (d), music (m), choreography (ch) and segment; TikTok names are
NUMBER_I_J_segK.
Genres also come as one-hot rows, SPLIT_genre.npy, in the order of the list. Video lists name I3D features, an array of 2048 numbers or of
rows of 2048. aist_extra_negative_samples.json has, for each line of the training list of six seconds, ten audio paths of it as negatives.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.media import read

__all__ = ["AIST_GENRES", "Segment", "SegmentName", "Segments", "aist_name"]

AIST_GENRES = ("BR", "PO", "LO", "MH", "LH", "HO", "WA", "KR", "JS", "JB")
_AIST = re.compile(r"g([A-Z]{2})_s([A-Z]{2})_c(\d\d)_d(\d\d)_m([A-Z]{2}\d)_ch(\d\d)_seg(\d+)")
_TIKTOK = re.compile(r"\d+_\d+_\d+_seg\d+")
FEATURES = {"aist": 219, "tiktok": 75}
VIDEO = 2048
NEGATIVES = "aist_extra_negative_samples.json"


@dataclass(frozen=True)
class SegmentName:
    """What an AIST++ segment's name says."""

    genre: str
    situation: str
    camera: int
    dancer: int
    music: str
    choreography: int
    segment: int


@dataclass(frozen=True)
class Segment:
    """motion (frames, features), wave (L,) at the rate asked for, genre (-1: none is known), video (rows, 2048) if asked for."""

    name: str
    motion: Tensor
    wave: Tensor
    genre: int
    video: Tensor | None = None


def aist_name(name: str) -> SegmentName:
    """The parts of gPO_sBM_c01_d11_mPO1_ch02_seg1.

    Raises:
        DataError: another form, or an unknown genre.
    """
    found = _AIST.fullmatch(name)
    if found is None or found[1] not in AIST_GENRES:
        raise DataError(f"segment {name!r}: expected an AIST++ name such as gPO_sBM_c01_d11_mPO1_ch02_seg1 with a genre of {AIST_GENRES}")
    genre, situation, camera, dancer, music, choreography, segment = found.groups()
    return SegmentName(genre, situation, int(camera), int(dancer), music, int(choreography), int(segment))


class Segments:
    """The segments of one split, read one by one: `segments[i]`, `len(segments)`, iteration.

    Args:
        lists: folder of the published lists. media: folder below which the listed files lie, by their last `depth` path parts.
        split: "train", "val" or "test". dataset: "aist" or "tiktok". seconds: 2 or 6. rate: of the waves. video: its features as well.

    Raises:
        DataError: a list that is missing, empty or names other segments for motion than for sound; genres that are not of its names.
    """

    def __init__(
        self,
        lists: str | os.PathLike[str],
        media: str | os.PathLike[str],
        split: str = "train",
        dataset: Literal["aist", "tiktok"] = "aist",
        seconds: Literal[2, 6] = 2,
        rate: int = 22_050,
        depth: int = 0,
        video: bool = False,
    ) -> None:
        if dataset not in FEATURES:
            raise DataError(f"segments: expected aist or tiktok, found {dataset!r}")
        self.dataset, self.rate, self.seconds, self.lists, self.split = dataset, rate, seconds, Path(lists), split
        self.media, self.depth = Path(media), depth or (3 if dataset == "aist" else 2)
        end = "_s6" if seconds == 6 else ""
        motion, *others = (self.lists / f"{dataset}_{part}_{split}_segment{end}.txt" for part in ("motion", "audio", "video")[: 2 + video])
        self.motion, (self.audio, *seen) = _paths(motion), [_paths(other) for other in others]
        self.video = seen[0] if video else None
        self.names = [path.stem for path in self.motion]
        for other, listed in zip(others, (self.audio, *seen), strict=True):
            if self.names != [path.stem for path in listed]:
                raise DataError(f"{other}: expected the segments of {motion.name} in its order")
        for name in self.names:
            if dataset == "tiktok" and not _TIKTOK.fullmatch(name):
                raise DataError(f"{motion}: expected names such as 000007_7_188_seg3, found {name!r}")
        self.genres = [AIST_GENRES.index(aist_name(n).genre) if dataset == "aist" else -1 for n in self.names]
        self._check(Path(lists) / f"{split}_genre{end}.npy")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Segment]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Segment:
        """Read one segment.

        Raises:
            DataError: missing or damaged files, or motion of another width.
        """
        motion = _array(self._file(self.motion[index]), "motion", "frames", FEATURES[self.dataset])
        wave = read(self._file(self.audio[index]), "audio", rate=self.rate).flatten()
        video = None if self.video is None else _array(self._file(self.video[index]), "video features", "rows", VIDEO)
        return Segment(self.names[index], motion, wave, self.genres[index], video)

    def negatives(self) -> Tensor | None:
        """The published negatives as numbers of segments, (N, 10); None where there are none (other splits and lengths, or no file).

        Raises:
            DataError: a damaged file, or one that is not of this list.
        """
        file = self.lists / NEGATIVES
        if (self.dataset, self.split, self.seconds) != ("aist", "train", 6) or not file.is_file():
            return None
        place = {name: i for i, name in enumerate(self.names)}
        try:
            found = torch.tensor([[place[PurePosixPath(path).stem] for path in row] for row in json.loads(file.read_text("utf-8"))])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: expected a list of audio paths of the training list for each of its lines ({error})") from error
        if found.ndim != 2 or len(found) != len(self):
            raise DataError(f"{file}: expected {len(self)} lists of equal length, found shape {tuple(found.shape)}")
        return found

    def _file(self, listed: PurePosixPath) -> Path:
        return self.media.joinpath(*listed.parts[-self.depth :])

    def _check(self, file: Path) -> None:
        """The one-hot genres beside the lists, where they are there, must be those of the names."""
        if self.dataset != "aist" or not file.is_file():
            return
        try:
            hot = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file}: expected one-hot genres ({error})") from error
        if hot.shape != (len(self), len(AIST_GENRES)) or hot.argmax(1).tolist() != self.genres:
            raise DataError(f"{file}: expected the one-hot genres of {len(self)} names, found an array of {hot.shape} that differs")


def _array(file: Path, what: str, rows: str, width: int) -> Tensor:
    """A finite array (rows, width); a single row may have one dimension."""
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file}: expected an array of {what} ({error})") from error
    wide = found[None] if found.ndim == 1 and what != "motion" else found
    if wide.ndim != 2 or wide.shape[1] != width or not np.isfinite(wide).all():
        raise DataError(f"{file}: expected finite {what} ({rows}, {width}), found shape {found.shape}")
    return torch.from_numpy(wide.astype(np.float32))


def _paths(file: Path) -> list[PurePosixPath]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: expected a list of paths ({error})") from error
    if not lines:
        raise DataError(f"{file}: expected a list of paths, found nothing")
    return [PurePosixPath(line) for line in lines]
