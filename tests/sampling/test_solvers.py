"""Solvers on closed forms: where they end, how fast they converge, what they do at both ends of time."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, Cosine, Linear, RectifiedFlow
from polyscore.sampling import DDIM, DPMpp, EulerMaruyama, Heun, make_solver, sample
from polyscore.sampling.solvers import NoisyDPMpp

NAMES = ["ddpm", "ddim", "euler", "heun", "dpmpp", "dpmpp2m", "dpmpp3m", "dpmpp3m_full", "dpmpp_sde", "euler_maruyama"]
PATHS = [VPSDE(), Linear(), Cosine(), RectifiedFlow(), VE(0.01, 30.0)]
N = 3000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_a_gaussian_is_sampled_with_its_moments(path, name) -> None:
    law = GaussianDenoiser([0.7], 0.25, {"x": path})
    grid = "uniform" if name == "euler_maruyama" else "log_snr"
    found = sample(law, N, steps=100, solver=name, grid=grid, seed=1, dtype=torch.float64)["x"]
    assert float(found.mean()) == pytest.approx(0.7, abs=3 * math.sqrt(0.25 / N) + 0.01)
    assert float(found.var()) == pytest.approx(0.25, abs=3 * 0.25 * math.sqrt(2 / N) + 0.012)


@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_is_sampled_with_its_weights(name) -> None:
    law = MixtureDenoiser([[-2.0, 0.0], [2.0, 1.0]], [[0.1, 0.2], [0.3, 0.05]], {"x": VPSDE()}, weights=[0.3, 0.7])
    found = sample(law, N, steps=60, solver=name, grid="uniform" if name == "euler_maruyama" else "log_snr", dtype=torch.float64)["x"]
    left = found[:, 0] < 0
    assert float(left.double().mean()) == pytest.approx(0.3, abs=0.03)
    for inside, mean, variance in ((left, [-2.0, 0.0], [0.1, 0.2]), (~left, [2.0, 1.0], [0.3, 0.05])):
        assert found[inside].mean(0).tolist() == pytest.approx(mean, abs=0.05)
        assert found[inside].var(0).tolist() == pytest.approx(variance, rel=0.2)


def ends(solver, steps, path=None, low=-6.0, high=4.0):
    """Largest error at log-SNR `high` of the probability flow from given noise at `low`, which is affine for a Gaussian."""
    path = path or VPSDE()
    law = GaussianDenoiser([0.7], 0.1, {"x": path})
    grid = path.time_of(torch.linspace(low, high, steps + 1, dtype=torch.float64)).tolist()
    (A, S), (a, s) = path.coefficients(grid[0]), path.coefficients(grid[-1])
    start = math.hypot(A, S) * noise(8)
    exact = a * 0.7 + (start - A * 0.7) * math.sqrt((a * a * 0.1 + s * s) / (A * A * 0.1 + S * S))
    found = sample(law, 8, steps=steps, solver=solver, grid=grid, dtype=torch.float64)["x"]
    return float((found - exact).abs().max())


def noise(n):
    from polyscore.sampling import Streams

    return Streams(0, range(n), dtype=torch.float64).normal("x", (1,))


@pytest.mark.parametrize(
    ("solver", "order"),
    [(DDIM(), 1), (DPMpp(1), 1), (DPMpp(2), 2), (NoisyDPMpp(0.0), 2), (DPMpp(3), 2.25), (DPMpp(3, full=True), 3), (Heun(), 2)],
    ids=str,
)
def test_order_of_convergence(solver, order) -> None:
    errors = [ends(solver, steps) for steps in (40, 80, 160)]
    rates = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert rates[-1] == pytest.approx(order, abs=0.35), (errors, rates)


@pytest.mark.parametrize("path", [RectifiedFlow(), VE(0.01, 30.0)], ids=lambda p: type(p).__name__)
def test_higher_order_is_better_on_every_path(path) -> None:
    errors = [ends(solver, 160, path) for solver in (DPMpp(1), DPMpp(2), DPMpp(3, full=True))]
    assert errors[0] > 100 * errors[1]
    assert errors[1] > 3 * errors[2]


def test_the_probability_flow_of_the_reverse_sde_is_first_order() -> None:
    law = GaussianDenoiser([0.7], 0.1, {"x": VPSDE()})
    start, shrink = noise(8), math.sqrt(0.1)

    def error(steps):
        found = sample(law, 8, steps=steps, solver=EulerMaruyama(stochastic=False), dtype=torch.float64)["x"]
        return float((found - (0.7 + start * shrink)).abs().max())

    assert error(400) < 0.6 * error(200) < 0.4 * error(100)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_few_steps_are_finite(path, name, steps) -> None:
    law = GaussianDenoiser([0.7], 0.25, {"x": path})
    for grid in ("uniform", "log_snr", "karras"):
        found = sample(law, 4, steps=steps, solver=name, grid=grid)["x"]
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "dpmpp", "dpmpp3m", "dpmpp_sde"])
def test_one_step_is_the_prediction_itself(name) -> None:
    law = GaussianDenoiser([0.7], 0.25, {"x": VPSDE()})
    found = sample(law, 4, steps=1, solver=name, dtype=torch.float64)["x"]
    torch.testing.assert_close(found, law({"x": noise(4)}, {"x": 1.0})["x"].x0, atol=1e-5, rtol=1e-5)


def test_ddim_is_ddpm_without_noise_and_eta_is_between() -> None:
    law = GaussianDenoiser([0.0], 1.0, {"x": VPSDE()})
    flow = sample(law, 50, steps=10, solver="ddim", dtype=torch.float64)["x"]
    spread = [float((sample(law, 50, steps=10, solver=DDIM(e), dtype=torch.float64)["x"] - flow).std()) for e in (0.0, 0.5, 1.0)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_ddpm_draws_the_posterior() -> None:
    """Mean and variance of q(z' | z, x0) with x0 known: a law without spread."""
    path, times = Linear(), [0.6, 0.3, 0.0]
    law = GaussianDenoiser([0.5], 1e-12, {"x": path})
    seen = []
    sample(law, 4000, solver="ddpm", grid=times, callback=lambda step: seen.append(step.z["x"]), dtype=torch.float64)
    (A, S), (a, s) = path.coefficients(0.6), path.coefficients(0.3)
    step, beta = A / a, 1 - (A / a) ** 2
    start = math.hypot(A, S) * noise(4000)
    mean = a * beta / S**2 * 0.5 + step * s**2 / S**2 * start
    residual = seen[0] - mean
    assert float(residual.mean()) == pytest.approx(0, abs=0.02)
    assert float(residual.var()) == pytest.approx(beta * s**2 / S**2, rel=0.08)


def test_heun_asks_twice_and_the_others_once() -> None:
    law = GaussianDenoiser([0.0], 1.0, {"x": VPSDE()})
    calls = {name: sample(law, 2, steps=6, solver=name).info["calls"] for name in NAMES}
    assert calls.pop("heun") == 11
    assert set(calls.values()) == {6}


def test_several_modalities_on_their_own_paths() -> None:
    law = GaussianDenoiser([0.5, -0.5], [[1.0, 0.8], [0.8, 1.0]], {"x": VPSDE(), "y": RectifiedFlow()})
    for name in ("dpmpp", "heun", "ddpm", "dpmpp_sde"):
        both = torch.cat(list(sample(law, N, steps=60, solver=name, dtype=torch.float64).values()), 1)
        assert both.mean(0).tolist() == pytest.approx([0.5, -0.5], abs=0.08)
        assert float(torch.corrcoef(both.T)[0, 1]) == pytest.approx(0.8, abs=0.03)


def test_names() -> None:
    assert make_solver("ddpm") == DDIM(1.0)
    assert make_solver("dpmpp3m") == DPMpp(3)
    solver = Heun()
    assert make_solver(solver) is solver
    with pytest.raises(PolyscoreError, match="solver 'rk4': expected one of ddpm, ddim"):
        make_solver("rk4")


def test_each_modality_may_have_a_solver_of_its_own():
    joint = GaussianDenoiser([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], {"x": VPSDE(), "y": VPSDE()})
    mixed = sample(joint, 50, steps=6, solver={"x": "ddim", "y": "dpmpp_sde"})
    alone = {name: sample(joint, 50, steps=6, solver=name) for name in ("ddim", "dpmpp_sde")}
    assert torch.equal(mixed["x"], alone["ddim"]["x"])
    assert torch.equal(mixed["y"], alone["dpmpp_sde"]["y"])
    with pytest.raises(PolyscoreError, match="asks twice a step"):
        sample(joint, 2, steps=2, solver={"x": "heun", "y": "ddim"})
    with pytest.raises(PolyscoreError, match="none for modality 'y'"):
        sample(joint, 2, steps=2, solver={"x": "ddim"})
    sample(joint, 2, steps=2, solver={"x": "dpmpp", "y": "dpmpp_sde"}, particles=2)
    with pytest.raises(PolyscoreError, match="one solver for all modalities"):
        sample(joint, 2, steps=2, solver={"x": "ddim", "y": "dpmpp_sde"}, particles=2)
