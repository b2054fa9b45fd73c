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

from polyscore.data.digits import RATE, Labelled, _read, data_folder, fit_clip, load_mnist
from polyscore.errors import DataError

__all__ = ["FPS", "FRAMES", "KINDS", "SECONDS", "Clips", "Domain", "Speech", "load_speech", "place", "render", "talking_clips"]

SECONDS, FPS, FRAMES = 2.0, 8, 16
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
class Clips:
    """Paired clips: video (N, 16, 28, 28), sound (N, 16000), labels (N,), instants (N,) in seconds."""

    video: Tensor
    sound: Tensor
    labels: Tensor
    instants: Tensor


def load_speech(split: str = "train", folder: str | os.PathLike[str] | None = None) -> Speech:
    """FSDD with its official split, every recording moved to its first sound.

    Raises:
        DataError: no folder, a missing or damaged file, or an unknown split.
    """
    if split not in ("train", "test"):
        raise DataError(f"unknown split {split!r}: expected train or test")
    arrays = _read(data_folder(folder) / "digits" / "fsdd.npz", ("audio", "offsets", "labels", "index", "speakers"))
    chosen = np.flatnonzero((arrays["index"] < 5) == (split == "test"))
    audio = torch.from_numpy(arrays["audio"].astype(np.float32) / 32768)
    starts, ends = arrays["offsets"][:-1], arrays["offsets"][1:]
    waves = torch.stack([_to_front(fit_clip(audio[starts[i] : ends[i]])) for i in chosen])
    labels, speakers = (torch.from_numpy(arrays[name][chosen]).long() for name in ("labels", "speakers"))
    return Speech(waves, labels, speakers)


def _to_front(wave: Tensor) -> Tensor:
    loud = torch.nonzero(wave.abs() > 1e-6).flatten()
    return torch.roll(wave, -int(loud[0])) if len(loud) else wave


def render(images: Tensor, instants: Tensor, kinds: Tensor, directions: Tensor) -> Tensor:
    """Videos (B, 16, 28, 28) of digits (B, 1, 28, 28).

    Args:
        instants: seconds (B,); the change falls on frame round(8 instant).
        kinds: 0 appears and stays; 1 is there, and moves from then on by a pixel a frame, six at most; 2 is faint, flashes and fades.
        directions: -1 or 1, of the movement.
    """
    since = torch.arange(FRAMES, device=images.device)[None] - (instants * FPS).round()[:, None]
    after = (since >= 0).float()
    flash = 0.3 + 0.7 * after * torch.exp(-since.clamp(min=0) / 3)
    gain = torch.where(kinds[:, None] == 0, after, torch.where(kinds[:, None] == 1, torch.ones_like(after), flash))
    shift = torch.where(kinds[:, None] == 1, (since + 1).clamp(0, 6) * directions[:, None], torch.zeros_like(since)).long()
    padded = torch.nn.functional.pad(images, (6, 6))[:, 0]
    column = torch.arange(28, device=images.device) + 6 - shift[..., None]
    frames = padded[:, None].expand(-1, FRAMES, -1, -1).gather(3, column[:, :, None].expand(-1, -1, 28, -1))
    return frames * gain[..., None, None]


def place(waves: Tensor, instants: Tensor) -> Tensor:
    """Recordings (B, 8000) at their instants in silence of two seconds, (B, 16000)."""
    start = (instants * RATE).round().long()
    position = torch.arange(int(SECONDS * RATE), device=waves.device)[None] - start[:, None]
    inside = (position >= 0) & (position < waves.shape[1])
    return waves.gather(1, position.clamp(0, waves.shape[1] - 1)) * inside


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
    one, other = (_draw(labels, known, rows, g) for known, rows in ((images.labels, pictures), (speech.labels, voices)))
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


def _draw(labels: Tensor, known: Tensor, allowed: Tensor, g: torch.Generator) -> Tensor:
    """For each label a random allowed row that has it."""
    rows = torch.empty_like(labels)
    for label in range(10):
        pool, wanted = torch.nonzero(allowed & (known == label)).flatten(), labels == label
        if not len(pool):
            raise DataError(f"talking digits: no item of digit {label} in this domain")
        rows[wanted] = pool[torch.randint(len(pool), (int(wanted.sum()),), generator=g)]
    return rows
