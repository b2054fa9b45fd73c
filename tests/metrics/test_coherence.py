"""Coherence on a hand-made example (acceptance check 7)."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import DataError
from polyscore.metrics.coherence import agreement, class_shares, conditional_coherence, pooled

# Three samples of three modalities: all agree; the first differs from the other two; all differ.
HEARD = {"a": torch.tensor([1, 5, 0]), "b": torch.tensor([1, 2, 7]), "c": torch.tensor([1, 2, 8])}


def test_agreement_of_all():
    assert agreement(HEARD) == agreement(HEARD, reference="b") == pytest.approx(1 / 3)


def test_majority_and_modality_0_differ():
    assert agreement(HEARD, level=2) == pytest.approx(2 / 3)
    assert agreement(HEARD, level=2, reference="a") == pytest.approx(1 / 3)
    assert agreement(HEARD, level=2, reference="c") == pytest.approx(2 / 3)
    assert agreement(HEARD, level=1, reference="a") == 1


def test_conditional():
    assert conditional_coherence(HEARD, torch.tensor([1, 2, 0])) == pytest.approx({"a": 2 / 3, "b": 2 / 3, "c": 2 / 3})
    assert conditional_coherence({"labels": torch.tensor([1, 2])}, torch.tensor([1, 3])) == {"labels": 0.5}


def test_pooled_counts_items_not_batches():
    assert pooled({"full": (0.5, 100), "last": (1.0, 1)}) == pytest.approx(51 / 101)
    with pytest.raises(DataError, match="found none"):
        pooled({})


def test_class_shares():
    shares = class_shares(torch.tensor([0, 0, 2, -1]), classes=3)
    assert shares.tolist() == [0.5, 0, 0.25]


def test_errors():
    with pytest.raises(DataError, match="same number of labels"):
        agreement({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(DataError, match="expected one of a, b, c, found 'd'"):
        agreement(HEARD, reference="d")
    with pytest.raises(DataError, match="expected 1 to 3, found 4"):
        agreement(HEARD, level=4)
