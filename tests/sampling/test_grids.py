"""Time grids: their ends, their spacing, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.paths import VE, VPSDE, Cosine, Linear, RectifiedFlow
from polyscore.sampling import make_grid

PATHS = [VPSDE(), Linear(), Cosine(), RectifiedFlow(), VE(0.01, 30.0)]


@pytest.mark.parametrize("kind", ["uniform", "log_snr", "karras"])
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_times_fall_to_0(kind, path, steps) -> None:
    times = make_grid(kind, steps, path)
    assert len(times) == steps + 1
    assert times[-1] == 0.0
    assert 0.9 < times[0] <= 1
    assert all(b < a for a, b in itertools.pairwise(times))


def test_uniform_is_uniform() -> None:
    assert make_grid("uniform", 4, None) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_log_snr_spacing_is_equal() -> None:
    path = VPSDE()
    levels = [path.log_snr(t) for t in make_grid("log_snr", 11, path)[:-1]]
    gaps = [b - a for a, b in itertools.pairwise(levels)]
    assert gaps == pytest.approx([gaps[0]] * 10, rel=1e-6)
    assert (levels[0], levels[-1]) == (pytest.approx(-10.0), pytest.approx(10.0))


def test_karras_spacing_is_equation_5() -> None:
    path = VE(0.002, 80.0)
    sigmas = [path.coefficients(t)[1] for t in make_grid("karras", 10, path)[:-1]]
    ramp = torch.linspace(0, 1, 10, dtype=torch.float64)
    largest = path.coefficients(1.0)[1]
    wanted = (largest ** (1 / 7) + ramp * (0.01 ** (1 / 7) - largest ** (1 / 7))) ** 7
    assert sigmas == pytest.approx(wanted.tolist(), rel=1e-6)


def test_explicit_times() -> None:
    assert make_grid([0.9, 0.5, 0.1], 99, None) == [0.9, 0.5, 0.1]
    assert make_grid(torch.tensor([0.5, 0.25]), 1, None) == [0.5, 0.25]  # type: ignore[arg-type]


@pytest.mark.parametrize("times", [[], [0.5], [0.1, 0.5], [0.5, 0.5], [1.5, 0.0], [0.5, -0.1], [math.nan, 0.0], [1.0, math.nan]], ids=str)
def test_times_that_do_not_fall_are_refused(times) -> None:
    with pytest.raises(PolyscoreError, match="strictly falling times"):
        make_grid(times, 1, None)


def test_unknown_names_and_no_steps_are_refused() -> None:
    with pytest.raises(PolyscoreError, match="time grid 'cosine': expected one of uniform, log_snr, centred, karras, score_sde or a list"):
        make_grid("cosine", 5, VPSDE())
    with pytest.raises(PolyscoreError, match="steps is 0, expected at least 1"):
        make_grid("uniform", 0, VPSDE())
