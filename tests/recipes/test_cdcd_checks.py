"""The acceptance checks of token diffusion at reduced size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from polyscore.recipes.oracle_checks import cdcd
from polyscore.recipes.tables import Measured, read_table

torch.set_num_threads(1)


@pytest.mark.parametrize("check", cdcd.CHECKS, ids=lambda c: c.__name__)
def test_every_number_is_within_its_bounds(check: object) -> None:
    small = {cdcd.beats: {"clips": 3}, cdcd.closed_form: {"K": 64, "L": 40}, cdcd.strides: {"n": 6000}}
    found = check(1, **small.get(check, {}))  # type: ignore[operator,call-overload]
    assert found
    for name, (value, reach) in found.items():
        assert Measured(name, [value], reach).met is not False, (name, value)


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdcd, "CHECKS", (cdcd.transitions, cdcd.shuffles))
    rows = cdcd.checks_table(str(tmp_path / "cdcd-checks.json"), (0, 1))
    assert all(row.met for row in rows)
    assert len(read_table(tmp_path / "cdcd-checks.json")["rows"]) == len(rows) == 7
