"""Decoders fine-tuned on recovered latents: what moves, what stays, what it tends to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyscore.codecs import VAE, Identity
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.training import Draw, Samples, TrainConfig, fit
from polyscore.training.recovered import Decoders, RecoveredObjective

PATHS = {"a": VPSDE(), "b": VPSDE()}


def composer():
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    codecs = {name: VAE((1,), 1, nn.Linear(1, 2), nn.Linear(1, 1)) for name in PATHS}
    for codec in codecs.values():
        nn.init.zeros_(codec.encoder.weight)
        codec.encoder.weight.data[0], codec.encoder.bias.data[:] = 1.0, torch.tensor([0.0, -12.0])
        nn.init.ones_(codec.decoder.weight)
        nn.init.zeros_(codec.decoder.bias)
    return Composer(codecs, GaussianDenoiser(torch.zeros(2), covariance, PATHS, {"a": 1, "b": 1}), {"steps": 10})


def test_only_decoders_move_and_they_shrink_towards_what_can_be_known(tmp_path):
    """z' given the other modality correlates with the truth by .64 only, so the best linear decoder of z' has slope .64."""
    model = composer()
    torch.manual_seed(1)
    a = torch.randn(4000, 1)
    data = {"a": a, "b": 0.8 * a + 0.6 * torch.randn(4000, 1)}
    before = {name: codec.encoder.weight.clone() for name, codec in model.codecs.items()}
    config = TrainConfig(steps=150, batch_size=256, lr=2e-2, warmup=0, ema=0.0)
    fit(Decoders(model), Samples(data), RecoveredObjective(share=0.5), config, out=tmp_path / "run", progress=False)
    for name, codec in model.codecs.items():
        assert torch.equal(codec.encoder.weight, before[name])
        assert codec.decoder.weight.item() == pytest.approx(0.64, abs=0.1) and abs(codec.decoder.bias.item()) < 0.1


def test_at_least_one_is_dropped_and_one_is_kept():
    names, objective = ["a", "b", "c"], RecoveredObjective(share=0.5)
    found = [objective.dropped(names, 0, step) for step in range(300)]
    assert {len(d) for d in found} == {1, 2} and {n for d in found for n in d} == set(names)
    assert all(RecoveredObjective(share=s).dropped(names, 0, 3) for s in (0.0, 1.0))
    assert objective.dropped(names, 0, 5) == objective.dropped(names, 0, 5)


def test_keep_adds_the_loss_at_the_encoders_latents():
    module, batch = Decoders(composer()), {name: torch.randn(8, 1) for name in PATHS}
    plain, kept = (RecoveredObjective(keep=k)(module, batch, Draw(0, 0, 8)) for k in (0.0, 2.0))
    assert kept["loss"].item() == pytest.approx(plain["loss"].item() + 2 * plain["own"].item(), abs=1e-5)
    assert plain["own"].item() == pytest.approx(0.0, abs=1e-4)


def test_a_codec_without_a_decoder():
    law = composer().denoiser
    with pytest.raises(PolyscoreError, match="expected a codec with a decoder to train, found Identity"):
        Decoders(Composer({"a": Identity((1,))}, law))
