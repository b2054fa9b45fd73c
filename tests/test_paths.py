"""Every path: its ends, its log-SNR and inverse, its derivatives, its process, and the tables of the papers."""

from __future__ import annotations

import math

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VE, VPSDE, Cosine, Linear, RectifiedFlow, ScaledLinear, Tabulated, VariancePreserving, expand
from polyscore.sampling import Streams, sample
from polyscore.spec import from_spec, to_spec

PATHS = [
    Linear(),
    ScaledLinear(),
    Cosine(),
    VPSDE(),
    VPSDE(1, 5),
    RectifiedFlow(),
    RectifiedFlow(3.0),
    VE(),
    Tabulated([0.9, 0.5, 0.1, 0.0]),
]
TIMES = torch.tensor([0.0013, 0.0513, 0.2004, 0.4987, 0.7513, 0.9304, 0.9987], dtype=torch.float64)
everywhere = pytest.mark.parametrize("path", PATHS, ids=repr)


@everywhere
def test_clean_end_is_clean(path) -> None:
    assert path.coefficients(0.0) == (1.0, 0.0)
    assert path.log_snr(0.0) == math.inf
    assert path.time_of(math.inf) == 0.0


@everywhere
def test_noise_end(path) -> None:
    A, S = path.coefficients(1.0)
    assert 0 <= A <= 1
    assert S > 0
    assert path.time_of(path.log_snr(1.0)) == pytest.approx(1.0, abs=1e-9)
    assert path.time_of(-math.inf) == 1.0
    assert math.isfinite(path.drift(0.999)) and path.diffusion(0.999) >= 0


@everywhere
def test_time_of_inverts_log_snr(path) -> None:
    torch.testing.assert_close(path.time_of(path.log_snr(TIMES)), TIMES, atol=1e-7, rtol=0)
    assert [path.time_of(path.log_snr(float(t))) for t in TIMES] == pytest.approx(TIMES.tolist(), abs=1e-7)


@everywhere
def test_log_snr_falls(path) -> None:
    levels = path.log_snr(torch.linspace(0, 1, 257, dtype=torch.float64))
    assert bool((levels.diff() < 0).all())


@everywhere
def test_floats_and_tensors_agree(path) -> None:
    A, S = path.coefficients(TIMES)
    dA, dS = path.derivatives(TIMES)
    for i, t in enumerate(TIMES.tolist()):
        assert path.coefficients(t) == (float(A[i]), float(S[i]))
        assert path.derivatives(t) == (float(dA[i]), float(dS[i]))
        assert path.log_snr(t) == pytest.approx(float(path.log_snr(TIMES)[i]), rel=1e-12)
    half = path.coefficients(TIMES.float())[0]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), path.coefficients(TIMES.float().double())[0], atol=1e-6, rtol=0)


@everywhere
def test_derivatives_are_finite_differences(path) -> None:
    step = 1e-6
    (A1, S1), (A0, S0) = path.coefficients(TIMES + step), path.coefficients(TIMES - step)
    dA, dS = path.derivatives(TIMES)
    torch.testing.assert_close(dA, (A1 - A0) / (2 * step), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dS, (S1 - S0) / (2 * step), atol=1e-5, rtol=1e-4)


@everywhere
def test_drift_and_diffusion_give_the_marginals(path) -> None:
    """A' = f A and (S^2)' = 2 f S^2 + g^2, the moments of dz = f z dt + g dW."""
    for t in TIMES.tolist():
        (A, S), (dA, dS) = path.coefficients(t), path.derivatives(t)
        if A < 1e-6:
            continue
        f, g2 = path.drift(t), path.diffusion(t)
        assert f * A == pytest.approx(dA, rel=1e-6, abs=1e-9)
        assert 2 * f * S * S + g2 == pytest.approx(2 * S * dS, rel=1e-6, abs=1e-9)


@everywhere
def test_corrupt_mixes_signal_and_noise(path) -> None:
    z0, noise = torch.randn(7, 2, 3), torch.randn(7, 2, 3)
    A, S = path.coefficients(TIMES)
    found = path.corrupt(z0, TIMES, noise)
    for i, t in enumerate(TIMES.tolist()):
        torch.testing.assert_close(found[i], float(A[i]) * z0[i] + float(S[i]) * noise[i], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(path.corrupt(z0[i], t, noise[i]), found[i], atol=1e-5, rtol=1e-5)
    assert torch.equal(path.corrupt(z0, 0.0, noise), z0)


@everywhere
def test_start_has_the_moments_of_unit_data(path) -> None:
    z = path.start(1.0, "x", (400,), Streams(0, range(50), dtype=torch.float64))
    A, S = path.coefficients(1.0)
    assert float(z.var() / (A * A + S * S)) == pytest.approx(1.0, abs=0.05)


@everywhere
def test_sampling_a_gaussian_ends_at_its_moments(path) -> None:
    law = GaussianDenoiser([0.7], 0.25, {"x": path})
    z = sample(law, 4000, steps=40, grid="log_snr", solver="dpmpp", dtype=torch.float64)["x"]
    A, S = path.coefficients(1.0)
    shrink = 0.25 / (A * A * 0.25 + S * S)  # what is left of a start that is not the law's own, N(0, A^2 + S^2)
    assert float(z.mean()) == pytest.approx(0.7 * (1 - A * shrink**0.5), abs=0.03)
    assert float(z.var()) == pytest.approx(shrink * (A * A + S * S), abs=0.03)


@everywhere
def test_a_path_survives_its_spec(path) -> None:
    again = from_spec(to_spec(path))
    assert again == path
    assert hash(again) == hash(path)
    assert again.coefficients(0.3) == path.coefficients(0.3)
    assert len(repr(path)) < 120


def test_paths_differ_by_class_and_arguments() -> None:
    assert len(set(PATHS)) == len(PATHS)
    assert VPSDE(0.1, 5) != VPSDE(0.1, 20)
    assert Linear() != ScaledLinear()


@pytest.mark.parametrize(
    ("beta", "a", "s"), [((0.1, 5), 0.27943, 0.96017), ((1, 5), 0.22313, 0.97479), ((0.1, 20), 0.00657, 0.99998)], ids=str
)
def test_vpsde_ends_as_tabulated(beta, a, s) -> None:
    """Score-Based Multimodal Autoencoder: a_T and sigma_T of its three settings, to 1e-5."""
    A, S = VPSDE(*beta).coefficients(1.0)
    assert pytest.approx((a, s), abs=1e-5) == (A, S)


@pytest.mark.parametrize("path", [p for p in PATHS if isinstance(p, VariancePreserving)], ids=repr)
def test_variance_is_preserved(path) -> None:
    A, S = path.coefficients(torch.linspace(0, 1, 101, dtype=torch.float64))
    torch.testing.assert_close(A * A + S * S, torch.ones_like(A), atol=1e-12, rtol=0)


def test_linear_schedule_is_ddpms() -> None:
    """sqrt(alpha_bar) of training step i sits at t = (i + 1) / T; MMDisCo's toy ends at alpha_bar = .00635."""
    path = Linear(steps=500)
    alphas = (1 - torch.linspace(1e-4, 0.02, 500, dtype=torch.float64)).cumprod(0)
    for i in (0, 1, 250, 499):
        t = path.time_of_index(i)
        assert path.index_of(t) == pytest.approx(i)
        assert path.coefficients(t)[0] ** 2 == pytest.approx(float(alphas[i]), rel=1e-12)
    assert path.coefficients(1.0)[0] ** 2 == pytest.approx(0.00635, abs=5e-6)


def test_rectified_flow_is_straight_and_shifts() -> None:
    assert RectifiedFlow().coefficients(0.25) == (0.75, 0.25)
    u = 3 * 0.5 / (1 + 2 * 0.5)
    assert RectifiedFlow(3.0).coefficients(0.5) == pytest.approx((1 - u, u))


def test_cosine_ends_in_pure_noise() -> None:
    assert Cosine().coefficients(1.0) == (0.0, 1.0)
    assert Cosine().coefficients(0.5)[0] == pytest.approx(math.cos(0.508 / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2))


def test_ve_keeps_the_signal() -> None:
    A, S = VE(0.01, 50).coefficients(1.0)
    assert A == 1.0
    assert pytest.approx(math.sqrt(50**2 - 0.01**2)) == S


@pytest.mark.parametrize("table", [[], [0.5, 0.6], [1.0, 0.5], [0.5, 0.5], [0.5, -0.1], [0.5, math.nan]], ids=str)
def test_a_table_must_fall(table) -> None:
    with pytest.raises(PolyscoreError, match="strictly falling"):
        Tabulated(table)


def test_expand_shapes_a_value_per_sample() -> None:
    like = torch.zeros(3, 2, 5, dtype=torch.float32)
    assert expand(0.5, like) == 0.5
    found = expand(torch.ones(3, dtype=torch.float64), like)
    assert found.shape == (3, 1, 1)
    assert found.dtype == torch.float32
