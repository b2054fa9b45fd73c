"""A picture of what the experts of a composition did along a run."""

from __future__ import annotations

import json
import os
from pathlib import Path

from polyscore.files import atomic, write_text
from polyscore.sampling.diagnostics import Recorder

__all__ = ["plot_diagnostics", "write_diagnostics"]


_PANELS = (
    ("disagreement / dim", "disagreement"),
    ("pull / sqrt(dim)", "norm "),
    ("cosine of pulls", "cosine "),
    ("clipped x0", "clipped"),
)


def write_diagnostics(recorder: Recorder, folder: str | os.PathLike[str]) -> Path:
    """FOLDER/diagnostics.json (a row a step, and the summary) and, where anything was recorded, diagnostics.png; the folder."""
    target = Path(folder)
    content = {"summary": recorder.summary(), "steps": recorder.rows()}
    write_text(target / "diagnostics.json", json.dumps(content, indent=1) + "\n")
    if recorder.steps:
        plot_diagnostics(recorder, target / "diagnostics.png")
    return target


def plot_diagnostics(recorder: Recorder, path: str | os.PathLike[str]) -> Path:
    """One row of panels a modality: disagreement, pulls of the parts, cosines between conditions, clipped share; against t."""
    from matplotlib.figure import Figure

    names = recorder.modalities()
    figure = Figure(figsize=(14, 3 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 4, squeeze=False)
    for line, name in zip(panels, names, strict=True):
        rows = recorder.rows(name)
        for panel, (title, prefix) in zip(line, _PANELS, strict=True):
            for key in sorted({key for row in rows for key in row if key.startswith(prefix)}):
                points = [(row["t"], row[key]) for row in rows if key in row]
                panel.plot(*zip(*points, strict=True), label=key.removeprefix(prefix) or None)
            panel.set_title(f"{name}: {title}", fontsize=9)
            panel.invert_xaxis()
            panel.set_xlabel("t (noise to data)", fontsize=8)
            if prefix.endswith(" ") and panel.lines:
                panel.legend(fontsize=7)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png", metadata={"Software": None})
    return Path(path)
