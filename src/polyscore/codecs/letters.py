"""Words as tokens: one token a letter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyscore.codecs.base import Codec
from polyscore.errors import DataError
from polyscore.media.text import code_text, text_codes
from polyscore.spec import register

__all__ = ["Letters"]


@register
class Letters(Codec):
    """Character codes (B, length), 0 after the end, <-> tokens (B, length): token 0 is the end, token i the i-th letter of `alphabet`.

    The letter "?" is the token -1: free, for `sample` to fill in. A code outside the alphabet is refused. Tokens decode to codes one
    by one, whatever the model wrote.
    """

    def __init__(self, alphabet: str, length: int) -> None:
        super().__init__()
        self.alphabet, self.length = alphabet, length
        self.data_shape = self.latent_shape = (length,)
        self.vocabulary = len(alphabet) + 1
        self.register_buffer("codes", torch.tensor([0, *map(ord, alphabet)]), persistent=False)
        self.codes: Tensor

    def encode(self, x: Tensor) -> Tensor:
        """Codes to tokens.

        Raises:
            DataError: a letter that is not in the alphabet.
        """
        same = x.unsqueeze(-1) == self.codes
        free = x == ord("?")
        if not bool((same.any(-1) | free).all()):
            bad = int(x[~same.any(-1) & ~free][0])
            raise DataError(f"text: expected letters of {self.alphabet!r}, found {chr(bad) if 0 < bad < 0x110000 else bad!r}")
        return same.long().argmax(-1).masked_fill(free, -1)

    def decode(self, z: Tensor) -> Tensor:
        """Tokens to codes."""
        return self.codes[z.clamp(0, self.vocabulary - 1)]

    def write(self, words: Sequence[str]) -> Tensor:
        """Words as codes (N, length).

        Raises:
            DataError: a word longer than `length`.
        """
        return torch.stack([text_codes(word, self.length) for word in words])

    @staticmethod
    def read(codes: Tensor) -> list[str]:
        """Codes as words, up to the end."""
        return [code_text(row) for row in codes]
