"""Where training data and noise come from: pure functions of (seed, step, place in the global batch).

A step's random numbers are drawn for the *whole* global batch from one stream seeded by (seed, step), on the CPU, and each
process keeps its own slice. So one process and many see the same samples and the same noise, and a resumed run repeats what an
uninterrupted one would have seen, without any random state to store.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from polyscore.errors import DataError, PolyscoreError

__all__ = ["Draw", "Pairs", "Samples", "draw_latents", "present"]


def mix(*keys: int) -> int:
    """A 63-bit seed from several non-negative integers; neighbouring keys give unrelated seeds."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> np.uint64(1))


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(mix(seed, epoch, size)))


class Draw:
    """The random numbers of one training step, for one process.

    Every method returns rows `start` to `stop` of what it drew for the global batch, on `device`. Call the same methods in the
    same order at every step and in every process: calls must not depend on the values of the data.

    Args:
        seed, step: the stream.
        batch_size: samples in the global batch.
        rank, processes: this process takes samples `batch_size * rank // processes` up to the next process's first.
        device: where the numbers are put.
    """

    def __init__(
        self, seed: int, step: int, batch_size: int, rank: int = 0, processes: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        if batch_size < processes:
            raise PolyscoreError(f"batch_size: expected at least one sample per process ({processes}), found {batch_size}")
        self.seed, self.step, self.batch_size, self.device = seed, step, batch_size, torch.device(device)
        self.start, self.stop = batch_size * rank // processes, batch_size * (rank + 1) // processes
        self._generator = torch.Generator().manual_seed(mix(seed, 1, step))

    def __len__(self) -> int:
        return self.stop - self.start

    def _mine(self, values: Tensor) -> Tensor:
        return values[self.start : self.stop].to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, (len(self), *shape)."""
        return self._mine(torch.randn(self.batch_size, *shape, generator=self._generator))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (len(self), *shape), independent."""
        return self._mine(torch.rand(self.batch_size, *shape, generator=self._generator))

    def stratified(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (len(self), *shape), spread evenly: each entry has one sample of the global batch in every
        interval [i/B, (i+1)/B). Each is uniform by itself; a loss averaged over noise levels has less variance
        (Kingma et al. 2021, Variational Diffusion Models, appendix I.1)."""
        places = torch.rand(self.batch_size, *shape, generator=self._generator).argsort(0)
        within = torch.rand(self.batch_size, *shape, generator=self._generator)
        return self._mine(((places + within) / self.batch_size).clamp(max=1 - 2**-24))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), (len(self), *shape)."""
        return self._mine(torch.randint(high, (self.batch_size, *shape), generator=self._generator))

    def indices(self, size: int) -> Tensor:
        """Rows of a data set of `size` samples, (len(self),) on the CPU: every sample once per epoch, in a new order each epoch."""
        positions = torch.arange(self.start, self.stop) + self.step * self.batch_size
        epochs = positions // size
        rows = torch.empty_like(positions)
        for epoch in epochs.unique().tolist():
            chosen = epochs == epoch
            rows[chosen] = _permutation(self.seed, epoch, size)[positions[chosen] % size]
        return rows


class Samples:
    """Batches from tensors whose rows belong together: `{name: (N, ...)}` gives `{name: (B, ...)}`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        sizes = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise DataError(f"samples: expected tensors with the same number of rows, at least one, found {sizes}")
        self.tensors = dict(tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        rows = draw.indices(len(self))
        return {name: tensor[rows] for name, tensor in self.tensors.items()}


class Pairs:
    """Batches that join separate data sets by label: `{name: (tensor (N_name, ...), labels (N_name,))}`.

    The first modality goes through its samples epoch by epoch; every other one contributes a random sample with the same label.
    The batch is `{name: (B, ...)}` plus `label`, (B,).

    Raises:
        DataError: tensors and labels differ in length, or a modality lacks a label that the first one has.
    """

    def __init__(self, sets: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        self.sets = dict(sets)
        self.first = next(iter(self.sets))
        self._groups = {name: _grouped(name, *pair) for name, pair in self.sets.items()}
        wanted = set(self.sets[self.first][1].unique().tolist())
        for name, (_, labels) in self.sets.items():
            if missing := sorted(wanted - set(labels.unique().tolist())):
                raise DataError(f"{name}: no sample with label {missing[0]}, which {self.first} has")

    def __len__(self) -> int:
        return len(self.sets[self.first][0])

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        tensor, labels = self.sets[self.first]
        rows = draw.indices(len(tensor))
        label = labels[rows].long()
        batch = {self.first: tensor[rows], "label": label}
        for name, (others, _) in self.sets.items():
            if name != self.first:
                order, starts, counts = self._groups[name]
                place = (draw.uniform().cpu().double() * counts[label]).long()
                batch[name] = others[order[starts[label] + place]]
        return batch


def _grouped(name: str, tensor: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows sorted by label, and for each label its first place among them and its number of rows."""
    if len(tensor) != len(labels) or not len(tensor):
        raise DataError(f"{name}: expected one label per sample, at least one, found {len(tensor)} samples and {len(labels)} labels")
    counts = torch.bincount(labels.long())
    return labels.long().argsort(stable=True), counts.cumsum(0) - counts, counts


def present(batch: Mapping[str, Tensor], mark: str, like: Tensor) -> Tensor:
    """Rows that the entry `mark` ("NAME_missing", True where absent) leaves, as booleans of the shape of `like`; all without the entry."""
    return ~batch[mark].bool() if mark in batch else torch.ones_like(like, dtype=torch.bool)


def draw_latents(posterior: Tensor, generator: torch.Generator) -> Tensor:
    """One draw from each posterior, means and standard deviations (N, 2, latent) -> (N, latent)."""
    mean, deviation = posterior.unbind(1)
    return mean + deviation * torch.randn(mean.shape, generator=generator)
