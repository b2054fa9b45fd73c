"""VAE, chains of codecs, and the VAE objective."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import VAE, Chain, Codec, Identity, LogMel
from polyscore.networks import ConvDecoder, ConvEncoder
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.codec import VAEObjective, kl_to_standard_normal


def tiny(activation="sigmoid", latent=4, shape=(1, 8, 8)):
    torch.manual_seed(0)
    return VAE(shape, latent, ConvEncoder(shape, 2 * latent, (8, 8)), ConvDecoder(shape, latent, (8, 8)), activation)


def test_statistics_standardise_and_keep_the_reconstruction():
    vae, x = tiny(), torch.rand(200, 1, 8, 8)
    before = vae.decode(vae.encode(x))
    for _ in range(2):  # a second call must not undo the first
        vae.fit_statistics(vae.encode(x).detach())
        z = vae.encode(x)
        assert z.mean(0).abs().max() < 1e-4 and (z.std(0) - 1).abs().max() < 1e-3
        assert torch.allclose(vae.decode(z), before, atol=1e-5)


def test_posterior_is_in_standardised_units():
    vae, x = tiny(), torch.rand(50, 1, 8, 8)
    vae.fit_statistics(vae.encode(x).detach())
    mean, std = vae.posterior(x)
    raw_mean, log_variance = vae.encode_raw(x)
    assert torch.equal(mean, vae.encode(x))
    assert torch.allclose(mean * vae.scale + vae.shift, raw_mean, atol=1e-5)
    assert torch.allclose(std * vae.scale, (log_variance / 2).exp(), rtol=1e-4)


def test_outputs_are_in_range_and_independent_of_batch_mates():
    vae, z = tiny(), torch.randn(5, 4)
    y = vae.decode(z)
    assert y.shape == (5, 1, 8, 8) and y.min() >= 0 and y.max() <= 1
    assert torch.allclose(torch.cat([vae.decode(part) for part in z.split(1)]), y, atol=1e-5)
    with pytest.raises(ValueError, match="activation must be one of"):
        tiny("tanh")


def test_chain_posterior_and_storage(tmp_path):
    chain = Chain([LogMel(iterations=2), tiny("identity", 6, (64, 64))])
    x = torch.randn(2, 8000) * 0.1
    mean, std = chain.posterior(x)
    assert torch.equal(mean, chain.encode(x)) and std.shape == (2, 6) and (std > 0).all()
    save_module(chain, tmp_path / "speech", dtype=torch.float16)
    again = load_module(tmp_path / "speech", Codec)
    assert again.latent_shape == (6,) and (again.encode(x) - mean).abs().max() < 0.02


def test_identity_posterior_is_a_point():
    mean, std = Identity((3,)).posterior(torch.ones(2, 3))
    assert torch.equal(mean, torch.ones(2, 3)) and not std.any()


def test_kl_in_closed_form():
    mean, log_variance = torch.tensor([0.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, -1.0])
    q, p = torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    assert torch.allclose(kl_to_standard_normal(mean, log_variance), torch.distributions.kl_divergence(q, p))


def test_objective_terms():
    vae, x = tiny(), torch.rand(6, 1, 8, 8)
    draw = lambda: Draw(0, 0, 6)  # noqa: E731
    low, high = (VAEObjective("image", beta, "bernoulli")(vae, {"image": x}, draw()) for beta in (0.5, 2.0))
    assert torch.equal(low["distortion"], high["distortion"])
    assert torch.allclose(high["loss"] - low["loss"], 1.5 * low["kl"])
    flat = VAEObjective("image", 0.0, "absolute")._distortion(torch.zeros(2, 8, 8), torch.ones(2, 8, 8))
    pooled = VAEObjective("image", 0.0, "absolute", (1, 2, 4))._distortion(torch.zeros(2, 8, 8), torch.ones(2, 8, 8))
    assert torch.equal(flat, torch.full((2,), 64.0)) and torch.allclose(pooled, flat)


def test_training_reduces_the_loss(tmp_path):
    vae = tiny()
    x = torch.rand(64, 1, 1, 1).expand(64, 1, 8, 8).contiguous()
    objective = VAEObjective("image", 0.1, "bernoulli")
    first = objective(vae, {"image": x}, Draw(0, 0, 64))["loss"].item()
    config = TrainConfig(steps=60, batch_size=16, lr=5e-3, warmup=5, ema=0.9)
    result = fit(vae, Samples({"image": x}), objective, config, out=tmp_path, progress=False)
    assert result.scalars["loss"] < first - 1
