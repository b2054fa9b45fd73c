"""Particles sample a composition exactly where a sum of scores does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from polyscore.denoisers import Independent, count_evaluations
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.oracles import ConditionalDenoiser, ExactRatio, GaussianDenoiser, MixtureDenoiser, gaussian_product
from polyscore.paths import VPSDE, Cosine, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import Langevin, NoisyDPMpp, Particles, sample
from polyscore.sampling.particles import systematic

RUN: dict[str, Any] = {"steps": 64, "grid": "log_snr", "dtype": torch.float64}


def expert(mean: float, variance: float, path: Any = None) -> GaussianDenoiser:
    return GaussianDenoiser([mean], variance, {"x": path or VPSDE()})


def product(paths: tuple[Any, Any, Any] = (None, None, None)) -> Product:
    """N(-1, 1) N(1, .25) / N(0, 4) = N(.6316, .2105): the first row of the note's table."""
    first, second, base = expert(-1, 1, paths[0]), expert(1, 0.25, paths[1]), expert(0, 4, paths[2])
    return Product([Term(first, has_null=False), Term(second, has_null=False)], base=base)


def moments(x: Tensor) -> tuple[float, float]:
    return float(x.mean()), float(x.var())


def test_disagreement_is_the_variance_of_the_scores_under_the_coefficients() -> None:
    """V S^2 = sum c |eps_i|^2 - |sum c eps_i|^2, against the definition; nested products agree with the flat one."""
    z, t = {"x": torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]}, {"x": 0.4}
    found = product()(z, t)["x"]
    parts = [(c, p.eps[:, 0]) for _, c, p in found.parts]
    assert sum(c for c, _ in parts) == pytest.approx(1)
    by_hand = sum(c * eps**2 for c, eps in parts) - sum(c * eps for c, eps in parts) ** 2
    torch.testing.assert_close(found.disagreement, torch.as_tensor(by_hand))
    flat = Product([Term(expert(0, 1), strength=0.3), Term(expert(1, 0.5), strength=0.3), Term(expert(-1, 2), strength=0.4)])
    inner = Product([Term(expert(0, 1), strength=0.5), Term(expert(1, 0.5), strength=0.5)])
    nested = Product([Term(inner, strength=0.6), Term(expert(-1, 2), strength=0.4)])
    torch.testing.assert_close(nested(z, t)["x"].disagreement, flat(z, t)["x"].disagreement)
    assert float(expert(0, 1)(z, t)["x"].disagreement.abs().max()) == 0


def test_a_shift_does_not_change_the_disagreement_and_rows_cut_it() -> None:
    z, t = {"x": torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]}, {"x": 0.4}
    found = product()(z, t)["x"]
    moved = found.shifted(torch.ones_like(z["x"]))
    torch.testing.assert_close(moved.disagreement, found.disagreement)
    index = torch.tensor([3, 3, 0])
    torch.testing.assert_close(moved.rows(index, z["x"][index]).disagreement, found.disagreement[index])


@pytest.mark.parametrize("paths", [(None, None, None), (RectifiedFlow(), VPSDE(), Cosine())])
def test_one_population_reaches_the_product_where_the_sum_of_scores_does_not(paths: tuple[Any, Any, Any]) -> None:
    """Mean and variance within 4 standard errors at the naive rule's own cost; the log-normaliser beside them."""
    denoiser, n = product(paths), 8000
    naive = sample(denoiser, n, solver="ddpm", **RUN)
    weighted = sample(denoiser, n, particles=1, population="run", **RUN)
    assert weighted.info["evaluations_per_sample"] == naive.info["evaluations_per_sample"]
    mean, variance = moments(weighted["x"])
    # One population of n: an effective size of about n / 3 after its resamplings.
    assert abs(mean - 0.6316) < 4 * (0.2105 / (n / 3)) ** 0.5
    assert abs(variance - 0.2105) < 4 * 0.2105 * (2 / (n / 3)) ** 0.5
    assert abs(moments(naive["x"])[0] - 0.6316) > 0.1
    facts = weighted.info["particles"]
    assert 0.2 < facts["ess_lowest"] <= 0.55 and facts["resamplings"] >= 1
    assert facts["log_normaliser"] == pytest.approx(log_normaliser(), abs=0.06)
    assert facts["approximations"] == []


def log_normaliser() -> float:
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    log = [torch.distributions.Normal(m, v**0.5).log_prob(x) for m, v in ((-1.0, 1.0), (1.0, 0.25), (0.0, 4.0))]
    return float(torch.trapezoid((log[0] + log[1] - log[2]).exp(), x).log())


def test_particles_of_each_sample_keep_samples_independent_of_their_batch() -> None:
    denoiser = product()
    options = {**RUN, "steps": 12, "particles": 4}
    whole = sample(denoiser, 6, seed=3, **options)["x"]
    parts = sample(denoiser, 6, seed=3, batch_size=4, **options)["x"]
    late = sample(denoiser, 2, seed=3, first=4, **options)["x"]
    assert torch.equal(whole, parts) and torch.equal(whole[4:], late)
    assert len(whole.unique()) == 6


def test_more_particles_a_sample_come_closer() -> None:
    gaps = []
    for count in (1, 4, 16):
        x = sample(product(), 1500, particles=count, **{**RUN, "steps": 32})["x"]
        gaps.append(abs(float(x.mean()) - 0.6316))
    assert gaps[0] > 0.12 and gaps[1] < 0.7 * gaps[0] and gaps[2] < 0.06


def test_classifier_free_guidance_of_a_mixture() -> None:
    """One expert, strength 2: p(z | c)^2 / p(z): the share of its left mode, and the variance 1 / (2 / .2 - 1 / .3) = .15 inside it."""
    laws = [MixtureDenoiser([[-1.0], [1.5]], 0.2, {"x": VPSDE()}, [0.7, 0.3])]
    null = MixtureDenoiser([[-1.0], [1.5]], 0.3, {"x": VPSDE()}, [0.4, 0.6])
    guided = Product([Term(ConditionalDenoiser(laws, null), torch.tensor(0), strength=2.0, null=torch.tensor(-1))])
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    density = (2 * laws[0].log_density({"x": x[:, None]}) - null.log_density({"x": x[:, None]})).exp()
    left = float((density * (x < 0.3)).sum() / density.sum())
    found = sample(guided, 6000, particles=1, population="run", **RUN)["x"]
    assert abs(float((found < 0.3).double().mean()) - left) < 0.03
    naive = sample(guided, 6000, solver="ddpm", **RUN)["x"]
    assert abs(float(found[found < 0.3].var()) / 0.15 - 1) < 0.12
    assert float(naive[naive < 0.3].var()) < 0.85 * 0.15


def joint() -> GaussianDenoiser:
    cov = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    return GaussianDenoiser([0.5, -0.5], cov, {"x": VPSDE(), "y": VPSDE()})


def power(w: float) -> tuple[Tensor, Tensor]:
    """Moments of p(x, y)^(1 + w) / (p(x) p(y))^w."""
    law = joint()
    mean, cov = law.mean[0], law.cov[0]
    return gaussian_product([mean, mean], [cov, torch.diag(cov.diagonal())], [1 + w, -w])


@pytest.mark.parametrize("kind", ["subset", "ratio"])
def test_several_modalities_under_subset_guidance_and_under_a_scaled_ratio(kind: str) -> None:
    law = joint()
    base = Independent(law.marginal(["x"]), law.marginal(["y"]))
    denoiser = SubsetGuided(law, 1.0) if kind == "subset" else Guided(base, ExactRatio.information(law), 2.0)
    mean, cov = power(1.0)
    found = sample(denoiser, 6000, particles=1, population="run", **RUN)
    flat = torch.cat([found["x"], found["y"]], 1)
    torch.testing.assert_close(flat.mean(0), mean, atol=0.06, rtol=0)
    torch.testing.assert_close(torch.cov(flat.T), cov, atol=0.15, rtol=0)
    naive = sample(denoiser, 6000, solver="ddpm", **RUN)
    assert float((torch.cov(torch.cat([naive["x"], naive["y"]], 1).T) - cov).abs().max()) > 0.3


def test_guidance_at_its_own_scale_needs_no_correction() -> None:
    law = joint()
    guided = Guided(Independent(law.marginal(["x"]), law.marginal(["y"])), ExactRatio.information(law), 1.0)
    facts = sample(guided, 50, particles=2, **{**RUN, "steps": 8}).info["particles"]
    assert facts["ess_lowest"] == 1 and facts["resamplings"] == 0


def test_given_modalities_stay_with_their_samples() -> None:
    law = joint()
    given = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    found = sample(SubsetGuided(law, 2.0), 5, given={"y": given}, particles=6, **{**RUN, "steps": 16})
    assert torch.equal(found["y"], given)
    with pytest.raises(PolyscoreError, match="'y' differs between samples"):
        sample(SubsetGuided(law, 2.0), 5, given={"y": given}, particles=6, population="run", **{**RUN, "steps": 4})


def test_the_noisy_solver_has_the_marginals_of_its_law() -> None:
    """Any amount of noise: N(.7, .3) comes out, to second order; no noise at all is the probability flow."""
    for noise in (0.0, 0.5, 1.0, 2.0):
        x = sample(expert(0.7, 0.3), 20000, solver=NoisyDPMpp(noise), **{**RUN, "steps": 40})["x"]
        assert abs(float(x.mean()) - 0.7) < 0.017 and abs(float(x.var()) / 0.3 - 1) < 0.045, noise


def test_systematic_resampling_rounds_the_weights() -> None:
    weights = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)
    index = systematic(weights.log(), torch.tensor([[0.3], [0.9]], dtype=torch.float64), 8)
    assert index[0].bincount(minlength=4).tolist() == [4, 2, 1, 1]
    assert index[1].bincount(minlength=4)[0] >= 7


def test_evaluations_calls_and_correctors() -> None:
    denoiser = product()
    with count_evaluations(denoiser) as seen:
        sample(denoiser, 3, particles=5, corrector=Langevin(1), **{**RUN, "steps": 4})
    assert seen.rows == 3 * 5 * 3 * (4 + 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "particles is 0"),
        ({"particles": 2, "population": "none"}, "expected sample, run or a number of samples"),
        ({"particles": 2, "solver": "heun"}, "need a solver with noise"),
        ({"particles": 2, "conditioning": "resample"}, "back in time"),
    ],
)
def test_errors_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolyscoreError, match=message):
        sample(product(), 2, **{**RUN, "steps": 3, **options})


def test_a_threshold_is_a_share() -> None:
    with pytest.raises(PolyscoreError, match="threshold is 2"):
        Particles(2, threshold=2.0)


def test_what_is_approximate_is_said() -> None:
    windowed = Product([Term(expert(0, 1), strength=2.0, window=(0.2, 1.0)), Term(expert(1, 1), strength=torch.ones(1, 1))])
    facts = sample(windowed, 2, particles=2, **{**RUN, "steps": 3}).info["particles"]
    assert ["window" in line or "mask" in line for line in facts["approximations"]] == [True, True]
