"""Token codecs of others: anything with encode -> an integer grid, decode, and a vocabulary; diffusers' VQModel among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polyscore.codecs.base import Codec
from polyscore.codecs.vq import check_tokens
from polyscore.errors import PolyscoreError
from polyscore.spec import register

__all__ = ["DiffusersVQ", "ForeignTokens"]


@register
class ForeignTokens(Codec):
    """Any model with a codebook as a codec of tokens (B, L), row-major in its grid.

        codec = ForeignTokens.of_diffusers(VQModel.from_pretrained(folder), 256)
        codec = ForeignTokens(mine, (3, 256, 256), (16, 16), 1024)

    It can be saved, alone and in a Composer, if the model's class is registered (`polyscore.spec.register`, an `nn.Module` whose
    constructor's arguments are numbers, texts and lists): the arguments go into the JSON file, the weights into the safetensors file.

    Args:
        model: with encode(data) -> integers (B, *grid) and decode(integers (B, *grid)) -> data.
        shape: of the data. grid: of the tokens. vocabulary: K.

    Raises:
        PolyscoreError: a model that cannot encode and decode.
    """

    def __init__(self, model: Any, shape: Sequence[int], grid: Sequence[int], vocabulary: int) -> None:
        super().__init__()
        for name in ("encode", "decode"):
            if not callable(getattr(model, name, None)):
                raise PolyscoreError(f"ForeignTokens: expected a model with encode and decode, found {type(model).__name__} without {name}")
        self.model, self.vocabulary = model, vocabulary
        self.data_shape, self.grid, self.latent_shape = tuple(shape), tuple(grid), (math.prod(grid),)

    @classmethod
    def of_diffusers(cls, model: Any, size: int) -> ForeignTokens:
        """A diffusers VQModel, its weights copied, on square pictures of `size` pixels in [0, 1]."""
        own = DiffusersVQ({name: value for name, value in model.config.items() if not name.startswith("_")})
        own.model.load_state_dict(model.state_dict())
        side = size // 2 ** (len(model.config.block_out_channels) - 1)
        return cls(own.eval(), (model.config.in_channels, size, size), (side, side), model.config.num_vq_embeddings)

    def encode(self, x: Tensor) -> Tensor:
        """Data -> tokens (B, L).

        Raises:
            PolyscoreError: an encoding of another shape. DataError: a token outside the vocabulary.
        """
        found = torch.as_tensor(self.model.encode(x))
        if tuple(found.shape) != (len(x), *self.grid) or found.is_floating_point():
            what, shape = f"{type(self.model).__name__}.encode", (len(x), *self.grid)
            raise PolyscoreError(f"{what}: expected integer tokens of shape {shape}, found {found.dtype} {tuple(found.shape)}")
        z = found.long().flatten(1)
        check_tokens(z, self.vocabulary)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Tokens (B, L) -> data.

        Raises:
            DataError: a token outside the vocabulary (a mask among them).
        """
        check_tokens(z, self.vocabulary)
        return cast(Tensor, self.model.decode(z.reshape(len(z), *self.grid)))


@register
class DiffusersVQ(nn.Module):
    """diffusers' VQModel of a configuration, pictures (B, C, H, W) in [0, 1] <-> tokens (B, h, w).

    Args:
        config: the arguments of `diffusers.VQModel`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        from diffusers import VQModel

        super().__init__()
        self.model: Any = VQModel(**config)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Pictures to tokens."""
        latents = self.model.encode(2 * x - 1).latents
        return cast(Tensor, self.model.quantize(latents)[2][2].reshape(len(x), *latents.shape[2:]))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens to pictures."""
        width = self.model.quantize.vq_embed_dim
        vectors = self.model.quantize.get_codebook_entry(tokens.reshape(-1), (*tokens.shape, width))
        found: Tensor = self.model.decode(vectors, force_not_quantize=True).sample
        return ((found + 1) / 2).clamp(0, 1)
