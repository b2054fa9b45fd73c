"""Talking digits: clips of two seconds made from real MNIST digits and real FSDD recordings that share a digit and an instant.

Video (16, 28, 28) in [0, 1] at 8 frames a second: a handwritten digit that appears, starts to move, or flashes at an instant.
Sound (16000,) in [-1, 1] at 8 kHz: a spoken digit that starts at an instant. In a pair digit and instant are the same.
Nothing but the placing in time and space is synthetic.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polyscore.codecs.clips import FPS, FRAMES, place, render
from polyscore.data.digits import Labelled, _read, data_folder, fit_clip, load_mnist
from polyscore.data.rows import Rows
from polyscore.errors import DataError

__all__ = [
    "FPS",
    "FRAMES",
    "KINDS",
    "SECONDS",
    "Clips",
    "Domain",
    "Speech",
    "digits_of",
    "draw_rows",
    "load_speech",
    "place",
    "render",
    "talking_clips",
]

SECONDS = 2.0
KINDS = ("appears", "moves", "flashes")
FIRST, LAST = 0.125, 1.125
"""The instants are uniform between these, in seconds."""


@dataclass(frozen=True)
class Speech:
    """Recordings cut to where they sound: x (N, 8000), silence behind; labels and speakers (N,)."""

    x: Tensor
    labels: Tensor
    speakers: Tensor


@dataclass(frozen=True)
class Domain:
    """Which handwriting and which voices.

    Args:
        speakers: numbers of FSDD's speakers (0 to 5). ink: quantiles of the amount of ink between which a digit lies.
    """

    speakers: tuple[int, ...] = (0, 1, 2, 3)
    ink: tuple[float, float] = (0.0, 0.7)


@dataclass(frozen=True)
class Clips(Rows):
    """Paired clips: video (N, 16, 28, 28), sound (N, 16000), labels (N,), instants (N,) in seconds."""

    video: Tensor
    sound: Tensor
    labels: Tensor
    instants: Tensor

    columns = ("video", "sound")


def load_speech(split: str = "train", folder: str | os.PathLike[str] | None = None, front: bool = True) -> Speech:
    """FSDD with its official split, every recording moved to its first sound (`front`), or in the middle of its second.

    Raises:
        DataError: no folder, a missing or damaged file, or an unknown split.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected train or test")
    arrays = _read(data_folder(folder) / "digits" / "fsdd.npz", ("audio", "offsets", "labels", "index", "speakers"))
    chosen = np.flatnonzero((arrays["index"] < 5) == (split == "test"))
    audio = torch.from_numpy(arrays["audio"].astype(np.float32) / 32768)
    starts, ends = arrays["offsets"][:-1], arrays["offsets"][1:]
    waves = torch.stack([fit_clip(audio[starts[i] : ends[i]]) for i in chosen])
    waves = torch.stack([_to_front(wave) for wave in waves]) if front else waves
    labels, speakers = (torch.from_numpy(arrays[name][chosen]).long() for name in ("labels", "speakers"))
    return Speech(waves, labels, speakers)


def _to_front(wave: Tensor) -> Tensor:
    loud = torch.nonzero(wave.abs() > 1e-6).flatten()
    return torch.roll(wave, -int(loud[0])) if len(loud) else wave


def talking_clips(n: int, domain: Domain, seed: int, split: str = "train", folder: str | os.PathLike[str] | None = None) -> Clips:
    """n pairs of a domain: same digit, same instant; everything else drawn apart.

    Raises:
        DataError: the data are missing, or the domain holds nothing for a digit.
    """
    images, speech = _sources(split, None if folder is None else os.fspath(folder))
    pictures = digits_of(images.x, images.labels, domain)
    voices = torch.isin(speech.speakers, torch.tensor(domain.speakers))
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=g)
    one, other = (draw_rows(labels, known, g, rows) for known, rows in ((images.labels, pictures), (speech.labels, voices)))
    instants = FIRST + (LAST - FIRST) * torch.rand(n, generator=g)
    kinds, directions = torch.randint(3, (n,), generator=g), 2 * torch.randint(2, (n,), generator=g) - 1
    return Clips(render(images.x[one], instants, kinds, directions), place(speech.x[other], instants), labels, instants)


@functools.lru_cache(maxsize=2)
def _sources(split: str, folder: str | None) -> tuple[Labelled, Speech]:
    return load_mnist(split, folder), load_speech(split, folder)


def digits_of(x: Tensor, labels: Tensor, domain: Domain) -> Tensor:
    """Which pictures (N,) have an amount of ink between the domain's quantiles among their own digit."""
    ink = x.flatten(1).mean(1)
    chosen = torch.zeros(len(x), dtype=torch.bool)
    for label in range(10):
        own = labels == label
        low, high = torch.quantile(ink[own], torch.tensor(domain.ink))
        chosen |= own & (ink >= low) & (ink <= high)
    return chosen


def draw_rows(labels: Tensor, known: Tensor, g: torch.Generator, allowed: Tensor | None = None) -> Tensor:
    """For each label (n,) a random row of those whose label in `known` (N,) it is, and which are `allowed` (N,).

    Raises:
        DataError: a label has no such row.
    """
    rows = torch.empty_like(labels)
    for label in range(10):
        pool, wanted = (known == label) if allowed is None else (known == label) & allowed, labels == label
        places = pool.nonzero().flatten()
        if not len(places):
            raise DataError(f"talking digits: no item of digit {label} in this domain")
        rows[wanted] = places[torch.randint(len(places), (int(wanted.sum()),), generator=g)]
    return rows
