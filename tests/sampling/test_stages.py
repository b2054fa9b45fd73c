"""Leaders: the chain rule gives the joint law, at the cost it says, and nothing depends on the batch."""

from __future__ import annotations

import pytest
import torch

from polyscore.composer import Composer
from polyscore.denoisers import count_evaluations
from polyscore.errors import PolyscoreError
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import RectifiedFlow
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import sample
from polyscore.sampling.stages import sample_leaders

COV = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]], dtype=torch.float64)
PATHS = {"x": RectifiedFlow(), "y": RectifiedFlow(), "w": RectifiedFlow()}


def law():
    return GaussianDenoiser(torch.zeros(3), COV, PATHS, {"x": 1, "y": 1, "w": 1})


def test_absent_modalities_tell_nothing_and_are_not_returned():
    made = sample(law(), 4000, absent=["y", "w"], steps=30, seed=0)
    assert set(made) == {"x"} and made["x"].var().item() == pytest.approx(1.0, abs=0.06)
    given = {"y": torch.full((1, 1), 1.5)}
    seen = sample(law(), 4000, given=given, absent=["w"], steps=30, seed=0)
    assert set(seen) == {"x", "y"} and seen["x"].mean().item() == pytest.approx(1.2, abs=0.05)


def test_the_chain_rule_gives_the_joint_law():
    made = sample_leaders(law(), 6000, {"x": 25, "w": 25}, steps=25, seed=1)
    found = torch.cat([made[n] for n in PATHS], 1).T.cov()
    torch.testing.assert_close(found, COV.float(), atol=0.06, rtol=0)
    assert made.info["steps"] == 75 and made.info["leaders"] == {"x": 25, "w": 25} and made.info["given"] == []


def test_drawing_the_leader_again_keeps_the_law_and_counts():
    seen = []
    made = sample_leaders(law(), 6000, {"x": 25}, steps=25, again=25, seed=1, callback=seen.append)
    torch.testing.assert_close(torch.cat([made[n] for n in PATHS], 1).T.cov(), COV.float(), atol=0.06, rtol=0)
    assert made.info["steps"] == 75 and [s.index for s in seen] == list(range(75))
    assert not torch.equal(made["x"], sample_leaders(law(), 6000, {"x": 25}, steps=25, seed=1)["x"])


def test_samples_stay_their_own():
    whole = sample_leaders(law(), 6, {"x": 4}, steps=4, seed=3)
    for change in ({"batch_size": 2}, {"batch_size": 5}):
        torch.testing.assert_close(dict(sample_leaders(law(), 6, {"x": 4}, steps=4, seed=3, **change)), dict(whole))
    late = sample_leaders(law(), 2, {"x": 4}, steps=4, seed=3, first=4)
    torch.testing.assert_close(late["w"], whole["w"][4:])


def test_a_leader_alone_is_not_guided():
    """One evaluation a step for the leader, two for the rest; and all steps reach the callback, counted through."""
    guided = SubsetGuided(law(), 2.0, marginals=law())
    seen = []
    with count_evaluations(guided) as count:
        made = sample_leaders(guided, 5, {"x": 6}, steps=7, seed=0, callback=seen.append)
    assert count.rows / 5 == made.info["evaluations_per_sample"] == 6 + 2 * 7
    assert [(s.index, s.steps) for s in seen] == [(i, 13) for i in range(13)]


def test_a_composer_takes_leaders_where_nothing_is_given():
    composer = Composer({}, law(), {"steps": 3, "leaders": {"x": 2}})
    assert composer.sample(2).info["steps"] == 5
    assert composer.sample(2, {"y": torch.zeros(1, 1)}).info["steps"] == 3


def test_errors():
    with pytest.raises(PolyscoreError, match="leader 'q': the model has x, y, w"):
        sample_leaders(law(), 1, {"q": 3})
    with pytest.raises(PolyscoreError, match="expected a named time grid"):
        sample_leaders(law(), 1, {"x": 3}, grid=[1.0, 0.0])
    with pytest.raises(PolyscoreError, match="absent modality 'x'"):
        sample(law(), 1, given={"x": torch.zeros(1, 1)}, absent=["x"])
    with pytest.raises(PolyscoreError, match="at least one modality to generate"):
        sample(law(), 1, absent=["x", "y", "w"])
