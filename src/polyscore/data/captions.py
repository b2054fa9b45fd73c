"""Pictures with captions: real digits in colour on patterned grounds, 28 x 28, with several attributes and several ways to say them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polyscore.data.digits import load_mnist
from polyscore.errors import DataError

__all__ = ["ATTRIBUTES", "LENGTH", "WORDS", "Captioned28", "caption", "captioned_digits", "paint", "say", "words_of"]

COLOURS = {
    "red": (0.85, 0.1, 0.1),
    "green": (0.1, 0.65, 0.15),
    "blue": (0.15, 0.25, 0.9),
    "yellow": (0.95, 0.85, 0.1),
    "purple": (0.6, 0.15, 0.7),
    "white": (0.97, 0.97, 0.97),
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "ink": tuple(COLOURS),
    "ground": ("black", "grey", "brown", "teal"),
    "pattern": ("plain", "striped", "checked"),
    "size": ("small", "large"),
}
GROUNDS = torch.tensor([(0.03, 0.03, 0.03), (0.45, 0.45, 0.45), (0.4, 0.22, 0.1), (0.05, 0.4, 0.42)])
TEMPLATES = (
    "a {size} {ink} {digit} on {pattern} {ground}",
    "{pattern} {ground} ground with a {size} {digit} in {ink}",
    "the digit {digit} , {size} and {ink} , on a {ground} {pattern} ground",
)
WORDS = tuple(sorted({w for t in TEMPLATES for w in t.split() if "{" not in w} | {v for values in ATTRIBUTES.values() for v in values}))
LENGTH = max(len(t.split()) for t in TEMPLATES)


@dataclass(frozen=True)
class Captioned28:
    """x (N, 3, 28, 28) in [0, 1]; attributes (N, 5), indices in the order of `ATTRIBUTES`."""

    x: Tensor
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.x)


def say(attributes: Sequence[int], template: int = 0) -> str:
    """A caption of one row of attributes."""
    named = {name: values[int(i)] for (name, values), i in zip(ATTRIBUTES.items(), attributes, strict=True)}
    return TEMPLATES[template % len(TEMPLATES)].format(**named)


def words_of(captions: Sequence[str]) -> Tensor:
    """Captions as one-hot words, (N, LENGTH, words + 1); the last entry of a word that is there is 1, so that no caption is all zeros.

    Raises:
        DataError: a word that no caption has, or too many words.
    """
    found = torch.zeros(len(captions), LENGTH, len(WORDS) + 1)
    for row, text in enumerate(captions):
        words = text.lower().replace(",", " , ").split()
        if len(words) > LENGTH:
            raise DataError(f"caption {text!r}: expected at most {LENGTH} words, found {len(words)}")
        for place, word in enumerate(words):
            if word not in WORDS:
                raise DataError(f"caption {text!r}: expected words of {', '.join(WORDS)}, found {word!r}")
            found[row, place, WORDS.index(word)] = found[row, place, -1] = 1
    return found


def caption(attributes: Tensor, seed: int = 0) -> list[str]:
    """A caption of every row (N, 5), in a way drawn for each."""
    templates = torch.randint(len(TEMPLATES), (len(attributes),), generator=torch.Generator().manual_seed(seed))
    return [say(row, int(t)) for row, t in zip(attributes.tolist(), templates, strict=True)]


def captioned_digits(split: str = "train", folder: str | None = None, seed: int = 0, most: int = 20_000) -> Captioned28:
    """The first `most` digits of MNIST's split with random attributes.

    Raises:
        DataError: MNIST is not there.
    """
    mnist = load_mnist(split, folder)
    labels = mnist.labels[:most]
    generator = torch.Generator().manual_seed(seed + (split == "test"))
    drawn = [torch.randint(len(values), (len(labels),), generator=generator) for values in list(ATTRIBUTES.values())[1:]]
    attributes = torch.stack([labels, *drawn], 1)
    return Captioned28(paint(mnist.x[:most], attributes), attributes)


def paint(strokes: Tensor, attributes: Tensor) -> Tensor:
    """Strokes (N, 1, 28, 28) as pictures of these attributes; a small digit has 18 pixels of 28."""
    _, ink, ground, pattern, size = attributes.unbind(1)
    small = torch.nn.functional.interpolate(strokes, size=18, mode="bilinear", antialias=True)
    small = torch.nn.functional.pad(small, (5, 5, 5, 5))
    cover = (1.25 * torch.where((size == 0)[:, None, None, None], small, strokes)).clamp(0, 1)
    row, column = torch.meshgrid(torch.arange(28) // 4, torch.arange(28) // 4, indexing="ij")
    marks = torch.stack([torch.zeros(28, 28), (row % 2).float(), ((row + column) % 2).float()])[pattern].unsqueeze(1)
    base = GROUNDS[ground][:, :, None, None] * (1 - 0.45 * marks) + 0.12 * marks
    colours = torch.tensor(list(COLOURS.values()))[ink][:, :, None, None]
    return base * (1 - cover) + colours * cover
