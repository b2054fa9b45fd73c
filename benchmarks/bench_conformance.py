"""Conformance of adapted diffusers pipelines: every cell of tests/adapters/cells.py, three seeds, and products across the cells.

python benchmarks/bench_conformance.py                 # writes benchmarks/results/product-conformance.json
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "adapters"))

import diffusers  # noqa: E402
import transformers  # noqa: E402
from cells import CELLS, Cell, pairs  # noqa: E402
from tiny_pipelines import FAMILIES  # noqa: E402

from polyscore.adapters.conformance import deviation, pair_deviation  # noqa: E402
from polyscore.recipes.tables import Measured, show, write_table  # noqa: E402
from polyscore.terminal import say  # noqa: E402

LIMIT, STEPS, SAMPLES, SEEDS = 1e-4, 4, 2, (0, 1, 2)
UNIT = 1e-6


def build(root: Path) -> dict[str, Path]:
    """Every family, saved to disk."""
    for package in (diffusers, transformers):
        package.utils.logging.set_verbosity_error()
        package.utils.logging.disable_progress_bar()
    for name, (make, _) in FAMILIES.items():
        make(root / name).save_pretrained(root / name, safe_serialization=True)
    return {name: root / name for name in FAMILIES}


def measure(folders: dict[str, Path]) -> list[Measured]:
    """Deviations of all cells and pairs, one value a seed."""
    own = {cell.name: [deviation(cell.expert(folders[cell.family]), SAMPLES, STEPS, seed) for seed in SEEDS] for cell in CELLS}
    joined = {}
    for a, b in pairs():
        experts = [Cell(c.family, c.scheduler, c.options, 1.0).expert(folders[c.family]) for c in (a, b)]
        joined[f"{a.name} x {b.name}"] = [pair_deviation(experts[0], experts[1], seed) for seed in SEEDS]
    rows = [
        _count("conformance cells within 1e-4 of diffusers' own latents", own, 25),
        Measured("largest deviation of a cell, 1e-6", _largest(own), ("<=", LIMIT / UNIT), "relative to the largest entry, or to 1"),
        _count("pairs of cells that multiply within 1e-4 of the formula at equal SNR", joined, len(joined)),
        Measured("largest deviation of a pair, 1e-6", _largest(joined), ("<=", LIMIT / UNIT)),
    ]
    return rows + [Measured(f"cell {name}, 1e-6", [v / UNIT for v in values], ("<=", LIMIT / UNIT)) for name, values in own.items()]


def _count(title: str, found: dict[str, list[float]], reach: int) -> Measured:
    values = [float(sum(v[k] <= LIMIT for v in found.values())) for k in range(len(SEEDS))]
    return Measured(title, values, (">=", reach), f"{len(found)} in all")


def _largest(found: dict[str, list[float]]) -> list[float]:
    return [max(v[k] for v in found.values()) / UNIT for k in range(len(SEEDS))]


def main() -> None:
    """Measure and write the table."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(build(Path(folder)))
    protocol = {
        "command": "python benchmarks/bench_conformance.py",
        "preset": f"{SAMPLES} samples, {STEPS} steps, guidance 3 (1 where a model has no condition), tiny random weights",
        "seeds": list(SEEDS),
        "n": len(CELLS),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_table(ROOT / "benchmarks" / "results" / "product-conformance.json", rows, protocol)
    say(show(rows, "conformance"))


if __name__ == "__main__":
    main()
