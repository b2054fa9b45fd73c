"""The acceptance checks of token diffusion at reduced size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyscore.cli import main
from polyscore.recipes.oracle_checks import cdcd
from polyscore.recipes.tables import Measured, read_table
from polyscore.sampling import sample

torch.set_num_threads(1)


@pytest.mark.parametrize("check", cdcd.CHECKS, ids=lambda c: c.__name__)
def test_every_number_is_within_its_bounds(check: object) -> None:
    small = {cdcd.beats: {"clips": 3}, cdcd.closed_form: {"K": 64, "L": 40}, cdcd.strides: {"n": 6000}, cdcd.beside_pixels: {"steps": 20}}
    found = check(1, **small.get(check, {}))  # type: ignore[operator,call-overload]
    assert found
    if check is cdcd.beside_pixels:
        assert len(found) == 7
    for name, (value, reach) in found.items():
        assert Measured(name, [value], reach).met is not False, (name, value)


def test_samples_at_no_value_count_as_wrong() -> None:
    values = {"picture": torch.tensor([[-1.5], [1.5]]), "word": torch.tensor([[0, 1], [1, 2]])}
    made = {"picture": torch.tensor([[-1.4], [1.6], [0.0], [1.5]]), "word": torch.tensor([[0, 1], [1, 2], [0, 1], [1, 1]])}
    assert cdcd._cells(made, values).tolist() == [[0.25, 0.0], [0.0, 0.25]]


def test_the_toy_beside_pixels_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both letters revealed in one step come apart: no exact sampler."""
    monkeypatch.setattr(cdcd, "sample", lambda *a, **k: sample(*a, **{**k, "steps": 1, "token_solver": "ancestral"}))
    assert max(value for value, _ in cdcd.beside_pixels(0, n=400).values()) > 0.1


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdcd, "CHECKS", (cdcd.transitions, cdcd.shuffles))
    rows = cdcd.checks_table(str(tmp_path / "cdcd-checks.json"), (0, 1))
    assert all(row.met for row in rows)
    assert main(["evaluate", "cdcd-checks", "--out", str(tmp_path / "again.json"), "--seeds", "[0]"]) == 0
    assert read_table(tmp_path / "again.json")["protocol"]["seeds"] == [0]
    assert len(read_table(tmp_path / "cdcd-checks.json")["rows"]) == len(rows) == 7
