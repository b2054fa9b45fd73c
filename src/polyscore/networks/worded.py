"""A token denoiser that is told in words: texts of a small vocabulary, word by word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import AnyPrediction, State, Times
from polyscore.errors import DataError
from polyscore.networks.transformer import TokenDenoiser
from polyscore.spec import register
from polyscore.tokens.paths import TokenPath

__all__ = ["WordedDenoiser", "one_hot_words"]


def one_hot_words(texts: Sequence[str], words: Sequence[str], most: int) -> Tensor:
    """Texts as one-hot words, (N, most, words + 1); the last entry of a word that is there is 1, so that no text but "" is all zeros.

    Raises:
        DataError: a word that is not among `words`, or more than `most`.
    """
    known = {word: place for place, word in enumerate(words)}
    found = torch.zeros(len(texts), most, len(known) + 1)
    for row, text in enumerate(texts):
        said = text.lower().replace(",", " , ").split()
        if len(said) > most:
            raise DataError(f"caption {text!r}: expected at most {most} words, found {len(said)}")
        for place, word in enumerate(said):
            if word not in known:
                raise DataError(f"caption {text!r}: expected words of {', '.join(known)}, found {word!r}")
            found[row, place, known[word]] = found[row, place, -1] = 1
    return found


@register
class WordedDenoiser(TokenDenoiser):
    """A `TokenDenoiser` whose condition is {"text": `one_hot_words`}, or a text for all samples, or a list of texts, one each; none is "".

    Args:
        words: of the vocabulary. most: words of a text. modality, size, path, changes: as of `TokenDenoiser`.
    """

    null = ""

    def __init__(
        self,
        words: Sequence[str],
        most: int,
        modality: str = "tokens",
        size: str = "small",
        path: TokenPath | None = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        told = {"conditions": {"text": [most, len(words) + 1]}, "classes": 0}
        super().__init__(modality, size, path, {**(changes or {}), **told})
        self.words, self.most = tuple(words), most

    def forward(self, z: State, t: Times, condition: Any = None) -> dict[str, AnyPrediction]:
        """One network call."""
        texts = [condition or ""] if condition is None or isinstance(condition, str) else condition
        if isinstance(texts, list | tuple):
            tokens = next(iter(z.values()))
            condition = {"text": self.prompt(*texts).to(tokens.device).expand(len(tokens), -1, -1)}
        return super().forward(z, t, condition)

    def prompt(self, *texts: str) -> Tensor:
        """Texts as the network sees them."""
        return one_hot_words(texts, self.words, self.most)
