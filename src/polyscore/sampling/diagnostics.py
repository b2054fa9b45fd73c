"""What the experts of a composition say along a run: how far they disagree, how hard each pulls, and what was clipped."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.predictions import Prediction
from polyscore.sampling.loop import Step

__all__ = ["Recorder"]

CONTRADICTION = -0.5


class Recorder:
    """A callback of `sample` that records, for every step and Gaussian modality, means over the samples of

    disagreement   V S^2 / dim = sum_i c_i |eps_i - eps|^2 / dim: 0 where the experts agree; what particles integrate;
    norms          |eps_i - u| / sqrt(dim) of every part: how hard it pulls away from the nulls u (from the mixture, without nulls);
    cosines        between the pulls of two conditions: near -1 they contradict each other;
    clipped        the share of x0 entries beyond `limit` (1 for pictures in [-1, 1], 4 for standardised latents).

    A run that ends with two conditions whose cosine is below -0.5 over half its steps gives a warning that names them: the failure
    that Unite and Conquer states for contradictory conditions.
    """

    def __init__(self, limit: float = 4.0) -> None:
        self.limit = limit
        self.steps: dict[tuple[str, int], dict[str, Any]] = {}

    def __call__(self, step: Step) -> None:
        """Record a step; batches of the same run are averaged."""
        for name, p in step.predictions.items():
            if isinstance(p, Prediction) and name in step.z:
                self._add(name, step, _measure(p, self.limit), len(p.z))
        if step.index + 1 == step.steps:
            for line in self.contradictions():
                warnings.warn(line, stacklevel=2)

    def _add(self, name: str, step: Step, found: Mapping[str, float], rows: int) -> None:
        entry = self.steps.setdefault((name, step.index), {"modality": name, "index": step.index, "t": step.t, "rows": 0})
        total = entry["rows"] + rows
        for key, value in found.items():
            entry[key] = (entry.get(key, 0.0) * entry["rows"] + value * rows) / total
        entry["rows"] = total

    def rows(self, modality: str | None = None) -> list[dict[str, Any]]:
        """One row a step (of one modality, or of all), in order."""
        return [row for (name, _), row in sorted(self.steps.items()) if modality in (None, name)]

    def modalities(self) -> list[str]:
        """Those recorded."""
        return sorted({name for name, _ in self.steps})

    def contradictions(self, below: float = CONTRADICTION) -> list[str]:
        """One line for every two conditions whose pulls have a cosine below `below` on more than half the steps."""
        lines = []
        for name in self.modalities():
            rows = self.rows(name)
            for key in sorted({key for row in rows for key in row if key.startswith("cosine ")}):
                values = [row[key] for row in rows if key in row]
                low = sum(value < below for value in values) / len(values)
                if low > 0.5:
                    mean = sum(values) / len(values)
                    lines.append(
                        f"{name}: conditions {key[7:]} contradict each other (mean cosine of their pulls {mean:.2f}); lower a strength"
                    )
        return lines

    def summary(self) -> dict[str, Any]:
        """Means over the steps of every modality, and the contradictions found."""
        found: dict[str, Any] = {}
        for name in self.modalities():
            rows = self.rows(name)
            keys = [key for key in rows[0] if key not in ("modality", "index", "t", "rows")]
            found[name] = {key: sum(row.get(key, 0.0) for row in rows) / len(rows) for key in keys}
        return {"modalities": found, "contradictions": self.contradictions()}


def _measure(p: Prediction, limit: float) -> dict[str, float]:
    dims = math.prod(p.z.shape[1:])
    clipped = float((p.x0.abs() > limit).double().mean())
    found = {"disagreement": float(p.disagreement.mean()) / dims, "clipped": clipped}
    pulls = _pulls(p)
    for label, pull in pulls.items():
        found[f"norm {label}"] = float(pull.norm(dim=1).mean()) / math.sqrt(dims)
    conditions = [label for label in pulls if not label.endswith("[null]") and label not in ("base", "marginal")]
    for a, b in itertools.combinations(conditions, 2):
        found[f"cosine {a} and {b}"] = float(torch.cosine_similarity(pulls[a], pulls[b], dim=1).mean())
    return found


def _pulls(p: Prediction) -> dict[str, Tensor]:
    """eps_i - u of every part, (B, dim), u the weighted mean of the null parts, or the mixture where there are none."""
    parts: Sequence[tuple[str, Any, Prediction]] = p.parts
    nulls = [(c, part) for label, c, part in parts if label.endswith("[null]") or label in ("base", "marginal")]
    weights = [abs(float(c.mean())) if isinstance(c, Tensor) else abs(float(c)) for c, _ in nulls]
    if nulls and sum(weights) > 0:
        centre = sum((w * part.eps for w, (_, part) in zip(weights, nulls, strict=True)), torch.zeros_like(p.z)) / sum(weights)
    else:
        centre = p.eps
    return {label: (part.eps - centre).flatten(1) for label, _, part in parts}
