"""A recipe uses what its folder holds only if it was made as asked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polyscore import cli
from polyscore.checkpoint import read_json, save_module
from polyscore.denoisers import Independent
from polyscore.errors import PolyscoreError
from polyscore.files import write_text
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.recipes.mmdisco.ratio import latent_ratio
from polyscore.recipes.mmdisco.toy import BASE_TRAINING, train_base
from polyscore.recipes.stored import check_stored, trained
from polyscore.recipes.talking import experts
from polyscore.recipes.talking.experts import TalkingSize
from polyscore.training import TrainConfig
from polyscore.training.joint import JointObjective

CONFIG = TrainConfig(steps=4, batch_size=32, warmup=0, ema=0.5, checkpoint_every=4, log_every=4)


def test_only_a_stored_fact_that_differs_is_an_error(tmp_path):
    module = JointDenoiser({"x": (2,)}, width=8, hidden=8)
    save_module(module, tmp_path / "m", meta={"steps": 5, "training": {"lr": 0.1, "log_every": 3}})
    check_stored(tmp_path / "m", {"steps": 5, "clips": 9, "training": {"lr": 0.1, "seed": 4}}, module)
    with pytest.raises(PolyscoreError, match=r"m\.json: made with training\.lr = 0\.1, asked for 0\.2"):
        check_stored(tmp_path / "m", {"training": {"lr": 0.2}})
    with pytest.raises(PolyscoreError, match=r"m\.json: made with width = 8, asked for 16"):
        check_stored(tmp_path / "m.json", {}, JointDenoiser({"x": (2,)}, width=16, hidden=8))


def _forget(path: Path) -> None:
    """As a version that stored no facts would have left it."""
    write_text(path, json.dumps({**read_json(path), "meta": {}}))


def test_a_ratio_of_other_sizes_or_training_is_not_taken(tmp_path):
    base = Independent(*(GaussianDenoiser([0.0] * 2, torch.eye(2).tolist(), {name: VPSDE()}) for name in ("x",)), scalar("y"))
    real = {"x": torch.randn(60, 2), "y": torch.randn(60, 1)}

    def ratio(**changes):
        options = {"count": 40, "steps": 2, "width": 8, "depth": 1, "grid": 8, "config": CONFIG, **changes}
        return latent_ratio(tmp_path, "case", base, options.pop("real", real), tmp_path / "fakes", loss="disc", **options)

    made = ratio()
    assert torch.equal(ratio().network.streams["x"].stem.weight, made.network.streams["x"].stem.weight)
    for changes, fact in (
        ({"count": 30}, "fakes_used = 40, asked for 30"),
        ({"steps": 3}, r"fakes\.sampling\.steps = 2, asked for 3"),
        ({"width": 16}, r"network\.width = 8, asked for 16"),
        ({"grid": 16}, r"objective\.grid = 8, asked for 16"),
        ({"config": replace(CONFIG, lr=0.5)}, r"training\.lr = 0\.001, asked for 0\.5"),
        ({"real": {name: value[:50] for name, value in real.items()}}, "reals_used = 60, asked for 50"),
    ):
        with pytest.raises(PolyscoreError, match=rf"ratio\.json: made with {fact}"):
            ratio(**changes)
    ratio(config=replace(CONFIG, log_every=1))
    _forget(tmp_path / "case-disc-0" / "ratio.json")
    ratio(count=30)


def scalar(name: str) -> GaussianDenoiser:
    return GaussianDenoiser([0.0], 1.0, {name: VPSDE()})


def test_base_models_of_other_sizes_or_training_are_not_taken(tmp_path):
    path, latents = tmp_path / "base-sound", {"sound": torch.randn(40, 3)}
    size = TalkingSize(width=8, depth=1)

    def base(size=size, config=CONFIG, latents=latents):
        experts._fit(latents, JointObjective(), config, size, path, progress=False)

    base()
    before = path.with_suffix(".safetensors").stat().st_mtime_ns
    base()
    for changes, fact in (
        ({"size": replace(size, width=16)}, "width = 8, asked for 16"),
        ({"config": replace(CONFIG, steps=9)}, "steps = 4, asked for 9"),
        ({"config": replace(CONFIG, lr=0.5)}, r"training\.lr = 0\.001, asked for 0\.5"),
        ({"latents": {"sound": torch.randn(30, 3)}}, "clips = 40, asked for 30"),
    ):
        with pytest.raises(PolyscoreError, match=rf"base-sound\.json: made with {fact}"):
            base(**changes)
    _forget(path.with_suffix(".json"))
    base(config=replace(CONFIG, steps=9))
    assert path.with_suffix(".safetensors").stat().st_mtime_ns == before


def test_the_command_says_which_file_was_made_otherwise(tmp_path, capsys):
    train_base(tmp_path, replace(BASE_TRAINING, steps=2, batch_size=16), progress=False)
    write_text(tmp_path / "base-seconds.json", "1.0")
    options = ["--base.steps", "3", "--base.batch_size", "16", "--jobs", "1", "--table", str(tmp_path / "toy.json")]
    assert cli.main(["recipe", "mmdisco-toy", "--out", str(tmp_path), *options]) == 2
    assert "base.json: made with steps = 2, asked for 3" in " ".join(capsys.readouterr().err.split())
    assert "lr" in trained(BASE_TRAINING) and "log_every" not in trained(BASE_TRAINING)
