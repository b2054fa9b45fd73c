"""Autoencoders with standardised latents: variational, and deterministic with noise on the latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polyscore.codecs.base import Codec, spread_of
from polyscore.spec import register

__all__ = ["RAE", "VAE", "Autoencoder"]

ACTIVATIONS = ("identity", "sigmoid", "clamp", "softmax")


class Autoencoder(Codec):
    """A codec with its own encoder and decoder; the latent others see is standardised, z = (u - shift) / scale per dimension.

    `activation` is of the decoded data: identity, sigmoid, clamp (to [0, 1]) or softmax (over dimension 1).
    shift and scale are buffers, set by `fit_statistics` after training: samples of the posterior have unit variance.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shape: Sequence[int], latent: int, encoder: nn.Module, decoder: nn.Module, activation: str = "identity") -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, found {activation!r}")
        self.data_shape, self.latent_shape = tuple(shape), (latent,)
        self.encoder, self.decoder, self.activation = encoder, decoder, activation
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("scale", torch.ones(latent))

    def encode(self, x: Tensor) -> Tensor:
        """(B, *shape) -> (B, latent): the (mean) latent."""
        return self.posterior(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """(B, latent) -> (B, *shape)."""
        y = self.decode_raw(z * self.scale + self.shift)
        if self.activation == "clamp":
            return y.clamp(0, 1)
        if self.activation == "softmax":
            return y.softmax(1)
        return y.sigmoid() if self.activation == "sigmoid" else y

    def decode_raw(self, u: Tensor) -> Tensor:
        """Decoder output before the activation, from a latent before standardisation."""
        return cast(Tensor, self.decoder(u))

    @torch.no_grad()
    def fit_statistics(self, mean: Tensor, deviation: Tensor | float = 0.0) -> None:
        """Set shift and scale so that samples of these posteriors, as `posterior` gives them now, have zero mean and unit variance.

        mean and deviation are (N, latent). The variance is that of the means plus the mean of the posterior variances, so a dimension
        that carries nothing keeps its prior's scale. Without deviations the means themselves are standardised.

        Raises:
            DataError: fewer than two posteriors.
        """
        spread = spread_of(mean, deviation)
        self.shift.add_(self.scale * mean.mean(0))
        self.scale.mul_(spread.clamp_min(1e-4))


@register
class VAE(Autoencoder):
    """q(u | x) = N(mu(x), diag s(x)^2), prior N(0, I).

    `encoder` maps (B, *shape) to (B, 2 * latent): mu and log s^2. `decoder` maps (B, latent) to (B, *shape).
    encode gives the posterior mean; `posterior` gives mean and standard deviation; both standardised.
    Source: Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """

    def __init__(self, shape: Sequence[int], latent: int, encoder: nn.Module, decoder: nn.Module, activation: str = "identity") -> None:
        super().__init__(shape, latent, encoder, decoder, activation)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> mean and standard deviation of the standardised latent, (B, latent) each."""
        mean, log_variance = self.encode_raw(x)
        return (mean - self.shift) / self.scale, (log_variance / 2).exp() / self.scale

    def encode_raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log s^2 before standardisation: what the training objective uses."""
        mean, log_variance = cast(Tensor, self.encoder(x)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 4)


@register
class RAE(Autoencoder):
    """u = f(x), deterministic; trained with noise on u and a pull on its norm (`polyscore.training.codec.RAEObjective`).

    `encoder` maps (B, *shape) to (B, latent). `posterior` has standard deviation 0.
    Source: Ghosh et al., "From variational to deterministic autoencoders", 2020, as the Score-Based Multimodal Autoencoder uses it.
    """

    def __init__(self, shape: Sequence[int], latent: int, encoder: nn.Module, decoder: nn.Module, activation: str = "identity") -> None:
        super().__init__(shape, latent, encoder, decoder, activation)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, *shape) -> standardised latent and zeros, (B, latent) each."""
        z = (self.encode_raw(x) - self.shift) / self.scale
        return z, torch.zeros_like(z)

    def encode_raw(self, x: Tensor) -> Tensor:
        """u before standardisation: what the training objective uses."""
        return cast(Tensor, self.encoder(x))
