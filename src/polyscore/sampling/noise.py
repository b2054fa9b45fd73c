"""One random stream per sample: sample i of seed s gets the same numbers in any batch, process or order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Streams", "mix"]

_BLOCK = 1024


def _place(count: int, numel: int) -> tuple[int, int, int]:
    """Block number, place in it and its size for draw number `count`: a block of one for the start, then longer ones."""
    size = min(32, max(1, _BLOCK // max(1, numel)))
    return (0, 0, 1) if count == 0 else (1 + (count - 1) // size, (count - 1) % size, size)


def mix(*parts: object) -> int:
    """A 63-bit seed from any parts, the same on every machine."""
    return _seed(repr(parts))


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


class Streams:
    """Random numbers for samples number `indices` of a seed.

    Each (sample, name) has its own stream; draws are cut from blocks so that many small draws cost little.

    Args:
        seed: of the run. indices: numbers of the samples in this batch, or (sample, particle).
        device: where the numbers are put (they are drawn on the CPU, so devices agree). dtype: of normal draws.
    """

    def __init__(self, seed: int, indices: Sequence[Any], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.seed, self.indices, self.device, self.dtype = seed, list(indices), device, dtype
        self._blocks: dict[tuple[str, str], Tensor] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._generator = torch.Generator()

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """The next standard normal numbers of stream `name`, (B, *shape)."""
        return self._draw("normal", name, shape)

    def uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """The next uniform numbers in [0, 1) of stream `name`, (B, *shape)."""
        return self._draw("uniform", name, shape)

    def _draw(self, law: str, name: str, shape: Sequence[int]) -> Tensor:
        key = (law, name)
        number, place, size = _place(self._counts.get(key, 0), math.prod(shape))
        if place == 0:
            self._blocks[key] = self._block(law, name, number, (size, *shape))
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._blocks[key][:, place]

    def _block(self, law: str, name: str, number: int, shape: tuple[int, ...]) -> Tensor:
        wide = self.dtype if self.dtype == torch.float64 else torch.float32
        block = torch.empty(len(self.indices), *shape, dtype=wide)
        # The seed of a row is mix(seed, index, name, law, number), written out so that many rows cost little.
        before, after = f"({self.seed!r}, ", f", {name!r}, {law!r}, {number!r})"
        for row, index in zip(block.unbind(), self.indices, strict=True):
            self._generator.manual_seed(_seed(f"{before}{index!r}{after}"))
            if law == "normal":
                row.normal_(generator=self._generator)
            else:
                row.uniform_(generator=self._generator)
        return block.to(self.device, self.dtype)
