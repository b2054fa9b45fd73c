"""The result tables of the digits Composer: coherence, fidelity, balance, an independent listener; and the sweep over steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from polyscore.checkpoint import read_json
from polyscore.composer import WEIGHTS, Composer
from polyscore.denoisers import Averaged, Denoiser
from polyscore.errors import PolyscoreError
from polyscore.metrics.coherence import class_shares
from polyscore.metrics.judges import predict
from polyscore.metrics.sphinx import SphinxJudge
from polyscore.recipes.digits.evaluate import DigitsTest, evaluate_digits, share
from polyscore.recipes.tables import Measured, write_table

__all__ = ["JUDGES", "MODES", "STEPS", "STRENGTHS", "main_table", "parts_table", "sweep"]

JUDGES = WEIGHTS / "judges" / "digits"
STEPS = (5, 10, 20, 50, 100)
STRENGTHS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0)
MODES = ("time", "clean", "scaled", "noised", "resample")
PAPER = "SBM-VAE on MHD, 200 evaluations: "
Progress = Callable[[int, int], None]


def protocol(command: str, model: str, seeds: Sequence[int], n: int, began: float, **more: Any) -> dict[str, Any]:
    """What every digits number depends on."""
    judges = {name: read_json(JUDGES / f"{name}.json") for name in ("image", "speech")}
    return {
        "command": command,
        "model": model,
        "data": "MNIST and FSDD, official test splits (10 000 and 300 items) as conditions and references",
        "n": n,
        "seeds": list(seeds),
        "judges": {k: {"sha256": v["sha256"][:16], "test_accuracy": v["meta"]["test_accuracy"]} for k, v in judges.items()},
        "seconds": round(time.perf_counter() - began, 1),
        **more,
    }


def main_table(
    model: str,
    out: str | Path,
    data: str | None = None,
    n: int = 1500,
    balance: int = 5000,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress | None = None,
    **options: Any,
) -> list[Measured]:
    """Measure a Composer and write the table `out`: every number the first recipe promises.

    Args:
        n: samples a direction and seed. balance: joint samples a seed. options: of `Composer.sample`, in place of its defaults.
    """
    began = time.perf_counter()
    composer, test = Composer.load(model), DigitsTest.load(data=data)
    own = [test.reconstruction(composer, n, seed, data, balance) for seed in seeds]
    listener, speech = SphinxJudge(), test.sets["speech"]
    real = share(listener(speech.x), speech.labels)
    runs = []
    for done, seed in enumerate(seeds):
        runs.append(evaluate_digits(composer, test, n, seed, balance, listener, **options))
        if progress is not None:
            progress(done + 1, len(seeds))

    def row(name: str, reach: tuple[str, float] | None = None, reference: str = "") -> Measured:
        return Measured(name, [run[name] for run in runs], reach, reference)

    def mine(name: str, reach: tuple[str, float] | None = None) -> Measured:
        return Measured(f"reconstructions, {name}", [o[name] for o in own], reach)

    rows = [
        row("image -> speech", (">=", 0.95), PAPER + ".861"),
        row("speech -> image", (">=", 0.95), PAPER + ".853"),
        row("joint", (">=", 0.93), PAPER + ".839"),
        row("evaluations"),
        *[mine(f"{name} recognised", (">=", 0.98)) for name in composer.modalities],
        *[row(f"{kind} frechet") for kind in ("joint image", "joint speech", "speech -> image", "image -> speech")],
        *[mine(f"{name} frechet") for name in composer.modalities],
    ]
    for name in composer.modalities:
        times = [run[f"joint {name} frechet"] / o[f"{name} frechet"] for run, o in zip(runs, own, strict=True)]
        rows.append(Measured(f"joint {name} frechet / reconstructions'", times, ("<=", 1.5)))
    rows += [
        row("least class", (">=", 0.07), "exact balance: .10"),
        row("most class", ("<=", 0.13), "exact balance: .10"),
        row("listener", None, f"pocketsphinx, ten words, 500 sounds; real test recordings: {real:.3f}"),
        Measured("listener, generated / real", [run["listener"] / real for run in runs], (">=", 0.9)),
    ]
    command = f"polyscore evaluate digits --n {n} --balance {balance}"
    facts: dict[str, Any] = {"balance": balance, "options": {**composer.defaults, **options}, "preset": composer.meta}
    write_table(out, rows, protocol(command, model, seeds, n, began, **facts))
    return rows


@torch.no_grad()
def parts_table(
    model: str, out: str | Path, data: str | None = None, n: int = 500, seeds: Sequence[int] = (0, 1, 2), progress: Progress | None = None
) -> list[Measured]:
    """What averaging the network with the closed form gives: the model beside each part alone, at equal options; writes `out`.

    Raises:
        PolyscoreError: a model that is not a network averaged with a mixture.
    """
    began = time.perf_counter()
    composer, test = Composer.load(model), DigitsTest.load(data=data)
    whole = composer.denoiser
    if not isinstance(whole, Averaged) or len(whole.parts) != 2:
        raise PolyscoreError(f"{model}: expected two denoisers averaged, found {type(whole).__name__}")
    cases = dict(zip(("average", "network alone", "mixture alone"), (whole, *whole.parts), strict=True))
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for seed in seeds:
        for name, denoiser in cases.items():
            composer.denoiser = cast(Denoiser, denoiser)
            runs[name].append(evaluate_digits(composer, test, n, seed))
            if progress is not None:
                progress(sum(map(len, runs.values())), len(seeds) * len(cases))
    coherence = ("image -> speech", "speech -> image", "joint")
    rows = []
    for what in coherence:
        gain = [a[what] - b[what] for a, b in zip(runs["average"], runs["network alone"], strict=True)]
        rows.append(Measured(f"{what}: average less network alone", gain, (">=", 0.0)))
    shown = [*coherence, *(name for name in runs["average"][0] if name.endswith("frechet")), "evaluations"]
    rows += [Measured(f"{name}: {what}", [run[what] for run in found]) for name, found in runs.items() for what in shown]
    write_table(out, rows, protocol("polyscore evaluate digits-parts", model, seeds, n, began, options=composer.defaults))
    return rows


@torch.no_grad()
def sweep(
    model: str,
    out: str | Path,
    data: str | None = None,
    n: int = 200,
    seeds: Sequence[int] = (0, 1, 2),
    progress: Progress | None = None,
) -> list[Measured]:
    """Coherence at every number of steps and guidance strength, and for every conditioning mode; writes a table and a PNG beside it."""
    began = time.perf_counter()
    composer, test = Composer.load(model), DigitsTest.load(data=data)
    cells: list[dict[str, Any]] = [{"steps": s, "guidance": w} for s in STEPS for w in STRENGTHS]
    cells += [{"steps": 20, "guidance": w, "conditioning": mode} for mode in MODES[1:] for w in (0.0, 2.0)]
    rows = []
    for done, cell in enumerate(cells):
        runs = [_coherence(composer, test, n, seed, cell) for seed in seeds]
        words = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in cell.items())
        rows += [Measured(f"{name} ({words})", [run[name] for run in runs]) for name in runs[0]]
        if progress is not None:
            progress(done + 1, len(cells))
    command = f"polyscore evaluate digits-sweep --n {n}"
    write_table(out, rows, protocol(command, model, seeds, n, began, steps=STEPS, strengths=STRENGTHS, conditioning=MODES))
    plot(rows, Path(out).with_suffix(".png"))
    return rows


def _coherence(composer: Composer, test: DigitsTest, n: int, seed: int, cell: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for source, target in (("image", "speech"), ("speech", "image")):
        given, labels = test.conditions(source, n, seed)
        made = composer.sample(n, {source: given}, seed=seed, batch_size=1000, **cell)
        found[f"{source} -> {target}"] = share(predict(test.judges[target], made[target])[0], labels)
    if "conditioning" not in cell:
        joint = composer.sample(n, seed=seed, batch_size=1000, **cell)
        seen = [predict(test.judges[name], joint[name])[0] for name in composer.modalities]
        found["joint"] = share(seen[0], seen[1])
        found["least class"] = float(class_shares(seen[0]).min())
    return found


def plot(rows: Sequence[Measured], path: Path) -> None:
    """Coherence against steps, one line a strength, one panel a direction."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    means = {row.measure: (row.mean, row.sd) for row in rows}
    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
    colours = mpl.colormaps["viridis"]
    for axis, name in zip(axes, ("image -> speech", "speech -> image", "joint"), strict=True):
        for place, w in enumerate(STRENGTHS):
            values = [means[f"{name} (steps {s}, guidance {w:g})"] for s in STEPS]
            colour = colours(place / len(STRENGTHS))
            axis.errorbar(STEPS, [v for v, _ in values], [d for _, d in values], label=f"{w:g}", color=colour, marker="o", ms=3, lw=1.2)
        axis.set(title=name, xscale="log", xticks=STEPS, xticklabels=[str(s) for s in STEPS], xlabel="steps", ylim=(0.75, 1.0))
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("coherence")
    axes[2].legend(title="strength", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
