"""Time grids: `steps` falling steps from 1 to 0, spaced in t, in log-SNR (evenly or centred), or as Karras or Song have it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

from polyscore.errors import PolyscoreError
from polyscore.paths import GaussianPath

__all__ = ["GRIDS", "centred", "karras", "log_snr", "make_grid", "score_sde", "uniform"]

Grid = list[float]


def uniform(steps: int, path: GaussianPath | None = None) -> Grid:
    """Equal steps in t: 1, 1 - 1/N, ..., 0."""
    return [1 - i / steps for i in range(steps)] + [0.0]


def log_snr(steps: int, path: GaussianPath, limits: tuple[float, float] = (-10.0, 10.0)) -> Grid:
    """Equal steps in log-SNR within `limits` (where the path has them), then 0."""
    low = max(path.log_snr(1.0), limits[0])
    high = min(path.log_snr(0.0), limits[1])
    levels = torch.linspace(low, high, steps, dtype=torch.float64)
    return _times(path, levels)


def centred(steps: int, path: GaussianPath, limits: tuple[float, float] = (-10.0, 10.0), focus: float = 2.0) -> Grid:
    """log-SNR spaced as sinh(focus u) for u even in [-1, 1], then 0: finest where signal and noise are equal, where most is decided."""
    low, high = max(path.log_snr(1.0), limits[0]), min(path.log_snr(0.0), limits[1])
    u = torch.linspace(-1, 1, steps, dtype=torch.float64)
    bent = torch.sinh(focus * u) / math.sinh(focus)
    return _times(path, torch.where(u < 0, -low * bent, high * bent))


def karras(steps: int, path: GaussianPath, rho: float = 7.0, sigmas: tuple[float, float] = (0.01, 100.0)) -> Grid:
    """sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho, then 0 (Karras et al. 2022, Eq. 5)."""
    largest = min(math.exp(-0.5 * path.log_snr(1.0)) if path.log_snr(1.0) > -math.inf else math.inf, sigmas[1])
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigma = (largest ** (1 / rho) + ramp * (sigmas[0] ** (1 / rho) - largest ** (1 / rho))) ** rho
    return _times(path, -2 * sigma.log())


def score_sde(steps: int, path: GaussianPath) -> Grid:
    """N even times from 1 to 0.001, the points of Song et al.'s samplers (2021); the 0 behind them is what a step of 1/N is taken to."""
    return [*torch.linspace(1, 1e-3, steps, dtype=torch.float64).tolist(), 0.0]


def _times(path: GaussianPath, levels: torch.Tensor) -> Grid:
    return [*path.time_of(levels).tolist(), 0.0]


GRIDS: dict[str, Callable[[int, GaussianPath], Grid]] = {
    "uniform": uniform,
    "log_snr": log_snr,
    "centred": centred,
    "karras": karras,
    "score_sde": score_sde,
}


def make_grid(kind: str | Sequence[float], steps: int, path: GaussianPath | None) -> Grid:
    """A named grid, or explicit falling times in [0, 1].

    Raises:
        PolyscoreError: an unknown name, too few steps, or times that do not fall.
    """
    if not isinstance(kind, str):
        times = [float(t) for t in kind]
        if len(times) < 2 or not all(b < a for a, b in itertools.pairwise(times)) or not (times[0] <= 1 and times[-1] >= 0):
            raise PolyscoreError("time grid: expected at least two strictly falling times in [0, 1]")
        return times
    if kind not in GRIDS:
        raise PolyscoreError(f"time grid {kind!r}: expected one of {', '.join(GRIDS)} or a list of times")
    if steps < 1:
        raise PolyscoreError(f"steps is {steps}, expected at least 1")
    return uniform(steps) if path is None else GRIDS[kind](steps, path)
