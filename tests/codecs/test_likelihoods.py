"""The losses of the autoencoders, against formulas written out (acceptance 6)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import RAE, VAE
from polyscore.networks.dense import DenseDecoder, DenseEncoder
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.codec import RAEObjective, VAEObjective, distortion

SHAPE = (2, 3)


def rae() -> RAE:
    torch.manual_seed(0)
    return RAE(SHAPE, 4, DenseEncoder(SHAPE, 4, (8,)), DenseDecoder(SHAPE, 4, (8,)))


def test_rae_loss_has_noise_by_its_standard_deviation_and_the_norm_of_the_clean_latent():
    codec, x = rae(), torch.randn(5, *SHAPE)
    found = RAEObjective("x", beta=0.3, noise=0.2)(codec, {"x": x}, Draw(1, 2, 5))
    u = codec.encoder(x)
    n = Draw(1, 2, 5).normal(4)
    squares = (codec.decoder(u + 0.2 * n) - x).square().sum() / 5
    assert found["distortion"].item() == pytest.approx(squares.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx((squares + 0.3 * u.square().sum() / 5).item(), rel=1e-5)


def test_vae_loss_is_squares_plus_beta_kl_per_item():
    torch.manual_seed(0)
    codec, x = VAE(SHAPE, 4, DenseEncoder(SHAPE, 8, (8,)), DenseDecoder(SHAPE, 4, (8,))), torch.randn(5, *SHAPE)
    found = VAEObjective("x", beta=0.1, distortion="gaussian")(codec, {"x": x}, Draw(1, 2, 5))
    mean, log_variance = codec.encoder(x).chunk(2, 1)
    u = mean + (log_variance / 2).exp() * Draw(1, 2, 5).normal(4)
    squares = (codec.decoder(u) - x).square().sum() / 5
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / 5
    assert found["loss"].item() == pytest.approx((squares + 0.1 * kl).item(), rel=1e-5)


def test_distortions_are_likelihoods_without_their_constants():
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(4, 3, 2, generator=draw)
    x = torch.rand(4, 3, 2, generator=draw)
    normal, laplace = torch.distributions.Normal(raw, 0.4), torch.distributions.Laplace(raw, 0.4)
    pairs = {"gaussian": (normal, torch.distributions.Normal(x, 0.4)), "laplace": (laplace, torch.distributions.Laplace(x, 0.4))}
    for name, (law, top) in pairs.items():
        expected = (top.log_prob(x) - law.log_prob(x)).flatten(1).sum(1)
        assert torch.allclose(distortion(name, x, raw, 0.4), expected, rtol=1e-4, atol=1e-5)
    bits = (x > 0.5).float()
    expected = -torch.distributions.Bernoulli(logits=raw).log_prob(bits).flatten(1).sum(1)
    assert torch.allclose(distortion("bernoulli", bits, raw), expected, rtol=1e-5)
    which = torch.randint(3, (4, 2), generator=draw)
    one_hot = nn.functional.one_hot(which, 3).movedim(2, 1).float()
    expected = nn.functional.cross_entropy(raw, which, reduction="none").sum(1)
    assert torch.allclose(distortion("categorical", one_hot, raw), expected, rtol=1e-5)


def test_rae_trains_saves_and_standardises(tmp_path):
    base = torch.randn(512, 2)
    x = (base @ torch.randn(2, 6, generator=torch.Generator().manual_seed(1))).reshape(-1, *SHAPE)
    codec = rae()
    before = (codec.decode(codec.encode(x)) - x).square().mean().item()
    fit(
        codec,
        Samples({"x": x}),
        RAEObjective("x"),
        TrainConfig(steps=150, batch_size=64, lr=2e-2, warmup=5, ema=0.9),
        out=tmp_path / "r",
        progress=False,
    )
    codec.fit_statistics(codec.encode(x))
    z, deviation = codec.posterior(x)
    assert (codec.decode(z) - x).square().mean() < 0.3 * before and not deviation.any()
    assert z.mean(0).abs().max() < 1e-4 and z.std(0).allclose(torch.ones(4), atol=1e-2)
    save_module(codec, tmp_path / "rae")
    assert torch.equal(load_module(tmp_path / "rae", RAE).encode(x), codec.encode(x))


def test_decoded_classes_are_probabilities():
    codec = VAE((3, 2), 2, DenseEncoder((3, 2), 4, (8,)), DenseDecoder((3, 2), 2, (8,)), "softmax")
    assert codec.decode(torch.randn(4, 2)).sum(1).allclose(torch.ones(4, 2))
    with pytest.raises(ValueError, match="activation must be one of"):
        VAE((3,), 2, nn.Identity(), nn.Identity(), "tanh")
