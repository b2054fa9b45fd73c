"""Three modalities joined by one discriminator: the whole recipe in small."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from polyscore.data.digits import load_small_digits
from polyscore.recipes.mmdisco import three
from polyscore.recipes.mmdisco.three import BASE_TRAINING, RATIO_TRAINING, ThreeSize, run_three
from polyscore.recipes.tables import read_table

needs_data = pytest.mark.skipif("POLYSCORE_DATA" not in os.environ, reason="needs POLYSCORE_DATA")


def test_all_must_agree():
    seen = {"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([1, 2, 0, 4]), "c": torch.tensor([1, 0, 0, 4])}
    assert three._agree(seen, ("a", "b", "c")) == 0.5
    assert three._agree(seen, ("a", "b")) == 0.75


def test_small_digits_are_split():
    train, test = load_small_digits("train"), load_small_digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert train.x.shape[1:] == (8, 8)
    assert float(train.x.max()) == 1


@needs_data
def test_the_recipe_in_small(tmp_path, monkeypatch):
    monkeypatch.setattr(three, "JUDGE_TRAINING", replace(three.JUDGE_TRAINING, steps=2))
    size = ThreeSize(pictures=200, tuples=80, fakes=40, width=16, depth=1, ratio=16, blocks=1, steps=2)
    base, ratio = (replace(config, steps=2, batch_size=16) for config in (BASE_TRAINING, RATIO_TRAINING))
    table = tmp_path / "three.json"
    rows = {row.measure: row for row in run_three(str(tmp_path / "run"), str(table), (0,), 8, size, base, ratio)}
    assert 0 <= rows["one discriminator: all three agree"].mean <= 1
    assert {"discriminator of the pair: speech and small agree", "discriminators of pairs, added: all three agree"} <= set(rows)
    assert read_table(table)["protocol"]["seeds"] == [0]
