"""SSIM and scores of label maps against values by hand."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import DataError
from polyscore.metrics.pictures import map_scores, ssim


def test_ssim_is_one_for_copies_and_falls_with_noise() -> None:
    x = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = [ssim(x, (x + s * noise).clamp(0, 1)) for s in (0.0, 0.1, 0.5)]
    assert found[0] == pytest.approx(1) and 1 > found[1] > found[2] > 0


def test_ssim_of_flat_pictures_is_the_term_of_their_means() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.7)
    assert ssim(a, b) == pytest.approx((2 * 0.35 + 1e-4) / (0.25 + 0.49 + 1e-4), abs=1e-6)
    with pytest.raises(DataError, match="one shape"):
        ssim(a, b[..., :8])


def test_map_scores_by_hand() -> None:
    wanted = torch.tensor([[[0, 0, 1, 1]]])
    found = torch.tensor([[[0, 1, 1, 1]]])
    miou, f1 = map_scores(found, wanted, 3)
    assert miou == pytest.approx((1 / 2 + 2 / 3) / 2) and f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert map_scores(wanted, wanted, 2) == (1.0, 1.0)
    with pytest.raises(DataError, match="one shape"):
        map_scores(found, wanted[..., :2], 3)
