from __future__ import annotations

import pytest
import torch

from polyscore.errors import DataError, PolyscoreError
from polyscore.training import Draw, Pairs, Samples


def everything(draw):
    return [draw.normal(3, 2), draw.uniform(), draw.stratified(2), draw.integers(7, 2), draw.indices(20)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5, 11])
def test_processes_share_one_global_batch(processes):
    whole = everything(Draw(4, 9, 11))
    parts = [everything(Draw(4, 9, 11, rank, processes)) for rank in range(processes)]
    for i, value in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in parts]), value)


def test_steps_and_seeds_are_unrelated():
    first = Draw(0, 0, 4096).normal()
    for other in (Draw(0, 1, 4096), Draw(1, 0, 4096)):
        assert abs(torch.corrcoef(torch.stack([first, other.normal()]))[0, 1]) < 0.06


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (3, 8), (8, 8), (1, 3)])
def test_indices_take_every_sample_once_per_epoch(size, batch):
    rows = torch.cat([Draw(0, step, batch).indices(size) for step in range(5 * size)])
    epochs = rows[: len(rows) // size * size].view(-1, size)
    assert torch.equal(epochs.sort(1).values, torch.arange(size).expand_as(epochs))
    assert size < 8 or not torch.equal(epochs[0], epochs[1])


def test_stratified_has_one_sample_per_interval():
    t = Draw(0, 0, 64).stratified(2)
    assert torch.equal((t * 64).long().sort(0).values, torch.arange(64)[:, None].expand(64, 2))
    assert abs(torch.corrcoef(t.T)[0, 1]) < 0.5
    assert t.max() < 1


def test_batch_smaller_than_the_processes():
    with pytest.raises(PolyscoreError, match=r"batch_size: expected at least one sample per process \(4\), found 3"):
        Draw(0, 0, 3, 0, 4)


def test_samples_keep_rows_together():
    x = torch.arange(12.0)
    batch = Samples({"x": x, "y": -x})(Draw(0, 0, 5))
    assert torch.equal(batch["x"], -batch["y"])
    with pytest.raises(DataError, match="same number of rows"):
        Samples({"x": x, "y": x[:3]})
    with pytest.raises(DataError, match="at least one"):
        Samples({"x": x[:0]})


def sets():
    images, sounds = torch.arange(30), torch.arange(40)
    return {"image": (images, images % 3), "speech": (sounds, sounds % 3)}


def test_pairs_join_by_label_and_reach_every_sample():
    pairs, seen = Pairs(sets()), set()
    for step in range(60):
        batch = pairs(Draw(0, step, 10))
        assert torch.equal(batch["image"] % 3, batch["label"])
        assert torch.equal(batch["speech"] % 3, batch["label"])
        seen |= set(batch["speech"].tolist())
    assert seen == set(range(40))
    assert len(pairs) == 30


def test_pairs_are_the_same_over_processes():
    pairs = Pairs(sets())
    whole = pairs(Draw(0, 3, 9))
    parts = [pairs(Draw(0, 3, 9, rank, 2)) for rank in range(2)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


def test_pairs_with_a_missing_label_or_length():
    found = sets()
    with pytest.raises(DataError, match="speech: no sample with label 2, which image has"):
        Pairs({**found, "speech": (torch.arange(4), torch.tensor([0, 1, 0, 1]))})
    with pytest.raises(DataError, match="speech: expected one label per sample"):
        Pairs({**found, "speech": (torch.arange(4), torch.arange(3))})
