"""The conformance suite: scheduler x prediction type x model family, ours against diffusers' own; and products across the cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import CELLS, Cell, pairs
from tiny_pipelines import FAMILIES

from polyscore.adapters.conformance import deviation, pair_deviation

Family = Callable[[str], Path]


def test_the_suite_is_wide() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) >= 25
    assert {cell.family for cell in CELLS} == set(FAMILIES)


@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_one_expert_samples_as_its_own_pipeline(cell: Cell, family: Family) -> None:
    assert deviation(cell.expert(family(cell.family)), steps=4, seed=7) < 1e-4


def test_without_guidance_too(family: Family) -> None:
    for name in ("stable_diffusion_xl", "stable_audio", "flux", "wan", "dit"):
        assert deviation(Cell(name, guidance=1.0).expert(family(name)), steps=3) < 1e-4, name


@pytest.mark.parametrize("pair", pairs(), ids=lambda p: f"{p[0].name}+{p[1].name}")
def test_pairs_across_cells_multiply_at_equal_snr(pair: tuple[Cell, Cell], family: Family) -> None:
    a, b = (Cell(c.family, c.scheduler, c.options, 1.0).expert(family(c.family)) for c in pair)
    assert pair_deviation(a, b) < 1e-4
