"""What solvers and correctors see of a sampling run: its grid, its coefficients, its noise and a small memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from polyscore.paths import GaussianPath, Noise

__all__ = ["Walk"]


class Walk:
    """A run along the falling times `times` of modalities with `paths` and `shapes`, with random numbers from `streams`.

    `means` holds, after a noisy last operation, the states before its noise was added: what a run returns.
    """

    def __init__(self, paths: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], times: Sequence[float], streams: Noise) -> None:
        self.paths, self.shapes, self.times, self.streams = dict(paths), dict(shapes), list(times), streams
        self.steps = len(self.times) - 1
        self.means: dict[str, Tensor] = {}
        self._memory: dict[str, list[Any]] = {}
        gaussian = {name: path for name, path in self.paths.items() if isinstance(path, GaussianPath)}
        self._at = {name: [path.coefficients(t) for t in self.times] for name, path in gaussian.items()}

    def at(self, name: str, i: int) -> tuple[float, float]:
        """(A, S) of a Gaussian modality at grid point i."""
        return self._at[name][i]

    def noise(self, name: str) -> Tensor:
        """Fresh standard normal noise for a modality."""
        return self.streams.normal(name, self.shapes[name])

    def uniform(self, name: str, *more: int) -> Tensor:
        """Fresh uniform numbers for a modality, with extra trailing dimensions."""
        return self.streams.uniform(name, (*self.shapes[name], *more))

    def memory(self, name: str) -> list[Any]:
        """What the solver wants to remember of a modality."""
        return self._memory.setdefault(name, [])

    def take(self, index: Tensor) -> None:
        """Keep the rows `index` of everything remembered, after particles were resampled."""
        self.means = {name: mean[index] for name, mean in self.means.items()}
        self._memory = {name: [_rows(entry, index) for entry in entries] for name, entries in self._memory.items()}


def _rows(entry: Any, index: Tensor) -> Any:
    if isinstance(entry, Tensor):
        return entry[index] if entry.ndim and len(entry) > 1 else entry
    return tuple(_rows(part, index) for part in entry) if isinstance(entry, tuple) else entry
