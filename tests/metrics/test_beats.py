"""Acceptance 18: beats coverage and hit by hand, guards, and what trivial baselines score."""

from __future__ import annotations

import numpy as np
import pytest

from polyscore.errors import DataError
from polyscore.metrics.beats import (
    beats_score,
    click_track,
    onset_f_measure,
    onsets,
    pick_onsets,
    seconds_with_onsets,
    white_noise,
)


def test_peaks_of_hand_made_envelopes() -> None:
    assert pick_onsets([0, 0, 1, 0, 0, 0.5, 0.5, 0]).tolist() == [2, 5]
    assert pick_onsets([0, 0.39, 0.78, 1.0]).tolist() == []
    assert pick_onsets([0, 0.41, 0.82, 1.0]).tolist() == [1]
    assert pick_onsets([0, 0.5, 1.0]).tolist() == [1]
    assert pick_onsets([2, 2, 4, 2]).tolist() == [2]
    assert pick_onsets([3, 3, 3]).tolist() == []
    assert pick_onsets([]).tolist() == []


def test_seconds() -> None:
    assert seconds_with_onsets([0.1, 0.9, 2.0, 5.0], 2.5).tolist() == [True, False, True]


def test_scores_by_hand() -> None:
    found = beats_score([[1, 0, 1], [1, 1, 0], [0, 0, 0]], [[1, 1, 1], [0, 1, 0], [1, 0, 0]])  # type: ignore[list-item]
    assert found.coverage == pytest.approx((1.5 + 0.5) / 2)
    assert found.hit == pytest.approx((1.0 + 0.5) / 2)
    assert (found.clips, found.skipped) == (2, 1)
    everything = beats_score([[True] * 6], [[True, False, True, True, False, True]])
    assert everything.coverage == everything.hit == pytest.approx(4 / 6)
    with pytest.raises(DataError, match="no reference"):
        beats_score([[False]], [[True]])
    with pytest.raises(DataError, match="one length"):
        beats_score([[True]], [[True, False]])


def test_onset_f_measure() -> None:
    assert onset_f_measure([1.0, 2.0], [1.05, 2.2]) == pytest.approx(0.5)
    assert onset_f_measure([1.0], [1.01, 1.02]) == pytest.approx(2 / 3)
    assert onset_f_measure([], []) == 1
    assert onset_f_measure([1.0], []) == 0


def test_trivial_baselines() -> None:
    """Two seconds: noise turns on half of the seconds or more (its start is an onset), one click a second all of them."""
    reference = [[True, True]] * 20
    noise = [seconds_with_onsets(onsets(white_noise(2, seed)), 2) for seed in range(20)]
    found = beats_score(reference, noise)  # type: ignore[arg-type]
    assert 0.5 <= found.hit < 0.95
    clicks = onsets(click_track(4))
    np.testing.assert_allclose(clicks, [0.5, 1.5, 2.5, 3.5], atol=0.05)
    assert beats_score([[True] * 4], [seconds_with_onsets(clicks, 4)]).hit == 1  # type: ignore[list-item]
    assert onset_f_measure([0.5, 1.5, 2.5, 3.5], clicks) == 1
    with pytest.raises(DataError, match="one row"):
        onsets(np.zeros((2, 3)))


def test_onsets_are_those_of_the_published_call() -> None:
    """Beats_Scores calls librosa with these arguments."""
    import librosa

    rng = np.random.default_rng(0)
    for tempo, noise in ((3.0, 0.02), (1.7, 0.1), (5.0, 0.3)):
        wave = (click_track(3, tempo) + noise * rng.standard_normal(3 * 22_050)).astype(np.float32)
        wanted = librosa.onset.onset_detect(y=wave, sr=22_050, wait=1, delta=0.2, pre_avg=1, post_avg=1, post_max=1, units="time")
        np.testing.assert_allclose(onsets(wave), wanted, atol=1e-6)
