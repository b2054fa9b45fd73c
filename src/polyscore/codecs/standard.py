"""Any codec with standardised latents."""

from __future__ import annotations

import torch
from torch import Tensor

from polyscore.codecs.base import Codec, spread_of
from polyscore.spec import register

__all__ = ["Standardised"]


@register
class Standardised(Codec):
    """z = (u - shift) / scale per dimension, u = codec.encode(x): what a joint denoiser expects of a codec that has no statistics itself.

    shift and scale are buffers of the latent's shape, 0 and 1 until `fit_statistics`. Around `Identity` it standardises data.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec
        self.data_shape, self.latent_shape = tuple(codec.data_shape), tuple(codec.latent_shape)
        self.register_buffer("shift", torch.zeros(self.latent_shape))
        self.register_buffer("scale", torch.ones(self.latent_shape))

    def encode(self, x: Tensor) -> Tensor:
        """(B, *data_shape) -> (B, *latent_shape)."""
        return (self.codec.encode(x) - self.shift) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, *data_shape)."""
        return self.codec.decode(z * self.scale + self.shift)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the standardised latent, (B, *latent_shape) each."""
        mean, deviation = self.codec.posterior(x)
        return (mean - self.shift) / self.scale, deviation / self.scale

    @torch.no_grad()
    def fit_statistics(self, mean: Tensor, deviation: Tensor | float = 0.0) -> Standardised:
        """Set shift and scale so that samples of these posteriors of the inner codec, (N, *latent_shape), have mean 0 and variance 1.

        A dimension that is constant up to rounding keeps the scale 1.

        Raises:
            DataError: fewer than two posteriors.
        """
        spread, middle = spread_of(mean, deviation), mean.mean(0)
        self.shift.copy_(middle)
        self.scale.copy_(torch.where(spread > 1e-6 + 1e-5 * middle.abs(), spread, torch.ones_like(spread)))
        return self
