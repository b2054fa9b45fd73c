"""Objective of a refiner: denoise data beside the autoencoder's own copy of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polyscore.codecs.base import Codec
from polyscore.paths import GaussianPath, expand
from polyscore.refiner import Refiner
from polyscore.training.draws import Draw

__all__ = ["RefineObjective"]


@dataclass(frozen=True)
class RefineObjective:
    """E ||v - v_theta(x_t, t, decode(z))||^2 / dim, x in [-1, 1], z ~ q(z | x): the rough picture is the codec's own copy.

    Args:
        codec: frozen; gives posterior and decoder.
    """

    codec: Codec = field(repr=False)

    def __call__(self, module: Refiner, batch: Mapping[str, Tensor], draw: Draw) -> dict[str, Tensor]:
        """The loss, mean over the batch."""
        x = batch["x"]
        with torch.no_grad():
            mean, deviation = self.codec.posterior(x)
            rough = 2 * self.codec.decode(mean + deviation * draw.normal(*mean.shape[1:])) - 1
        clean, noise, t = 2 * x - 1, draw.normal(*x.shape[1:]), draw.stratified()
        path = module.expert.paths["x"]
        assert isinstance(path, GaussianPath)
        A, S = path.coefficients(t)
        target = expand(A, noise) * noise - expand(S, noise) * clean
        found = module.expert({"x": path.corrupt(clean, t, noise)}, {"x": t}, rough)["x"]
        return {"loss": (found.v - target).square().mean()}  # type: ignore[union-attr]
