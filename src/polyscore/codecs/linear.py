"""Principal components as a codec: fitted in one go, linear, so it treats mixtures of what it has seen as well as their parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from polyscore.codecs.base import Codec
from polyscore.errors import DataError
from polyscore.spec import register

__all__ = ["PCA"]


@register
class PCA(Codec):
    """z = c sd^-power * (basis (x - mean)), with the `latent` leading principal components and c so that the mean variance of z is 1.

    power 1 whitens every component, 0 keeps the data's own proportions; between them, detail keeps less weight than outline.
    With `limits` decoded data is clamped to that range.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], latent: int, power: float = 0.5, limits: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.limits = None if limits is None else (limits[0], limits[1])
        self.data_shape, self.latent_shape, self.power = tuple(shape), (latent,), power
        size = math.prod(self.data_shape)
        if latent > size:
            raise DataError(f"PCA: {latent} components of data of {size} numbers, expected at most {size}")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(latent, size))
        self.register_buffer("scale", torch.ones(latent))

    @torch.no_grad()
    def fit(self, x: Tensor) -> PCA:
        """Components of data (N, *shape): exact up to 1500 numbers a sample, by randomised projections beyond (Halko et al. 2011)."""
        latent, flat = self.latent_shape[0], x.flatten(1).double()
        mean = flat.mean(0)
        if flat.shape[1] <= 1500:
            values, vectors = torch.linalg.eigh(torch.cov(flat.T))
            variance, leading = values[-latent:].flip(0), vectors[:, -latent:].flip(1)
        else:
            variance, leading = _leading(flat - mean, latent)
        deviation = variance.clamp(min=1e-8).sqrt()
        scale = deviation**self.power
        scale = scale * float((deviation / scale).square().mean().sqrt())
        self.mean.copy_(mean)
        self.basis.copy_(leading.T)
        self.scale.copy_(scale)
        return self

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, latent)."""
        return (x.flatten(1) - self.mean) @ self.basis.T / self.scale

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        x = (self.mean + (z * self.scale) @ self.basis).reshape(-1, *self.data_shape)
        return x if self.limits is None else x.clamp(*self.limits)


def _leading(centred: Tensor, latent: int) -> tuple[Tensor, Tensor]:
    """Variances (latent,) and directions (size, latent) of the leading components; the same for the same data."""
    count = min(latent + 40, *centred.shape)
    if latent > count:
        raise DataError(f"PCA: {latent} components from {len(centred)} samples, expected at most as many")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, singular, directions = torch.svd_lowrank(centred.float(), q=count, niter=3)
    return singular[:latent].double().square() / (len(centred) - 1), directions[:, :latent].double()
