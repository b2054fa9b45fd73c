"""Time of one joint sampling: the network against everything else, and against diffusers' own solver on the same network and grid.

    OMP_NUM_THREADS=1 python benchmarks/bench_solver.py [OUT.json]

CPU seconds of one process. Writes benchmarks/results/digits-timing.json.
"""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from polyscore.recipes.digits.timing import PAIRS, SHAPES, STEPS, rows
from polyscore.recipes.tables import show, write_table

ROUNDS, REPEATS = 5, 15


def main(out: str) -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    found = rows(ROUNDS, REPEATS)
    protocol = {
        "command": "make bench (python benchmarks/bench_solver.py)",
        "preset": f"JointDenoiser of the digits recipe's size, latents {SHAPES}, random weights; {PAIRS} pairs, {STEPS} steps of dpmpp",
        "split": "none: time does not depend on data",
        "n": PAIRS,
        "seeds": list(range(ROUNDS)),
        "repeats": f"each value is the median of {REPEATS} runs",
        "extractor": "none",
        "clock": "CPU seconds of one process, one thread",
        "diffusers": version("diffusers"),
        "seconds": round(time.perf_counter() - start, 1),
    }
    Console(width=150).print(show(found, "Time of sampling"))
    write_table(out, found, protocol)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent / "results" / "digits-timing.json"))
