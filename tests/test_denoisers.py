"""Denoisers: an expert on its own path, at equal SNR on another, side by side with others, and its calls counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyscore.denoisers import Expert, Independent, OnPath, count_evaluations, current_run
from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, Cosine, Linear, Path, RectifiedFlow
from polyscore.predictions import KINDS, TokenPrediction
from polyscore.product import Product, Term
from polyscore.sampling import sample

PATHS = [VPSDE(), Linear(), Cosine(), RectifiedFlow(), RectifiedFlow(3.0), VE(0.002, 80.0)]


class Oracle(nn.Module):
    """A network that answers with one form of an exact denoiser, and keeps what it was asked."""

    def __init__(self, law, kind: str) -> None:
        super().__init__()
        self.law, self.kind, self.asked = law, kind, []

    def forward(self, z, t, condition=None):
        self.asked.append((t, condition))
        return {name: getattr(p, self.kind) for name, p in self.law(z, t).items()}


def mixture(path, name: str = "x"):
    return MixtureDenoiser([[0.5, -1.0], [-1.5, 0.25]], 0.3, {name: path}, weights=[0.3, 0.7])


def states(path, t: float, dtype=torch.float64):
    A, S = path.coefficients(t)
    generator = torch.Generator().manual_seed(0)
    return A * torch.randn(8, 2, dtype=dtype, generator=generator) + S * torch.randn(8, 2, dtype=dtype, generator=generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_an_expert_is_read_in_its_own_parametrisation(path, kind) -> None:
    law = mixture(path)
    expert = Expert(Oracle(law, kind), {"x": path}, {"x": (2,)}, kind)
    for t in (0.1, 0.9):
        z = {"x": states(path, t)}
        found, exact = expert(z, {"x": t})["x"], law(z, {"x": t})["x"]
        torch.testing.assert_close(found.eps, exact.eps, atol=1e-7, rtol=1e-6)
        torch.testing.assert_close(found.x0, exact.x0, atol=1e-6, rtol=1e-5)


def test_an_expert_gets_one_clock_per_modality_and_row() -> None:
    paths: dict[str, Path] = {"x": VPSDE(), "y": RectifiedFlow()}
    law = MixtureDenoiser([[0.0, 1.0]], 0.5, paths)
    network = Oracle(law, "eps")
    expert = Expert(network, paths, {"x": (1,), "y": (1,)}, {"x": "eps", "y": "eps"})
    z = {"x": torch.randn(3, 1), "y": torch.randn(3, 1)}
    expert(z, {"x": 0.25, "y": torch.tensor([0.1, 0.2, 0.3])}, "red")
    clocks, condition = network.asked[0]
    torch.testing.assert_close(clocks["x"], torch.full((3,), 0.25))
    torch.testing.assert_close(clocks["y"], torch.tensor([0.1, 0.2, 0.3]))
    assert clocks["x"].dtype == torch.float32
    assert condition == "red"
    expert({k: v.double() for k, v in z.items()}, {"x": 0.25, "y": 1.0})
    assert network.asked[1][0]["x"].dtype == torch.float64


def test_an_expert_reads_tokens_as_log_probabilities() -> None:
    class Tokens(nn.Module):
        def forward(self, z, t, condition=None):
            return {"text": torch.zeros(2, 4, 3)}

    expert = Expert(Tokens(), {"text": VPSDE()}, {"text": (4,)}, "logits")
    found = expert({"text": torch.zeros(2, 4, dtype=torch.long)}, {"text": 0.5})["text"]
    assert isinstance(found, TokenPrediction)
    torch.testing.assert_close(found.log_probs.exp(), torch.full((2, 4, 3), 1 / 3))


def test_an_unknown_parametrisation_is_refused() -> None:
    with pytest.raises(PolyscoreError, match="'noise' is not one of eps, x0, v, score, flow, logits"):
        Expert(nn.Identity(), {"x": VPSDE()}, {"x": (1,)}, "noise")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("new", PATHS, ids=repr)
@pytest.mark.parametrize("own", PATHS, ids=repr)
def test_equal_snr_gives_the_same_eps(own, new, kind) -> None:
    """An expert shown on another path answers as the exact law on that path does, to 1e-5 (Unite and Conquer, check 14)."""
    shown = OnPath(Expert(Oracle(mixture(own), kind), {"x": own}, {"x": (2,)}, kind), {"x": new})
    exact = mixture(new)
    low, high = max(own.log_snr(1.0), new.log_snr(1.0), -8.0), 10.0
    for level in torch.linspace(low, high, 5).tolist():
        t = new.time_of(level)
        z = {"x": states(new, t)}
        found, wanted = shown(z, {"x": t})["x"], exact(z, {"x": t})["x"]
        torch.testing.assert_close(found.eps, wanted.eps, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.x0, wanted.x0, atol=1e-5, rtol=1e-4)
        rows = torch.full((8,), t, dtype=torch.float64)
        torch.testing.assert_close(shown(z, {"x": rows})["x"].eps, wanted.eps, atol=1e-5, rtol=1e-5)


def test_on_path_at_both_ends() -> None:
    for own in PATHS:
        for new in PATHS:
            shown = OnPath(mixture(own), {"x": new})
            z = {"x": torch.randn(4, 2, dtype=torch.float64)}
            assert torch.equal(shown(z, {"x": 0.0})["x"].eps, torch.zeros(4, 2, dtype=torch.float64))
            torch.testing.assert_close(shown(z, {"x": 0.0})["x"].x0, z["x"])
            assert bool(torch.isfinite(shown(z, {"x": 1.0})["x"].x0).all())
            assert bool(torch.isfinite(shown(z, {"x": torch.ones(4)})["x"].eps).all())


def test_on_path_leaves_the_same_path_alone() -> None:
    law = mixture(VPSDE())
    shown = OnPath(law, {"x": VPSDE(), "other": VE()})
    z = {"x": states(VPSDE(), 0.5)}
    assert torch.equal(shown(z, {"x": 0.5})["x"].eps, law(z, {"x": 0.5})["x"].eps)
    assert list(shown.paths) == ["x"]


def test_on_path_samples_the_same_law() -> None:
    shown = OnPath(GaussianDenoiser([1.0], 0.25, {"x": VPSDE()}), {"x": RectifiedFlow()})
    z = sample(shown, 3000, steps=30, dtype=torch.float64)["x"]
    assert float(z.mean()) == pytest.approx(1.0, abs=0.04)
    assert float(z.var()) == pytest.approx(0.25, abs=0.02)


def test_on_path_refuses_tokens() -> None:
    class Other(Path):
        def corrupt(self, z0, t, noise):
            return z0

        def start(self, t, name, shape, noise):
            return noise.uniform(name, shape)

    with pytest.raises(PolyscoreError, match="token path cannot be exchanged"):
        OnPath(mixture(VPSDE()), {"x": Other()})
    law = mixture(VPSDE())
    law.paths = {"x": Other()}
    with pytest.raises(PolyscoreError, match="'x': expected a Gaussian path, found Other"):
        law.coefficients("x", {"x": 0.5})


def test_independent_parts_see_only_their_own() -> None:
    x, y = mixture(VPSDE()), mixture(RectifiedFlow(), "y")
    both = Independent(x, y)
    z = {"x": states(VPSDE(), 0.4), "y": states(RectifiedFlow(), 0.7)}
    t = {"x": 0.4, "y": 0.7}
    found = both(z, t)
    assert torch.equal(found["x"].eps, x({"x": z["x"]}, {"x": 0.4})["x"].eps)
    assert torch.equal(found["y"].eps, y({"y": z["y"]}, {"y": 0.7})["y"].eps)
    assert both.shapes == {"x": (2,), "y": (2,)}
    other = both(z | {"y": z["y"] + 5}, t)
    assert torch.equal(other["x"].eps, found["x"].eps)


def test_independent_hands_each_part_its_condition() -> None:
    networks = [Oracle(mixture(VPSDE(), name), "eps") for name in "ab"]
    both = Independent(*(Expert(net, net.law.paths, net.law.shapes) for net in networks))
    z, t = {"a": torch.randn(2, 2), "b": torch.randn(2, 2)}, {"a": 0.5, "b": 0.5}
    both(z, t, {0: "left"})
    both(z, t, "all")
    assert [net.asked[0][1] for net in networks] == ["left", None]
    assert [net.asked[1][1] for net in networks] == ["all", "all"]


def test_independent_refuses_a_modality_twice() -> None:
    with pytest.raises(PolyscoreError, match="modality 'x' belongs to two parts"):
        Independent(mixture(VPSDE()), mixture(VE()))


def test_evaluations_are_counted_at_the_leaves() -> None:
    x, y = mixture(VPSDE()), mixture(VPSDE(), "y")
    both = Independent(OnPath(x, {"x": VE()}), Product([Term(y, strength=1.0)]))
    with count_evaluations(both) as found:
        both({"x": torch.randn(5, 2), "y": torch.randn(5, 2)}, {"x": 0.5, "y": 0.5})
    assert (found.calls, found.rows) == (2, 10)
    both({"x": torch.randn(5, 2), "y": torch.randn(5, 2)}, {"x": 0.5, "y": 0.5})
    assert found.calls == 2


def test_no_run_outside_sampling() -> None:
    assert current_run.get() is None
    seen = []
    sample(mixture(VPSDE()), 2, steps=3, callback=lambda step: seen.append(current_run.get().step))
    assert seen == [0, 1, 2]
    assert current_run.get() is None
