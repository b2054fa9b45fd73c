"""Contrastive encoders: the loss at chance, what they learn, and a denoiser told by them what is observed."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.errors import PolyscoreError
from polyscore.networks.mlp import JointDenoiser
from polyscore.ratios.contrastive import Contextual, ContrastiveEncoder
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import sample
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.contrastive import ContrastiveObjective, Groups
from polyscore.training.joint import JointObjective

SHAPES = {"a": (3,), "b": (2, 2), "c": (5,)}


def classes(n: int = 600) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Tuples that share one of four classes, and nothing else."""
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(4, (n,), generator=draw)
    centres = {name: 2 * torch.randn(4, *shape, generator=draw) for name, shape in SHAPES.items()}
    return {name: centres[name][label] + 0.3 * torch.randn(n, *shape, generator=draw) for name, shape in SHAPES.items()}, label


def contextual(**options) -> Contextual:
    torch.manual_seed(0)
    found = Contextual(
        JointDenoiser(SHAPES, width=16, depth=1, hidden=16, embed=16, context=6), ContrastiveEncoder(SHAPES, 6, 16), **options
    )
    for parameter in found.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found.eval()


def test_learns_what_a_tuple_shares(tmp_path):
    z, label = classes()
    torch.manual_seed(0)
    encoder = ContrastiveEncoder(SHAPES, 8, 32)
    flat = ContrastiveEncoder(SHAPES, 8, 32)
    flat.log_scale.data.fill_(-20.0)
    first = ContrastiveObjective()(flat, Groups(z, 16)(Draw(0, 0, 2)), Draw(0, 0, 2))
    assert first["loss"].item() == pytest.approx(math.log(16), rel=1e-5)
    config = TrainConfig(steps=120, batch_size=2, lr=5e-3, warmup=10, ema=0.9)
    trained = fit(encoder, Groups(z, 16), ContrastiveObjective(), config, out=tmp_path, progress=False)
    assert trained.scalars["scale"] != pytest.approx(1 / 0.07, rel=1e-3)
    with torch.no_grad():
        e = encoder(z)
    assert e["a"].norm(dim=1).allclose(torch.ones(600))
    centres = torch.stack([e["a"][label == k].mean(0) for k in range(4)])
    for name in "bc":
        assert ((e[name] @ centres.T).argmax(1) == label).float().mean() > 0.97


def test_groups_do_not_see_each_other():
    z, _ = classes()
    encoder = ContrastiveEncoder(SHAPES, 8, 32).eval()
    batch = Groups(z, 16)(Draw(0, 0, 3))
    assert batch["b"].shape == (3, 16, 2, 2)
    objective = ContrastiveObjective()
    parts = [objective(encoder, {k: v[i : i + 1] for k, v in batch.items()}, Draw(0, 0, 1))["loss"] for i in range(3)]
    assert objective(encoder, batch, Draw(0, 0, 3))["loss"].item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)
    stacked = {k: torch.stack([v, torch.zeros_like(v)], 2) for k, v in batch.items()}
    assert objective(encoder, stacked, Draw(0, 0, 3))["loss"].item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-5)


def test_context_is_the_mean_of_what_is_observed():
    model, (z, _) = contextual(), classes(5)
    e = model.encoder(z)
    t = {"a": 0.0, "b": torch.tensor([0.0, 0.3, 1.0, 0.0, 0.2]), "c": 0.5}
    context = model.context(z, t)
    assert torch.allclose(context[0], (e["a"][0] + e["b"][0]) / 2, atol=1e-6)
    assert torch.allclose(context[1], e["a"][1], atol=1e-6)
    nothing = dict.fromkeys(SHAPES, 0.5)
    assert not model.context(z, nothing).any()
    told, plain = model(z, nothing), model.denoiser(z, nothing)
    assert all(torch.allclose(told[n].v, plain[n].v, atol=1e-6) for n in SHAPES)
    seen = {"a": 0.0, "b": 0.5, "c": 0.5}
    assert not torch.allclose(model(z, seen)["b"].v, model.denoiser(z, seen)["b"].v, atol=1e-3)


def test_trains_with_the_joint_objective_and_keeps_the_encoder(tmp_path):
    z, _ = classes(64)
    model = contextual()
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    config = TrainConfig(steps=3, batch_size=16, lr=1e-2, warmup=0)
    changed = model.denoiser.network.head.weight.clone()
    fit(model, Samples(z | {"a_missing": torch.arange(64) % 2 == 0}), JointObjective(), config, out=tmp_path / "run", progress=False)
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())
    assert not torch.equal(changed, model.denoiser.network.head.weight)
    save_module(model, tmp_path / "model")
    again = load_module(tmp_path / "model", Contextual)
    for one in (model, again):
        one.eval()
    given = {"a": z["a"][:4]}
    assert torch.allclose(sample(model, 4, given=given, steps=3)["c"], sample(again, 4, given=given, steps=3)["c"], atol=1e-5)
    guided = sample(SubsetGuided(model, 1.0), 4, given=given, steps=3)
    assert guided["c"].isfinite().all() and guided.info["evaluations_per_sample"] == 9


def test_missing_modalities_take_no_part():
    """What stands in the rows of a missing modality changes nothing."""
    encoder, (z, _) = ContrastiveEncoder(SHAPES, 6, dropout=0.0), classes(12)
    gone = torch.arange(12) % 3 == 0
    batch = {name: value.unflatten(0, (2, 6)) for name, value in (z | {"a_missing": gone}).items()}
    other = batch | {"a": torch.where(batch["a_missing"][..., None], 7.0, batch["a"])}
    one, two = (ContrastiveObjective()(encoder, b, Draw(0, 0, 2))["loss"] for b in (batch, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, ContrastiveObjective()(encoder, {n: batch[n] for n in SHAPES}, Draw(0, 0, 2))["loss"])


def test_refuses_a_network_without_context():
    with pytest.raises(PolyscoreError, match="context of 6 numbers, found 0"):
        Contextual(JointDenoiser(SHAPES, width=8, depth=1), ContrastiveEncoder(SHAPES, 6))


def test_a_saved_one_loads_in_a_process_that_never_heard_of_it(tmp_path):
    save_module(contextual(), tmp_path / "model")
    imports = "from polyscore.checkpoint import load_module; from polyscore.denoisers import Denoiser"
    subprocess.run([sys.executable, "-c", f"{imports}; load_module({str(tmp_path / 'model')!r}, Denoiser)"], check=True)
