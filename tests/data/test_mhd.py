"""Digits with sound and attributes."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from polyscore.data.digits import RATE
from polyscore.data.folder import prepare_folder
from polyscore.data.mhd import load_digit_triples, stroke_attributes, write_digit_triples
from polyscore.errors import DataError

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="POLYSCORE_DATA is not set")
KINDS = {
    "image": {"kind": "image", "shape": [1, 28, 28]},
    "sound": {"kind": "audio", "rate": RATE, "shape": [8000]},
    "attributes": {"kind": "vector", "shape": [14]},
}


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


@pytest.fixture
def stored(tmp_path):
    """Eight pictures and four sounds, of zeros and ones."""
    (tmp_path / "digits").mkdir()
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, size=(8, 28, 28)).astype(np.uint8), (np.arange(8) % 2).astype(np.uint8)
    np.savez(tmp_path / "digits" / "mnist.npz", train_images=images, train_labels=labels)
    audio = np.concatenate([np.full(400, 1000 * (i + 1)) * np.where(np.arange(400) % 2, 1, -1) for i in range(4)]).astype(np.int16)
    spoken = {"labels": (np.arange(4) % 2).astype(np.uint8), "index": np.full(4, 9, np.uint8), "offsets": np.arange(5) * 400}
    np.savez(tmp_path / "digits" / "fsdd.npz", audio=audio, **spoken)
    return tmp_path


def test_triples_share_a_label(stored):
    found, again, other = (load_digit_triples("train", stored, seed) for seed in (0, 0, 1))
    assert len(found) == 8 and found.attributes[:, :10].argmax(1).equal(found.labels) and found.sound.shape == (8, 8000)
    assert found.sound.equal(again.sound) and set(found.modalities()) == {"image", "sound", "attributes"}
    assert len(load_digit_triples("train", stored, limit=3)) == 3 and other.labels.equal(found.labels)
    assert {name: mask.tolist() for name, mask in found.masks().items()} == dict.fromkeys(found.modalities(), [True] * 8)


def same(files, shards, data):
    """What the files say is the data, up to 8 and 16 bits."""
    batch = prepare_folder(files, shards, KINDS).batch(range(len(data)))
    assert batch["labels"].equal(data.labels)
    for name, x in data.modalities().items():
        assert batch["masks"][name].equal(data.masks()[name])
        torch.testing.assert_close(batch["data"][name], x, atol=1e-4, rtol=0)


def test_command_writes_what_prepare_reads(stored, tmp_path, run_cli):
    out = tmp_path / "files"
    code, said, _ = run_cli("data", "digits", "--out", out, "--data", stored, "--limit", 5, "--seed", 1)
    assert code == 0 and "5 digits in" in said
    assert [p.name for p in sorted(out.iterdir())] == ["attributes", "image", "labels.csv", "sound"]
    data = load_digit_triples("train", stored, 1, 5)
    same(out, tmp_path / "shards", data)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert len(before) == 16 and write_digit_triples(data, out) == 5 and before == {p: p.read_bytes() for p in before}


def test_errors(tmp_path, run_cli):
    code, _, error = run_cli("data", "digits", "--out", tmp_path / "files", "--data", tmp_path / "none")
    assert code == 2 and "mnist.npz is missing" in error and error.count("\n") == 1 and not (tmp_path / "files").exists()
    with pytest.raises(DataError, match="limit: expected at least 1, found 0"):
        load_digit_triples(limit=0)


@needs_data
def test_real_digits(tmp_path):
    data = load_digit_triples("test", limit=6)
    write_digit_triples(data, tmp_path / "files")
    same(tmp_path / "files", tmp_path / "shards", data)
    assert data.attributes[:, :10].argmax(1).equal(data.labels) and (data.sound.abs().amax(1) - 0.9).abs().max() < 1e-6
