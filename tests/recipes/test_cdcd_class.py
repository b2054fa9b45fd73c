"""Class to image on made-up clothes: codec, base, continuations, the choice on a held seed, table and curve."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from polyscore.checkpoint import load_module
from polyscore.codecs import VQ
from polyscore.media import read_image, read_metadata
from polyscore.metrics.judges import Judge
from polyscore.networks.transformer import TokenDenoiser
from polyscore.recipes.cdcd.codec import CODEC_TRAINING, train_token_codec
from polyscore.recipes.cdcd.image import CLASS_TRAINING, CONTINUE, CONTRAST, SETTINGS, VANILLA
from polyscore.recipes.cdcd.table import ClassTable, interval
from polyscore.recipes.digits.judges import TRAINING, train_judge
from polyscore.recipes.tables import read_table
from tiny import write_idx

SWEEP = ("vanilla", "step-intra, lambda 0.05", "sample-inter, lambda 0.005", "sample-inter, lambda 0.05")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clothes")
    draw = np.random.default_rng(0)
    for start, size in (("train", 60), ("t10k", 40)):
        labels = (np.arange(size) % 10).astype(np.uint8)
        pixels = draw.integers(0, 60, (size, 28, 28)).astype(np.uint8) + (labels * 15)[:, None, None].astype(np.uint8)
        write_idx(folder / "fashion-mnist" / f"{start}-images-idx3-ubyte.gz", pixels)
        write_idx(folder / "fashion-mnist" / f"{start}-labels-idx1-ubyte.gz", labels)
    return folder


def test_a_small_table(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSCORE_DATA", str(data))
    codec = train_token_codec(
        str(tmp_path / "codec"), codes=8, width=4, config=replace(CODEC_TRAINING, steps=2), progress=False, dataset="fashion"
    )
    assert codec.grid == (7, 7)
    assert load_module(tmp_path / "codec" / "tokens", VQ)._meta["test"]["psnr"] > 0
    judge = train_judge("image", str(tmp_path / "judges"), config=replace(TRAINING["image"], steps=2), progress=False, dataset="fashion")
    assert judge.head[-1].out_features == 10
    assert load_module(tmp_path / "judges" / "image", Judge)._meta["dataset"] == "Fashion-MNIST, train split"
    table = ClassTable(
        str(tmp_path / "codec" / "tokens"),
        str(tmp_path / "runs"),
        str(tmp_path / "cdcd-small.json"),
        n=20,
        many=30,
        seeds=(0, 1),
        curve=(2, 20),
        dataset="fashion",
        judges=str(tmp_path / "judges"),
        first=replace(CLASS_TRAINING, steps=2, batch_size=8),
        more=replace(CONTINUE, steps=1, batch_size=8),
        sweep=SWEEP,
    )
    rows = {row.measure: row for row in table.run()}
    stored = read_table(tmp_path / "cdcd-small.json")
    assert len(stored["rows"]) == len(rows)
    assert stored["protocol"]["command"] == "polyscore evaluate cdcd-class --dataset fashion --training.steps 2"
    assert (tmp_path / "cdcd-small.png").stat().st_size > 1000
    chosen = stored["protocol"]["held seed"]["chosen"]
    assert len(chosen) == 2
    assert {name.split(",")[0] for name in chosen} == {"step-intra", "sample-inter"}
    for cell in ("vanilla, 2 steps, n 10", "vanilla, 20 steps, n 10", "vanilla, 20 steps, n 20", "vanilla, 20 steps, n 30"):
        assert len(rows[f"{cell}: accuracy"].values) == 2
    assert len(rows["guidance 2, 10 steps, 20 evaluations, n 20: frechet"].values) == 2
    assert len(rows["held seed, sample-inter, lambda 0.05, 20 steps: accuracy"].values) == 1
    before = table.lab.file.stat().st_mtime_ns
    table.run()
    assert table.lab.file.stat().st_mtime_ns == before  # nothing is measured twice


def test_settings_and_intervals() -> None:
    assert {SETTINGS[f"{kind}, lambda 0.5"].weight for kind in ("step-intra", "step-inter", "sample-intra", "sample-inter")} == {0.5}
    assert SETTINGS["step-inter, lambda 5e-05"].inter == "step"
    assert SETTINGS["step-inter with own z_t, lambda 0.05"].parallel
    low, high = interval([0.9, 0.92, 0.94])
    assert (low + high) / 2 == pytest.approx(0.92)
    assert high - low == pytest.approx(2 * 4.303 * 0.02 / 3**0.5)
    assert interval([0.5]) == (0.5, 0.5)


def small(path: Path) -> list[str]:
    return ["--training.steps", "4", "--training.batch_size", "8", "--out", str(path), "--dataset", "fashion"]


def test_commands(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """A codec, denoisers of several kinds, and pictures of a class, all from the command line."""
    monkeypatch.setenv("POLYSCORE_DATA", str(data))
    codec = tmp_path / "codec"
    code, out, _ = run_cli("train", "cdcd-codec", "--codes", 8, *small(codec))
    assert (code, out) == (0, f"saved {codec}/tokens: 8 codes, 7 x 7 tokens\n")
    kinds = {
        "plain": [],
        "replaced": ["--path", "replace:0.05:0.6", "--negatives", "embedding", "--depth", "1", "--objective.intra", "step"],
        "uniform": ["--path", "uniform", "--objective.inter", "none", "--objective.importance", "true"],
        "batch": ["--path", "released", "--negatives", "batch"],
    }
    for name, more in kinds.items():
        model = tmp_path / name
        code, out, err = run_cli("train", "cdcd-class", "--codec", codec / "tokens", *small(model), *more)
        assert code == 0, err
        assert f"polyscore sample --model {model} --label 3" in out
        command = ["sample", "--model", model, "--steps", 3, "--n", 2]
        assert run_cli(*command, "--label", 3, "--guidance", 1, "--out", tmp_path / f"{name}-3")[0] == 0
        assert read_image(tmp_path / f"{name}-3" / "0001_tokens.png").shape == (1, 28, 28)
        assert read_metadata(tmp_path / f"{name}-3" / "0001_tokens.png")["run"]["options"]["label"] == 3
    trained = load_module(tmp_path / "replaced" / "denoiser", TokenDenoiser)
    assert trained.paths["tokens"].replaces and len(trained.network.blocks) == 1
    assert trained._meta["negatives"] == "embedding"
    assert load_module(tmp_path / "plain" / "denoiser", TokenDenoiser)._meta["objective"]["inter"] == "sample"
    edited = ["edit", "--model", tmp_path / "plain", "--content", f"tokens={tmp_path / 'plain-3' / '0000_tokens.png'}", "--label", 1]
    assert run_cli(*edited, "--n", 1, "--out", tmp_path / "edited")[0] == 0
    for more, words in (
        (["--path", "masking"], "token path 'masking': expected one of absorbing, released, replace, uniform"),
        (["--negatives", "colour"], "label, embedding, batch"),
        (["--size", "huge"], "small, text, class, dance"),
        (["--negatives", "embedding", "--judge", str(tmp_path / "none")], "none.json: cannot be read"),
    ):
        code, _, err = run_cli("train", "cdcd-class", "--codec", codec / "tokens", *small(tmp_path / "wrong"), *more)
        assert code == 2 and words in err
    assert run_cli("sample", "--model", tmp_path / "plain", "--label", 10, "--out", tmp_path / "x")[2].count("from 0 to 9") == 1


def test_help_says_every_argument_of_the_objective(run_cli: Callable[..., tuple[int, str, str]]) -> None:
    text = " ".join(run_cli("train", "cdcd-class", "--help")[1].partition("options:")[2].split())
    for name, words in (("temperature", "tau of"), ("shuffles", "number of intra"), ("importance", "draw t"), ("inter", "other examples")):
        found = re.search(rf"--objective\.{name} (.*?)(?=--objective|$)", text)
        assert found is not None and words in found[1], name


def test_the_table_keeps_a_vanilla_base() -> None:
    assert VANILLA.inter == VANILLA.intra == "none"
    assert SETTINGS["InfoNCE sample-inter, lambda 0.05, tau 1"] == CONTRAST
