"""Partly observed data: half a picture, the first second of a sound, seen through a decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import AnyPrediction, Denoiser, State, Times, current_run
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction

__all__ = ["Glimpsed", "glimpse", "spread"]


class Glimpsed(Denoiser):
    """Density: p(z) prod over seen entries of N(x; decode(z), noise^2): modalities of which only a part of the data is known.

    At noise level t the likelihood is taken at the denoiser's clean estimate x0 with variance noise^2 + gain S^2 / (A^2 + S^2), and its
    gradient in x0, times A, is added to the score (pseudo-inverse guidance of Song et al. 2023, with the Jacobian of a standard normal
    prior in place of the denoiser's, which is never differentiated). Exact for standard normal latents and a decoder that copies; biased
    otherwise, like all guidance at an estimate. Costs a backward pass through the decoder.

    Args:
        denoiser: the base law. decode: latent -> data of the partly known modalities (`codec.decode`).
        data: what is known, (1 or n, *data_shape) for n samples of a run; entries that are not seen may hold anything, NaN too.
        seen: 1 where an entry is known, of a shape that broadcasts to the data's; by default where the data is not NaN.
        noise: standard deviation of the observation, in the data's units.
        gain: variance in data space, along what a latent entry moves, per variance of that entry; by default estimated (`spread`).
        first: number of the sample that row 0 of the data belongs to.

    Raises:
        PolyscoreError: an unknown modality, or nothing seen.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        decode: Mapping[str, Callable[[Tensor], Tensor]],
        data: Mapping[str, Tensor],
        seen: Mapping[str, Tensor] | None = None,
        noise: float = 0.1,
        gain: float | None = None,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.denoiser, self.decode, self.noise, self.first = denoiser, dict(decode), noise, first
        self.paths, self.shapes, self.spaces = denoiser.paths, denoiser.shapes, denoiser.spaces
        self.seen = {name: ((seen or {}).get(name, ~value.isnan())).to(value.dtype).expand_as(value) for name, value in data.items()}
        self.data = {name: torch.where(self.seen[name] > 0, value, 0.0) for name, value in data.items()}
        for name in self.data:
            if name not in denoiser.paths or name not in self.decode:
                raise PolyscoreError(f"partly given modality {name!r}: expected one of {sorted(set(denoiser.paths) & set(self.decode))}")
            if not self.seen[name].any():
                raise PolyscoreError(f"partly given modality {name!r}: nothing of it is seen")
        self.gain = {n: spread(self.decode[n], denoiser.shapes[n], self.seen[n]) if gain is None else gain for n in self.data}

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """The denoiser's predictions, pulled towards what is seen."""
        found: dict[str, AnyPrediction] = dict(self.denoiser(z, t, condition))
        for name in self.data:
            base = found[name]
            if isinstance(base, Prediction):
                found[name] = base.shifted(self._pull(name, base))
        return found

    def _pull(self, name: str, base: Prediction) -> Tensor:
        """A grad_x0 log N(x; decode(x0), v)."""
        variance = self.noise**2 + self.gain[name] * base.S * base.S / (base.A * base.A + base.S * base.S)
        leaf = base.x0.detach().requires_grad_(True)
        with torch.enable_grad():
            gap = (self.decode[name](leaf) - self._own(self.data[name])) * self._own(self.seen[name])
            (gradient,) = torch.autograd.grad(-0.5 * gap.square().sum(), leaf)
        found: Tensor = base.A * gradient / variance
        return found

    def _own(self, value: Tensor) -> Tensor:
        """The rows of the batch: one a sample of the run, or one for all."""
        run = current_run.get()
        if len(value) == 1 or run is None or run.rows is None:
            return value
        return value[run.rows + run.first - self.first]


@torch.no_grad()
def spread(decode: Callable[[Tensor], Tensor], shape: Sequence[int], seen: Tensor, n: int = 64) -> float:
    """sum over the seen entries of the variance of decode(z), z ~ N(0, I), over the number of latent entries: |J|^2 / dim z.

    Entries that one latent entry moves together are one observation of it, not many.
    """
    z = torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).to(seen)
    return float((decode(z).var(0) * seen.mean(0)).sum() / math.prod(shape))


def glimpse(value: Tensor, seen: str) -> Tensor:
    """Data (B, ..., H, W) or (B, ..., W) of which only a half is known: NaN outside "left", "right", "top" or "bottom".

    Of a sound, "left" is the first half of its samples.

    Raises:
        PolyscoreError: another word, or data without rows.
    """
    dim = {"left": -1, "right": -1, "top": -2, "bottom": -2}.get(seen)
    if dim is None or value.ndim < 1 - dim:
        raise PolyscoreError(f"seen: expected left, right, top or bottom of data with rows and columns, found {seen!r}")
    half, found = value.shape[dim] // 2, value.clone()
    gone = found.narrow(dim, half, value.shape[dim] - half) if seen in ("left", "top") else found.narrow(dim, 0, half)
    gone.fill_(float("nan"))
    return found
