"""Steered particles: nothing to weigh for Gaussians, exact weights where the fit is poor, and no field where there are too few."""

from __future__ import annotations

import pytest
import torch

from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.sampling import NoisyDPMpp, Particles, sample
from polyscore.sampling.steering import Field, fit_field

RUN = {"steps": 64, "grid": "centred", "dtype": torch.float64, "solver": NoisyDPMpp(3.0)}


def product(path) -> Product:
    """N(-1, 1) N(1, .25) / N(0, 4) = N(.6316, .2105)."""
    laws = [GaussianDenoiser([m], v, {"x": path}) for m, v in ((-1.0, 1.0), (1.0, 0.25), (0.0, 4.0))]
    return Product([Term(laws[0], has_null=False), Term(laws[1], has_null=False)], base=laws[2])


@pytest.mark.parametrize("path", [VPSDE(), RectifiedFlow(), VE(0.01, 50.0)], ids=repr)
def test_gaussians_are_steered_with_nothing_left_to_weigh(path) -> None:
    plain, steered = (sample(product(path), 2000, particles=Particles(1, "run", 0.5, steer=s), **RUN) for s in (False, True))
    assert plain.info["particles"]["ess_lowest"] < 0.7
    assert steered.info["particles"]["ess_lowest"] > 0.98 and steered.info["particles"]["resamplings"] == 0
    assert steered.info["evaluations_per_sample"] == plain.info["evaluations_per_sample"]
    x = steered["x"]
    assert float(x.mean()) == pytest.approx(0.6316, abs=4 * (0.2105 / 2000) ** 0.5)
    assert float(x.var()) == pytest.approx(0.2105, abs=4 * 0.2105 * (2 / 2000) ** 0.5)


def test_log_normalisers_agree_with_and_without() -> None:
    found = [sample(product(VPSDE()), 4000, particles=Particles(1, "run", 0.5, steer=s), **RUN).info["particles"] for s in (False, True)]
    assert found[1]["log_normaliser"] == pytest.approx(found[0]["log_normaliser"], abs=0.06)


def test_weights_stay_exact_where_no_linear_drift_fits() -> None:
    """Guidance of strength 2 of a mixture of two: the share of its left mode."""
    law = MixtureDenoiser([[-1.0], [1.5]], 0.2, {"x": VPSDE()}, [0.7, 0.3])
    null = MixtureDenoiser([[-1.0], [1.5]], 0.3, {"x": VPSDE()}, [0.4, 0.6])
    guided = Product([Term(law, strength=2.0, has_null=False)], base=null)
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    density = (2 * law.log_density({"x": x[:, None]}) - null.log_density({"x": x[:, None]})).exp()
    left = float((density * (x < 0.3)).sum() / density.sum())
    found = sample(guided, 6000, particles=Particles(1, "run", 0.5, steer=True), **RUN)["x"]
    assert abs(float((found < 0.3).double().mean()) - left) < 0.03


def test_a_fit_removes_a_quadratic_growth() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[1.0, 0.4], [0.0, 0.7]], dtype=torch.float64)
    z = torch.randn(4000, 2, generator=generator, dtype=torch.float64) @ mix
    score = -z @ torch.linalg.inv(mix.T @ mix)
    psi = 0.02 * z[:, 0] - 0.01 * z[:, 0] * z[:, 1] + 0.015 * z[:, 1].square()
    field = fit_field(z, psi, score, torch.ones(4000, dtype=torch.float64))
    assert field is not None
    rest = psi + field.pull(z, score, torch.ones(2, dtype=torch.float64))
    assert float(rest.var()) < 1e-3 * float(psi.var())
    noise = torch.randn(4000, generator=generator, dtype=torch.float64)
    useless = fit_field(z[:40], noise[:40], score[:40], torch.ones(40, dtype=torch.float64))
    assert useless is None or isinstance(useless, Field)


def test_few_particles_are_left_alone() -> None:
    options = {**RUN, "steps": 8, "seed": 1}
    plain, steered = (sample(product(VPSDE()), 3, particles=Particles(4, "sample", 0.5, steer=s), **options)["x"] for s in (False, True))
    assert torch.equal(plain, steered)
