"""Digit loaders. Those of MNIST and FSDD need $POLYSCORE_DATA; stand-ins are written for the rest."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from polyscore.data.digits import SAMPLES, fit_clip, load_fsdd, load_mnist, load_sklearn_digits, pair_by_label
from polyscore.errors import DataError
from tiny import stand_in_digits

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="POLYSCORE_DATA is not set")


@pytest.fixture
def folder(tmp_path):
    return stand_in_digits(tmp_path)


def test_stand_ins(folder):
    train, test = load_fsdd("train", folder), load_fsdd("test", folder)
    assert (len(train), len(test)) == (7, 5) and test.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.x.shape == (7, SAMPLES) and train.x.dtype == torch.float32
    assert torch.allclose(train.x.abs().amax(1), torch.tensor(0.9))
    images = load_mnist("train", folder)
    assert images.x.shape == (4, 1, 28, 28) and images.x.max() <= 1 and images.labels.dtype == torch.int64


def test_errors_name_the_file_and_what_was_expected(folder, monkeypatch):
    monkeypatch.delenv("POLYSCORE_DATA", raising=False)
    with pytest.raises(DataError, match="POLYSCORE_DATA"):
        load_mnist()
    with pytest.raises(DataError, match="unknown split 'validation': expected train or test"):
        load_fsdd("validation", folder)
    with pytest.raises(DataError, match=r"mnist\.npz is missing"):
        load_mnist("test", folder / "nowhere")
    (folder / "digits" / "mnist.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"mnist\.npz cannot be read"):
        load_mnist("test", folder)
    np.savez(folder / "digits" / "fsdd.npz", audio=np.zeros(3))
    with pytest.raises(DataError, match="expected an npz file with audio, offsets"):
        load_fsdd("test", folder)


def test_fit_clip_trims_centres_and_scales():
    wave = torch.zeros(6000)
    wave[1000:2000] = 0.1 * torch.sin(torch.arange(1000) * 0.5)
    clip = fit_clip(wave, 4000)
    loud = torch.nonzero(clip.abs() > 0.2).flatten()
    assert clip.shape == (4000,) and clip.abs().max() == pytest.approx(0.9)
    assert abs(float(loud[0] + loud[-1]) / 2 - 2000) < 20
    assert fit_clip(torch.randn(9000), 4000).shape == (4000,)
    assert not fit_clip(torch.zeros(100)).any()


def test_sklearn_digits_look_like_mnist():
    test = load_sklearn_digits()
    assert test.x.shape == (360, 1, 28, 28) and test.x.min() >= 0 and test.x.max() <= 1
    assert len(load_sklearn_digits("train")) == 1437
    grid = torch.arange(28.0)
    centre = (test.x[:, 0].sum(1) * grid).sum(1) / test.x.sum((1, 2, 3))
    assert (centre - 13.5).abs().max() < 2
    assert 0.08 < test.x.mean() < 0.25  # MNIST: 0.13


def test_pairs_share_labels_and_repeat_by_seed():
    first, second = torch.arange(100) % 10, torch.arange(43) % 10
    partner = pair_by_label(first, second, seed=3)
    assert torch.equal(second[partner], first)
    assert torch.equal(partner, pair_by_label(first, second, seed=3))
    assert not torch.equal(partner, pair_by_label(first, second, seed=4))
    assert len(partner[first == 0].unique()) == 5  # all five zeros are used before one is used twice
    with pytest.raises(DataError, match="label 7"):
        pair_by_label(torch.tensor([7]), torch.tensor([1]), seed=0)


@needs_data
def test_official_splits():
    test = load_fsdd("test")
    assert len(test) == 300 and torch.bincount(test.labels).tolist() == [30] * 10
    assert test.x.abs().amax(1).allclose(torch.tensor(0.9))
    assert len(load_mnist("test")) == 10_000
