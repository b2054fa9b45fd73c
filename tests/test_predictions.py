"""Predictions: every form from every other, at both ends of time, in floats and per-sample coefficients."""

from __future__ import annotations

import itertools

import pytest
import torch

from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, Cosine, RectifiedFlow
from polyscore.predictions import KINDS, Prediction, TokenPrediction

PATHS = [VPSDE(), Cosine(), RectifiedFlow(), VE(0.01, 20.0)]
PAIRS = list(itertools.product(KINDS, KINDS))


def truth(path, t: float):
    law = MixtureDenoiser([[0.5, -1.0], [-1.5, 0.25]], 0.3, {"x": path}, weights=[0.3, 0.7])
    A, S = path.coefficients(t)
    z = A * torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + S
    return law({"x": z}, {"x": t})["x"], z, A, S


@pytest.mark.parametrize(("source", "wanted"), PAIRS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_every_form_gives_every_other(path, source, wanted) -> None:
    for t in (0.02, 0.5, 0.98):
        exact, z, A, S = truth(path, t)
        found = Prediction.of(source, getattr(exact, source), z, A, S)
        torch.testing.assert_close(getattr(found, wanted), getattr(exact, wanted), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(("source", "wanted"), PAIRS)
def test_rows_have_their_own_coefficients(source, wanted) -> None:
    path, times = VPSDE(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    A, S = path.coefficients(times)
    z, value = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = getattr(Prediction.of(source, value, z, A, S), wanted)
    for i in range(3):
        alone = getattr(Prediction.of(source, value[i : i + 1], z[i : i + 1], float(A[i]), float(S[i])), wanted)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-12, rtol=1e-10)


def test_forms_satisfy_their_definitions() -> None:
    p, z, A, S = truth(VPSDE(), 0.4)
    torch.testing.assert_close(A * p.x0 + S * p.eps, z)
    torch.testing.assert_close(p.v, A * p.eps - S * p.x0)
    torch.testing.assert_close(p.flow, p.eps - p.x0)
    torch.testing.assert_close(p.score, -p.eps / S)


def test_the_score_is_the_gradient_of_the_log_density() -> None:
    law = MixtureDenoiser([[0.5], [-1.5]], 0.3, {"x": VPSDE()})
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_(True)
    (gradient,) = torch.autograd.grad(law.log_density({"x": z}, {"x": 0.4}).sum(), z)
    torch.testing.assert_close(law({"x": z.detach()}, {"x": 0.4})["x"].score, gradient, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize(("source", "wanted"), PAIRS)
@pytest.mark.parametrize(("A", "S"), [(1.0, 0.0), (0.0, 1.0)], ids=["clean", "noise"])
@pytest.mark.parametrize("per_sample", [False, True], ids=["float", "rows"])
def test_both_ends_of_time_are_finite(source, wanted, A, S, per_sample) -> None:
    z, value = torch.randn(2, 3, 2, dtype=torch.float64)
    a, s = (torch.full((3,), A, dtype=torch.float64), torch.full((3,), S, dtype=torch.float64)) if per_sample else (A, S)
    found = getattr(Prediction.of(source, value, z, a, s), wanted)
    assert found.shape == z.shape
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("source", KINDS)
def test_a_clean_state_is_its_own_x0(source) -> None:
    z = torch.randn(3, 2)
    value = {"eps": torch.zeros(3, 2), "x0": z, "v": torch.zeros(3, 2), "score": torch.zeros(3, 2), "flow": -z}[source]
    found = Prediction.of(source, value, z, 1.0, 0.0)
    assert torch.equal(found.x0, z)
    assert torch.equal(found.eps, torch.zeros(3, 2))


@pytest.mark.parametrize("source", ["x0", "v", "flow"])
def test_pure_noise_keeps_what_the_network_knows(source) -> None:
    """At A = 0 the noise is the state and x0 is the network's own; eps and score say nothing of x0, which is then 0."""
    z, x0 = torch.randn(2, 3, 2)
    value = {"x0": x0, "v": -x0, "flow": z - x0}[source]
    found = Prediction.of(source, value, z, 0.0, 1.0)
    torch.testing.assert_close(found.eps, z)
    torch.testing.assert_close(found.x0, x0)
    assert torch.equal(Prediction.from_eps(z, z, 0.0, 1.0).x0, torch.zeros(3, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_shifted_adds_to_the_score(kind) -> None:
    p, z, A, S = truth(RectifiedFlow(), 0.6)
    g = torch.randn_like(z)
    found = Prediction.of(kind, getattr(p, kind), z, A, S).shifted(g)
    torch.testing.assert_close(found.score, p.score + g)
    torch.testing.assert_close(found.eps, p.eps - S * g)
    torch.testing.assert_close(found.x0, p.x0 + S * S / A * g)
    torch.testing.assert_close(found.v, p.v - S * (A + S * S / A) * g)
    torch.testing.assert_close(found.flow, p.flow - S / A * (A + S) * g)


def test_shifted_at_pure_noise_keeps_x0() -> None:
    z, x0, g = torch.randn(3, 4, 2)
    for A in (0.0, torch.zeros(4)):
        found = Prediction.from_v(-x0, z, A, 1.0 if isinstance(A, float) else torch.ones(4)).shifted(g)
        torch.testing.assert_close(found.x0, x0)
        torch.testing.assert_close(found.eps, z - g)


@pytest.mark.parametrize("kind", KINDS)
def test_moved_says_the_same_at_another_scale(kind) -> None:
    p, z, A, S = truth(VPSDE(), 0.5)
    moved = Prediction.of(kind, getattr(p, kind), z, A, S).moved(2 * z, 2 * A, 2 * S)
    torch.testing.assert_close(moved.eps, p.eps)
    torch.testing.assert_close(moved.x0, p.x0)
    torch.testing.assert_close(moved.score, p.score / 2)
    torch.testing.assert_close(moved.v, 2 * p.v)


def test_predictions_keep_the_dtype_of_the_state() -> None:
    A, S = VPSDE().coefficients(torch.tensor([0.5, 0.6], dtype=torch.float64))
    z = torch.randn(2, 3)
    for kind in KINDS:
        assert Prediction.of("v", torch.randn(2, 3), z, A, S).__getattribute__(kind).dtype == torch.float32


def test_named_constructors() -> None:
    z, value = torch.randn(2, 3, 2)
    for kind in KINDS:
        named = getattr(Prediction, f"from_{kind}")(value, z, 0.6, 0.8)
        assert getattr(named, kind) is value
        torch.testing.assert_close(named.x0, Prediction.of(kind, value, z, 0.6, 0.8).x0)


def test_a_linear_gaussian_denoiser_is_linear() -> None:
    """x0 = m + A v (z - A m) / (A^2 v + S^2), by hand."""
    path = RectifiedFlow()
    A, S = path.coefficients(0.3)
    z = torch.tensor([[1.0]], dtype=torch.float64)
    found = GaussianDenoiser([0.5], 0.2, {"x": path})({"x": z}, {"x": 0.3})["x"]
    assert float(found.x0) == pytest.approx(0.5 + A * 0.2 * (1 - A * 0.5) / (A * A * 0.2 + S * S))


def test_token_predictions_are_normalised_in_wide_numbers() -> None:
    logits = torch.randn(2, 3, 5).half() * 10
    found = TokenPrediction.from_logits(logits).log_probs
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 3))
    assert TokenPrediction.from_logits(logits.double()).log_probs.dtype == torch.float64
