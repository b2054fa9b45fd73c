"""Refiners: they restore what an autoencoder loses, keep to the seed, and travel with the Composer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyscore.codecs import VAE
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.refiner import Refiner
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.refine import RefineObjective

SHAPE = (1, 4, 4)


class Fill(nn.Module):
    """(B, 1) -> (B, 1, 4, 4): one grey for the whole picture."""

    def forward(self, u):
        return u[:, :, None, None].expand(-1, 1, 4, 4)


class Mean(nn.Module):
    """The mean of a picture, and next to no noise."""

    def forward(self, x):
        return torch.stack([x.mean((1, 2, 3)), torch.full((len(x),), -12.0)], 1)


def codec():
    return VAE(SHAPE, 1, Mean(), Fill(), "clamp")


def boards(n):
    """Checkerboards of two greys, 0.2 below and above a mean that varies: the codec keeps the mean only."""
    place = torch.arange(4)
    sign = ((place[:, None] + place) % 2 * 2 - 1).float()
    mean = 0.3 + 0.4 * torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    return mean + 0.2 * sign


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    torch.manual_seed(0)
    model = Refiner(SHAPE, width=16, blocks=1)
    config = TrainConfig(steps=250, batch_size=64, lr=5e-3, ema=0.95)
    fit(model, Samples({"x": boards(512)}), RefineObjective(codec()), config, out=tmp_path_factory.mktemp("refiner"), progress=False)
    return model.eval()


def test_it_restores_what_the_codec_loses(refiner):
    x = boards(32)
    rough = codec().decode(codec().encode(x))
    fine = refiner.refine(rough, steps=8, seed=0)
    assert (rough - x).abs().mean() > 0.19 and (fine - x).abs().mean() < 0.06
    assert fine.min() >= 0 and fine.max() <= 1


def test_rows_keep_to_their_seed(refiner):
    rough = codec().decode(codec().encode(boards(6)))
    whole = refiner.refine(rough, steps=3, seed=4)
    torch.testing.assert_close(refiner.refine(rough[2:], steps=3, seed=4, first=2), whole[2:])
    assert not torch.equal(refiner.refine(rough, steps=3, seed=5), whole)


def test_a_composer_refines_where_asked(refiner, tmp_path):
    law = GaussianDenoiser(torch.tensor([0.5]), 0.01, {"x": VPSDE()})
    composer = Composer({"x": codec()}, law, {"steps": 4}, refiners={"x": refiner})
    rough, fine = composer.sample(3, seed=1)["x"], composer.sample(3, seed=1, refine=6)["x"]
    assert rough.flatten(1).std(1).max() < 1e-6 < 0.1 < fine.flatten(1).std(1).min()
    torch.testing.assert_close(composer.sample(1, seed=1, first=2, refine=6)["x"], fine[2:], atol=1e-4, rtol=1e-4)
    with pytest.raises(PolyscoreError, match=r"refine: expected a whole number of at least 0, found 1\.5"):
        composer.sample(1, refine=1.5)
