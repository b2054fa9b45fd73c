"""Judges: shapes, storage, training, and the shipped ones on real data."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.codecs import LogMel
from polyscore.metrics.judges import Judge, accuracy, predict
from polyscore.metrics.sphinx import SphinxJudge
from polyscore.networks import ConvEncoder
from polyscore.training import Samples, TrainConfig, fit
from polyscore.training.classifier import ClassifierObjective


def bars(n=64):
    """Pictures whose class is the row of a bright bar."""
    labels = torch.arange(n) % 4
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    x[torch.arange(n), 0, labels * 2] += 0.6
    return x, labels


def test_features_then_logits_and_storage(tmp_path):
    front = LogMel(n_mels=8, n_fft=256)
    judge = Judge(ConvEncoder(front.latent_shape, 12, (8,), pool=True), 12, front=front).eval()
    x = torch.randn(3, 8000) * 0.1
    assert judge(x).shape == (3, 10) and judge.features(x).shape == (3, 12)
    labels, features = predict(judge, x, batch_size=2)
    assert torch.equal(labels, judge(x).argmax(1)) and torch.allclose(features, judge.features(x), atol=1e-5)
    save_module(judge, tmp_path / "judge")
    assert torch.equal(load_module(tmp_path / "judge", Judge)(x), judge(x))


def test_training_learns(tmp_path):
    torch.manual_seed(0)
    x, labels = bars()
    judge = Judge(ConvEncoder((1, 8, 8), 16, (16,)), 16, classes=4)
    config = TrainConfig(steps=60, batch_size=32, lr=1e-2, warmup=5, ema=0.9)
    result = fit(judge, Samples({"image": x, "label": labels}), ClassifierObjective("image"), config, out=tmp_path, progress=False)
    assert accuracy(judge, x, labels) == 1 and result.scalars["accuracy"] > 0.9


def test_sphinx_hears_nothing_in_silence_and_answers_one_word_each():
    pytest.importorskip("pocketsphinx")
    heard = SphinxJudge()(torch.cat([torch.zeros(1, 8000), 0.1 * torch.randn(2, 8000)]))
    assert heard.shape == (3,) and heard.min() >= -1 and heard.max() <= 9
