"""Pictures with captions: real digits in colour on plain grounds and on photographs, with ways to say what is seen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from polyscore.data.digits import load_mnist
from polyscore.errors import DataError
from polyscore.media.image import READS, read_image

__all__ = ["COLOURS", "LENGTH", "Captioned28", "Language", "captioned_digits", "crops", "load_photographs", "paint"]

COLOURS = {
    "red": (0.95, 0.15, 0.12),
    "green": (0.2, 0.85, 0.2),
    "blue": (0.25, 0.45, 1.0),
    "yellow": (0.98, 0.9, 0.15),
    "purple": (0.75, 0.3, 0.9),
    "white": (0.97, 0.97, 0.97),
}
PLAIN = {"black": (0.03, 0.03, 0.03), "grey": (0.4, 0.4, 0.4), "brown": (0.35, 0.2, 0.1)}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SCALES = {"small": 22, "large": 34}  # side in pixels to which MNIST's 28 x 28 are resized, padded or cut to 28
SHIPPED = {"flower": ("flower.jpg", 95), "temple": ("china.jpg", 0)}  # scikit-learn's photographs and the first column of a square of each
SIDE = 48  # of the photographs kept
SHADE = 0.5  # a photograph's brightness
TEMPLATES = (
    "a {size} {ink} {digit} on {ground}",
    "{ground} with a {size} {digit} in {ink}",
    "the digit {digit} , {size} and {ink} , in front of {ground}",
)
LENGTH = max(len(t.replace("{ground}", "a ground").split()) for t in TEMPLATES)


@dataclass(frozen=True)
class Language:
    """What captions can say: digit, ink, ground and size; `photographs` are the words of the grounds that are no plain colour."""

    photographs: tuple[str, ...] = tuple(SHIPPED)

    @property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """The values of every attribute."""
        return {"digit": DIGITS, "ink": tuple(COLOURS), "ground": (*PLAIN, *self.photographs), "size": tuple(SCALES)}

    @property
    def sizes(self) -> list[int]:
        """The number of values of every attribute."""
        return [len(values) for values in self.attributes.values()]

    @property
    def words(self) -> tuple[str, ...]:
        """All words, sorted."""
        said = {w for t in TEMPLATES for w in t.split() if "{" not in w} | {"plain"}
        return tuple(sorted(said | {v for values in self.attributes.values() for v in values}))

    def say(self, attributes: Sequence[int], template: int = 0) -> str:
        """A caption of one row of attributes."""
        named = {name: values[int(i)] for (name, values), i in zip(self.attributes.items(), attributes, strict=True)}
        named["ground"] = f"{'plain' if named['ground'] in PLAIN else 'a'} {named['ground']}"
        return TEMPLATES[template % len(TEMPLATES)].format(**named)

    def caption(self, attributes: Tensor, seed: int = 0) -> list[str]:
        """A caption of every row (N, 4), in a way drawn for each."""
        templates = torch.randint(len(TEMPLATES), (len(attributes),), generator=torch.Generator().manual_seed(seed))
        return [self.say(row, int(t)) for row, t in zip(attributes.tolist(), templates, strict=True)]


@dataclass(frozen=True)
class Captioned28:
    """x (N, 3, 28, 28) in [0, 1]; attributes (N, 4), indices in the order of `language.attributes`."""

    x: Tensor
    attributes: Tensor
    language: Language

    def __len__(self) -> int:
        return len(self.x)


def load_photographs(folder: str | os.PathLike[str] | None = None) -> dict[str, Tensor]:
    """Photographs by the word that captions have for them, {word: (P, 3, 48, 48)}, sorted; the centre square of each picture.

    The word of a picture in `folder` is the name of its subfolder, or else its own up to the suffix. Without a folder they are
    scikit-learn's two, "flower" and "temple".

    Raises:
        DataError: no picture, an unreadable one, or a word that captions use for something else.
    """
    if folder is None:
        return {word: _shipped(*where)[None] for word, where in sorted(SHIPPED.items())}
    root, found = Path(folder), dict[str, list[Tensor]]()
    taken = set(Language(()).words)
    for file in sorted([*root.glob("*"), *root.glob("*/*")]):
        if file.suffix.lower() not in READS or not file.is_file():
            continue
        word = (file.stem if file.parent == root else file.parent.name).lower()
        if not re.fullmatch("[a-z]+", word) or word in taken:
            raise DataError(f"{file}: expected a name of letters that captions don't use yet, found {word!r}")
        found.setdefault(word, []).append(read_image(file, shape=(3, SIDE, SIDE)))
    if not found:
        raise DataError(f"{root}: expected photographs (WORD.jpg or WORD/*.jpg), found none")
    return {word: torch.stack(pictures) for word, pictures in sorted(found.items())}


def _shipped(name: str, left: int) -> Tensor:
    from sklearn.datasets import load_sample_image

    picture = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float() / 255
    square = picture[None, :, :, left : left + picture.shape[1]]
    small: Tensor = functional.interpolate(square, size=SIDE, mode="bilinear", antialias=True)
    return small[0]


def crops(photographs: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Random squares (n, 3, 28, 28) of photographs (P, 3, side, side), each .6 to 1 of the side, half of them mirrored."""
    which = torch.randint(len(photographs), (n,), generator=generator)
    scale, mirror, x, y = torch.rand(4, n, generator=generator)
    scale = 0.6 + 0.4 * scale
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = scale * (mirror - 0.5).sign(), scale
    theta[:, :, 2] = (1 - scale)[:, None] * (2 * torch.stack([x, y], 1) - 1)
    grid = functional.affine_grid(theta, [n, 3, 56, 56], align_corners=False)
    found = [
        functional.grid_sample(photographs[w], g, align_corners=False, padding_mode="border")
        for w, g in zip(which.split(500), grid.split(500), strict=True)
    ]
    pooled: Tensor = functional.avg_pool2d(torch.cat(found), 2)
    return pooled


def captioned_digits(
    split: str = "train",
    folder: str | None = None,
    seed: int = 0,
    most: int = 20_000,
    photographs: Mapping[str, Tensor] | None = None,
) -> Captioned28:
    """The first `most` digits of MNIST's split with random attributes; photographs as of `load_photographs`, by default its own.

    Raises:
        DataError: MNIST is not there.
    """
    photographs = load_photographs() if photographs is None else photographs
    mnist, language = load_mnist(split, folder), Language(tuple(photographs))
    labels = mnist.labels[:most]
    generator = torch.Generator().manual_seed(seed + (split == "test"))
    drawn = [torch.randint(size, (len(labels),), generator=generator) for size in language.sizes[1:]]
    attributes = torch.stack([labels, *drawn], 1)
    grounds = torch.tensor([*PLAIN.values(), *[(0.0,) * 3] * len(photographs)])[drawn[1]][:, :, None, None].repeat(1, 1, 28, 28)
    for place, pictures in enumerate(photographs.values(), len(PLAIN)):
        rows = drawn[1] == place
        grounds[rows] = SHADE * crops(pictures, int(rows.sum()), generator)
    return Captioned28(paint(mnist.x[:most], attributes, grounds), attributes, language)


def paint(strokes: Tensor, attributes: Tensor, grounds: Tensor) -> Tensor:
    """Strokes (N, 1, 28, 28) in ink and size of attributes (N, 4), with a shadow one pixel wide, on grounds (N, 3, 28, 28)."""
    cover = torch.stack([_resized(strokes, side) for side in SCALES.values()])[attributes[:, 3], torch.arange(len(strokes))]
    cover = (1.25 * cover).clamp(0, 1)
    near: Tensor = functional.max_pool2d(cover, 3, 1, 1)
    shadow = 1 - 0.6 * near
    colours = torch.tensor(list(COLOURS.values()))[attributes[:, 1]][:, :, None, None]
    return grounds * shadow * (1 - cover) + colours * cover


def _resized(strokes: Tensor, side: int) -> Tensor:
    """Resized to side x side in the middle of 28 x 28."""
    sized: Tensor = functional.interpolate(strokes, size=side, mode="bilinear", antialias=True)
    before = (28 - side) // 2
    placed: Tensor = functional.pad(sized, (before, 28 - side - before) * 2)
    return placed.clamp(0, 1)
