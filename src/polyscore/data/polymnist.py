"""Extended PolyMNIST, built by code: the same digit, written by different hands, on M different backgrounds.

Construction (thomassutter/MoPoE, mmnist): MNIST pixels above 128 are the stroke; modality m is a random crop of background m, inverted
at the stroke. Within each class every modality has its own random order of the digits, so a tuple shares its label only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from polyscore.data.digits import Labelled, load_mnist
from polyscore.data.rows import Rows, at_least, write_rows
from polyscore.errors import DataError
from polyscore.training.draws import mix

__all__ = ["PolyMNIST", "distinct_orders", "load_polymnist", "read_backgrounds", "texture", "write_files"]

SIDE = 28
STROKE = 128 / 255


class PolyMNIST(Rows):
    """N tuples of M pictures, made when asked for.

    `modality("m0")` is (N, 3, 28, 28) uint8; `labels` (N,); the same seed gives the same data. Two pictures of a tuple are never the same
    handwritten digit. Row i of every modality belongs together; rows are shuffled over classes.

    Args:
        digits: pictures (N, 1, 28, 28) in [0, 1] and labels. backgrounds: one picture (3, H, W) uint8 a modality.

    Raises:
        DataError: no or too small backgrounds, or a class with fewer digits than modalities.
    """

    def __init__(self, digits: Labelled, backgrounds: Sequence[Tensor], seed: int = 0) -> None:
        for place, picture in enumerate(backgrounds):
            if picture.dim() != 3 or picture.shape[0] != 3 or min(picture.shape[1:]) <= SIDE or picture.dtype != torch.uint8:
                expected = f"uint8 (3, H, W) larger than {SIDE} x {SIDE}"
                raise DataError(f"background {place}: expected {expected}, found {picture.dtype} {tuple(picture.shape)}")
        if not backgrounds:
            raise DataError("PolyMNIST: expected at least one background, found none")
        self.names = [f"m{i}" for i in range(len(backgrounds))]
        self.seed, self.digits, self.backgrounds = seed, digits, dict(zip(self.names, backgrounds, strict=True))
        self.orders = distinct_orders(digits.labels, len(backgrounds), seed)
        self.labels: Tensor = digits.labels[self.orders[0]]
        self._kept: dict[int, tuple[Tensor, ...]] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def modalities(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        """{"m0", "m1", ...: (N, 3, 28, 28) in [0, 1]} of some rows, by default of all."""
        index = torch.arange(len(self))[rows]
        return {name: self.rows(name, index).float() / 255 for name in self.names}

    def modality(self, name: str) -> Tensor:
        """All pictures of a modality, (N, 3, 28, 28) uint8."""
        return self.rows(name, torch.arange(len(self)))

    def rows(self, name: str, index: Tensor) -> Tensor:
        """The pictures of these rows (B,), (B, 3, 28, 28) uint8."""
        if name not in self.names:
            raise DataError(f"PolyMNIST: modality {name!r}: expected one of {', '.join(self.names)}")
        place, picture = self.names.index(name), self.backgrounds[name]
        top, left = (corner[index] for corner in self._corners(place, picture))
        crops = picture.unfold(1, SIDE, 1).unfold(2, SIDE, 1)[:, top, left].transpose(0, 1)
        stroke = self.digits.x[self.orders[place][index]] > STROKE
        return torch.where(stroke, 255 - crops, crops)

    def _corners(self, place: int, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Top and left of every row's crop, (N,) each."""
        if place not in self._kept:
            draw = torch.Generator().manual_seed(mix(self.seed, 1, place, len(self)))
            sides = (picture.shape[1] - SIDE, picture.shape[2] - SIDE)
            self._kept[place] = tuple(torch.randint(side, (len(self),), generator=draw) for side in sides)
        top, left = self._kept[place]
        return top, left


def distinct_orders(labels: Tensor, modalities: int, seed: int) -> Tensor:
    """Indices (modalities, N) into the digits: column i has one label, and no digit twice; each row is a permutation of all digits.

    Raises:
        DataError: a class with fewer digits than modalities.
    """
    draw = torch.Generator().manual_seed(mix(seed, 0, modalities))
    orders = torch.empty(modalities, len(labels), dtype=torch.int64)
    places = torch.randperm(len(labels), generator=draw)
    start = 0
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        if len(members) < modalities:
            raise DataError(f"PolyMNIST: class {int(label)} has {len(members)} digits, expected at least {modalities}")
        columns = places[start : start + len(members)]
        start += len(members)
        orders[:, columns] = _rectangle(members, modalities, draw)
    return orders


def _rectangle(members: Tensor, rows: int, draw: torch.Generator) -> Tensor:
    """Random permutations (rows, N) of `members` that differ everywhere; in tiny classes, where exchanges may get stuck, shifts of one."""
    taken = [members[torch.randperm(len(members), generator=draw)]]
    for _ in range(1, rows):
        taken.append(_apart(members[torch.randperm(len(members), generator=draw)], torch.stack(taken)))
    found = torch.stack(taken)
    stuck = any((found[row] == found[:row]).any() for row in range(1, rows))
    return torch.stack([taken[0].roll(row) for row in range(rows)]) if stuck else found


def _apart(order: Tensor, others: Tensor) -> Tensor:
    """`order` (N,) with entries exchanged so that it differs everywhere from each row of `others`, where that can be found."""
    size = len(order)
    for column in torch.nonzero((others == order).any(0)).flatten().tolist():
        for step in range(1, size):
            other = (column + step) % size
            if not ((order[other] == others[:, column]) | (order[column] == others[:, other])).any():
                order[[column, other]] = order[[other, column]]
                break
    return order


def read_backgrounds(folder: str | os.PathLike[str]) -> list[Tensor]:
    """All pictures of a folder, sorted by name, each (3, H, W) uint8.

    Raises:
        DataError: no such folder, or a file that is not a picture.
    """
    from PIL import Image

    path = Path(folder)
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder of pictures")
    found = []
    for file in sorted(p for p in path.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".bmp")):
        try:
            with Image.open(file) as picture:
                rgb = picture.convert("RGB")
                flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
        except OSError as error:
            raise DataError(f"{file}: expected a picture ({error})") from error
        found.append(flat.reshape(rgb.height, rgb.width, 3).permute(2, 0, 1).contiguous())
    return found


def texture(number: int, side: int = 256) -> Tensor:
    """Procedural background `number`, (3, side, side) uint8: three colours blended by waves or rings; always the same."""
    draw = torch.Generator().manual_seed(mix(977, number))
    grid = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    waves = torch.zeros(2, side, side)
    for place in range(2):
        for octave in range(4):
            f, (angle, phase) = 2.0 * 1.8**octave * (1 + number % 3 / 2), (2 * math.pi * torch.rand(2, generator=draw)).tolist()
            along = x * math.cos(angle) + y * math.sin(angle)
            across = ((x - 0.5) ** 2 + (y - 0.5) ** 2).sqrt() if number % 4 == 3 else y * math.cos(angle) - x * math.sin(angle)
            waves[place] += (2 * math.pi * f * along + phase + 2 * torch.sin(2 * math.pi * f / 3 * across)).sin() / 1.5**octave
    first, second = (waves * (1.5 if number % 2 else 0.8)).sigmoid()
    # Each channel stays on one side of grey, so that an inverted stroke can be seen everywhere.
    high = torch.tensor([(number % 8) >> bit & 1 for bit in range(3)], dtype=torch.bool)
    dark = 0.3 * torch.rand(3, 3, generator=draw)
    colours = torch.where(high, 1 - dark, dark)
    mixed = (1 - first) * colours[0, :, None, None] + first * (
        (1 - second) * colours[1, :, None, None] + second * colours[2, :, None, None]
    )
    return (mixed * 255).round().to(torch.uint8)


def load_polymnist(
    split: str = "train",
    modalities: int = 5,
    backgrounds: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> PolyMNIST:
    """PolyMNIST from MNIST's split: 60 000 train tuples or 10 000 test tuples.

    Args:
        modalities: 2 to 10. backgrounds: folder of pictures; missing ones (or all) are procedural textures.
        data: folder with digits/mnist.npz; default $POLYSCORE_DATA.

    Raises:
        DataError: as above, or a number of modalities outside 2 to 10.
    """
    if not 2 <= modalities <= 10:
        raise DataError(f"PolyMNIST: expected 2 to 10 modalities, found {modalities}")
    pictures = read_backgrounds(backgrounds)[:modalities] if backgrounds is not None else []
    pictures += [texture(number) for number in range(len(pictures), modalities)]
    return PolyMNIST(load_mnist(split, data), pictures, seed + (0 if split == "train" else 10_007))


def write_files(data: PolyMNIST, out: str | os.PathLike[str], n: int, progress: Callable[[int, int], None] | None = None) -> int:
    """Write the first n tuples as OUT/MODALITY/NNNNNN.png and OUT/labels.csv, as `polyscore data prepare` reads them.

    Raises:
        DataError: n below 1.
    """
    at_least(1, n=n)
    rows = ((f"{row:06d}", values, int(data.labels[row])) for row, values in enumerate(data.each(n)))
    return write_rows(out, {name: {"kind": "image"} for name in data.names}, rows, min(n, len(data)), progress)
