"""How observed modalities enter a run: the default is exact, the named modes show what they say."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VPSDE, RectifiedFlow
from polyscore.sampling import sample

COV = [[1.0, 0.9], [0.9, 1.0]]
PATHS = {"x": VPSDE(), "y": VPSDE()}
LAW = GaussianDenoiser([0.0, 0.0], COV, PATHS)
GIVEN = {"y": torch.full((1, 1), 1.5, dtype=torch.float64)}


class Watched(GaussianDenoiser):
    """Keeps the observed states and times of every call."""

    def __init__(self) -> None:
        super().__init__([0.0, 0.0], COV, PATHS)
        self.seen = []

    def forward(self, z, t, condition=None):
        self.seen.append((z["y"].clone(), t["y"], t["x"]))
        return super().forward(z, t, condition)


def watched(mode, steps=4, n=2000, **options):
    law = Watched()
    found = sample(law, n, given=GIVEN, steps=steps, conditioning=mode, dtype=torch.float64, **options)
    assert torch.equal(found["y"], GIVEN["y"].expand(n, 1))
    return law.seen, found["x"]


def test_by_default_the_observed_sits_clean_at_time_0() -> None:
    seen, _ = watched("time")
    assert all(torch.equal(y, GIVEN["y"].expand(2000, 1)) and ty == 0.0 for y, ty, _ in seen)
    assert [tx for *_, tx in seen] == [1.0, 0.75, 0.5, 0.25]


def test_clean_and_scaled_show_it_at_the_common_time() -> None:
    for mode in ("clean", "scaled"):
        for y, ty, tx in watched(mode)[0]:
            A, S = PATHS["y"].coefficients(tx)
            assert ty == tx
            torch.testing.assert_close(y, (1.0 if mode == "clean" else A + S) * GIVEN["y"].expand(2000, 1))


def test_noised_draws_it_afresh_at_every_evaluation() -> None:
    seen, _ = watched("noised", solver="heun")
    for y, ty, tx in seen:
        A, S = PATHS["y"].coefficients(tx)
        assert ty == tx
        assert (float(y.mean()), float(y.std())) == pytest.approx((A * 1.5, S), abs=0.08)
    assert not torch.equal(seen[0][0], seen[1][0])


@pytest.mark.parametrize("solver", ["dpmpp", "dpmpp3m", "dpmpp_sde", "heun", "ddpm", "euler_maruyama"])
def test_resample_repeats_every_step_but_the_last(solver) -> None:
    seen, x = watched("resample", n=8, solver=solver, resamplings=3)
    assert bool(torch.isfinite(x).all())
    times = [tx for *_, tx in seen]
    once = {"heun": 2}.get(solver, 1)
    assert times.count(0.5) >= 3 * once
    assert len(times) == {"heun": 3 * 2 * 3 + 3}.get(solver, 4 * 3)


def test_the_default_is_exact_and_the_others_are_biased() -> None:
    """Truth: mean 1.35, variance 0.19 (sbm-cdcd A1.4); resampling repairs most of the bias of noised."""
    moments = {m: watched(m, 50, 3000, grid="log_snr", solver="ddim")[1] for m in ("time", "clean", "noised", "resample")}
    means = {m: float(x.mean()) for m, x in moments.items()}
    assert means["time"] == pytest.approx(1.35, abs=0.03)
    assert float(moments["time"].var()) == pytest.approx(0.19, abs=0.03)
    assert means["noised"] < means["clean"] < 1.3
    assert abs(means["resample"] - 1.35) < 0.5 * abs(means["noised"] - 1.35)


def test_a_mixture_is_conditioned_on_its_component() -> None:
    law = MixtureDenoiser([[-2.0, -2.0], [2.0, 2.0]], 0.05, {"x": VPSDE(), "y": RectifiedFlow()})
    for sign in (-1.0, 1.0):
        found = sample(law, 200, given={"y": torch.full((1, 1), 2 * sign)}, steps=20)["x"]
        assert bool((found.sign() == sign).all())


def test_each_sample_its_own_observation_in_any_batches() -> None:
    given = {"y": torch.linspace(-2, 2, 7)[:, None]}
    for mode in ("time", "noised"):
        whole, cut = (sample(LAW, 7, given=given, steps=5, conditioning=mode, batch_size=b)["x"] for b in (None, 3))
        torch.testing.assert_close(whole, cut, atol=1e-6, rtol=1e-6)
    assert bool((sample(LAW, 7, given=given, steps=10, seed=2)["x"].diff(dim=0).mean() > 0.2).all())


def test_everything_given_is_returned() -> None:
    given = {"x": torch.ones(2, 1), "y": torch.zeros(2, 1)}
    found = sample(LAW, 2, given=given, steps=2)
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(PolyscoreError, match="conditioning 'hard': expected one of time, clean, scaled, noised, resample"):
        sample(LAW, 1, given=GIVEN, conditioning="hard")  # type: ignore[arg-type]
