"""Coherence: do the modalities of a generated sample show the same thing? On labels that judges gave."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polyscore.errors import DataError

__all__ = ["agreement", "class_shares", "conditional_coherence", "pooled"]

Labels = Mapping[str, Tensor]


def conditional_coherence(predicted: Labels, labels: Tensor) -> dict[str, float]:
    """Share of generated items of each modality that the judge gives the label of the condition: {modality: share}."""
    _checked({**predicted, "condition's labels": labels})
    return {name: _share(p == labels) for name, p in predicted.items()}


def agreement(predicted: Labels, level: int | None = None, reference: str | None = None) -> float:
    """Share of samples in which at least `level` modalities (default: all) get the same label.

    Without a reference the largest agreeing group counts (majority). With a reference modality only those that agree with it do,
    itself included: with the first modality this is the unconditional coherence of the score-based multimodal autoencoder's code.
    At the default level both are the same. Collapse to one class inflates the number: show `class_shares` beside it.

    Raises:
        DataError: unequal numbers of labels, an unknown reference, or a level outside 1 to the number of modalities.
    """
    rows = torch.stack(list(_checked(predicted).values()), 1)
    level = rows.shape[1] if level is None else level
    if not 1 <= level <= rows.shape[1]:
        raise DataError(f"coherence level: expected 1 to {rows.shape[1]}, found {level}")
    if reference is None:
        group = (rows[:, :, None] == rows[:, None, :]).sum(2).amax(1)
    elif reference in predicted:
        group = (rows == predicted[reference][:, None]).sum(1)
    else:
        raise DataError(f"reference modality: expected one of {', '.join(predicted)}, found {reference!r}")
    return _share(group >= level)


def pooled(shares: Mapping[str, tuple[float, int]]) -> float:
    """Average of {name: (share, count)} weighted by the counts, so that unequal batches or subsets count by their items.

    Raises:
        DataError: no items at all.
    """
    total = sum(count for _, count in shares.values())
    if total <= 0:
        raise DataError("pooled coherence: expected at least one item, found none")
    return sum(share * count for share, count in shares.values()) / total


def class_shares(labels: Tensor, classes: int = 10) -> Tensor:
    """Share of each class among labels (N,), (classes,): the balance of a generator. Labels outside 0..classes-1 count for none."""
    known = labels[(labels >= 0) & (labels < classes)]
    return torch.bincount(known, minlength=classes).double() / max(1, len(labels))


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())


def _checked(predicted: Labels) -> Labels:
    sizes = {name: len(p) for name, p in predicted.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise DataError(f"coherence: expected the same number of labels, at least one, for each modality, found {sizes}")
    return predicted
