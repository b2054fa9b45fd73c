"""The class-to-image table: what is chosen on one seed is measured on others, at equal steps and beside guidance at equal cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, read_json
from polyscore.codecs.vq import VQ
from polyscore.composer import WEIGHTS
from polyscore.data.fashion import Pictures, load_pictures
from polyscore.denoisers import Denoiser
from polyscore.files import write_text
from polyscore.metrics.frechet import frechet_distance
from polyscore.metrics.judges import Judge, predict
from polyscore.networks.transformer import TokenDenoiser
from polyscore.product import Product, Term
from polyscore.recipes.cdcd.image import CLASS_TRAINING, CONTINUE, KINDS, NEGATIVES, SETTINGS, VANILLA, tokens_of, train_class
from polyscore.recipes.tables import Measured, command_of, write_table
from polyscore.sampling import sample
from polyscore.training import TrainConfig

__all__ = ["CFG", "CURVE", "ClassTable", "Lab"]

CURVE = (10, 20, 40, 80, 120)
CFG = {"guidance 2, 10 steps": (10, 2.0), "guidance 2, 20 steps": (20, 2.0)}
PAPER = "paper, ImageNet: top-5 72.7 vanilla, 77.6 contrastive"
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t, two-sided 95 %, by number of seeds."""
Progress = Callable[[int, int], None]
Cell = dict[str, float]


@dataclass
class Lab:
    """What every measurement shares: codec, judge, test features, a folder, and the cells already measured."""

    codec: VQ
    judge: Judge
    reference: Tensor
    out: Path

    def __post_init__(self) -> None:
        self.file = self.out / "cells.json"
        self.cells: dict[str, Cell] = json.loads(self.file.read_text()) if self.file.is_file() else {}

    def measure(self, key: str, denoiser: TokenDenoiser, steps: int, seed: int, n: int, guidance: float = 1.0) -> None:
        """Accuracy and Frechet distance of n samples of balanced classes, kept under the key and n."""
        key = f"{key}, n {n}"
        if key in self.cells:
            return
        labels = torch.arange(n) % 10
        model: Denoiser = denoiser
        if guidance != 1.0:
            model = Product([Term(denoiser, labels, guidance, null=torch.tensor(-1))])
        began = time.process_time()
        found = sample(model, n, condition=labels, steps=steps, seed=seed)
        seen, features = predict(self.judge, self.codec.decode(found["tokens"]))
        self.cells[key] = {
            "accuracy": float((seen == labels).double().mean()),
            "frechet": frechet_distance(features, self.reference),
            "evaluations": float(found.info["evaluations_per_sample"]),
            "seconds": time.process_time() - began,
        }
        write_text(self.file, json.dumps(self.cells, indent=1))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean."""
    row = Measured("", values)
    half = T_95.get(len(values), 2.0) * row.sd / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return row.mean - half, row.mean + half


@dataclass
class ClassTable:
    """Trains and measures all cells; what is there is kept.

    A seed is that of a vanilla model, of its continuations under every setting (vanilla too, for as many steps), and of sampling. On the
    seed `held` the sweep is measured with `many` samples; of every kind the lambda of the best accuracy (to two digits, then the least
    Frechet distance) goes on. The `seeds` measure these only, so the choice does not flatter itself.

    Args:
        codec: as `train_token_codec` saves it. folder: of models and cells. out: the table.
        n: samples a cell. many: of the choice and of the main comparison.
        curve: numbers of steps, measured with half the samples.
        dataset: "mnist" or "fashion". judges: folder with the image judge. first, more: training of the base and of its continuations.
        sweep: names of `SETTINGS` to choose from; default all.
    """

    codec: str = "runs/cdcd-codec/tokens"
    folder: str = "runs/cdcd-class"
    out: str = "benchmarks/results/cdcd-class.json"
    data: str | None = None
    n: int = 200
    many: int = 1000
    seeds: Sequence[int] = (0, 1, 2)
    held: int = 7
    curve: Sequence[int] = CURVE
    dataset: Pictures = "mnist"
    judges: str = str(WEIGHTS / "judges" / "digits")
    first: TrainConfig = CLASS_TRAINING
    more: TrainConfig = CONTINUE
    sweep: Sequence[str] = tuple(SETTINGS)
    progress: Progress | None = None

    def run(self) -> list[Measured]:
        """All of it, and the table."""
        vq, self.judge_file = load_module(self.codec, VQ), Path(self.judges) / "image"
        judge = load_module(self.judge_file, Judge)
        test = load_pictures(self.dataset, "test", self.data)
        self.lab = Lab(vq, judge, predict(judge, test.x)[1], Path(self.folder))
        rebuilt = torch.cat([vq.decode(vq.encode(part)) for part in test.x.split(500)]).detach()
        self.ceiling = float((predict(judge, rebuilt)[0] == test.labels).double().mean())
        self.tokens = tokens_of(vq, self.data, self.dataset)
        self.done, self.total = 0, len(self.sweep) + len(self.seeds) * (len(KINDS) + 4)
        for name in self.sweep:
            self._setting(name, self.held, self.many)
        chosen = self.chosen()
        best = chosen[0]
        for seed in self.seeds:
            for name in ["vanilla", *chosen]:
                self._setting(name, seed, self.n)
            for name, (steps, strength) in CFG.items():
                self.lab.measure(f"{name}|{seed}|{2 * steps} evaluations", self._model("vanilla", seed), steps, seed, self.n, strength)
            for name in ("vanilla", best):
                self.lab.measure(f"{name}|{seed}|20 steps", self._model(name, seed), 20, seed, self.many)
                for steps in self.curve:
                    self.lab.measure(f"{name}|{seed}|{steps} steps", self._model(name, seed), steps, seed, self.n // 2)
                self._tick()
        rows = self.rows(chosen)
        write_table(self.out, rows, self._protocol(chosen))
        self.plot(best)
        return rows

    def chosen(self) -> list[str]:
        """The best setting of every family on the held seed, best first."""
        families: dict[str, list[str]] = {}
        for name in self.sweep:
            if name != "vanilla":
                families.setdefault(name.split(",")[0].split(" with")[0], []).append(name)
        return sorted((min(names, key=self._rank) for names in families.values()), key=self._rank)

    def rows(self, chosen: Sequence[str]) -> list[Measured]:
        """The claims first, then every cell."""
        cells: dict[tuple[str, str], list[Cell]] = {}
        shown = {"vanilla", *chosen, *CFG}
        for key, cell in self.lab.cells.items():
            name, seed, cost = key.split("|")
            if int(seed) in self.seeds and name in shown:
                cells.setdefault((name, cost), []).append(cell)
        rows = self._claims(chosen[0], {k: [c["accuracy"] for c in v] for k, v in cells.items()})
        for (name, cost), found in cells.items():
            rows += [Measured(f"{name}, {cost}: {what}", [c[what] for c in found]) for what in ("accuracy", "frechet")]
        for name in self.sweep:
            cell = self.lab.cells[f"{name}|{self.held}|20 steps, n {self.many}"]
            rows += [Measured(f"held seed, {name}, 20 steps: {what}", [cell[what]]) for what in ("accuracy", "frechet")]
        return rows

    def _claims(self, best: str, found: dict[tuple[str, str], list[float]]) -> list[Measured]:
        vanilla, better = (found[name, f"20 steps, n {self.many}"] for name in ("vanilla", best))
        gap = interval(better)[0] - interval(vanilla)[1]
        late = max(self.curve)
        few = f"n {self.n // 2}"
        goal = Measured("", found["vanilla", f"{late} steps, {few}"]).mean
        enough = [steps for steps in self.curve if Measured("", found[best, f"{steps} steps, {few}"]).mean >= goal]
        guided = found["guidance 2, 10 steps", f"20 evaluations, n {self.n}"]
        return [
            Measured(f"best contrast ({best}), 20 steps: accuracy less vanilla's", _less(better, vanilla), (">=", 0.0), PAPER),
            Measured("gap between their 95 % intervals", [gap], (">=", 0.0)),
            Measured(
                f"share of steps saved at vanilla's accuracy with {late}",
                [1 - min(enough) / late if enough else 0.0],
                (">=", 0.4),
                "paper: 35 to 40 % fewer",
            ),
            Measured(
                "best contrast less classifier-free guidance 2 at 20 evaluations: accuracy",
                _less(found[best, f"20 steps, n {self.n}"], guided),
            ),
            Measured("pictures through the codec, recognised", [self.ceiling]),
        ]

    def plot(self, best: str) -> None:
        """Accuracy against steps, vanilla and the best contrast, as a PNG beside the table."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
        for axis, what in zip(axes, ("accuracy", "frechet"), strict=True):
            for name, colour in (("vanilla", "#888888"), (best, "#d1495b")):
                keys = [[f"{name}|{seed}|{steps} steps, n {self.n // 2}" for seed in self.seeds] for steps in self.curve]
                rows = [Measured("", [self.lab.cells[k][what] for k in group]) for group in keys]
                axis.errorbar(self.curve, [r.mean for r in rows], [r.sd for r in rows], label=name, color=colour, marker="o", ms=3, lw=1.2)
            axis.set(title=what, xscale="log", xticks=self.curve, xticklabels=[str(s) for s in self.curve], xlabel="steps")
            axis.minorticks_off()
            axis.grid(alpha=0.25)
        axes[0].legend(fontsize=8)
        Path(self.out).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(self.out).with_suffix(".png"), dpi=130)
        pyplot.close(figure)

    def _rank(self, name: str) -> tuple[float, float]:
        cell = self.lab.cells[f"{name}|{self.held}|20 steps, n {self.many}"]
        return -round(cell["accuracy"], 2), cell["frechet"]

    def _place(self, name: str, seed: int) -> Path:
        return Path(self.folder) / f"{seed}" / "".join(c if c.isalnum() or c in "-." else "_" for c in name)

    def _model(self, name: str, seed: int) -> TokenDenoiser:
        return cast(TokenDenoiser, load_module(self._place(name, seed) / "denoiser", TokenDenoiser))

    def _setting(self, name: str, seed: int, n: int) -> None:
        """One setting of one seed: continued from the vanilla model, then measured at 20 steps."""
        base = str(self._place("base", seed) / "denoiser")
        if not Path(f"{base}.json").is_file():
            train_class(
                self.codec, str(Path(base).parent), None, VANILLA, None, replace(self.first, seed=seed), self.tokens, False, self.dataset
            )
        target = self._place(name, seed)
        if not (target / "denoiser.json").is_file():
            train_class(
                self.codec, str(target), None, SETTINGS[name], base, replace(self.more, seed=seed), self.tokens, False, self.dataset
            )
        self.lab.measure(f"{name}|{seed}|20 steps", self._model(name, seed), 20, seed, n)
        self._tick()

    def _tick(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def _protocol(self, chosen: Sequence[str]) -> dict[str, Any]:
        codec, judge = read_json(Path(self.codec).with_suffix(".json")), read_json(self.judge_file.with_suffix(".json"))
        steps = self.first.steps
        options = {"dataset": self.dataset != "mnist" and self.dataset, "training.steps": steps != CLASS_TRAINING.steps and steps}
        return {
            "command": command_of("cdcd-class", options),
            "data": f"{self.dataset}: tokens of the train split; Frechet distance to the test split on the judge's features",
            "n": self.n,
            "n of the main comparison": self.many,
            "seeds": list(self.seeds),
            "curve": f"n {self.n // 2}",
            "held seed": {
                "seed": self.held,
                "n": self.many,
                "chosen": list(chosen),
                "by": "accuracy to two digits, then Frechet distance",
            },
            "intervals": "Student's t, 95 %",
            "codec": {"sha256": codec["sha256"][:16], **codec["meta"].get("test", {})},
            "judge": {"sha256": judge["sha256"][:16], "test_accuracy": judge["meta"].get("test_accuracy")},
            "training": {"base": asdict(self.first), "continued": asdict(self.more), "negatives": NEGATIVES},
            "seconds": round(sum(cell["seconds"] for cell in self.lab.cells.values()), 1),
        }


def _less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]
