"""Fakes, the discriminator's objective and its training, on closed-form experts."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from polyscore.checkpoint import load_module
from polyscore.denoisers import Expert, Independent
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.guided import Guided
from polyscore.networks.ratio import RatioMLP, RatioTwins
from polyscore.networks.timed import ToyDiscriminator
from polyscore.oracles import ExactRatio, GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VPSDE, Linear
from polyscore.ratios.base import SumRatio
from polyscore.ratios.discriminator import ConditionGuidedRatio, Discriminator
from polyscore.sampling import sample
from polyscore.training import Draw, TrainConfig
from polyscore.training.discriminator import DiscriminatorObjective, RealAndFake, drop_condition, snap
from polyscore.training.fakes import load_fakes, make_fakes
from polyscore.training.join import held_out_losses, train_discriminator

PATHS = {"x": VPSDE(), "y": VPSDE()}
JOINT = GaussianDenoiser([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], PATHS)
BASE = Independent(JOINT.marginal(["x"]), JOINT.marginal(["y"]))
TINY = TrainConfig(steps=30, batch_size=64, lr=3e-3, ema=0.9, warmup=2, checkpoint_every=10, log_every=10)


def real(n, seed=0):
    return {k: v.float() for k, v in JOINT.draw(n, torch.Generator().manual_seed(seed)).items()}


def fakes(folder, n=200, **options):
    return make_fakes(BASE, n, folder, shard=80, steps=5, **options)


class Exact(nn.Module):
    """The exact log ratio where the network would be, with one trainable number."""

    def __init__(self):
        super().__init__()
        self.ratio, self.gain = ExactRatio.information(JOINT), nn.Parameter(torch.ones(()))

    def forward(self, z, t, condition=None):
        return self.gain * self.ratio(z, t).float()


def test_fakes_resume_to_the_same_and_refuse_others(tmp_path):
    whole = fakes(tmp_path / "a")
    assert whole.states["x"].shape == (200, 1)
    fakes(tmp_path / "b", 80)
    (tmp_path / "b" / "fakes-00000.safetensors").unlink()
    again = fakes(tmp_path / "b")
    assert all(torch.equal(again.states[k], v) for k, v in whole.states.items())
    direct = sample(BASE, 200, steps=5, seed=0)
    assert torch.equal(direct["x"], whole.states["x"])
    with pytest.raises(PolyscoreError, match="made otherwise: seed"):
        fakes(tmp_path / "a", seed=3)
    with pytest.raises(PolyscoreError, match="made otherwise: sampling"):
        make_fakes(BASE, 200, tmp_path / "a", shard=80, steps=6)
    (tmp_path / "a" / "fakes-00001.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"fakes-00001.*truncated"):
        load_fakes(tmp_path / "a")


def test_fakes_keep_their_conditions(tmp_path):
    label = torch.arange(200) % 3
    made = fakes(tmp_path / "a", condition=label)
    assert torch.equal(made.condition, label)
    texts = fakes(tmp_path / "b", condition={"x": torch.randn(200, 4)})
    assert texts.condition["x"].shape == (200, 4)
    with pytest.raises(PolyscoreError, match="condition"):
        fakes(tmp_path / "a", condition=label + 1)


def test_exact_ratio_is_a_minimum_of_the_loss():
    """The gradient by a gain on the exact log ratio vanishes at 1, and both losses are lower there than at 0.5 and 1.5."""
    module = Discriminator(Exact(), PATHS)
    data = RealAndFake(real(20000), {"x": real(20000, 1)["x"], "y": real(20000, 2)["y"]})
    objective = DiscriminatorObjective(BASE)
    values = {}
    for gain in (0.5, 1.0, 1.5):
        module.network.gain.data.fill_(gain)
        values[gain] = held_out_losses(module, objective, data, rounds=6, batch_size=8000)
    for name in ("bce", "denoise"):
        assert values[1.0][name] < min(values[0.5][name], values[1.5][name])


def test_loss_is_what_it_says():
    module = Discriminator(Exact(), PATHS)
    batch = {"x": real(8)["x"], "y": real(8)["y"], "fake.x": real(8, 1)["x"], "fake.y": real(8, 2)["y"]}
    only = {
        name: {k: v.detach() for k, v in DiscriminatorObjective(BASE, **w)(module, batch, Draw(0, 0, 8)).items()}
        for name, w in WEIGHTS.items()
    }
    assert math.isclose(only["all"]["loss"], only["disc"]["loss"] + 0.5 * only["den"]["loss"], rel_tol=1e-5)
    assert {"bce", "accuracy", "denoise.x", "bce[0.00,0.20)", "logit[0.80,1.00)", "correction.x[0.00,0.20)"} <= set(only["all"])
    total = DiscriminatorObjective(BASE, adversarial=0, reduction="sum")(module, batch, Draw(0, 0, 8))["loss"].detach()
    assert math.isclose(total, only["den"]["loss"], rel_tol=1e-5)  # scalars: sum and mean are the same


WEIGHTS = {"all": {"denoise": 0.5}, "disc": {"denoise": 0.0}, "den": {"adversarial": 0.0}}


class Watched(nn.Module):
    """An expert's network that fails when a gradient reaches it."""

    def __init__(self):
        super().__init__()
        self.layer, self.touched = nn.Linear(1, 1), []

    def forward(self, z, t, condition=None):
        z["x"].register_hook(lambda g: self.touched.append("input")) if z["x"].requires_grad else None
        out = self.layer(z["x"])
        assert not out.requires_grad
        return {"x": out}


def test_no_backward_reaches_an_expert(tmp_path):
    watched = Watched()
    base = Independent(Expert(watched, {"x": PATHS["x"]}, {"x": (1,)}), JOINT.marginal(["y"]))
    before = {k: v.clone() for k, v in watched.state_dict().items()}
    data = real(100)
    made = make_fakes(base, 60, tmp_path / "fakes", steps=3)
    ratio = train_discriminator(base, data, made, tmp_path / "run", config=TINY, progress=False)
    sample(Guided(base, ratio), 4, steps=3)
    assert watched.touched == []
    assert watched.layer.weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in watched.state_dict().items())


def test_training_learns_the_dependence_saves_and_resumes(tmp_path):
    made = fakes(tmp_path / "fakes", 2000)
    network = RatioMLP({"x": (1,), "y": (1,)}, width=32, depth=1, hidden=32, embed=16)
    config = TrainConfig(steps=150, batch_size=256, lr=5e-3, ema=0.95, warmup=5, checkpoint_every=75, log_every=50)
    ratio = train_discriminator(BASE, real(2000), made, tmp_path / "run", network=network, config=config, progress=False)
    joined = sample(Guided(BASE, ratio), 1000, steps=15)
    correlation = float(torch.corrcoef(torch.cat([joined["x"], joined["y"]], 1).T)[0, 1])
    assert 0.6 < correlation < 0.95
    loaded = load_module(tmp_path / "run" / "ratio", Discriminator)
    assert loaded.paths == PATHS
    z = {k: v[:5] for k, v in real(10).items()}
    assert torch.allclose(loaded(z, dict.fromkeys(z, 0.3)), ratio(z, dict.fromkeys(z, 0.3)))
    assert loaded._meta["fakes"]["sampling"] == {"steps": 5}
    reviews = json.loads((tmp_path / "run" / "reviews.json").read_text())
    assert [r["step"] for r in reviews] == [75, 150]
    assert loaded._meta["held_out"]["loss"] < 2 * math.log(2) + 2
    with pytest.raises(PolyscoreError, match="cannot resume"):
        train_discriminator(
            BASE, real(2000), made, tmp_path / "run", config=config, objective=DiscriminatorObjective(BASE, denoise=2.0), progress=False
        )


def test_early_stopping_keeps_the_best(tmp_path):
    """Thirty memorised reals: the held-out loss rises, training stops, and the saved weights are those of the best review."""
    made = fakes(tmp_path / "fakes", 40)
    config = TrainConfig(steps=2000, batch_size=64, lr=1e-2, ema=0.5, warmup=2, checkpoint_every=25, log_every=100)
    objective = DiscriminatorObjective(BASE, denoise=0.0)
    network = RatioMLP({"x": (1,), "y": (1,)}, width=64, depth=1, hidden=64, embed=16)
    data = real(30)
    ratio = train_discriminator(
        BASE, data, made, tmp_path / "run", network=network, objective=objective, config=config, patience=3, held_out=0.3, progress=False
    )
    reviews = json.loads((tmp_path / "run" / "reviews.json").read_text())
    assert reviews[-1]["step"] < 2000
    best = min(r["loss"] for r in reviews)
    assert reviews.index(min(reviews, key=lambda r: r["loss"])) == len(reviews) - 4
    meta = load_module(tmp_path / "run" / "ratio", Discriminator)._meta
    assert math.isclose(meta["held_out"]["loss"], best, rel_tol=1e-5)
    assert ratio.training is False


def test_observed_modalities_and_the_pairing(tmp_path):
    made = fakes(tmp_path / "fakes")
    apart = train_discriminator(
        BASE, real(200), made, tmp_path / "a", config=TINY, objective=DiscriminatorObjective(BASE, observed=0.5), progress=False
    )
    shared = train_discriminator(BASE, real(200), made, tmp_path / "b", config=TINY, progress=False)
    given = {"y": torch.ones(1, 1)}
    assert sample(Guided(BASE, apart), 3, steps=3, given=given)["x"].shape == (3, 1)
    assert sample(Guided(BASE, shared), 3, steps=3, given=given, conditioning="noised")["x"].shape == (3, 1)
    with pytest.raises(PolyscoreError, match="trained with one time for all modalities"):
        sample(Guided(BASE, shared), 3, steps=3, given=given)
    other = Independent(JOINT.marginal(["x"]), GaussianDenoiser([0.0], 1.0, {"y": Linear()}))
    with pytest.raises(PolyscoreError, match="modality 'y' was trained on VPSDE"):
        Guided(other, shared)


def test_wrong_data_end_in_one_line(tmp_path):
    made = fakes(tmp_path / "fakes")
    with pytest.raises(PolyscoreError, match="modality 'w', but the experts have"):
        train_discriminator(BASE, {"w": torch.zeros(9, 1)}, made, tmp_path)
    with pytest.raises(PolyscoreError, match=r"'x' of shape \(2,\), expected \(1,\)"):
        train_discriminator(BASE, {"x": torch.zeros(9, 2), "y": torch.zeros(9, 1)}, made, tmp_path)
    with pytest.raises(PolyscoreError, match="conditions for the reals only"):
        RealAndFake(real(5), real(5), torch.zeros(5))


def test_times_and_dropped_conditions():
    t = torch.linspace(1e-4, 1, 100)  # times below 1e-4 are raised to it
    assert torch.equal(snap(t, PATHS), t) and snap(torch.zeros(1), PATHS).item() == pytest.approx(1e-4)
    steps = {"x": Linear(steps=20), "y": Linear(steps=20)}
    assert set((snap(t, steps) * 20).round().long().tolist()) <= set(range(1, 21))
    keep = torch.tensor([True, False])
    assert drop_condition(torch.tensor([4, 5]), keep).tolist() == [4, -1]
    assert drop_condition({"a": torch.ones(2, 2)}, keep)["a"].tolist() == [[1, 1], [0, 0]]


def test_smoothing_saturates_and_the_logit_does_not():
    class Steep(nn.Module):
        def forward(self, z, t, condition=None):
            return 40 * z["x"][:, 0]

    z, t = {"x": torch.tensor([[0.01], [1.0]]), "y": torch.zeros(2, 1)}, {"x": 0.2, "y": 0.2}
    raw, smooth = Discriminator(Steep(), PATHS), Discriminator(Steep(), PATHS, smoothing=1e-5)
    assert raw(z, t).tolist() == pytest.approx([0.4, 40.0])
    assert smooth(z, t).tolist() == pytest.approx([0.4, 11.5129], rel=1e-3)
    assert raw.gradient(z, t)["x"][1].item() == pytest.approx(40)
    assert abs(smooth.gradient(z, t)["x"][1].item()) < 1e-6


def test_guidance_of_the_correction():
    class Labelled(nn.Module):
        def forward(self, z, t, condition=None):
            return (0.0 if condition is None else condition.float()) * (z["x"] + z["y"])[:, 0]

    ratio = Discriminator(Labelled(), PATHS)
    z, t, label = {"x": torch.ones(2, 1), "y": torch.ones(2, 1)}, {"x": 0.2, "y": 0.2}, torch.tensor([1, 2])
    guided = ConditionGuidedRatio(ratio, {"x": 3.0})
    assert guided.gradient(z, t, label)["x"][:, 0].tolist() == [3, 6]
    assert guided.gradient(z, t, label)["y"][:, 0].tolist() == [1, 2]
    assert ConditionGuidedRatio(ratio, 2.0)(z, t, label).tolist() == [4, 8]


def test_toy_discriminator_with_discrete_steps(tmp_path):
    paths = {"x": Linear(steps=50), "y": Linear(steps=50)}
    joint = GaussianDenoiser([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]], paths)
    base = Independent(joint.marginal(["x"]), joint.marginal(["y"]))
    made = make_fakes(base, 100, tmp_path / "fakes", steps=10, solver="ddpm")
    ratio = train_discriminator(base, real(100), made, tmp_path / "run", network=ToyDiscriminator(steps=50), config=TINY, progress=False)
    assert float(ratio(real(4), {"x": 0.5, "y": 0.5}).abs().max()) > 0


def test_three_modalities_joined_by_one_discriminator(tmp_path):
    """Three scalars that share one of three modes: apart they all agree in 1 of 9 samples, joined in most; every one is guided."""
    names = ("x", "y", "w")
    paths = {name: VPSDE() for name in names}
    joint = MixtureDenoiser([[-2.0] * 3, [0.0] * 3, [2.0] * 3], 0.05, paths)
    base = Independent(*(joint.marginal([name]) for name in names))
    data = {k: v.float() for k, v in joint.draw(2000, torch.Generator().manual_seed(0)).items()}
    made = make_fakes(base, 2000, tmp_path / "fakes", shard=2000, steps=12)
    network = RatioMLP(dict.fromkeys(names, (1,)), width=64, depth=2, hidden=64, embed=16)
    config = TrainConfig(steps=300, batch_size=256, lr=3e-3, ema=0.98, warmup=5, checkpoint_every=300, log_every=100)
    ratio = train_discriminator(base, data, made, tmp_path / "run", network=network, config=config, progress=False)

    def agree(denoiser):
        found = sample(denoiser, 500, steps=12)
        modes = torch.stack([(found[name][:, 0] / 2).round() for name in names], 1)
        return float((modes == modes[:, :1]).all(1).float().mean())

    assert agree(base) < 0.2
    assert agree(Guided(base, ratio)) > 0.75
    pairs = SumRatio([ExactRatio.information(joint.marginal(pair)) for pair in (["x", "y"], ["y", "w"])])
    assert agree(Guided(base, pairs)) > 0.5  # pairwise ratios leave out what depends on all three


def test_weights_of_rows_scale_their_losses():
    module = Discriminator(RatioMLP({"x": (1,), "y": (1,)}, width=8, depth=1, hidden=8), PATHS)
    nn.init.normal_(module.network.head.weight)
    objective = DiscriminatorObjective(BASE, dropout=0.0)
    batch = RealAndFake(real(64), real(64, 1))(Draw(0, 0, 64))
    plain = objective(module, batch, Draw(1, 0, 64))["loss"]
    half = {f"weight.{name}": torch.full((64,), 0.5) for name in ("adversarial", "denoise")}
    assert torch.allclose(objective(module, batch | half, Draw(1, 0, 64))["loss"], plain / 2)


def test_more_pairings_are_the_mean_over_them():
    """Each pairing keeps the time, and the loss is that of the same fakes paired anew by hand."""
    module = Discriminator(RatioTwins({"x": (1,), "y": (1,)}, width=16, depth=1, hidden=16), PATHS)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = RealAndFake(real(64), real(64, 1))(Draw(0, 0, 64))
    draw = Draw(1, 0, 64)
    objective = DiscriminatorObjective(BASE, denoise=0.0, dropout=0.0, grid=16, pairings=3)
    found = objective(module, batch, draw)["loss"]
    draw = Draw(1, 0, 64)
    t, _ = objective.times(PATHS, draw)
    draw.uniform()
    clean = {name: PATHS[name].corrupt(batch[name], t[name], draw.normal(1)) for name in PATHS}
    fake = {name: PATHS[name].corrupt(batch[f"fake.{name}"], t[name], draw.normal(1)) for name in PATHS}
    pushed = [functional.softplus(module.logit({"x": fake["x"], "y": fake["y"].roll(-16 * k, 0)}, t)) for k in range(4)]
    expected = functional.softplus(-module.logit(clean, t)).mean() + torch.stack(pushed).mean()
    assert torch.allclose(found, expected, atol=1e-5)


def test_pairings_need_experts_apart_whole_grids_and_twins():
    objective = DiscriminatorObjective(BASE, dropout=0.0, grid=16, pairings=3)
    batch = RealAndFake(real(64), real(64, 1))
    twins, other = (Discriminator(kind({"x": (1,), "y": (1,)}), PATHS) for kind in (RatioTwins, RatioMLP))
    for module, rows in ((other, 64), (twins, 60)):
        with pytest.raises(PolyscoreError, match="pairings need a RatioTwins network"):
            objective(module, batch(Draw(0, 0, rows)), Draw(0, 0, rows))
    for wrong in ({"base": JOINT}, {"grid": 0}, {"observed": 0.5}):
        with pytest.raises(PolyscoreError, match="pairings need experts that stand apart"):
            DiscriminatorObjective(**{"base": BASE, "grid": 16, "pairings": 3, **wrong})


def test_several_modalities_may_be_observed_at_once():
    """With `most` = 2 of three modalities, one and two observed are equally frequent, each modality as often, and they carry no loss."""
    base = Independent(*(GaussianDenoiser([0.0], 1.0, {name: VPSDE()}) for name in "abc"))
    objective = DiscriminatorObjective(base, observed=0.5, most=2)
    t, moves = objective.times(base.paths, Draw(0, 0, 6000))
    seen = torch.stack([t[name] == 0 for name in "abc"], 1)
    assert torch.equal(seen, torch.stack([moves[name] == 0 for name in "abc"], 1))
    shares = torch.bincount(seen.sum(1), minlength=4) / 6000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.25, 0.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(seen.float().mean(0), torch.full((3,), 0.25), atol=0.03, rtol=0)
    assert objective.settings()["most"] == 2 and "most" not in DiscriminatorObjective(base).settings()


def test_incomplete_tuples_are_refused(tmp_path):
    data = real(40)
    marked = data | {"x_missing": torch.zeros(40, dtype=torch.bool)}
    with pytest.raises(PolyscoreError, match="real tuples with x_missing; expected complete ones"):
        RealAndFake(marked, data)
    with pytest.raises(PolyscoreError, match="real tuples with x_missing; expected complete ones"):
        train_discriminator(BASE, marked, fakes(tmp_path / "f"), tmp_path / "d", progress=False)
