"""The loop: streams, callbacks, what a run reports, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from polyscore.denoisers import Denoiser, Independent
from polyscore.errors import PolyscoreError
from polyscore.oracles import ConditionalDenoiser, GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VPSDE, RectifiedFlow
from polyscore.product import Product, Term
from polyscore.sampling import Langevin, SNRLangevin, sample

PATHS = {"x": VPSDE(), "y": RectifiedFlow()}
LAW = MixtureDenoiser([[-1.0, 0.5, 1.0], [1.0, 0.0, -1.0]], 0.2, PATHS, sizes={"x": 2, "y": 1})

RUNS = [{"solver": s} for s in ("ddpm", "ddim", "heun", "dpmpp", "dpmpp3m", "dpmpp_sde", "euler_maruyama")]
RUNS += [{"solver": "ddim", "corrector": c} for c in (Langevin(2), SNRLangevin(when="before"))]
RUNS += [{"given": {"y": torch.full((1, 1), 0.3)}, "conditioning": m} for m in ("time", "noised", "resample")]


@pytest.mark.parametrize("options", RUNS, ids=str)
def test_sample_i_depends_on_seed_and_i_only(options) -> None:
    whole = sample(LAW, 9, steps=4, seed=5, dtype=torch.float64, **options)
    for n, extra, rows in ((4, {}, slice(0, 4)), (3, {"first": 6}, slice(6, 9)), (9, {"batch_size": 2}, slice(0, 9))):
        part = sample(LAW, n, steps=4, seed=5, dtype=torch.float64, **options, **extra)
        for name in PATHS:
            torch.testing.assert_close(part[name], whole[name][rows], atol=1e-12, rtol=1e-12)
    other = sample(LAW, 9, steps=4, seed=6, dtype=torch.float64, **options)
    assert not torch.equal(other["x"], whole["x"])


def test_the_order_of_modalities_changes_nothing() -> None:
    """Streams are named: what another modality draws does not matter."""
    x, y = (GaussianDenoiser([0.5], 0.3, {name: path}) for name, path in PATHS.items())
    one, two = (sample(Independent(*parts), 4, steps=5, solver="ddpm") for parts in ((x, y), (y, x)))
    alone = sample(x, 4, steps=5, solver="ddpm")
    assert all(torch.equal(one[name], two[name]) for name in PATHS)
    assert torch.equal(alone["x"], one["x"])


def test_a_callback_sees_every_step() -> None:
    seen = []
    found = sample(LAW, 5, steps=6, batch_size=3, callback=seen.append, first=10, given={"y": torch.zeros(1, 1)})
    assert [(s.index, s.steps, s.first) for s in seen] == [(i, 6, f) for f in (10, 13) for i in range(6)]
    assert [s.t for s in seen[:6]] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert all(set(s.z) == set(s.predictions) == {"x", "y"} for s in seen)
    assert [len(s.z["x"]) for s in seen] == [3] * 6 + [2] * 6
    assert torch.equal(torch.cat([seen[5].z["x"], seen[11].z["x"]]), found["x"])
    assert torch.equal(seen[0].z["y"], torch.zeros(3, 1))


def test_a_callback_changes_nothing() -> None:
    plain, watched = sample(LAW, 3, steps=4), sample(LAW, 3, steps=4, callback=lambda step: None)
    assert torch.equal(plain["x"], watched["x"])


def test_what_a_run_reports() -> None:
    info = sample(LAW, 5, steps=4, batch_size=2, solver="heun", seed=3, given={"y": torch.zeros(1, 1)}).info
    wanted = {"n": 5, "seed": 3, "first": 0, "steps": 4, "solver": "Heun()", "grid": "uniform", "conditioning": "time", "given": ["y"]}
    assert {k: info[k] for k in wanted} == wanted
    assert (info["calls"], info["evaluations_per_sample"]) == (7, 7.0)
    assert info["seconds"] > 0
    explicit = sample(LAW, 1, grid=[1.0, 0.5, 0.1]).info
    assert (explicit["steps"], explicit["grid"], explicit["conditioning"], explicit["given"]) == (2, "explicit", None, [])


def test_conditions_are_cut_with_the_batch() -> None:
    laws = [GaussianDenoiser([m], 0.01, {"x": VPSDE()}) for m in (-2.0, 2.0)]
    model = ConditionalDenoiser(laws, laws[0])
    labels = torch.tensor([0, 1, 1, 0, 1])
    for batch in (None, 2, 1):
        found = sample(model, 5, condition=labels, steps=10, batch_size=batch)["x"]
        assert (found[:, 0] > 0).int().tolist() == labels.tolist()
        term = sample(Product([Term(model, labels, null=torch.tensor([0]))]), 5, steps=10, batch_size=batch)["x"]
        torch.testing.assert_close(term, found, atol=1e-5, rtol=1e-5)
    assert bool((sample(model, 3, condition=torch.tensor([1]), steps=10)["x"] > 0).all())


def test_conditions_of_independent_parts_are_cut_too() -> None:
    laws = [GaussianDenoiser([m], 0.01, {"x": VPSDE()}) for m in (-2.0, 2.0)]
    both = Independent(ConditionalDenoiser(laws, laws[0]), GaussianDenoiser([0.0], 1.0, {"y": RectifiedFlow()}))
    labels = torch.tensor([0, 1, 1, 0, 1])
    found = sample(both, 5, condition={0: labels}, steps=10, batch_size=2)["x"]
    assert (found[:, 0] > 0).int().tolist() == labels.tolist()


def test_dtype() -> None:
    assert sample(LAW, 1, steps=1)["x"].dtype == torch.float32
    assert sample(LAW, 1, steps=1, dtype=torch.float64)["x"].dtype == torch.float64
    wide = sample(LAW, 1, steps=1, given={"y": torch.zeros(1, 1, dtype=torch.float64)})
    assert wide["y"].dtype == torch.float32


def test_no_gradients_are_kept() -> None:
    assert not sample(LAW, 1, steps=2)["x"].requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": {"text": torch.zeros(1, 1)}}, r"given modality 'text': the model has x, y"),
        ({"given": {"x": torch.zeros(1, 3)}}, r"given modality 'x': expected shape \(4, 2\) \(or 1 row\), found \(1, 3\)"),
        ({"given": {"x": torch.zeros(3, 2)}}, r"given modality 'x': expected shape \(4, 2\) \(or 1 row\), found \(3, 2\)"),
        ({"given": {"x": torch.tensor([[1.0, math.nan]])}}, r"given modality 'x': 1 of 2 latent values are NaN or infinite"),
        ({"given": {"x": torch.full((4, 2), math.inf)}}, r"given modality 'x': 8 of 8 latent values"),
        ({"solver": "magic"}, "solver 'magic': expected one of"),
        ({"grid": "magic"}, "time grid 'magic': expected one of"),
        ({"grid": [0.1, 0.9]}, "strictly falling"),
        ({"steps": 0}, "steps is 0, expected at least 1"),
    ],
)
def test_what_is_refused(options, message) -> None:
    with pytest.raises(PolyscoreError, match=message) as caught:
        sample(LAW, 4, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("n", "batch"), [(0, None), (-1, None), (3, 0), (3, -2)])
def test_sizes_are_positive(n, batch) -> None:
    with pytest.raises(PolyscoreError, match="expected at least 1"):
        sample(LAW, n, batch_size=batch)


def test_a_denoiser_that_stops_being_finite_is_named() -> None:
    class Broken(GaussianDenoiser):
        def forward(self, z, t, condition=None):
            found = super().forward(z, t, condition)
            found["x"]._known["x0"] = found["x"].x0 * math.nan
            return found

    with pytest.raises(PolyscoreError, match="modality 'x': the sampled latent is not finite"):
        sample(Broken([0.0], 1.0, {"x": VPSDE()}), 2, steps=2)


def test_a_failed_run_leaves_no_run_behind() -> None:
    from polyscore.denoisers import current_run

    class Failing(Denoiser):
        paths, shapes = {"x": VPSDE()}, {"x": (1,)}

        def forward(self, z, t, condition=None):
            raise PolyscoreError("no")

    with pytest.raises(PolyscoreError):
        sample(Failing(), 1)
    assert current_run.get() is None
