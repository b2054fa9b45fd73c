"""The acceptance checks on closed forms; `make bench` runs them at full size."""

from __future__ import annotations

import pytest
import torch

from polyscore.recipes.oracle_checks import mmdisco, sbm, unite, unite_bench
from polyscore.recipes.oracle_checks.measure import Measure, between, near

CHECKS = {
    "mmdisco 1": mmdisco.conversions,
    "mmdisco 2": mmdisco.gradients,
    "mmdisco 3": lambda: mmdisco.toy_targets(200),
    "mmdisco 4": lambda: mmdisco.no_joint(300),
    "mmdisco 5": mmdisco.ground_truth,
    "mmdisco 6": lambda: mmdisco.sign(200),
    "mmdisco 7": lambda: mmdisco.smoothing(200),
    "mmdisco 8": lambda: mmdisco.schedules(200, steps=400),
    "unite 12": unite.algebra,
    "unite 13 by recursion": unite_bench.bench_by_recursion,
    "unite 13 by sampling": lambda: unite_bench.bench_by_sampling(200, ["1, -.5 of .25, .25"]),
    "unite 13 factorised": lambda: unite_bench.factorised(200),
    "unite 14": unite.equal_snr,
    "unite 15": unite.independence,
    "unite 16": unite.seeds,
    "sbm 1": sbm.path_table,
    "sbm 2": lambda: sbm.conditioning(1500, settings=1),
    "sbm 2 default": lambda: sbm.default_mode(2000),
    "sbm 2 free": lambda: sbm.unconditional(2000),
    "sbm 3": sbm.corrector,
    "sbm 4": sbm.energy,
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name) -> None:
    measures = CHECKS[name]()
    assert measures
    missed = [f"{m.check}, {m.what}: expected {m.expected:g}, found {m.measured:g}" for m in measures if not m.met]
    assert missed == []


def test_a_measure_knows_its_bounds() -> None:
    found = near("c", "w", 1.0, torch.tensor(1.5), 0.6)
    assert (found.met, found.deviation, found.low, found.high) == (True, 0.5, 0.4, 1.6)
    assert not near("c", "w", 1.0, 1.7, 0.6).met
    assert not near("c", "w", 1.0, float("nan"), 0.6).met
    assert not between("c", "w", 1.0, float("inf"), 0.0).met
    assert between("c", "w", 1.0, 5.0, 0.0).met
    assert isinstance(found, Measure)


def test_the_checks_can_fail() -> None:
    """A wrong correlation, a wrong sign or a wrong schedule is found."""
    assert not all(m.met for m in [near("sbm", "clean", 1.349, sbm.conditional(0.1, 5, 100, "clean", n=1000)[0], 0.05)])
    values = unite_bench.BENCH["1, -.5 of .25, .5"]
    product = unite_bench.gaussians([1.0, -0.5], [0.25, 0.5], [1.0, 1.2])
    assert abs(unite_bench.recursion(product, 1.0)[0] - values["ddpm"][0]) > 1e-3
