"""The codec protocol, and codecs that hold no weights of their own."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polyscore.errors import DataError
from polyscore.spec import register

__all__ = ["Chain", "Codec", "Identity", "Reshape", "spread_of"]


class Codec(nn.Module, abc.ABC):
    """encode: (B, *data_shape) -> (B, *latent_shape); decode: the way back. Latents are standardised per dimension."""

    data_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]

    @abc.abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Data to latent."""

    @abc.abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Latent to data."""

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent given the data; a deterministic codec gives `encode(x)` and zeros."""
        z = self.encode(x)
        return z, torch.zeros_like(z)


@register
class Identity(Codec):
    """z = x: for modalities that are already small vectors."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.data_shape = self.latent_shape = tuple(shape)

    def encode(self, x: Tensor) -> Tensor:
        """The data itself."""
        return x

    def decode(self, z: Tensor) -> Tensor:
        """The latent itself."""
        return z


@register
class Reshape(Codec):
    """z = x in another shape of as many numbers: a mono track (1, L) as a waveform (L,), a video (F, C, H, W) as a picture (F C, H, W)."""

    def __init__(self, shape: Sequence[int], latent_shape: Sequence[int]) -> None:
        super().__init__()
        self.data_shape, self.latent_shape = tuple(shape), tuple(latent_shape)

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, *latent_shape)."""
        return x.reshape(len(x), *self.latent_shape)

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, *shape)."""
        return z.reshape(len(z), *self.data_shape)


@register
class Chain(Codec):
    """Codecs one after the other, data side first: `Chain([LogMel(...), VAE(...)])` is a waveform codec with a VAE latent."""

    def __init__(self, stages: Sequence[Codec]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.data_shape = tuple(stages[0].data_shape)
        self.latent_shape = tuple(stages[-1].latent_shape)

    def encode(self, x: Tensor) -> Tensor:
        """(B, *data_shape) -> (B, *latent_shape)."""
        for stage in self.stages:
            x = cast(Codec, stage).encode(x)
        return x

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The last stage's mean and standard deviation, (B, *latent_shape) each; the stages before it must be deterministic."""
        for stage in self.stages[:-1]:
            x = cast(Codec, stage).encode(x)
        return cast(Codec, self.stages[-1]).posterior(x)

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, *data_shape)."""
        for stage in reversed(self.stages):
            z = cast(Codec, stage).decode(z)
        return z


def spread_of(mean: Tensor, deviation: Tensor | float = 0.0) -> Tensor:
    """Standard deviation of each dimension of samples of N posteriors (N, *shape): that of the means, and the mean posterior variance.

    Raises:
        DataError: fewer than two of them.
    """
    if len(mean) < 2:
        raise DataError(f"latent statistics: expected at least 2 samples, found {len(mean)}")
    own = deviation.square().mean(0) if isinstance(deviation, Tensor) else deviation**2
    return (mean.var(0) + own).sqrt()
