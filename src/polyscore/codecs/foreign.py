"""A user's own autoencoder as a codec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.codecs.base import Codec
from polyscore.errors import PolyscoreError
from polyscore.spec import register

__all__ = ["ForeignCodec", "data_of", "latent_of", "same_shape"]


@register
class ForeignCodec(Codec):
    """Any module with `encode` and `decode`, frozen: z = module.encode(x), x = module.decode(z), in the module's own ranges.

    encode may return the latent, a tuple that starts with it, or an output with `latent_dist`, `latents` or `latent`, as diffusers' do;
    decode the data, a tuple, or an output with `sample`. The weights are saved with the codec. For that the module's class must be known
    by name (`polyscore.spec.register`), when it is saved and when it is loaded: checkpoints hold no code.

    Args:
        module: the autoencoder. data_shape: of one item. latent_shape: found by encoding zeros, if not given.

    Raises:
        PolyscoreError: no encode or decode, or data that comes back in another shape.
    """

    def __init__(self, module: nn.Module, data_shape: Sequence[int], latent_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        for name in ("encode", "decode"):
            if not callable(getattr(module, name, None)):
                raise PolyscoreError(f"{type(module).__name__}: expected a module with encode and decode, found no {name}")
        self.module: Any = module.eval().requires_grad_(False)
        self.data_shape = tuple(data_shape)
        self.latent_shape = tuple(latent_shape or same_shape(type(module).__name__, self, self.data_shape))

    def train(self, mode: bool = True) -> ForeignCodec:
        """It stays in evaluation mode."""
        return super().train(False)

    def encode(self, x: Tensor) -> Tensor:
        """(B, *data_shape) -> (B, *latent_shape)."""
        return self.posterior(x)[0]

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent, (B, *latent_shape) each; zeros unless the module has a `latent_dist`."""
        return latent_of(self.module.encode(x))

    def decode(self, z: Tensor) -> Tensor:
        """(B, *latent_shape) -> (B, *data_shape)."""
        return data_of(self.module.decode(z))


def latent_of(found: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of what an autoencoder's `encode` returned.

    Raises:
        PolyscoreError: no latent in it.
    """
    if hasattr(found, "latent_dist"):
        law = found.latent_dist
        mean: Tensor = law.mode()
        deviation = getattr(law, "std", None)
        return mean, deviation.expand_as(mean) if isinstance(deviation, Tensor) else torch.zeros_like(mean)
    for value in (getattr(found, "latents", None), getattr(found, "latent", None), found[0] if isinstance(found, tuple) else found):
        if isinstance(value, Tensor):
            return value, torch.zeros_like(value)
    raise PolyscoreError(f"encode: expected a tensor, or an output with latent_dist, latents or latent, found {type(found).__name__}")


def data_of(found: Any) -> Tensor:
    """The data in what an autoencoder's `decode` returned.

    Raises:
        PolyscoreError: none in it.
    """
    for value in (getattr(found, "sample", None), found[0] if isinstance(found, tuple) else found):
        if isinstance(value, Tensor):
            return value
    raise PolyscoreError(f"decode: expected a tensor, or an output with sample, found {type(found).__name__}")


@torch.no_grad()
def same_shape(name: str, codec: Codec, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The latent shape of a codec, found by encoding zeros of this data shape; they must come back in it.

    Raises:
        PolyscoreError: data that the autoencoder cannot take, or that comes back in another shape.
    """
    try:
        latent = codec.encode(torch.zeros(1, *shape))
        back = tuple(codec.decode(latent).shape[1:])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PolyscoreError(f"{name}: expected to encode and decode data of shape {shape}, but: {reason}") from error
    if back != shape:
        raise PolyscoreError(f"{name}: expected data of shape {shape} to come back in that shape, found {back}")
    return tuple(latent.shape[1:])
