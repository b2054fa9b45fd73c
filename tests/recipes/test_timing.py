"""The timing of a joint sampling: same samples as diffusers, and little besides the network."""

from __future__ import annotations

from polyscore.recipes.digits import timing


def test_the_samples_are_diffusers_own_and_cost_no_more() -> None:
    found = timing.against_diffusers(repeats=5)
    assert found["gap"] < 1e-4
    assert found["ours"] < 1.5 * found["diffusers"]  # loose: test machines are busy; the bench measures it


def test_the_network_takes_most_of_the_time() -> None:
    network, rest = timing.overhead(repeats=5)
    assert 0 < rest < 0.3 * (network + rest)  # loose, as above


def test_rows() -> None:
    rows = timing.rows(rounds=1, repeats=1)
    assert [row.reach for row in rows] == [("<=", 0.1), None, ("<=", 1.0), ("<=", 100), ("<=", 0.5)]
    assert rows[3].met and rows[4].met
    assert all(value >= 0 for row in rows for value in row.values)
