"""Beats coverage and hit, as published for dance to music, and a finer onset F-measure beside them.

Coverage and hit count seconds that hold at least one onset: a coarse measure on which white noise scores 50 % of two-second clips (its
start counts as an onset) and a click a second 100 %. Show `click_track` and `white_noise` beside any number.
Source: L-YeZhu/Beats_Scores (Davis and Agrawal 2018; Zhu et al. 2022, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyscore.errors import DataError

__all__ = ["BeatScore", "beats_score", "click_track", "onset_f_measure", "onsets", "pick_onsets", "seconds_with_onsets", "white_noise"]

RATE = 22_050
HOP = 512
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BeatScore:
    """Means over clips. `skipped`: clips whose reference has no onset; they count for nothing."""

    coverage: float
    hit: float
    clips: int
    skipped: int


def pick_onsets(envelope: Sequence[float] | Floats) -> NDArray[np.int64]:
    """Frames n with env[n] >= env[n-1] and env[n] >= mean(env[n-1], env[n]) + 0.2, two or more frames apart.

    The envelope is scaled to [0, 1] first, so an onset is a rise of at least 0.4 of the clip's own maximum within one frame.
    (librosa's peak picking with wait = pre_avg = post_avg = post_max = 1, pre_max = 1 and delta = 0.2.)
    """
    e = np.asarray(envelope, dtype=np.float64)
    span = float(e.max() - e.min()) if len(e) else 0.0
    if span <= 0:
        return np.zeros(0, dtype=np.int64)
    e = (e - e.min()) / span
    found: list[int] = []
    for n in range(len(e)):
        before = e[max(n - 1, 0) : n + 1]
        if e[n] >= before.max() and e[n] >= before.mean() + 0.2 and (not found or n > found[-1] + 1):
            found.append(n)
    return np.asarray(found, dtype=np.int64)


def onsets(wave: Floats, rate: int = RATE) -> Floats:
    """Times of onsets in seconds, of a mono waveform: librosa's onset strength and `pick_onsets`.

    Raises:
        DataError: not one row of finite numbers.
    """
    import librosa

    y = np.asarray(wave, dtype=np.float32)
    if y.ndim != 1 or not np.isfinite(y).all():
        raise DataError(f"beats: expected one row of finite samples, found shape {y.shape}")
    if rate != RATE:
        y = librosa.resample(y=y, orig_sr=rate, target_sr=RATE)
    envelope = librosa.onset.onset_strength(y=y, sr=RATE, hop_length=HOP)
    return pick_onsets(envelope).astype(np.float64) * HOP / RATE


def seconds_with_onsets(times: Sequence[float] | Floats, seconds: float) -> NDArray[np.bool_]:
    """One entry for each whole second begun, True where it holds an onset."""
    bins = np.zeros(math.ceil(seconds), dtype=bool)
    place = np.asarray(times, dtype=np.float64).astype(np.int64)
    bins[place[(place >= 0) & (place < len(bins))]] = True
    return bins


def beats_score(reference: Sequence[Sequence[bool]], made: Sequence[Sequence[bool]]) -> BeatScore:
    """coverage = sum made / sum reference (may exceed 1), hit = sum(both) / sum reference; of every clip, then averaged over clips.

    Args:
        reference, made: `seconds_with_onsets` of every clip, in pairs of one length.

    Raises:
        DataError: pairs of unequal lengths, or no clip whose reference has an onset.
    """
    if len(reference) != len(made):
        raise DataError(f"beats: expected as many generated clips as references, found {len(made)} for {len(reference)}")
    coverage, hit = [], []
    for ref, syn in zip(reference, made, strict=True):
        r, s = np.asarray(ref, dtype=bool), np.asarray(syn, dtype=bool)
        if r.shape != s.shape:
            raise DataError(f"beats: expected clips of one length, found {len(s)} seconds for {len(r)}")
        if r.any():
            coverage.append(s.sum() / r.sum())
            hit.append((r & s).sum() / r.sum())
    if not coverage:
        raise DataError("beats: no reference clip has an onset")
    return BeatScore(float(np.mean(coverage)), float(np.mean(hit)), len(coverage), len(reference) - len(coverage))


def onset_f_measure(reference: Sequence[float] | Floats, made: Sequence[float] | Floats, window: float = 0.07) -> float:
    """2 P R / (P + R) of onsets matched one to one within `window` seconds; 0 where either has none, 1 where both have none."""
    r, m = np.sort(np.asarray(reference, dtype=np.float64)), np.sort(np.asarray(made, dtype=np.float64))
    if not len(r) or not len(m):
        return float(len(r) == len(m))
    matched, i, j = 0, 0, 0
    while i < len(r) and j < len(m):
        if abs(r[i] - m[j]) <= window + 1e-12:
            matched, i, j = matched + 1, i + 1, j + 1
        elif r[i] < m[j]:
            i += 1
        else:
            j += 1
    return 2 * matched / (len(r) + len(m))


def click_track(seconds: float, per_second: float = 1.0, rate: int = RATE) -> Floats:
    """A baseline: short clicks at a fixed tempo, the first after half a period."""
    wave = np.zeros(round(seconds * rate))
    period = rate / per_second
    for start in np.arange(period / 2, len(wave), period).astype(int):
        size = min(rate // 50, len(wave) - start)
        wave[start : start + size] += np.exp(-np.arange(size) / (rate / 400)) * np.sin(2 * np.pi * 1000 * np.arange(size) / rate)
    return wave


def white_noise(seconds: float, seed: int = 0, rate: int = RATE) -> Floats:
    """A baseline: noise without any beat."""
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))
