"""Text to image: captions, painted attributes, photographs as grounds, and the recipe and its commands in a few steps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyscore.checkpoint import load_module, load_tensors
from polyscore.cli import main
from polyscore.composer import Composer
from polyscore.data.captions import COLOURS, LENGTH, Language, captioned_digits, crops, load_photographs
from polyscore.data.captions import paint as painted
from polyscore.data.digits import load_sklearn_digits
from polyscore.errors import DataError
from polyscore.media import read_image, read_metadata, write_image
from polyscore.recipes.cdcd import text
from polyscore.recipes.cdcd.text import TextTraining, Told, train_text
from polyscore.recipes.tables import read_table
from polyscore.training import Draw

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits in MNIST's file."""
    folder = tmp_path_factory.mktemp("mnist")
    (folder / "digits").mkdir()
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "test"):
        some = load_sklearn_digits(split)
        arrays |= {f"{split}_images": (some.x[:40, 0] * 255).byte().numpy(), f"{split}_labels": some.labels[:40].byte().numpy()}
    np.savez(folder / "digits" / "mnist.npz", **arrays)
    return folder


def quick(steps: int) -> TextTraining:
    """So few steps of every part, for a try."""
    preset = TextTraining()
    return TextTraining(*(replace(part, steps=steps, batch_size=8) for part in (preset.codec, preset.judge, preset.model, preset.contrast)))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "text"
    train_text(str(folder), str(data), training=quick(2), progress=False)
    return folder


def test_captions_say_every_attribute() -> None:
    language, rows = Language(), torch.tensor([[7, 0, 4, 1], [0, 5, 0, 0]])
    texts = {language.say(rows[0].tolist(), way) for way in range(3)}
    assert len(texts) == 3
    for said in texts:
        for word in ("seven", "red", "temple", "large"):
            assert word in said.split()
        assert "a temple" in said
    assert "on plain black" in language.say(rows[1].tolist())
    assert language.caption(rows, 1) == language.caption(rows, 1)
    hot = text.words_of([language.say(rows[0].tolist()), "A zero"], language)
    assert hot.shape == (2, LENGTH, len(language.words) + 1)
    assert hot[1].sum(-1).tolist() == [2.0, 2.0] + [0.0] * (LENGTH - 2)
    with pytest.raises(DataError, match="found 'horse'"):
        text.words_of(["a horse"], language)
    assert text.words_of(["a horse"], Language(("horse",)))[0, 1].sum() == 2
    with pytest.raises(DataError, match="words, found 99"):
        text.words_of(["a " * 99], language)


def test_pictures_show_their_attributes(data: Path) -> None:
    found = captioned_digits("test", str(data))
    assert found.x.shape == (40, 3, 28, 28)
    assert found.attributes.amax(0).tolist() <= [size - 1 for size in found.language.sizes]
    strokes, ground = torch.zeros(1, 1, 28, 28), torch.full((1, 3, 28, 28), 0.5)
    strokes[..., 8:20, 12:16] = 1
    large, small = (painted(strokes, torch.tensor([[1, 2, 0, size]]), ground) for size in (1, 0))
    ink = torch.tensor(COLOURS["blue"])
    torch.testing.assert_close(large[0, :, 14, 13], ink)
    inked = [int(((x[0] - ink[:, None, None]).abs().sum(0) < 0.1).sum()) for x in (large, small)]
    assert inked[0] > inked[1] > 0
    torch.testing.assert_close(large[0, :, 0, 0], torch.full((3,), 0.5))
    assert float(large[0].amin()) < 0.3, "a shadow around the ink"


def test_grounds_are_crops_of_photographs(data: Path, tmp_path: Path) -> None:
    shipped = load_photographs()
    assert list(shipped) == ["flower", "temple"]
    taken = crops(shipped["flower"], 6, torch.Generator().manual_seed(0))
    assert taken.shape == (6, 3, 28, 28)
    assert float(taken.std(0).mean()) > 0.02, "six different crops"
    (tmp_path / "beach").mkdir()
    blue = torch.zeros(3, 40, 60)
    blue[2] = 1
    for name in ("beach/one.png", "beach/2.png", "Sky.png"):
        write_image(tmp_path / name, blue)
    own = load_photographs(tmp_path)
    assert {word: tuple(pictures.shape) for word, pictures in own.items()} == {"beach": (2, 3, 48, 48), "sky": (1, 3, 48, 48)}
    found = captioned_digits("train", str(data), photographs=own)
    here = found.attributes[:, 2] == found.language.attributes["ground"].index("sky")
    corner = found.x[here][:, :, 0, 0]
    torch.testing.assert_close(corner, torch.tensor([0.0, 0.0, 0.5]).expand_as(corner))
    with pytest.raises(DataError, match="expected photographs"):
        load_photographs(tmp_path / "none")
    write_image(tmp_path / "red.png", blue)
    with pytest.raises(DataError, match="captions don't use yet, found 'red'"):
        load_photographs(tmp_path)


def test_negatives_are_other_digits_with_all_else_the_same() -> None:
    attributes = torch.cartesian_prod(torch.arange(10), torch.arange(2), torch.arange(2), torch.arange(1)).repeat(3, 1)
    attributes = torch.cat([attributes, torch.tensor([[3, 5, 4, 1]])])[torch.randperm(121, generator=torch.Generator().manual_seed(0))]
    told = Told(torch.arange(121)[:, None].repeat(1, 4), attributes, Language(), negatives=5)
    batch = told(Draw(0, 0, 400))
    assert batch["text"].shape == (400, LENGTH, len(Language().words) + 1)
    own, other = attributes[batch["tokens"][:, 0]], attributes[batch["negatives"][:, :, 0]]
    alone = own[:, 1] == 5
    assert bool(alone.any())
    assert bool((batch["negatives"][alone] == batch["tokens"][alone][:, None]).all())
    assert bool((other[~alone][:, :, 1:] == own[~alone][:, None, 1:]).all())
    assert bool((other[~alone][:, :, 0] != own[~alone][:, None, 0]).all())
    assert len(other[own[:, 0] == 4][:, :, 0].unique()) == 9


def test_a_composer_that_is_prompted(trained: Path) -> None:
    """Samples depend on the prompt and the seed; guidance is the classifier-free one; the condition of training is the prompt's words."""
    composer, prompt = Composer.load(trained), "a large red seven on a temple"
    first = composer.sample(2, prompt=prompt, steps=3)["tokens"]
    assert first.shape == (2, 3, 28, 28) and bool(((first >= 0) & (first <= 1)).all())
    torch.testing.assert_close(composer.sample(2, prompt={"tokens": prompt}, steps=3)["tokens"], first)
    torch.testing.assert_close(composer.sample(1, prompt=prompt, steps=3)["tokens"], first[:1])
    assert not torch.equal(composer.sample(2, prompt=prompt, steps=3, seed=1)["tokens"], first)
    denoiser, z = composer.denoiser, torch.full((2, 49), 256)
    told = {"text": text.words_of([prompt, "a small zero"], Language())}
    said, unsaid, plain = (denoiser({"tokens": z}, {"tokens": 1.0}, c)["tokens"].log_probs for c in ([prompt, "a small zero"], "", None))
    torch.testing.assert_close(denoiser({"tokens": z}, {"tokens": 1.0}, told)["tokens"].log_probs, said)
    torch.testing.assert_close(plain, unsaid)
    guided = composer.operator(2.0, None, prompt)({"tokens": z}, {"tokens": 1.0}, prompt)["tokens"].log_probs
    torch.testing.assert_close(guided[0], (3 * said[0] - 2 * unsaid[0]).log_softmax(-1), atol=1e-4, rtol=1e-4)
    own = text._draw(denoiser, composer.codecs["tokens"], told["text"][:1], 3.0, 3, 0)
    torch.testing.assert_close(own, first[:1])
    with pytest.raises(DataError, match="found 'horse'"):
        composer.sample(1, prompt="a horse")


def test_commands(data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    few = [
        f"--training.{part}.{name}={value}"
        for part in ("codec", "judge", "model", "contrast")
        for name, value in (("steps", 1), ("batch_size", 4))
    ]
    (tmp_path / "photographs").mkdir()
    write_image(tmp_path / "photographs" / "beach.png", torch.rand(3, 30, 30, generator=torch.Generator().manual_seed(0)))
    own = ["--out", str(tmp_path / "own"), "--data", str(data), "--backgrounds", str(tmp_path / "photographs"), *few]
    assert main(["train", "cdcd-text", *own, "--objective.inter", "none", "--objective.intra", "step", "--depth", "1"]) == 0
    assert len(load_module(tmp_path / "own" / "denoiser").network.blocks) == 1
    assert load_tensors(tmp_path / "own" / "photographs.safetensors")["beach"].shape == (1, 3, 48, 48)
    assert (tmp_path / "own" / "run-contrast" / "log.jsonl").is_file()
    drawn = ["sample", "--model", str(tmp_path / "own"), "--out", str(tmp_path / "drawn"), "--n", "1", "--steps", "2"]
    assert main([*drawn, "--prompt", "a small green two on a beach", "--token_solver", "confidence:0.9"]) == 0
    picture = str(tmp_path / "drawn" / "0000_tokens.png")
    assert read_metadata(picture)["run"]["options"]["prompt"] == "a small green two on a beach"
    assert read_image(picture).shape == (3, 28, 28)
    assert main([*drawn, "--prompt", "a small green two on a temple"]) != 0
    assert "found 'temple'" in capsys.readouterr().err
    edited = ["edit", "--model", str(tmp_path / "own"), "--out", str(tmp_path / "edited"), "--n", "1", "--content", f"tokens={picture}"]
    assert main([*edited, "--prompt", "a large red two on a beach", "--steps", "4"]) == 0

    shutil.copytree(trained, tmp_path / "kept")
    (tmp_path / "kept" / "denoiser.json").unlink()
    other = ["--out", str(tmp_path / "kept"), "--data", str(data), "--backgrounds", str(tmp_path / "photographs"), *few]
    assert main(["train", "cdcd-text", *other]) != 0
    assert "choose another folder" in capsys.readouterr().err

    monkeypatch.setattr(text, "clip_score", lambda pictures, captions, model: torch.full((len(captions),), 0.3))
    out = tmp_path / "cdcd-text.json"
    options = [
        "--n",
        "6",
        "--seeds",
        "[0,1]",
        "--steps",
        "3",
        "--guidances",
        "[1,3]",
        "--clip",
        "folder",
        "--picture",
        str(tmp_path / "some.png"),
    ]
    assert main(["evaluate", "cdcd-text", "--folder", str(trained), "--out", str(out), "--data", str(data), *options]) == 0
    rows = {row["measure"]: row for row in read_table(out)["rows"]}
    assert len(rows["guidance 3: all attributes"]["values"]) == 2
    assert read_image(tmp_path / "some.png").shape[0] == 3
    assert rows["guidance 3: all attributes"]["reach"] == ">= 0.8"
    assert 0 <= rows["guidance 1: ink"]["mean"] <= 1
    for name in ("guidance 3: CLIPScore", "test pictures: CLIPScore"):
        assert rows[name]["mean"] == pytest.approx(30)
    protocol = read_table(out)["protocol"]
    assert protocol["command"] == "polyscore evaluate cdcd-text"
    assert "6 inks and 2 sizes on 5 grounds" in protocol["data"]
