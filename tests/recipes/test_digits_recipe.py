"""The joint denoiser of the digits recipe, trained for a few steps on stand-in data with the shipped codecs."""

from __future__ import annotations

import torch

from polyscore.composer import WEIGHTS, Composer
from polyscore.recipes.digits.joint import Mixture, Network, train_joint
from polyscore.training import TrainConfig
from tiny import stand_in_digits

CONFIG = TrainConfig(steps=2, batch_size=4, checkpoint_every=1, log_every=1)


def test_a_trained_composer_is_whole_and_the_same_again(tmp_path):
    data = str(stand_in_digits(tmp_path, 60, 20))
    common = {"codecs": str(WEIGHTS / "digits"), "data": data, "copies": 2, "config": CONFIG, "progress": False}
    composers = [
        train_joint(out=str(tmp_path / name), network=Network(32, 1, 32, 8), mixture=Mixture(1, 1), **common) for name in ("one", "two")
    ]
    first, second = (c.denoiser.state_dict() for c in composers)
    assert all(torch.equal(first[k], second[k]) for k in first)
    loaded = Composer.load(tmp_path / "one")
    assert loaded.meta["training"]["steps"] == 2 and loaded.defaults["steps"] == 20
    made = loaded.sample(2, {"image": torch.rand(2, 1, 28, 28)}, steps=2, guidance=0.0)
    assert made["speech"].shape == (2, 8000)
