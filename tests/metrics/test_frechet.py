"""Frechet distance against closed forms and a matrix root."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polyscore.errors import DataError
from polyscore.metrics.frechet import frechet_distance


def test_equals_the_matrix_root_formula():
    linalg = pytest.importorskip("scipy.linalg")
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(200, 5)) @ draw.normal(size=(5, 5)), draw.normal(size=(150, 5)) + 1
    ca, cb = np.cov(a.T), np.cov(b.T)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * linalg.sqrtm(ca @ cb).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_one_dimension_in_closed_form():
    a = np.array([[-1.0], [1.0]])
    b = 3 * a + 2
    assert frechet_distance(a, b) == pytest.approx(2**2 + (3 - 1) ** 2 * 2)  # sample variance of (-1, 1) is 2


def test_same_set_is_zero_even_with_fewer_samples_than_dimensions():
    x = torch.randn(10, 64)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + 1) == pytest.approx(64, rel=1e-5)
    assert frechet_distance(x, torch.randn(40, 64)) > 1


def test_symmetric():
    a, b = torch.randn(30, 8), 2 * torch.randn(20, 8) + 1
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(5), torch.zeros(5, 2), "expected first features"),
        (torch.zeros(5, 2), torch.zeros(1, 2), "expected second features"),
        (torch.zeros(5, 2), torch.zeros(5, 3), "one width, found 2 and 3"),
        (torch.full((5, 2), torch.nan), torch.zeros(5, 2), "not all finite"),
    ],
)
def test_errors(a, b, message):
    with pytest.raises(DataError, match=message):
        frechet_distance(a, b)
