"""Negative examples for contrast: the sequence itself out of order (intra), or another example (inter)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from polyscore.errors import DataError
from polyscore.training.draws import Draw

__all__ = ["By", "OtherExamples", "chunk_shuffle", "in_batch", "outside"]

By = Literal["label", "embedding", "batch"]


def chunk_shuffle(tokens: Tensor, uniform: Tensor) -> Tensor:
    """Cut tokens (B, L) into C chunks of floor(L / C) and put them in another order, never the same; the tail stays.

    Args:
        uniform: (B, N, C) random numbers; their order is the order of the chunks.

    Returns:
        (B, N, L).
    """
    (rows, many, chunks), length = uniform.shape, tokens.shape[1]
    if chunks < 2 or length < chunks:
        raise DataError(f"chunk shuffle: expected at least 2 chunks of {length} tokens, found {chunks}")
    size = length // chunks
    order = uniform.argsort(-1)
    same = (order == torch.arange(chunks, device=order.device)).all(-1, keepdim=True)
    order = torch.where(same, order.roll(1, -1), order)
    within = torch.arange(size, device=order.device)
    head = (order.unsqueeze(-1) * size + within).flatten(2)
    tail = torch.arange(chunks * size, length, device=order.device).expand(rows, many, -1)
    return tokens.unsqueeze(1).expand(-1, many, -1).gather(2, torch.cat([head, tail], 2))


def in_batch(tokens: Tensor, labels: Tensor, number: int) -> Tensor:
    """The next `number` rows of the batch (cyclically) with another label, (B, number, L). Results then depend on batch mates.

    Raises:
        DataError: a row has fewer than `number` rows of other labels.
    """
    size = len(tokens)
    places = (torch.arange(size)[:, None] + torch.arange(1, size)) % size
    other = labels[places] != labels[:, None]
    if bool((other.sum(1) < number).any()):
        raise DataError(
            f"negatives in the batch: expected at least {number} rows of another label for each, found {int(other.sum(1).min())}"
        )
    first = other.long().argsort(dim=1, descending=True, stable=True)[:, :number]
    return tokens[places.gather(1, first)]


def outside(uniform: Tensor, own: tuple[Tensor, Tensor], group: tuple[Tensor | int, Tensor | int]) -> Tensor:
    """Places (B, N) in a sorted list, even over the row's group less its own block in it.

    Args:
        uniform: (B, N). own, group: (first, size) of the block and of the group, (B, 1) or numbers.
    """
    (start, many), (first, size) = own, group
    place = first + (uniform * (size - many)).long()
    return place + torch.where(place >= start, many, 0)


class OtherExamples:
    """Batches `{name: (B, L), "label": (B,), "negatives": (B, N, L)}` whose negatives are other examples.

    by "label": random examples of another label. by "embedding": of `pool` random examples of another label, the N least similar
    (cosine), so that near-duplicates are left out; needs `embeddings` (size, D). by "batch": the next rows of the batch with another
    label; results then depend on batch mates. Where no label is known (None, or one for all), embeddings alone decide, and "label" is -1
    or that one. With `listed` (size, M) by that list: N of the M examples it names for each. Examples with equal tokens are never negatives
    of each other where the objective looks (it drops equal sequences).

    `more` entries, one row an example, come along. Random numbers come from the `Draw` alone, so many processes see the same.

    Raises:
        DataError: numbers of rows that differ, labels that cannot tell negatives, or embeddings that are missing.
    """

    def __init__(
        self,
        name: str,
        tokens: Tensor,
        labels: Tensor | None,
        negatives: int,
        embeddings: Tensor | None = None,
        pool: int = 32,
        more: Mapping[str, Tensor] | None = None,
        by: By | None = None,
        listed: Tensor | None = None,
    ) -> None:
        self.by: By | Literal["list"] = "list" if listed is not None else by or ("label" if embeddings is None else "embedding")
        known = torch.full((len(tokens),), -1) if labels is None else labels.long()
        if len(tokens) != len(known) or (embeddings is not None and len(embeddings) != len(tokens)):
            raise DataError(f"negatives: expected as many labels (and embeddings) as sequences, found {len(known)} for {len(tokens)}")
        if self.by == "embedding" and (embeddings is None or pool < negatives):
            raise DataError(f"negatives by embedding: expected embeddings and a pool of at least {negatives}, found {pool} of {embeddings}")
        if listed is not None and (len(listed) != len(tokens) or listed.shape[1] < negatives):
            raise DataError(f"negatives by list: expected ({len(tokens)}, {negatives} or more), found {tuple(listed.shape)}")
        self.labelled = len(known.unique()) > 1
        if self.by in ("label", "batch") and negatives and not self.labelled:
            raise DataError(f"negatives by {self.by}: expected at least two labels, found one")
        self.name, self.tokens, self.labels, self.negatives, self.pool = name, tokens, known, negatives, pool
        self.more, self.listed = dict(more or {}), listed
        self.embeddings = None if embeddings is None else torch.nn.functional.normalize(embeddings, dim=1)
        self._order = self.labels.argsort(stable=True)
        counts = torch.bincount(self.labels) if self.labelled else torch.tensor([len(known)])
        self._starts, self._counts = counts.cumsum(0) - counts, counts

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, draw: Draw) -> dict[str, Tensor]:
        rows = draw.indices(len(self))
        label = self.labels[rows]
        batch = {self.name: self.tokens[rows], "label": label} | {name: value[rows] for name, value in self.more.items()}
        if self.negatives and self.by == "batch":
            batch["negatives"] = in_batch(batch[self.name], label, self.negatives)
        elif self.negatives:
            batch["negatives"] = self.tokens[self._chosen(rows, label, draw)]
        return batch

    def _chosen(self, rows: Tensor, label: Tensor, draw: Draw) -> Tensor:
        if self.listed is not None:
            order = draw.uniform(self.listed.shape[1]).cpu().argsort(1)[:, : self.negatives]
            return self.listed[rows].gather(1, order)
        return self._by_label(label, draw, self.negatives) if self.by == "label" else self._by_embedding(rows, draw)

    def _by_label(self, label: Tensor, draw: Draw, number: int) -> Tensor:
        """Random examples (B, number) of another label."""
        own = self._starts[label][:, None], self._counts[label][:, None]
        return self._order[outside(draw.uniform(number).cpu().double(), own, (0, len(self)))]

    def _by_embedding(self, rows: Tensor, draw: Draw) -> Tensor:
        assert self.embeddings is not None
        known = self.labelled
        pool = self._by_label(self.labels[rows], draw, self.pool) if known else draw.integers(len(self), self.pool).cpu()
        alike = torch.einsum("bd,bpd->bp", self.embeddings[rows], self.embeddings[pool])
        return pool.gather(1, alike.argsort(1)[:, : self.negatives])
