"""What `polyscore inspect` shows."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from polyscore.checkpoint import save_tensors
from polyscore.composer import Composer
from polyscore.data.folder import prepare_folder
from polyscore.errors import CheckpointError, DataError, PolyscoreError
from polyscore.generate import fingerprint, generate
from polyscore.media import write_image
from polyscore.report.describe import describe


def test_a_composer(tiny_model):
    text = describe(tiny_model)
    composer = Composer.load(tiny_model)
    assert fingerprint(composer) in text
    assert "LogMel > VAE" in text and "1 x 28 x 28" in text and "steps 4, guidance 1" in text
    assert f"{sum(p.numel() for p in composer.denoiser.parameters()):,} parameters" in text
    assert "dataset: none: not trained" in text
    assert describe(tiny_model / "composer.json").replace("/composer.json", "") == text


def test_a_checkpoint_and_bare_tensors(tiny_model, tmp_path):
    text = describe(tiny_model / "image.json")
    assert "class       VAE" in text and "(right)" in text and "more" in text
    assert text == describe(tiny_model / "image.safetensors")
    save_tensors({"b": torch.zeros(2, 3), "a": torch.zeros((), dtype=torch.int64)}, tmp_path / "some.safetensors")
    lines = describe(tmp_path / "some.safetensors").splitlines()
    assert [line.split() for line in lines[-2:]] == [["a", "1", "int64"], ["b", "2", "x", "3", "float32"]]


def test_a_result(tiny_model, tmp_path, seven):
    copy = shutil.copytree(tiny_model, tmp_path / "model")
    files = generate(copy, tmp_path / "out", 2, {"image": seven}, seed=3, options={"steps": 2})
    text = describe(files[1])
    assert "speech, sample 1 of 2" in text and "given      image" in text and "seed       3" in text
    assert "steps 2, guidance 1" in text and "the same now" in text
    composer = Composer.load(copy)
    next(composer.denoiser.parameters()).data += 1
    composer.save(copy)
    assert "so it cannot be repeated" in describe(files[1])
    shutil.rmtree(copy)
    assert "not found now" in describe(files[1])


def test_a_data_set(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / "mine" / "image" / f"{name}.png", torch.rand(1, 4, 4))
    prepare_folder(tmp_path / "mine", tmp_path / "ready", {"image": {"kind": "image", "shape": [1, 4, 4]}})
    text = describe(tmp_path / "ready")
    assert "samples         2" in text and "shape" in text


def test_a_training_run(tmp_path):
    digest = save_tensors({"module.w": torch.zeros(3)}, tmp_path / "step-00000007.safetensors")
    header = {"format": 1, "step": 7, "seconds": 1.5, "file": "step-00000007.safetensors", "sha256": digest}
    (tmp_path / "latest.json").write_text(json.dumps(header | {"scalars": {"loss": 0.25}, "identity": {"lr": 0.001}}))
    text = describe(tmp_path)
    assert "step     7" in text and "loss: 0.25" in text and "lr: 0.001" in text
    (tmp_path / "latest.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        describe(tmp_path)


def test_what_join_leaves_behind(tiny_model, tmp_path):
    """Fakes and reviews, each alone and below their composer."""
    folder = shutil.copytree(tiny_model, tmp_path / "joined")
    for name in ("fakes", "training"):
        (folder / name).mkdir()
    manifest = {"format": 1, "denoiser": "ab12", "seed": 1, "shard": 4, "sampling": {"steps": 2, "solver": "dpmpp"}, "condition": None}
    (folder / "fakes" / "fakes.json").write_text(json.dumps(manifest | {"shards": [{"file": "a", "n": 4}, {"file": "b", "n": 3}]}))
    reviews = [{"step": 10 * k, "loss": 2.0 - k % 3, "bce": 0.5, "accuracy": 0.75, "denoise.image": 1.25} for k in range(20)]
    (folder / "training" / "reviews.json").write_text(json.dumps(reviews))
    fakes, training = describe(folder / "fakes"), describe(folder / "training" / "reviews.json")
    assert "7 in 2 shards" in fakes and "solver: dpmpp" in fakes and "conditions  none" in fakes
    assert "best     step 20, held-out loss 0" in training and "reviews  20" in training and "denoise.image: 1.25" in training
    assert training.splitlines()[4].split() == ["step", "loss", "bce", "accuracy"] and "190 " in training
    whole = describe(folder)
    assert fakes in whole and "best     step 20" in whole
    (folder / "training" / "reviews.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not reviews of a training"):
        describe(folder / "training")
    (folder / "fakes" / "fakes.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a manifest of fakes"):
        describe(folder / "fakes")


def test_other_things(tmp_path):
    with pytest.raises(PolyscoreError, match="expected a folder with composer"):
        describe(tmp_path / "nothing")
    plain = write_image(tmp_path / "plain.png", torch.rand(1, 4, 4))
    with pytest.raises(DataError, match="no polyscore metadata"):
        describe(plain)
    other = write_image(tmp_path / "other.png", torch.rand(1, 4, 4), metadata={"made": "by hand"})
    assert "made: by hand" in describe(other)
    (tmp_path / "text.odt").write_text("x")
    with pytest.raises(DataError, match=r"found suffix '\.odt'"):
        describe(tmp_path / "text.odt")
