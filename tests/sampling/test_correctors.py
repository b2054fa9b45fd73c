"""Correctors: what they leave unchanged, what they repair, where in a step they run, and what they cost."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser, TokenTableDenoiser
from polyscore.paths import VE, VPSDE, Cosine, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.sampling import Gibbs, Langevin, SNRLangevin, Streams, Walk, make_corrector, sample
from polyscore.tokens import Absorbing

LAW = GaussianDenoiser([0.7], 0.25, {"x": VPSDE()})


def walk(law, n=4000, times=(0.5, 0.4, 0.0)):
    return Walk(law.paths, law.shapes, times, Streams(0, range(n), dtype=torch.float64))


def test_langevin_leaves_the_law_of_its_level_unchanged() -> None:
    run = walk(LAW)
    A, S = run.at("x", 0)
    mean, variance = A * 0.7, A * A * 0.25 + S * S
    z = {"x": mean + variance**0.5 * run.noise("x")}
    z = Langevin(40, 0.02)(run, z, 0, lambda z, i: LAW(z, {"x": run.times[i]}))
    assert float(z["x"].mean()) == pytest.approx(mean, abs=0.05)
    assert float(z["x"].var()) == pytest.approx(variance, rel=0.08)


def test_langevin_brings_a_wrong_state_to_the_law() -> None:
    run = walk(LAW, 2000)
    A, S = run.at("x", 0)
    z = Langevin(200, 0.05)(run, {"x": torch.full((2000, 1), 3.0, dtype=torch.float64)}, 0, lambda z, i: LAW(z, {"x": run.times[i]}))
    assert float(z["x"].mean()) == pytest.approx(A * 0.7, abs=0.08)
    assert float(z["x"].var()) == pytest.approx(A * A * 0.25 + S * S, rel=0.12)


def test_langevin_does_nothing_at_a_clean_level() -> None:
    run, z = walk(LAW, 3), {"x": torch.ones(3, 1, dtype=torch.float64)}
    assert torch.equal(Langevin(3)(run, z, 2, lambda z, i: LAW(z, {"x": 0.0}))["x"], z["x"])


def test_langevin_repairs_a_product() -> None:
    """mmdisco-unite B1.4: the sum of scores ends at variance .062; the product's is .143."""
    product = Product(
        [Term(GaussianDenoiser([m], 0.25, {"x": VPSDE()})) for m in (1.0, -0.5)], base=GaussianDenoiser([0.0], 1.0, {"x": VPSDE()})
    )
    options = {"steps": 60, "solver": "ddim", "grid": "log_snr", "dtype": torch.float64}
    plain, repaired = (sample(product, 3000, corrector=c, **options)["x"] for c in (None, Langevin(5, 0.3)))
    assert float(plain.var()) < 0.09
    assert (float(repaired.mean()), float(repaired.var())) == pytest.approx((0.2857, 0.1429), abs=0.03)


def asked(corrector, steps=3, solver="ddim"):
    """The times at which a run asks for predictions."""
    seen = []

    class Watched(GaussianDenoiser):
        def forward(self, z, t, condition=None):
            seen.append(round(t["x"], 4))
            return super().forward(z, t, condition)

    sample(Watched([0.7], 0.25, {"x": VPSDE()}), 2, steps=steps, solver=solver, corrector=corrector, grid=[0.9, 0.6, 0.3, 0.0])
    return seen


@pytest.mark.parametrize("make", [lambda when: Langevin(1, when=when), lambda when: SNRLangevin(when=when)], ids=["langevin", "snr"])
def test_the_three_places_in_a_step(make) -> None:
    assert asked(make("before")) == [0.9, 0.9, 0.6, 0.6, 0.3, 0.3]
    assert asked(make("same")) == [0.9, 0.9, 0.6, 0.6, 0.3, 0.3]
    assert asked(make("after")) == [0.9, 0.6, 0.6, 0.3, 0.3]
    assert asked(Langevin(3)) == [0.9, 0.6, 0.6, 0.6, 0.6, 0.3, 0.3, 0.3, 0.3]


def test_orders_differ_in_their_result() -> None:
    found = [sample(LAW, 5, steps=4, solver="euler_maruyama", corrector=SNRLangevin(when=w))["x"] for w in ("same", "before", "after")]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_a_run_returns_the_mean_of_its_last_noisy_operation() -> None:
    """As in the authors' samplers: no fresh noise is left in the result."""
    tight = GaussianDenoiser([0.7] * 16, 1e-8, {"x": VPSDE()})
    for corrector in (None, SNRLangevin(), Langevin(when="same")):
        seen = []
        found = sample(
            tight,
            20,
            steps=200,
            solver="euler_maruyama_even",
            corrector=corrector,
            grid="score_sde",
            callback=lambda step, seen=seen: seen.append(step.z["x"]),
            dtype=torch.float64,
        )["x"]
        left = float((seen[-1] - found).std())
        assert left == {None: pytest.approx((0.1199 / 200) ** 0.5, rel=0.2), Langevin(when="same"): 0.0}.get(corrector, left)
        assert (left > 0) is not isinstance(corrector, Langevin)


@pytest.mark.parametrize("path", [VPSDE(), Cosine(), RectifiedFlow(), VE(0.01, 30.0)], ids=lambda p: type(p).__name__)
def test_snr_langevin_runs_on_every_path(path) -> None:
    law = GaussianDenoiser([0.7] * 16, 0.25, {"x": path})
    for norm in ("sample", "batch"):
        found = sample(law, 400, steps=80, solver="ddim", corrector=SNRLangevin(0.1, when="before", norm=norm), dtype=torch.float64)["x"]
        assert (float(found.mean()), float(found.var())) == pytest.approx((0.7, 0.25), abs=0.07)


def test_the_step_of_a_lucky_sample_is_limited() -> None:
    """|n| / |g| of one sample in one dimension has no bound: its step has one."""
    ones = torch.ones(1, dtype=torch.float64)
    run = Walk(LAW.paths, LAW.shapes, [0.1 - i / 1000 for i in range(101)], Streams(0, [0]))
    S = run.at("x", 0)[1]
    assert float(SNRLangevin().step_size(run, "x", 0, ones, 1e-6 * ones)) == pytest.approx(0.5 * S * S)
    assert float(SNRLangevin(norm="batch").step_size(run, "x", 0, ones, 1e-6 * ones)) > 1e9


def test_alpha_is_1_off_the_variance_preserving_paths_and_never_negative() -> None:
    ones = torch.ones(1, dtype=torch.float64)
    for path, level, alpha in ((RectifiedFlow(), 0, 1.0), (VE(), 0, 1.0), (Cosine(), 0, 0.0), (VPSDE(0.1, 20.0), 0, 1 - 20 / 10)):
        law = GaussianDenoiser([0.0], 1.0, {"x": path})
        run = Walk(law.paths, law.shapes, [1 - i / 10 for i in range(11)], Streams(0, [0]))
        found = SNRLangevin(1.0, norm="batch").step_size(run, "x", level, ones, ones)
        assert float(found) == pytest.approx(2 * max(alpha, 0.0))


def test_norms_per_sample_make_results_independent_of_batch_mates() -> None:
    options = {"steps": 5, "solver": "euler_maruyama", "dtype": torch.float64}
    for norm, same in (("sample", True), ("batch", False)):
        corrector = SNRLangevin(norm=norm)
        whole, part = (sample(LAW, n, corrector=corrector, **options)["x"][:3] for n in (12, 3))
        assert torch.allclose(whole, part, atol=1e-12) is same


@pytest.mark.parametrize(
    ("text", "corrector"),
    [
        ("langevin", Langevin()),
        ("langevin:0.1", Langevin(size=0.1)),
        ("langevin:0.1:3:when=before", Langevin(3, 0.1, "before")),
        ("snr:0.2", SNRLangevin(0.2)),
        ("snr:norm=batch:observed=true", SNRLangevin(norm="batch", observed=True)),
        ("gibbs:2:rounds=3", Gibbs(2, 3)),
        ("none", None),
        (Langevin(3), Langevin(3)),
    ],
)
def test_correctors_by_name(text, corrector) -> None:
    assert make_corrector(text) == corrector


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gibs", "expected one of none, langevin, snr, gibbs"),
        ("gibbs:two", "sites: expected a whole number of at least 0, found 'two'"),
        ("gibbs:1.5", "expected a whole number"),
        ("langevin:", "size: expected a number of at least 0, found ''"),
        ("langevin:-1", "size: expected a number of at least 0"),
        ("langevin:nan", "expected a number"),
        ("langevin:when=never", "when: expected one of before, same, after, found 'never'"),
        ("snr:observed=maybe", "expected true or false"),
        ("langevin:colour=red", "expected at most size, steps, when, each once, found 'colour=red'"),
        ("langevin:0.1:size=0.2", "found 'size=0.2'"),
        ("none:1", "expected no values"),
    ],
)
def test_wrong_names_of_correctors(text, words) -> None:
    with pytest.raises(PolyscoreError, match=words):
        make_corrector(text)


def test_a_named_corrector_runs_and_wants_its_kind_of_modality() -> None:
    options = {"steps": 5, "seed": 1}
    found = sample(LAW, 20, corrector="langevin:0.2:2", **options)
    assert torch.equal(found["x"], sample(LAW, 20, corrector=Langevin(2, 0.2), **options)["x"])
    assert found.info["corrector"] == repr(Langevin(2, 0.2))
    with pytest.raises(PolyscoreError, match="expected a token modality"):
        sample(LAW, 2, corrector="gibbs", **options)
    with pytest.raises(PolyscoreError, match="expected a token modality"):
        sample(LAW, 2, token_solver="confidence", **options)
    tokens = TokenTableDenoiser({"word": Absorbing(2)}, {"word": torch.tensor([[0, 0], [1, 1]])})
    for name in ("snr", "langevin"):
        with pytest.raises(PolyscoreError, match="expected a Gaussian modality"):
            sample(tokens, 2, corrector=name, **options)
