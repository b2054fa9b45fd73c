"""The joint denoiser of the digits recipe, trained for a few steps on stand-in data with the shipped codecs."""

from __future__ import annotations

import pytest
import torch

from polyscore.cli import main
from polyscore.composer import WEIGHTS, Composer
from polyscore.recipes.digits.joint import Mixture, Network, train_joint
from polyscore.recipes.digits.words import letters, spelled
from polyscore.recipes.tables import read_table
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


def test_the_average_beside_its_parts(tmp_path, capsys):
    data = stand_in_digits(tmp_path, 60, 20)
    options = ["--data", str(data), "--n", "4", "--seeds", "[0]"]
    assert main(["evaluate", "digits-parts", *options, "--out", str(tmp_path / "digits-parts.json")]) == 0
    rows = {row["measure"]: row for row in read_table(tmp_path / "digits-parts.json")["rows"]}
    assert rows["joint: average less network alone"]["values"][0] == pytest.approx(
        rows["average: joint"]["mean"] - rows["network alone: joint"]["mean"]
    )
    assert rows["average: evaluations"]["mean"] == 2 * rows["mixture alone: evaluations"]["mean"]
    assert main(["evaluate", "digits-parts", *options, "--model", "words"]) == 2
    assert "words: expected two denoisers averaged, found JointMixture" in capsys.readouterr().err


def test_words_are_fitted_on_the_codecs_of_a_digits_model(tmp_path):
    data = stand_in_digits(tmp_path, 60, 20)
    command = ["train", "digits-words", "--data", str(data), "--copies", "2", "--components.pictures", "1", "--components.sounds", "1"]
    assert main([*command, "--out", str(tmp_path / "words")]) == 0
    assert {f.name for f in (tmp_path / "words").glob("*.safetensors")} == {"denoiser.safetensors", "word.safetensors"}
    composer = Composer.load(tmp_path / "words")
    made = composer.sample(2, {"word": letters().write(["seven", "six"])}, seed=1)
    assert made["image"].shape == (2, 1, 28, 28) and made["speech"].shape == (2, 8000)
    assert made.info["evaluations_per_sample"] == composer.defaults["steps"]
    read = composer.sample(2, {name: made[name] for name in ("image", "speech")}, seed=1)["word"]
    assert set(spelled(read).tolist()) <= set(range(10))
