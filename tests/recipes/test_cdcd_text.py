"""Text to image: captions, painted attributes, and the recipe in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from polyscore.data.captions import ATTRIBUTES, LENGTH, WORDS, caption, captioned_digits, say, words_of
from polyscore.data.captions import paint as painted
from polyscore.errors import DataError
from polyscore.recipes.cdcd.text import TextTraining, Told, quick, text_table, train_text
from polyscore.recipes.tables import read_table
from polyscore.training import Draw

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnist")
    (folder / "digits").mkdir()
    pixels = np.zeros((40, 28, 28), dtype=np.uint8)
    pixels[:, 4:24, 12:16] = 255
    labels = (np.arange(40) % 10).astype(np.uint8)
    arrays = {f"{split}_{part}": value for split in ("train", "test") for part, value in (("images", pixels), ("labels", labels))}
    np.savez(folder / "digits" / "mnist.npz", **arrays)
    return folder


def test_captions_say_every_attribute() -> None:
    rows = torch.tensor([[7, 0, 3, 1, 1], [0, 5, 1, 0, 0]])
    texts = {say(rows[0].tolist(), way) for way in range(3)}
    assert len(texts) == 3
    for text in texts:
        for word in ("seven", "red", "teal", "striped", "large"):
            assert word in text.split()
    assert caption(rows, 1) == caption(rows, 1)
    hot = words_of([say(rows[0].tolist()), "A zero"])
    assert hot.shape == (2, LENGTH, len(WORDS) + 1)
    assert hot[1].sum(-1).tolist() == [2.0, 2.0] + [0.0] * (LENGTH - 2)
    with pytest.raises(DataError, match="found 'horse'"):
        words_of(["a horse"])
    with pytest.raises(DataError, match="words, found 99"):
        words_of(["a " * 99])


def test_pictures_show_their_attributes(data: Path) -> None:
    found = captioned_digits("test", str(data))
    assert found.x.shape == (40, 3, 28, 28)
    assert found.attributes.amax(0).tolist() <= [len(v) - 1 for v in ATTRIBUTES.values()]
    strokes = torch.zeros(1, 1, 28, 28)
    strokes[..., 4:24, 12:16] = 1
    large, small = (painted(strokes, torch.tensor([[1, 2, 0, 0, size]])) for size in (1, 0))
    ink = torch.tensor([0.15, 0.25, 0.9])
    torch.testing.assert_close(large[0, :, 10, 13], ink)
    assert int(((large[0] - ink[:, None, None]).abs().sum(0) < 0.1).sum()) > int(((small[0] - ink[:, None, None]).abs().sum(0) < 0.1).sum())
    striped = painted(torch.zeros(1, 1, 28, 28), torch.tensor([[1, 2, 1, 1, 1]]))[0, 0]
    assert bool((striped[0] == striped[0, 0]).all())
    assert float(striped[0, 0]) != float(striped[4, 0])
    told = Told(torch.zeros(40, 49).long(), found.attributes)(Draw(0, 0, 8))
    assert told["text"].shape == (8, LENGTH, len(WORDS) + 1)


@pytest.mark.slow
def test_a_small_recipe(data: Path, tmp_path: Path) -> None:
    train_text(str(tmp_path / "runs"), str(data), quick(TextTraining(), 2), progress=False)
    out = tmp_path / "cdcd-text.json"
    rows = {row.measure: row for row in text_table(str(tmp_path / "runs"), str(out), str(data), 6, (0, 1), 3)}
    assert len(rows["guidance 2: all attributes"].values) == 2
    assert 0 <= rows["guidance 1: ink"].mean <= 1
    assert read_table(out)["protocol"]["command"] == "polyscore evaluate cdcd-text"
