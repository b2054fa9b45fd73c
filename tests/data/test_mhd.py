"""Digits with sound and attributes."""

from __future__ import annotations

import numpy as np
import torch

from polyscore.data.mhd import load_digit_triples, stroke_attributes


def bar(shear: float, width: int = 2) -> torch.Tensor:
    """A bar 20 pixels high that leans to the right by `shear` pixels a row."""
    image = torch.zeros(1, 28, 28)
    for row in range(4, 24):
        left = round(13 + shear * (13.5 - row))
        image[0, row, left : left + width] = 1
    return image


def test_attributes_measure_the_stroke():
    x = torch.stack([bar(0.0), bar(0.4), bar(-0.4), bar(0.0, 6)])
    found = stroke_attributes(x, torch.tensor([1, 1, 7, 0]))
    assert found.shape == (4, 14) and torch.equal(found[:, :10].argmax(1), torch.tensor([1, 1, 7, 0]))
    ink, slant, width, height = found[:, 10:].T
    assert ink[3] > 2.5 * ink[0] and width[3] > width[0]
    assert slant[:3].sub(torch.tensor([0.5, 0.7, 0.3])).abs().max() < 0.03
    assert height[:3].sub((399 / 12) ** 0.5 / 10).abs().max() < 1e-3
    assert stroke_attributes(torch.zeros(1, 1, 28, 28), torch.tensor([3]))[0, 10:].isfinite().all()


def test_triples_share_a_label(tmp_path):
    (tmp_path / "digits").mkdir()
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, size=(8, 28, 28)).astype(np.uint8), (np.arange(8) % 2).astype(np.uint8)
    np.savez(tmp_path / "digits" / "mnist.npz", train_images=images, train_labels=labels)
    audio = np.concatenate([np.full(400, 1000 * (i + 1)) * np.where(np.arange(400) % 2, 1, -1) for i in range(4)]).astype(np.int16)
    spoken = {"labels": (np.arange(4) % 2).astype(np.uint8), "index": np.full(4, 9, np.uint8), "offsets": np.arange(5) * 400}
    np.savez(tmp_path / "digits" / "fsdd.npz", audio=audio, **spoken)
    found, again, other = (load_digit_triples("train", tmp_path, seed) for seed in (0, 0, 1))
    assert len(found) == 8 and found.attributes[:, :10].argmax(1).equal(found.labels) and found.sound.shape == (8, 8000)
    assert found.sound.equal(again.sound) and set(found.modalities()) == {"image", "sound", "attributes"}
    assert len(load_digit_triples("train", tmp_path, limit=3)) == 3 and other.labels.equal(found.labels)
