"""Attribute F1 against scikit-learn (acceptance 8), the attack (acceptance 19), cosine similarity."""

from __future__ import annotations

import warnings

import pytest
import torch

from polyscore.errors import DataError
from polyscore.metrics.attributes import cosine_similarity, drop, fgsm, sample_f1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_f1_is_scikit_learns(share):
    from sklearn.metrics import f1_score

    draw = torch.Generator().manual_seed(0)
    predicted, truth = torch.rand(2, 300, 7, generator=draw) < share
    predicted[:5], truth[3:9] = False, False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = f1_score(truth.numpy(), predicted.numpy(), average="samples")
    assert sample_f1(predicted, truth) == pytest.approx(expected, abs=1e-12)
    assert sample_f1(predicted.reshape(300, 7, 1), truth.reshape(300, 7, 1).float()) == pytest.approx(expected, abs=1e-12)


def test_f1_refuses_unequal_shapes():
    with pytest.raises(DataError, match="one shape"):
        sample_f1(torch.zeros(3, 4), torch.zeros(3, 5))


def test_attack_moves_every_entry_by_its_size():
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.rand(6, 3, 4, generator=draw), torch.randn(3, 4, generator=draw)
    attacked = fgsm(lambda v: (v * weight).sum(), x, 0.03, limits=None)
    assert torch.allclose(attacked - x, 0.03 * weight.sign().expand_as(x), atol=1e-6)
    clamped = fgsm(lambda v: (v * weight).sum(), x, 0.6)
    assert clamped.min() == 0 and clamped.max() == 1
    assert torch.equal(clamped, fgsm(lambda v: (v * weight).sum(), x, 0.6, limits=None).clamp(0, 1))
    loss = lambda v: (v - 0.5).square().sum()  # noqa: E731
    with torch.no_grad():
        assert loss(fgsm(loss, x, 0.01)) > loss(x)


def test_drop():
    assert drop(0.8, 0.6) == pytest.approx(0.25)
    with pytest.raises(DataError, match="positive score"):
        drop(0.0, 0.1)


def test_cosine_similarity():
    a = torch.randn(5, 2, 3)
    assert cosine_similarity(a, 3 * a) == pytest.approx(1)
    assert cosine_similarity(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]])) == pytest.approx(-0.5)
