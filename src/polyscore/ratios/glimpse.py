"""Partly observed data: half a picture, the first second of a sound, seen through a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import AnyPrediction, Denoiser, State, Times
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction

__all__ = ["Glimpsed"]


class Glimpsed(Denoiser):
    """Density: p(z) prod over seen entries of N(x; decode(z), noise^2): modalities of which only a part of the data is known.

    At noise level t the likelihood is taken at the denoiser's clean estimate x0 with variance noise^2 + gain S^2 / (A^2 + S^2), and its
    gradient in x0, times A, is added to the score (pseudo-inverse guidance of Song et al. 2023, with the Jacobian of a standard normal
    prior in place of the denoiser's, which is never differentiated). Exact for standard normal latents and a decoder that copies; biased
    otherwise, like all guidance at an estimate. Costs a backward pass through the decoder.

    Args:
        denoiser: the base law. decode: latent -> data of the partly known modalities (`codec.decode`).
        data: what is known, (1 or B, *data_shape); entries that are not seen may hold anything, NaN too.
        seen: 1 where an entry is known, of a shape that broadcasts to the data's; by default where the data is not NaN.
        noise: standard deviation of the observation, in the data's units. gain: variance in data space per variance of a latent entry.

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
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.denoiser, self.decode, self.noise, self.gain = denoiser, dict(decode), noise, gain
        self.paths, self.shapes, self.spaces = denoiser.paths, denoiser.shapes, denoiser.spaces
        self.seen = {name: ((seen or {}).get(name, ~value.isnan())).to(value.dtype).expand_as(value) for name, value in data.items()}
        self.data = {name: torch.where(self.seen[name] > 0, value, 0.0) for name, value in data.items()}
        for name in self.data:
            if name not in denoiser.paths or name not in self.decode:
                raise PolyscoreError(f"partly given modality {name!r}: expected one of {sorted(set(denoiser.paths) & set(self.decode))}")
            if not self.seen[name].any():
                raise PolyscoreError(f"partly given modality {name!r}: nothing of it is seen")

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
        variance = self.noise**2 + self.gain * base.S * base.S / (base.A * base.A + base.S * base.S)
        leaf = base.x0.detach().requires_grad_(True)
        with torch.enable_grad():
            gap = (self.decode[name](leaf) - self.data[name]) * self.seen[name]
            (gradient,) = torch.autograd.grad(-0.5 * gap.square().sum(), leaf)
        found: Tensor = base.A * gradient / variance
        return found
