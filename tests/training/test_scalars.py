from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.training import by_level
from polyscore.training.scalars import Window, as_sums


def test_by_level_splits_the_losses():
    losses, t = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.0, 0.49, 0.5, 1.0])
    found = by_level(losses, t, 2)
    assert {k: v.tolist() for k, v in found.items()} == {"loss[0.00,0.50)": [3.0, 2.0], "loss[0.50,1.00)": [7.0, 2.0]}


def test_means_over_windows_are_exact_for_uneven_parts():
    values = torch.arange(7.0)
    window = Window()
    for part in (values[:2], values[2:]):
        _, sums = as_sums({"loss": part.mean(), "few": torch.tensor([0.0, 0.0])}, len(part))
        window.add({k: tuple(v.tolist()) for k, v in sums.items()})
    assert window.means() == {"loss": 3.0}


def test_objectives_that_give_the_wrong_thing():
    with pytest.raises(PolyscoreError, match="expected a dictionary with 'loss', found"):
        as_sums({"error": torch.zeros(())}, 2)
    with pytest.raises(PolyscoreError, match=r"'loss': expected a scalar, found shape \(2,\)"):
        as_sums(torch.zeros(2), 2)
    with pytest.raises(PolyscoreError, match=r"'a': expected a scalar or \(sum, count\), found shape \(3,\)"):
        as_sums({"loss": torch.zeros(()), "a": torch.zeros(3)}, 2)
