"""Every acceptance check on closed forms at full size: the measured number, what it should be, and the difference.

    python benchmarks/bench_oracles.py [--quick] [--only "sbm 2"]

Full size takes about half an hour on one core (nearly all of it check sbm 2 with 1000 steps of 40 000 chains).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from polyscore.recipes.oracle_checks import mmdisco, sbm, unite, unite_bench
from polyscore.recipes.oracle_checks.measure import Measure


def checks(quick: bool) -> dict[str, Callable[[], list[Measure]]]:
    """The checks by name; quick ones with fewer samples (and wider bounds where the check scales them)."""
    n, chains = (500, 4000) if quick else (4000, 40000)
    cases = ["1, -.5 of .25, .5"] if quick else list(unite_bench.BENCH)
    return {
        "mmdisco 1": mmdisco.conversions,
        "mmdisco 2": mmdisco.gradients,
        "mmdisco 3": lambda: mmdisco.toy_targets(n),
        "mmdisco 4": lambda: mmdisco.no_joint(n),
        "mmdisco 5": mmdisco.ground_truth,
        "mmdisco 6": lambda: mmdisco.sign(min(n, 1000)),
        "mmdisco 7": lambda: mmdisco.smoothing(min(n, 1000)),
        "mmdisco 8": lambda: mmdisco.schedules(n),
        "unite 12": unite.algebra,
        "unite 13 recursion": unite_bench.bench_by_recursion,
        "unite 13 sampling": lambda: unite_bench.bench_by_sampling(n, cases),
        "unite 13 factorised": lambda: unite_bench.factorised(n),
        "unite 14": unite.equal_snr,
        "unite 15": unite.independence,
        "unite 16": unite.seeds,
        "sbm 1": sbm.path_table,
        "sbm 2 table": lambda: sbm.conditioning(chains, settings=1 if quick else 3),
        "sbm 2 default": lambda: sbm.default_mode(chains),
        "sbm 2 free": lambda: sbm.unconditional(chains),
        "sbm 3": sbm.corrector,
        "sbm 4": sbm.energy,
    }


def show(name: str, rows: list[Measure], seconds: float, console: Console) -> None:
    """One table a check."""
    table = Table(title=f"{name} ({seconds:.0f} s)", title_justify="left")
    for column in ("measured quantity", "expected", "measured", "deviation", "bounds", "met"):
        table.add_column(column, justify="left" if column == "measured quantity" else "right")
    for row in rows:
        bounds = f"[{row.low:.4g}, {row.high:.4g}]"
        numbers = (f"{row.expected:.4f}", f"{row.measured:.4f}", f"{row.deviation:+.1e}", bounds.replace("[", r"\["))
        table.add_row(row.what, *numbers, "yes" if row.met else "NO")
    console.print(table)


def main() -> int:
    """Run them; the exit code is 1 if one number is out of its bounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples: about a minute")
    parser.add_argument("--only", default="", help="checks whose name starts with this")
    options = parser.parse_args()
    console = Console(width=170)
    total, missed = 0, []
    for name, check in checks(options.quick).items():
        if not name.startswith(options.only):
            continue
        start = time.perf_counter()
        rows = check()
        show(name, rows, time.perf_counter() - start, console)
        total += len(rows)
        missed += [f"{name}: {row.what}" for row in rows if not row.met]
    console.print(f"{total - len(missed)} of {total} numbers within their bounds" + "".join(f"\n  not: {line}" for line in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
