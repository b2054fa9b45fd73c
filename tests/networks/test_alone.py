"""Marginals side by side, dense nets, and subset guidance with marginals of their own."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VAE
from polyscore.denoisers import Independent
from polyscore.errors import PolyscoreError
from polyscore.networks.alone import MarginalDenoiser
from polyscore.networks.dense import DenseDecoder, DenseEncoder
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import sample
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.joint import JointObjective

SHAPES = {"a": (3,), "b": (2, 2)}


def test_no_modality_sees_another():
    torch.manual_seed(0)
    model = MarginalDenoiser(SHAPES, width=8, depth=2)
    torch.nn.init.normal_(model.network.head.weight)
    z = {name: torch.randn(4, *shape) for name, shape in SHAPES.items()}
    t = {"a": torch.rand(4), "b": 0.3}
    one, other = model(z, t), model(z | {"b": torch.randn(4, 2, 2)}, t | {"b": 0.9})
    assert torch.allclose(one["a"].v, other["a"].v, atol=1e-6) and one["b"].v.shape == (4, 2, 2)
    assert not torch.allclose(one["b"].v, other["b"].v, atol=1e-3)


def test_starts_as_the_standard_normal_and_learns_a_marginal(tmp_path):
    torch.manual_seed(0)
    data = {"a": 0.5 * torch.randn(2000, 3), "b": torch.randn(2000, 2, 2)}
    model = MarginalDenoiser(SHAPES, width=16, depth=1)
    z = {name: torch.randn(4, *shape) for name, shape in SHAPES.items()}
    exact = GaussianDenoiser(torch.zeros(3), 1.0, {"a": VPSDE()})
    assert torch.allclose(model(z, dict.fromkeys(SHAPES, 0.4))["a"].x0, exact({"a": z["a"]}, {"a": 0.4})["a"].x0, atol=1e-5)
    config = TrainConfig(steps=250, batch_size=256, lr=5e-3, warmup=10, ema=0.95)
    fit(model, Samples(data), JointObjective(joint=1.0, apart=0.0), config, out=tmp_path / "run", progress=False)
    save_module(model, tmp_path / "marginals")
    made = sample(load_module(tmp_path / "marginals", MarginalDenoiser), 1500, steps=25)
    assert made["a"].std().item() == pytest.approx(0.5, abs=0.06)
    assert made["b"].std().item() == pytest.approx(1.0, abs=0.08)


def test_subset_guidance_with_exact_marginals_equals_the_one_network_form():
    """For a Gaussian the marginals are exact either way: partners at t = 1 tell (almost) nothing."""
    paths = {"a": VPSDE(), "b": VPSDE()}
    joint = GaussianDenoiser([0.0, 0.0], torch.tensor([[1.0, 0.8], [0.8, 1.0]]), paths)
    marginals = Independent(joint.marginal(["a"]), joint.marginal(["b"]))
    z = {"a": torch.randn(6, 1, dtype=torch.float64), "b": torch.randn(6, 1, dtype=torch.float64)}
    for t in ({"a": 0.4, "b": 0.4}, {"a": 0.0, "b": 0.4}):
        one, two = SubsetGuided(joint, 1.5)(z, t), SubsetGuided(joint, 1.5, marginals=marginals)(z, t)
        assert torch.allclose(one["b"].eps, two["b"].eps, atol=1e-4)
        base, alone = joint(z, t)["b"].eps, marginals(z, t)["b"].eps
        assert torch.allclose(two["b"].eps, base + 1.5 * (base - alone))
    assert SubsetGuided(joint, 0.0, marginals=marginals)(z, t)["b"].eps.equal(joint(z, t)["b"].eps)
    with pytest.raises(PolyscoreError, match="expected marginals on the paths"):
        SubsetGuided(joint, marginals=joint.marginal(["a"]))


def test_two_evaluations_a_step(tmp_path):
    from polyscore.networks.mlp import JointDenoiser

    joint, marginals = JointDenoiser(SHAPES, width=8, depth=1, hidden=8, embed=8), MarginalDenoiser(SHAPES, width=8, depth=1)
    guided = SubsetGuided(joint, 2.0, (0.0, 1.0), marginals)
    assert sample(guided, 3, steps=5).info["evaluations_per_sample"] == 10
    save_module(guided, tmp_path / "guided")
    again = load_module(tmp_path / "guided", SubsetGuided)
    assert again.strength == 2.0 and torch.equal(sample(again, 3, steps=5)["a"], sample(guided, 3, steps=5)["a"])


def test_dense_nets_make_a_vae(tmp_path):
    shape = (3, 4, 4)
    codec = VAE(shape, 5, DenseEncoder(shape, 10, (16,)), DenseDecoder(shape, 5, (16,)), "clamp")
    x = torch.rand(2, *shape)
    save_module(codec, tmp_path / "codec")
    assert load_module(tmp_path / "codec", VAE).decode(codec.encode(x)).equal(codec.decode(codec.encode(x)))
    assert codec.decode(10 * torch.randn(2, 5)).amax() <= 1
