"""Pairwise energies: the closed form they converge to, which pairs count, and guidance that does not depend on batch mates."""

from __future__ import annotations

import itertools

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Run, current_run
from polyscore.errors import DataError, PolyscoreError
from polyscore.guided import Guided
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE, Linear
from polyscore.ratios.energy import PairEnergy
from polyscore.sampling import sample
from polyscore.training import Draw, TrainConfig, fit
from polyscore.training.energy import EnergyObjective, Strangers

SHAPES = {"a": (3,), "b": (4,), "c": (1,)}
SIZES = {"a": 3, "b": 4, "c": 1}


def energy(**options) -> PairEnergy:
    """An untrained energy whose last layer is not 0."""
    torch.manual_seed(0)
    found = PairEnergy(SHAPES, width=16, **options)
    torch.nn.init.normal_(found.last.weight)
    return found.eval()


def oracle(path) -> GaussianDenoiser:
    return GaussianDenoiser(torch.zeros(8), 1.0, dict.fromkeys(SHAPES, path), SIZES)


def states(rows: int = 5) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, *shape, generator=draw) for name, shape in SHAPES.items()}


def gaussian_pairs(n: int, rho: float) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, n, 1, generator=draw)
    return {"a": first, "b": rho * first + (1 - rho**2) ** 0.5 * second}


def test_energy_of_a_gaussian_pair_is_its_mutual_information(tmp_path):
    """rho = 0.8 at t = 0.5 of VP-SDE(0.1, 5): PMI = 0.0932 - 0.1025 (a^2 + b^2) + 0.4970 a b, within 5 %."""
    torch.manual_seed(0)
    network = PairEnergy({"a": (1,), "b": (1,)}, VPSDE(0.1, 5.0), width=16)
    config = TrainConfig(steps=400, batch_size=2048, lr=1e-2, ema=0.95, warmup=20, checkpoint_every=5000, log_every=500)
    objective = EnergyObjective(observed=0.0, window=(0.49, 0.51))
    fit(network, Strangers(gaussian_pairs(200_000, 0.8)), objective, config, out=tmp_path, progress=False)
    a, b = torch.meshgrid(torch.linspace(-1.5, 1.5, 13), torch.linspace(-1.5, 1.5, 13), indexing="ij")
    terms = torch.stack([torch.ones_like(a), a**2 + b**2, a * b], -1).reshape(-1, 3)
    truth = torch.tensor([0.0932, -0.1025, 0.4970])
    with torch.no_grad():
        found = network({"a": a.reshape(-1, 1), "b": b.reshape(-1, 1)}, {"a": 0.5, "b": 0.5})
    wrong = (found - terms @ truth).square().mean().sqrt() / (terms @ truth).square().mean().sqrt()
    assert wrong < 0.05
    assert torch.linalg.lstsq(terms, found[:, None]).solution[2, 0] == pytest.approx(0.497, rel=0.05)


def test_pairs_that_count():
    names = list(SHAPES)
    plain, every, one, total = energy(), energy(pairs="all"), energy(pairs="random"), energy(reduction="sum")
    assert plain.choose(names, []) == {("a", "b"): 0.5, ("a", "c"): 0.5, ("b", "c"): 0.5}
    assert plain.choose(names, ["b"]) == {("a", "b"): 1.0, ("b", "c"): 1.0}
    assert plain.choose(names, ["a", "b"]) == {("a", "c"): 0.5, ("b", "c"): 0.5}
    assert plain.choose(names, names) == {}
    assert every.choose(names, ["a", "b"]) == {("a", "c"): 0.5, ("b", "c"): 0.5}
    assert every.choose(names, ["b"]) == dict.fromkeys(itertools.combinations(names, 2), 0.5)
    assert total.choose(names, ["a", "b"]) == {("a", "c"): 1.0, ("b", "c"): 1.0}
    seen = set()
    for step in range(20):
        token = current_run.set(Run(step=step))
        chosen = one.choose(names, ["b"])
        current_run.reset(token)
        assert list(chosen.values()) == [1.0]
        seen |= set(chosen)
    assert seen == {("a", "b"), ("b", "c")}


def test_value_is_minus_the_weighted_sum_of_energies():
    found, z, t = energy(), states(), {"a": 0.0, "b": 0.4, "c": 0.4}
    u = found.features(z, t)
    by_hand = -(found.energies([u["a"]], [u["b"]]) + found.energies([u["a"]], [u["c"]]))[0]
    assert torch.allclose(found(z, t), by_hand)
    tensors = {name: torch.full((5,), value) for name, value in t.items()}
    assert torch.allclose(found(z, tensors), by_hand)
    assert not found(z, dict.fromkeys(z, 0.0)).any()
    assert torch.allclose(energy()({k: z[k] for k in "ab"}, t), -found.energies([u["a"]], [u["b"]])[0])


def test_guidance_is_per_sample():
    """Acceptance 4: an item's result depends neither on the batch's size nor on the other items."""
    base = oracle(VPSDE())
    guided = Guided(base, energy(), scale=1000 / 256)
    alone = guided(states(1), dict.fromkeys(SHAPES, 0.5))
    z = states(1)
    z = {name: torch.cat([value, torch.randn(6, *SHAPES[name])]) for name, value in z.items()}
    among = guided(z, dict.fromkeys(SHAPES, 0.5))
    for name in SHAPES:
        assert torch.allclose(alone[name].eps, among[name].eps[:1], atol=1e-5)
    given = {"b": states(6)["b"]}
    whole, parts = (sample(guided, 6, given=given, steps=4, seed=2, batch_size=size) for size in (6, 2))
    assert torch.allclose(whole["a"], parts["a"], atol=1e-4)


def test_reference_scale_is_the_batch_mean_times_256():
    """The authors take the gradient of the mean over a batch of 256 and scale it by 1000."""
    found, z, t = energy(), states(256), {"a": 0.0, "b": 0.5, "c": 0.5}
    leaf = z["c"].clone().requires_grad_(True)
    (reference,) = torch.autograd.grad(1000 * found(z | {"c": leaf}, t).mean(), leaf)
    assert torch.allclose(reference, 1000 / 256 * found.gradient(z, t, names=["c"])["c"], rtol=1e-4, atol=1e-6)


def test_objective_at_chance_and_its_options():
    data = {name: torch.randn(64, *shape) for name, shape in SHAPES.items()}
    data["a"] = torch.stack([data["a"], torch.ones_like(data["a"])], 1)  # posterior means and deviations
    torch.manual_seed(0)
    network = PairEnergy(SHAPES, width=8)
    for options in ({}, {"pairs": "one"}, {"negatives": "noise"}, {"negatives": "both"}):
        value = EnergyObjective(**options)(network, Strangers(data)(Draw(0, 3, 16)), Draw(0, 3, 16))
        assert value["loss"].item() == pytest.approx(2 * torch.log(torch.tensor(2.0)).item(), rel=1e-5)
        assert value["loss"].requires_grad


def test_strangers():
    labels = torch.arange(90) % 3
    plain = Strangers({"x": torch.arange(90.0)[:, None]})
    checked = Strangers({"x": torch.arange(90.0)[:, None]}, labels)
    counts = torch.zeros(90)
    for step in range(200):
        batch = checked(Draw(0, step, 45))
        own, other = batch["x"][:, 0].long(), batch["x_other"][:, 0].long()
        assert (labels[own] != labels[other]).all()
        counts += torch.bincount(other, minlength=90)
    assert counts.min() > 50  # each of 90 rows about 100 times
    batch = plain(Draw(0, 0, 45))
    assert (labels[batch["x"][:, 0].long()] == labels[batch["x_other"][:, 0].long()]).any()
    with pytest.raises(DataError, match="two classes"):
        Strangers({"x": torch.zeros(4, 1)}, torch.zeros(4))


def test_saved_and_checked_against_the_paths(tmp_path):
    found = energy(pairs="all")
    save_module(found, tmp_path / "energy")
    again = load_module(tmp_path / "energy", PairEnergy)
    z, t = states(), dict.fromkeys(SHAPES, 0.3)
    assert torch.equal(found(z, t), again(z, t)) and again.pairs == "all"
    other = oracle(Linear())
    with pytest.raises(PolyscoreError, match="was trained on VPSDE"):
        Guided(other, found)


@pytest.mark.parametrize("negatives", ["permuted", "noise", "both"])
def test_what_is_missing_carries_no_loss(negatives):
    """Filler in place of missing latents, NaN among it, changes neither the loss nor its gradient; complete tuples are as before."""
    network, objective = energy(), EnergyObjective(negatives=negatives)
    data = {name: torch.randn(64, *shape, generator=torch.Generator().manual_seed(3)) for name, shape in SHAPES.items()}
    gone = torch.arange(64) % 3 == 0

    def told(filler, marked):
        filled = data | {"b": torch.where(gone[:, None], filler, data["b"])}
        batch = Strangers(filled | ({"b_missing": gone} if marked else {}))(Draw(0, 1, 32))
        loss = objective(network, batch, Draw(0, 1, 32))["loss"]
        return torch.cat([loss[None], *(g.flatten() for g in torch.autograd.grad(loss, list(network.parameters())))])

    zeros, large, nothing = (told(filler, True) for filler in (0.0, 50.0, float("nan")))
    assert torch.equal(zeros, large) and torch.equal(zeros, nothing) and zeros.isfinite().all()
    assert not torch.equal(told(0.0, False), told(50.0, False))


def test_tuples_without_a_pair_still_train_the_others():
    """The loss of each tuple is a mean over the pairs it has: one that has a and c counts the pair (a, c) alone."""
    network, data = energy(), states(16)
    batch = Strangers(data)(Draw(0, 0, 16))
    marks = {"b_missing": torch.ones(16), "b_missing_other": torch.ones(16)}
    objective = EnergyObjective(observed=0.0)
    found = objective(network, batch | marks, Draw(0, 0, 16))["loss"]
    draw = Draw(0, 0, 16)
    t = dict.fromkeys(SHAPES, draw.stratified())
    for _ in SHAPES:
        draw.uniform()
    own = network.features({n: network.path.corrupt(batch[n], t[n], draw.normal(*SHAPES[n])) for n in SHAPES}, t)
    other = network.features({n: network.path.corrupt(batch[f"{n}_other"], t[n], draw.normal(*SHAPES[n])) for n in SHAPES}, t)
    right, wrong = (network.energies([own["a"]], [part["c"]]) for part in (own, other))
    torch.testing.assert_close(found, torch.nn.functional.softplus(right).mean() + torch.nn.functional.softplus(-wrong).mean())
