"""Result tables: rows of measures with their values, written by the command that measured them."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyscore.files import write_text

__all__ = ["Measured", "cases", "codecs", "command_of", "fill", "markdown", "read_table", "show", "versions", "write_table"]


@dataclass(frozen=True)
class Measured:
    """One row.

    Args:
        measure: its name. values: one a seed. reach: the number to reach, as (">=" or "<=", number), or None.
        reference: what others reach, in words.
    """

    measure: str
    values: Sequence[float]
    reach: tuple[str, float] | None = None
    reference: str = ""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float:
        """Standard deviation over the seeds; 0 for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the mean reaches the number; None without one."""
        if self.reach is None:
            return None
        sign, number = self.reach
        return self.mean >= number if sign == ">=" else self.mean <= number

    def row(self) -> dict[str, Any]:
        """As stored."""
        reach = f"{self.reach[0]} {self.reach[1]:g}" if self.reach else None
        return {
            "measure": self.measure,
            "values": [_rounded(float(v)) for v in self.values],
            "mean": _rounded(self.mean),
            "sd": _rounded(self.sd),
            "reach": reach,
            "reference": self.reference,
            "met": self.met,
        }


def _rounded(value: float) -> float:
    """To six decimals, or to six significant digits where these are finer, so that 1e-9 stays what it is."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, max(6, 5 - math.floor(math.log10(abs(value)))))


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    import numpy
    import torch

    import polyscore

    return {"polyscore": polyscore.__version__, "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def write_table(path: str | os.PathLike[str], rows: Sequence[Measured], protocol: Mapping[str, Any]) -> Path:
    """Write {"protocol": ..., "rows": ...} as JSON; versions are added to the protocol."""
    content = {"protocol": {**protocol, "versions": versions()}, "rows": [row.row() for row in rows]}
    return write_text(path, json.dumps(content, indent=1) + "\n")


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_table` wrote."""
    found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return found


def command_of(command: str, options: Mapping[str, object]) -> str:
    """The command of a protocol with those of its options that are set."""
    return " ".join([f"polyscore evaluate {command}", *(f"--{name} {value}" for name, value in options.items() if value)])


def show(rows: Sequence[Measured], title: str) -> Any:
    """The rows as a table for the terminal."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("measure", "mean", "sd", "reach", "met"):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for row in rows:
        reach = f"{row.reach[0]} {row.reach[1]:g}" if row.reach else ""
        table.add_row(row.measure, f"{row.mean:.4g}", f"{row.sd:.2g}", reach, {True: "yes", False: "no", None: ""}[row.met])
    return table


_CASES = re.compile(r"(<!-- cases: ([\w-]+) ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_CODECS = re.compile(r"(<!-- codecs: ([^>]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_BLOCK = re.compile(r"(<!-- results: ([\w-]+)(?: first (\d+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(text: str, folder: str | os.PathLike[str]) -> str:
    """A Markdown text with every block `<!-- results: NAME -->` ... `<!-- end -->` filled with the table `folder`/NAME.json.

    `<!-- results: NAME first N -->` shows the first N of its rows that have a number to reach; `<!-- cases: NAME A, B -->` all its rows
    "CASE: MEASURE" as one line a case, with the measures A and B as columns; `<!-- codecs: NAME, NAME -->` the quality of the token codecs
    in the protocols of these tables.
    """

    def block(found: re.Match[str]) -> str:
        return found[1] + markdown(read_table(Path(folder) / f"{found[2]}.json"), int(found[3] or 1000)) + found[4]

    def pivot(found: re.Match[str]) -> str:
        return found[1] + cases(read_table(Path(folder) / f"{found[2]}.json"), found[3].split(", ")) + found[4]

    def quality(found: re.Match[str]) -> str:
        names = found[2].split(", ")
        return found[1] + codecs({name: read_table(Path(folder) / f"{name}.json") for name in names}) + found[3]

    return _CODECS.sub(quality, _CASES.sub(pivot, _BLOCK.sub(block, text)))


def codecs(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Test quality of the token codecs of these tables, as their protocols have it, and what a judge makes of data sent through them."""
    lines = ["| codec of | test error | codes used | perplexity | of what went through it |", "|---|---|---|---|---|"]
    for name, table in tables.items():
        found = table["protocol"]["codec"]
        named = "mel square error / variance"
        error = f"PSNR {found['psnr']:.1f} dB" if "psnr" in found else f"{named} {found[named]:.3f}"
        rows = [row for row in table["rows"] if " through the codec" in row["measure"]]
        seen = ", ".join(f"{re.split(r'[:,] ', row['measure'], maxsplit=1)[-1]} {row['mean']:.3f}" for row in rows)
        lines.append(f"| `{name}` | {error} | {found['codes used']:.0%} | {found['perplexity']:.1f} | {seen} |")
    return "\n".join([*lines, ""])


def cases(table: Mapping[str, Any], measures: Sequence[str]) -> str:
    """Rows called "CASE: MEASURE" as a Markdown table of cases by measures, mean ± deviation over the seeds."""
    known: dict[str, dict[str, str]] = {}
    for row in table["rows"]:
        case, _, measure = row["measure"].rpartition(": ")
        if case and measure in measures:
            spread = f" ± {row['sd']:.2g}" if len(row["values"]) > 1 else ""
            known.setdefault(case, {})[measure] = f"{row['mean']:.4g}{spread}"
    lines = ["| | " + " | ".join(measures) + " |", "|---" * (len(measures) + 1) + "|"]
    lines += [f"| {case} | " + " | ".join(found.get(measure, "") for measure in measures) + " |" for case, found in known.items()]
    return "\n".join([*lines, ""])


def markdown(table: Mapping[str, Any], most: int = 1000) -> str:
    """The first `most` rows with a number to reach as a Markdown table, with the command that measures them."""
    lines = ["| measure | measured | reach | reference | met |", "|---|---|---|---|---|"]
    for row in [row for row in table["rows"] if row["reach"] is not None][:most]:
        spread = f" ± {row['sd']:.2g}" if len(row["values"]) > 1 else ""
        met = "yes" if row["met"] else "no"
        lines.append(f"| {row['measure']} | {row['mean']:.4g}{spread} | {row['reach']} | {row['reference']} | {met} |")
    protocol = table["protocol"]
    known = ", ".join(f"{name} {protocol[name]}" for name in ("n", "seeds", "seconds") if name in protocol)
    return "\n".join([*lines, "", f"`{protocol['command']}` ({known})", ""])
