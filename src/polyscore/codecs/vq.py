"""Vector-quantised codecs: data <-> a grid of tokens, for pictures (2-D) and sounds (1-D)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from polyscore.codecs.base import Codec
from polyscore.errors import DataError, PolyscoreError
from polyscore.networks.grid import grid_decoder, grid_encoder
from polyscore.spec import register

__all__ = ["VQ", "Codebook", "check_tokens", "codebook_use"]


class Codebook(nn.Module):
    """K vectors of size D, learned as moving averages of what they are nearest to (van den Oord et al. 2017, appendix A.1).

    A code whose moving count, in uses a step, falls below `revive` is replaced by a random vector of the batch (Jukebox); at first all are.
    """

    def __init__(self, size: int, width: int, decay: float = 0.99, revive: float = 0.5) -> None:
        super().__init__()
        self.decay, self.revive = decay, revive
        codes = torch.randn(size, width)
        self.register_buffer("codes", codes)
        self.register_buffer("count", torch.zeros(size))
        self.register_buffer("total", torch.zeros(size, width))
        self.codes: Tensor
        self.count: Tensor
        self.total: Tensor

    def nearest(self, u: Tensor) -> Tensor:
        """Index of the nearest code of vectors (..., D), by Euclidean distance."""
        flat = u.reshape(-1, u.shape[-1])
        distance = self.codes.square().sum(1) - 2 * flat @ self.codes.T
        return distance.argmin(1).reshape(u.shape[:-1])

    def vectors(self, tokens: Tensor) -> Tensor:
        """(..., ) tokens -> (..., D)."""
        return nn.functional.embedding(tokens, self.codes)

    @torch.no_grad()
    def learn(self, u: Tensor, tokens: Tensor, uniform: Tensor) -> Tensor:
        """Move the codes towards the vectors u (N, D) with indices (N,), and revive dead ones by the numbers (K,); their share."""
        hot = nn.functional.one_hot(tokens, len(self.codes)).to(u.dtype)
        seen, total = hot.sum(0), hot.T @ u
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen)
            torch.distributed.all_reduce(total)
        self.count.mul_(self.decay).add_(seen, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(total, alpha=1 - self.decay)
        dead = self.count < self.revive
        chosen = u[(uniform * len(u)).long().clamp(max=len(u) - 1)]
        self.count.copy_(torch.where(dead, torch.full_like(self.count, 2 * self.revive), self.count))
        self.total.copy_(torch.where(dead[:, None], chosen * 2 * self.revive, self.total))
        self.codes.copy_(self.total / self.count[:, None])
        return dead.float().mean()


@register
class VQ(Codec):
    """Convolutional encoder, a codebook of `codes` vectors, and the mirrored decoder; latents are int64 tokens, row-major, (L,).

    Args:
        shape: of the data, (C, H, W) or a waveform (L,). codes: K. size: D of the codebook's vectors.
        width, strides, depth, growth: of the networks, see `polyscore.networks.grid`; the hop is the product of the strides.
        activation: "sigmoid" for pictures in [0, 1], "identity" otherwise.

    Raises:
        PolyscoreError: a size that the hop does not divide.
    """

    def __init__(
        self,
        shape: Sequence[int],
        codes: int = 64,
        size: int = 16,
        width: int = 32,
        strides: Sequence[int] = (2, 2),
        depth: int = 1,
        growth: int = 1,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__()
        self.data_shape = tuple(shape)
        self.sound = len(shape) == 1
        channels, sides = (1, tuple(shape)) if self.sound else (shape[0], tuple(shape[1:]))
        hop = math.prod(strides)
        if any(side % hop for side in sides):
            raise PolyscoreError(f"VQ: data of shape {tuple(shape)}, expected sides that the hop {hop} divides")
        self.grid = tuple(side // hop for side in sides)
        self.latent_shape, self.vocabulary, self.activation = (math.prod(self.grid),), codes, activation
        dimension = len(sides)
        self.encoder = grid_encoder(dimension, channels, size, width, strides, depth, growth)
        self.decoder = grid_decoder(dimension, channels, size, width, strides, depth, growth)
        self.codebook = Codebook(codes, size)

    def embed(self, x: Tensor) -> Tensor:
        """Encoder vectors, (B, L, D)."""
        u = self.encoder(x.unsqueeze(1) if self.sound else x)
        return cast(Tensor, u.flatten(2).transpose(1, 2))

    def raw(self, vectors: Tensor) -> Tensor:
        """Decoder output before the activation, from vectors (B, L, D)."""
        y: Tensor = self.decoder(vectors.transpose(1, 2).reshape(len(vectors), -1, *self.grid))
        return y.squeeze(1) if self.sound else y

    def encode(self, x: Tensor) -> Tensor:
        """Data -> tokens (B, L)."""
        return self.codebook.nearest(self.embed(x))

    def decode(self, z: Tensor) -> Tensor:
        """Tokens (B, L) -> data.

        Raises:
            DataError: a token outside the codebook (a mask among them).
        """
        check_tokens(z, self.vocabulary)
        y = self.raw(self.codebook.vectors(z))
        return y.sigmoid() if self.activation == "sigmoid" else y


def check_tokens(z: Tensor, vocabulary: int) -> None:
    """Refuse tokens outside 0..vocabulary - 1.

    Raises:
        DataError: with the first such token.
    """
    bad = z[(z < 0) | (z >= vocabulary)]
    if len(bad):
        raise DataError(f"tokens: expected 0 to {vocabulary - 1}, found {int(bad[0])}")


def codebook_use(tokens: Tensor, vocabulary: int) -> dict[str, float]:
    """Share of codes used, and perplexity exp(entropy) of their use."""
    share = torch.bincount(tokens.flatten(), minlength=vocabulary).double()
    share = share / share.sum()
    entropy = -(share * share.clamp(min=1e-12).log()).sum()
    return {"codes used": float((share > 0).double().mean()), "perplexity": float(entropy.exp())}
