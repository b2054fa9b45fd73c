"""Three modalities on the digits: the shipped words model, measured on stand-ins for the test splits by the shipped judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polyscore.composer import WEIGHTS, Composer
from polyscore.data.digits import load_sklearn_digits
from polyscore.recipes.digits.evaluate import DigitsTest
from polyscore.recipes.digits.words import SUBSETS, WORDS, evaluate_words, letters
from polyscore.recipes.tables import read_table

torch.set_num_threads(1)
pytestmark = pytest.mark.skipif(not (WEIGHTS / "words" / "composer.json").exists(), reason="the weights are not here yet")
WAYS = {
    "nothing -> image + speech + word",
    "image -> speech + word",
    "speech -> image + word",
    "word -> image + speech",
    "image + speech -> word",
    "image + word -> speech",
    "speech + word -> image",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's file with scikit-learn's digits, FSDD's with sounds the model itself makes of words; all in the test splits."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "digits").mkdir()
    seen = load_sklearn_digits("test")
    images, labels = (255 * seen.x[:, 0]).round().byte().numpy(), seen.labels.numpy().astype(np.uint8)
    parts = {f"{split}_{kind}": value for split in ("train", "test") for kind, value in (("images", images), ("labels", labels))}
    np.savez(folder / "digits" / "mnist.npz", **parts)
    spoken = np.tile(np.arange(10, dtype=np.uint8), 2)
    waves = Composer.load("words").sample(20, {"word": letters().write([WORDS[k] for k in spoken])}, seed=5)["speech"]
    audio = (32_767 * waves / waves.abs().amax(1, keepdim=True)).round().short().numpy()
    offsets = np.arange(0, audio.size + 1, audio.shape[1])
    np.savez(folder / "digits" / "fsdd.npz", audio=audio.ravel(), offsets=offsets, labels=spoken, index=np.zeros(20, dtype=np.uint8))
    return folder


def test_all_seven_ways_by_the_command(data: Path, tmp_path: Path, run_cli: Callable[..., tuple[int, str, str]]) -> None:
    """Floors far below the table's .95: 20 samples a way, and scikit-learn's digits are not MNIST's."""
    out = tmp_path / "cdcd-words.json"
    code, _, error = run_cli("evaluate", "cdcd-words", "--model", "words", "--n", 20, "--seeds", "[0]", "--data", data, "--out", out)
    assert code == 0, error
    table = read_table(out)
    rows = {row["measure"]: row for row in table["rows"]}
    assert {name for name, row in rows.items() if row["reach"] == ">= 0.95"} == WAYS
    for name in WAYS:
        assert rows[name]["mean"] >= (0.6 if name.startswith("image") else 0.8), (name, rows[name]["mean"])
    assert rows["evaluations"]["mean"] == 8 and rows["evaluations"]["met"]
    assert rows["word -> image + speech: image frechet"]["mean"] > 0
    assert table["protocol"]["command"] == "polyscore evaluate cdcd-words --model words"
    assert table["protocol"]["fitted"]["recipe"] == "digits-words"


def test_wrong_labels_are_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given and its label apart by one: no way that is given something may look coherent."""
    monkeypatch.setattr("polyscore.recipes.digits.words.SUBSETS", [("image",), ("word", "speech")])
    test = DigitsTest.load(data=str(data))
    test.sets = {name: replace(found, labels=(found.labels + 1) % 10) for name, found in test.sets.items()}
    found = evaluate_words(Composer.load("words"), test, 20, 0)
    assert found["image -> speech + word"] <= 0.3
    assert found["evaluations"] == 8


def test_the_ways_are_all_of_them() -> None:
    assert len(SUBSETS) == 7
    assert all(set(subset) < {"image", "speech", "word"} for subset in SUBSETS)
