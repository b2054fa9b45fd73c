"""Editing: data changed from part of the way to noise, in Python and as files."""

from __future__ import annotations

import pytest
import torch

from polyscore.codecs import Identity
from polyscore.composer import Composer
from polyscore.errors import PolyscoreError
from polyscore.media import read_metadata
from polyscore.networks.transformer import TokenDenoiser
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.report.describe import describe


def pair() -> Composer:
    """Two correlated standard normal numbers."""
    law = GaussianDenoiser(torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]), {"x": VPSDE(), "y": VPSDE()})
    return Composer({"x": Identity((1,))}, law, {"steps": 20, "grid": "karras", "leaders": {"x": 3}})


def test_an_edit_is_nearer_to_its_content_the_earlier_it_starts() -> None:
    composer, content = pair(), {"x": torch.full((2000, 1), 2.5)}
    moved = [float((composer.edit(content, start)["x"] - 2.5).abs().mean()) for start in (0.1, 0.4, 1.0)]
    assert moved[0] < 0.3 < moved[1] < moved[2]
    fresh = composer.edit(content, 1.0, seed=1)["x"]
    assert float(fresh.mean()) == pytest.approx(0.0, abs=0.1)  # nothing of the content is left
    assert float(fresh.std()) == pytest.approx(1.0, abs=0.06)


def test_an_edit_fits_what_is_given_and_leaves_the_rest_out() -> None:
    composer, content = pair(), {"x": torch.zeros(2000, 1)}
    found = composer.edit(content, 1.0, given={"y": torch.full((1, 1), 1.5)})
    assert set(found) == {"x", "y"} and found["y"].shape == (2000, 1)
    assert float(found["x"].mean()) == pytest.approx(1.2, abs=0.06)
    alone = composer.edit(content, 0.5, steps=10)
    assert set(alone) == {"x"} and alone.info["steps"] == 5
    assert torch.allclose(composer.edit(content, 0.5, first=3)["x"][:5], composer.edit(content, 0.5)["x"][3:8], atol=1e-5)


def test_wrong_edits() -> None:
    composer, content = pair(), {"x": torch.zeros(1, 1)}
    for options, words in (
        ({"start": 0.01}, "start 0.01 of 20 steps leaves 0"),
        ({"start": 1.5}, "leaves 30, expected between 1 and 20"),
        ({"grid": "uniform"}, "expected none of the options grid"),
        ({"particles": 3}, "found 'particles'"),
        ({"colour": 3}, "sampling option 'colour'"),
    ):
        with pytest.raises(PolyscoreError, match=words):
            composer.edit(content, **options)
    with pytest.raises(PolyscoreError, match="a modality that is not given"):
        composer.edit({}, given=content)


def test_edited_files(run_cli, tiny_model, tmp_path, seven, three):
    command = ["edit", "--model", tiny_model, "--content", f"image={seven}", "--n", 3, "--batch_size", 2, "--seed", 4]
    assert run_cli(*command, "--start", 0.5, "--out", tmp_path / "a")[:2] == (0, f"3 files in {tmp_path / 'a'}\n")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"000{i}_image.png" for i in range(3)]
    run = read_metadata(tmp_path / "a" / "0002_image.png")["run"]
    assert run["start"] == 0.5 and list(run["content"]) == ["image"] and run["given"] == {}
    assert "changed" in describe(tmp_path / "a" / "0002_image.png")
    assert run_cli("sample", "--from", tmp_path / "a" / "0001_image.png", "--out", tmp_path / "b")[0] == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert run_cli(*command, "--given", f"speech={three}", "--out", tmp_path / "c")[0] == 0
    assert (tmp_path / "c" / "0000_image.png").read_bytes() != (tmp_path / "a" / "0000_image.png").read_bytes()
    for more, words in (
        (["--start", 0], "leaves 0"),
        (["--given", f"image={seven}"], "'image' in both"),
        (["--n", 0], "n is 0"),
        (["--corrector", "gibs"], "corrector 'gibs'"),
    ):
        code, out, err = run_cli(*command, *more, "--out", tmp_path / "d")
        assert (code, out) == (2, "") and words in err
    assert not (tmp_path / "d").exists()


def test_edited_words(run_cli, tmp_path):
    """On the shipped words: from little noise most letters stay, and the picture that is given decides with the rest."""
    command = ["edit", "--model", "words", "--content", "word=seven", "--n", 8, "--steps", 20]
    assert run_cli(*command, "--start", 0.1, "--out", tmp_path / "near")[0] == 0
    texts = [(tmp_path / "near" / f"{i:04d}_word.json").read_text() for i in range(8)]
    assert sum("seven" in text for text in texts) >= 6


def test_labels_of_a_class_conditional_composer(tmp_path):
    torch.manual_seed(0)
    sizes = {"vocabulary": 5, "grid": [2, 2], "width": 16, "depth": 1, "heads": 2, "classes": 3}
    denoiser = TokenDenoiser("tokens", changes=sizes).eval()
    for weight in denoiser.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    composer = Composer.load(Composer({}, denoiser, {"steps": 3}).save(tmp_path / "model"))
    turns = composer.sample(6, label=[0, 2])["tokens"]
    condition = torch.tensor([0, 2, 0, 2, 0, 2])
    assert torch.equal(turns, composer.sample(6, condition=condition)["tokens"])
    assert torch.equal(turns, composer.sample(6, label=[0, 2], batch_size=4)["tokens"])
    assert torch.equal(turns[3:], composer.sample(3, label=[0, 2], first=3)["tokens"])
    guided = composer.sample(6, label=1, guidance=2.0)
    assert guided.info["evaluations_per_sample"] == 6
    assert not torch.equal(guided["tokens"], composer.sample(6, label=1)["tokens"])
    for label in (3, -1, [0, 7], [], True):
        with pytest.raises(PolyscoreError, match="expected classes from 0 to 2"):
            composer.sample(2, label=label)
    with pytest.raises(PolyscoreError, match="expected a class-conditional model"):
        pair().sample(2, label=1)
