"""Canny's edges of pictures whose edges are known."""

from __future__ import annotations

import pytest
import torch

from polyscore.data.sketch import blur, canny
from polyscore.errors import DataError


def test_a_square_has_its_outline_and_nothing_else() -> None:
    x = torch.zeros(1, 3, 24, 24)
    x[:, :, 8:16, 8:16] = 1
    edges = canny(x)[0, 0]
    assert edges.unique().tolist() == [0.0, 1.0]
    rows, columns = edges.nonzero().T
    assert rows.min() >= 6 and rows.max() <= 17 and columns.min() >= 6 and columns.max() <= 17
    assert not edges[10:14, 10:14].any() and not canny(torch.full((1, 3, 9, 9), 0.5)).any()
    for line in (edges[12], edges[:, 12]):
        assert 2 <= int(line.sum()) <= 4


def test_weak_edges_stay_only_where_they_hang_on_strong_ones() -> None:
    x = torch.zeros(1, 1, 20, 40)
    x[..., 10:, :20] = torch.linspace(0.2, 1, 20)
    alone = torch.zeros(1, 1, 20, 40)
    alone[..., 10:, :20] = 0.3
    low, high = 0.05, 0.3
    assert canny(x, low, high)[0, 0, :, 2].any()
    assert not canny(alone, low, high).any() and canny(alone, low, low).any()


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(canny(x)[1:2], canny(x[1:2]))
    assert float(blur(torch.full((1, 2, 8, 8), 0.7), 1.5).sub(0.7).abs().max()) < 1e-6


def test_thresholds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(DataError, match="expected 0 <= low <= high"):
        canny(torch.zeros(1, 3, 8, 8), 0.3, 0.1)
