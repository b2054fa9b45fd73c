"""Networks of all modalities: what both trunks keep, and a law that both learn."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.networks.convnext import StackedDenoiser
from polyscore.networks.mlp import JointDenoiser
from polyscore.sampling import sample
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.joint import JointObjective

SHAPES = {"a": (3,), "b": (2, 2), "word": (2,)}
TRUNKS = pytest.mark.parametrize("heads", [0, 2], ids=["mlp", "transformer"])


def made(heads: int, **options):
    torch.manual_seed(0)
    model = JointDenoiser(SHAPES, width=16, depth=2, hidden=16, embed=16, vocabularies={"word": 4}, heads=heads, **options)
    state = {"a": torch.randn(5, 3), "b": torch.randn(5, 2, 2), "word": torch.randint(0, 5, (5, 2))}
    return model, state, {"a": torch.rand(5), "b": torch.full((5,), 0.5), "word": torch.rand(5)}


def shaken(model):
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


@TRUNKS
def test_it_starts_as_the_exact_answer_for_white_noise(heads):
    model, z, t = made(heads)
    found = model(z, t)
    assert all(torch.equal(found[name].v, torch.zeros_like(z[name])) for name in ("a", "b"))
    assert found["word"].log_probs.shape == (5, 2, 4)


@TRUNKS
def test_what_is_absent_is_not_looked_at(heads):
    model, z, t = made(heads)
    shaken(model)
    t["b"] = torch.ones(5)
    one, two = model(z, t), model(z | {"b": z["b"] + 1}, t)
    assert torch.equal(one["a"].v, two["a"].v) and torch.equal(one["word"].log_probs, two["word"].log_probs)
    three = model(z | {"b": z["b"] + 1}, t | {"b": torch.full((5,), 0.9)})
    assert not torch.allclose(one["a"].v, three["a"].v)


@TRUNKS
def test_conditions_count_and_none_is_none(heads):
    model, z, t = made(heads, classes=3)
    shaken(model)
    labelled, without = model(z, t, torch.tensor([0, 1, 2, -1, 0])), model(z, t)
    assert torch.allclose(labelled["a"].v[3], without["a"].v[3]) and not torch.allclose(labelled["a"].v[0], without["a"].v[0])
    told, z, t = made(heads, context=4)
    shaken(told)
    assert torch.allclose(told(z, t)["a"].v, told(z, t, torch.zeros(5, 4))["a"].v)
    assert not torch.allclose(told(z, t)["a"].v, told(z, t, torch.ones(5, 4))["a"].v)


def test_a_layer_does_not_grow_with_the_modalities():
    few, many = (JointDenoiser({f"m{i}": (2,) for i in range(m)}, width=8, depth=1, heads=2).network for m in (2, 9))
    assert sum(p.numel() for p in few.layers.parameters()) == sum(p.numel() for p in many.layers.parameters())


def test_heads_must_divide_the_width():
    with pytest.raises(PolyscoreError, match="width 10, expected a multiple of its 4 heads"):
        JointDenoiser({"a": (1,)}, width=10, depth=1, heads=4)


@TRUNKS
def test_a_joint_gaussian_is_learnt_with_its_conditionals(heads, tmp_path):
    """x ~ N(0, 1), y = .9 x + noise: correlation of joint samples, mean and deviation of y given x."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 1, generator=draw)
    y = 0.9 * x + (1 - 0.81) ** 0.5 * torch.randn(4000, 1, generator=draw)
    torch.manual_seed(0)
    model = JointDenoiser({"x": (1,), "y": (1,)}, width=32, depth=2, hidden=64, embed=32, heads=heads)
    fit(
        model,
        Samples({"x": x, "y": y}),
        JointObjective(),
        TrainConfig(steps=400, batch_size=128, lr=4e-3, ema=0.98),
        out=tmp_path,
        progress=False,
    )
    joint = sample(model, 2000, steps=20, seed=0)
    assert torch.corrcoef(torch.cat([joint["x"], joint["y"]], 1).T)[0, 1] == pytest.approx(0.9, abs=0.04)
    given = sample(model, 2000, given={"x": torch.ones(2000, 1)}, steps=20, seed=1)["y"]
    assert float(given.mean()) == pytest.approx(0.9, abs=0.1) and float(given.std()) == pytest.approx(0.436, abs=0.1)


def test_what_is_missing_may_be_anything():
    """Neither the loss nor its gradient depends on what stands in the rows without a modality."""
    model = StackedDenoiser({"a": (64,), "b": (64,)}, dim=12)
    data, gone = {name: torch.randn(6, 64) for name in "ab"}, torch.arange(6) < 3

    def told(filler):
        batch = data | {"b": torch.where(gone[:, None], filler, data["b"]), "b_missing": gone}
        loss = JointObjective()(model, batch, Draw(0, 0, 6))["loss"]
        return torch.cat([loss[None], *(g.flatten() for g in torch.autograd.grad(loss, list(model.parameters())))])

    zeros, large, nothing = (told(filler) for filler in (0.0, 50.0, float("nan")))
    assert torch.equal(zeros, large) and torch.equal(zeros, nothing) and zeros.isfinite().all()
