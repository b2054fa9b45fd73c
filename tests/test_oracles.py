"""The oracles themselves: densities, scores, marginals, draws and ratios against independent computations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from polyscore.errors import PolyscoreError
from polyscore.oracles import ConditionalDenoiser, ExactRatio, GaussianDenoiser, MixtureDenoiser, gaussian_product
from polyscore.paths import VE, VPSDE, Path, RectifiedFlow

PATHS: dict[str, Path] = {"x": VPSDE(), "y": RectifiedFlow()}
SIZES = {"x": 2, "y": 1}
MEANS = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 1.0]], dtype=torch.float64)
COVS = torch.stack([torch.tensor([[1.0, 0.3, 0.5], [0.3, 0.7, 0.1], [0.5, 0.1, 0.9]]), 0.4 * torch.eye(3)]).double()
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)


def law():
    return MixtureDenoiser(MEANS, COVS, PATHS, WEIGHTS, SIZES)


def states(n=4):
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(n, 2, dtype=torch.float64, generator=generator),
        "y": torch.randn(n, 1, dtype=torch.float64, generator=generator),
    }


def reference(z, t):
    """log q_t by torch.distributions."""
    (A, S), (a, s) = PATHS["x"].coefficients(t["x"]), PATHS["y"].coefficients(t["y"])
    D, N = torch.tensor([[A, A, a], [S, S, s]], dtype=torch.float64)
    parts = [MultivariateNormal(D * m, D[:, None] * C * D + torch.diag(N**2)) for m, C in zip(MEANS, COVS, strict=True)]
    flat = torch.cat([z["x"], z["y"]], 1)
    return torch.logsumexp(torch.stack([p.log_prob(flat) for p in parts], 1) + WEIGHTS.log(), 1)


@pytest.mark.parametrize("t", [{"x": 0.3, "y": 0.6}, {"x": 0.0, "y": 0.5}, {"x": 0.0, "y": 0.0}], ids=str)
def test_log_density(t) -> None:
    torch.testing.assert_close(law().log_density(states(), t), reference(states(), t))


def test_the_score_is_its_gradient() -> None:
    z, t = states(), {"x": 0.3, "y": 0.6}
    leaves = {k: v.clone().requires_grad_(True) for k, v in z.items()}
    gradient = torch.autograd.grad(reference(leaves, t).sum(), list(leaves.values()))
    found = law()(z, t)
    for name, g in zip(leaves, gradient, strict=True):
        torch.testing.assert_close(found[name].score, g, atol=1e-9, rtol=1e-9)
        A, S = PATHS[name].coefficients(t[name])
        torch.testing.assert_close(A * found[name].x0 + S * found[name].eps, z[name], atol=1e-9, rtol=1e-9)


def test_the_denoiser_is_the_best_predictor() -> None:
    """E |eps - eps_hat|^2 over draws grows when the prediction is perturbed either way, and residuals are uncorrelated with z."""
    model, t = law(), {"x": 0.4, "y": 0.4}
    z0 = model.draw(20000, torch.Generator().manual_seed(0))
    noise = {k: torch.randn(v.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for k, v in z0.items()}
    z = {k: PATHS[k].corrupt(z0[k], t[k], noise[k]) for k in z0}
    found = model(z, t)
    for name in z:
        residual = noise[name] - found[name].eps
        assert abs(float((residual * z[name]).mean())) < 0.02
        assert abs(float(residual.mean())) < 0.02


def test_times_per_row() -> None:
    z, model = states(), law()
    x, y = torch.linspace(0.1, 0.9, 4, dtype=torch.float64), torch.linspace(0.9, 0.0, 4, dtype=torch.float64)
    together = model(z, {"x": x, "y": y})
    for i in range(4):
        alone = model({k: v[i : i + 1] for k, v in z.items()}, {"x": float(x[i]), "y": float(y[i])})
        for name in z:
            torch.testing.assert_close(together[name].eps[i : i + 1], alone[name].eps)
            torch.testing.assert_close(together[name].x0[i : i + 1], alone[name].x0)


def test_covariances_as_matrices_diagonals_or_a_number() -> None:
    z, t = states(), {"x": 0.3, "y": 0.6}
    full = [
        MixtureDenoiser(MEANS, c, PATHS, WEIGHTS, SIZES)(z, t)["x"].eps for c in (0.4, torch.full((2, 3), 0.4), 0.4 * torch.eye(3)[None])
    ]
    torch.testing.assert_close(full[0], full[1])
    torch.testing.assert_close(full[0], full[2])
    with pytest.raises(PolyscoreError, match=r"covariances of shape \(2, 2\), expected a number"):
        MixtureDenoiser(MEANS, torch.ones(2, 2), PATHS, WEIGHTS, SIZES)
    with pytest.raises(PolyscoreError, match="means have 3 dimensions"):
        MixtureDenoiser(MEANS, 1.0, PATHS)


def test_marginals() -> None:
    model, z = law(), states()
    alone = model.marginal(["y"])
    assert dict(alone.paths) == {"y": PATHS["y"]}
    far = {"x": torch.zeros(4, 2, dtype=torch.float64), "y": z["y"]}
    found = MixtureDenoiser(MEANS, COVS, {"x": VE(0.01, 1e7), "y": PATHS["y"]}, WEIGHTS, SIZES)(far, {"x": 1.0, "y": 0.4})["y"]
    torch.testing.assert_close(alone({"y": z["y"]}, {"y": 0.4})["y"].eps, found.eps, atol=1e-6, rtol=1e-6)
    assert alone.marginal(["y"]).sizes == {"y": 1}


def test_draws() -> None:
    found = law().draw(20000, torch.Generator().manual_seed(0))
    flat = torch.cat([found["x"], found["y"]], 1)
    mean = WEIGHTS @ MEANS
    cov = (WEIGHTS[:, None, None] * (COVS + MEANS[:, :, None] * MEANS[:, None])).sum(0) - mean[:, None] * mean
    torch.testing.assert_close(flat.mean(0), mean, atol=0.04, rtol=0)
    torch.testing.assert_close(torch.cov(flat.T), cov, atol=0.06, rtol=0)


def test_predictions_keep_the_dtype_and_shape_of_the_states() -> None:
    model = GaussianDenoiser([0.0] * 4, 1.0, {"x": VPSDE()})
    found = model({"x": torch.zeros(3, 2, 2)}, {"x": 0.5})["x"]
    assert found.eps.shape == (3, 2, 2)
    assert found.eps.dtype == torch.float32


def test_exact_ratio_is_joint_over_bases() -> None:
    model, z, t = law(), states(), {"x": 0.3, "y": 0.6}
    apart = [model.marginal([n]).log_density({n: z[n]}, {n: t[n]}) for n in ("x", "y")]
    torch.testing.assert_close(ExactRatio.information(model)(z, t), reference(z, t) - apart[0] - apart[1])


def test_information_of_a_gaussian_pair_as_tabulated() -> None:
    """sbm-cdcd A1.5: correlation .8, t = .5, beta (.1, 5): 0.0932 - 0.1025 (a^2 + b^2) + 0.4970 a b, correlation .41245 at t."""
    path = VPSDE(0.1, 5.0)
    ratio = ExactRatio.information(GaussianDenoiser([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], {"x": path, "y": path}))

    def value(a, b):
        z = {"x": torch.tensor([[a]], dtype=torch.float64), "y": torch.tensor([[b]], dtype=torch.float64)}
        return float(ratio(z, {"x": 0.5, "y": 0.5}))

    constant = value(0.0, 0.0)
    square = value(1.0, 0.0) - constant
    assert (constant, square, value(1.0, 1.0) - constant - 2 * square) == pytest.approx((0.0932, -0.1025, 0.4970), abs=5e-5)
    assert 0.8 * path.coefficients(0.5)[0] ** 2 == pytest.approx(0.41245, abs=1e-5)


def test_conditional_rows_are_answered_by_their_own_law() -> None:
    laws = [GaussianDenoiser([m], 0.5, {"x": VPSDE()}) for m in (1.0, -1.0)]
    null = GaussianDenoiser([0.0], 2.0, {"x": VPSDE()})
    model, z = ConditionalDenoiser(laws, null), {"x": torch.randn(4, 1, dtype=torch.float64)}
    t = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=torch.float64)
    found = model(z, {"x": t}, torch.tensor([0, 1, -1, 0]))["x"].x0
    for i, own in enumerate([laws[0], laws[1], null, laws[0]]):
        torch.testing.assert_close(found[i : i + 1], own({"x": z["x"][i : i + 1]}, {"x": float(t[i])})["x"].x0)
    torch.testing.assert_close(model(z, {"x": 0.3})["x"].eps, null(z, {"x": 0.3})["x"].eps)


def test_gaussian_product() -> None:
    one = torch.ones(1, dtype=torch.float64)
    mean, cov = gaussian_product([one, -0.5 * one, 0 * one], [0.25 * one[None], 0.5 * one[None], one[None]], [1, 1, -1])
    assert (float(mean), float(cov)) == pytest.approx((0.6, 0.2))
    with pytest.raises(PolyscoreError, match="not normalisable"):
        gaussian_product([one, one], [one[None], 0.1 * one[None]], [1, -1])


def test_entropy_at_t_0_defaults_to_the_data() -> None:
    model = GaussianDenoiser([0.0], 1.0, {"x": VPSDE()})
    assert float(model.log_density({"x": torch.zeros(1, 1)})) == pytest.approx(-0.5 * math.log(2 * math.pi))
