"""MMDisCo's toy, complete: all rows of Table 1 over seeds, beside ground truth and the exact score, with figures 2 and 4."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_tensors, save_tensors
from polyscore.files import atomic, write_text
from polyscore.networks.timed import ToyDiscriminator
from polyscore.paths import Path as Path_
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes import toy
from polyscore.recipes.mmdisco.toy import (
    BASE_TRAINING,
    LOSSES,
    RATIO_TRAINING,
    SOLVER,
    WINDOW,
    ToySize,
    base_facts,
    load_base,
    measure_row,
    table_error,
    train_base,
    train_ratios,
)
from polyscore.recipes.stored import check_stored
from polyscore.recipes.tables import Measured, write_table
from polyscore.training import TrainConfig
from polyscore.training.discriminator import DiscriminatorObjective, RealAndFake
from polyscore.training.join import held_out_losses

__all__ = ["MEASURES", "ROWS", "draw_figures", "ordering", "run_toy"]

ROWS = ("truth", "oracle", "none", "disc", "denoise", "all")
MEASURES = ("nll_exact", "nll_paper", "in_mode_share", "variance_ratio", "least_mode", "most_mode", "energy_distance")
PAPER = {
    "IND": {"truth": 1.67, "none": 18.80, "disc": 3.29, "denoise": 2.40, "all": 1.94},
    "OOD": {"truth": 1.67, "none": 22.10, "disc": 16.60, "denoise": 2.63, "all": 2.53},
}
REACH: dict[str, dict[str, list[tuple[str, float]]]] = {
    "IND": {"nll_paper": [("<=", 1.75), (">=", 1.60)], "in_mode_share": [(">=", 0.99)], "variance_ratio": [(">=", 0.8), ("<=", 1.2)]},
    "OOD": {"nll_paper": [("<=", 1.9), (">=", 1.6)], "in_mode_share": [(">=", 0.985)], "variance_ratio": [(">=", 0.8), ("<=", 1.2)]},
}
BAYES = {"IND": {"bce": 1.156, "denoise": 0.548}, "OOD": {"bce": 1.132, "denoise": 0.552}}
"""The least values that the losses can have (uniform t over 500 steps; +-1 %)."""


def run_toy(
    out: str = "runs/mmdisco-toy",
    table: str = "benchmarks/results/mmdisco-toy.json",
    seeds: Sequence[int] = (0, 1, 2),
    size: ToySize | None = None,
    base: TrainConfig = BASE_TRAINING,
    training: TrainConfig = RATIO_TRAINING,
    jobs: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Train and measure everything (what is finished in `out` is kept), write the table and, beside it, the figures.

    Args:
        out: folder of models and points. table: the JSON file. seeds: of discriminators, fakes, reals and samples, of one base model.
        size: how much of everything. base, training: of the base model, of each discriminator. jobs: processes.
    """
    size = size or ToySize()
    stacks = [(out, setting, size, training, seed) for seed in seeds for setting in toy.TARGETS]
    tasks = [(out, setting, row, size, training, seed) for seed in seeds for row in ROWS for setting in toy.TARGETS]
    _in_processes(_base_task, [(out, base)], 1, None)
    _in_processes(_stack_task, stacks, jobs, None)
    _in_processes(_row_task, tasks, jobs, progress)
    rows = _table(out, seeds)
    first = json.loads((Path(out) / "base-seconds.json").read_text())
    parts = [(setting, row) for setting in toy.TARGETS for row in (*ROWS, "stack")]
    spent = [first + sum(_read(out, s, setting, row)["cpu_seconds"] for setting, row in parts) for s in seeds]
    rows.append(Measured("CPU minutes, one seed with its base model", [s / 60 for s in spent], ("<=", 12.0), "6 minutes on 2 cores"))
    protocol = {
        "command": f"polyscore recipe mmdisco-toy --seeds {json.dumps(list(seeds))}",
        "preset": {"size": asdict(size), "base": asdict(base), "training": asdict(training), "lambda": 1.0},
        "n": size.samples,
        "seeds": list(seeds),
        "sampler": f"{SOLVER} (ancestral, noise of the forward variance), {size.steps} steps, no noise at the last step; the oracle too",
        "data": f"{size.real} real points, {size.fakes} fakes; losses measured on {size.samples} fresh reals and fakes",
        "metric": "nll_paper = -mean log(p / (2 pi) + 1e-10); in_mode_share: within 0.5 of a mean; energy distance to fresh truth",
        "weights": "moving average, cosine learning rate; one base model for all seeds",
        "window": list(WINDOW),
        "base": f"read from a table of the network's values (linear interpolation; largest error in eps {table_error(out):.2g})",
        "seconds": round(sum(spent), 1),
    }
    write_table(table, rows, protocol)
    draw_figures(out, seeds[0], Path(table).with_suffix(""))
    return rows


def _in_processes(function: Callable[..., Any], tasks: Sequence[Any], jobs: int, progress: Callable[[int, int], None] | None) -> None:
    if jobs == 1:
        for done, task in enumerate(tasks):
            function(task)
            if progress is not None:
                progress(done + 1, len(tasks))
        return
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for done, _ in enumerate(pool.map(function, tasks)):
            if progress is not None:
                progress(done + 1, len(tasks))


def _base_task(task: tuple[str, TrainConfig]) -> None:
    out, config = task
    if (Path(out) / "base-seconds.json").exists():
        check_stored(Path(out) / "base", base_facts(config))
        return
    start = time.process_time()
    train_base(out, config, progress=False)
    write_text(Path(out) / "base-seconds.json", json.dumps(time.process_time() - start))


def _stack_task(task: tuple[str, str, ToySize, TrainConfig, int]) -> None:
    """Train the discriminators of one setting and seed, unless they are there already."""
    out, setting, size, config, seed = task
    path = Path(out) / f"{setting}-stack-{seed}.json"
    settings = _settings(size, config, seed)
    if path.exists() and json.loads(path.read_text())["settings"] == settings:
        return
    start = time.process_time()
    train_ratios(load_base(out), setting, list(LOSSES), out, size, replace(config, seed=seed), progress=False)
    write_text(path, json.dumps({"settings": settings, "cpu_seconds": time.process_time() - start}))


def _settings(size: ToySize, config: TrainConfig, seed: int) -> Any:
    return json.loads(json.dumps({"size": asdict(size), "training": asdict(replace(config, seed=seed))}))


def _row_task(task: tuple[str, str, str, ToySize, TrainConfig, int]) -> None:
    """Measure one row of one seed, unless it is there already."""
    out, setting, row, size, config, seed = task
    name = Path(out) / f"{setting}-{row}-{seed}"
    settings = _settings(size, config, seed)
    if name.with_suffix(".json").exists() and json.loads(name.with_suffix(".json").read_text())["settings"] == settings:
        return
    start = time.process_time()
    found = _measure(out, setting, row, size, seed)
    points: Tensor = found.pop("points")
    weights = found.pop("mode_weights")
    found |= {"least_mode": min(weights), "most_mode": max(weights), "mode_weights": weights}
    save_tensors({"points": points.float()}, name.with_suffix(".safetensors"))
    write_text(name.with_suffix(".json"), json.dumps({**found, "settings": settings, "cpu_seconds": time.process_time() - start}))


def _measure(out: str, setting: str, row: str, size: ToySize, seed: int) -> dict[str, Any]:
    reference = toy.points(toy.target(setting).draw(size.samples, torch.Generator().manual_seed(99 + seed)))
    if row == "truth":
        points = toy.points(toy.target(setting).draw(size.samples, torch.Generator().manual_seed(5000 + seed)))
        return {**toy.measure(points, setting, reference), "points": points}
    if row == "oracle":
        points = toy.run(setting, size.samples, steps=size.steps, seed=seed, solver=SOLVER)
        return {**toy.measure(points, setting, reference), "points": points}
    if row == "none":
        return measure_row(out, setting, None, size, seed)
    ratio: Discriminator = load_module(Path(out) / f"{setting}-{row}-{seed}" / "ratio", Discriminator)
    if (ratio.low, ratio.high) != WINDOW:  # older ones did not store the times of their training
        ratio = Discriminator(ratio.network, cast(Mapping[str, Path_], ratio.paths), times=WINDOW).eval()
    return measure_row(out, setting, ratio, size, seed) | _losses(out, setting, ratio, size.samples, seed)


def _losses(out: str, setting: str, ratio: Discriminator, n: int, seed: int) -> dict[str, float]:
    """BCE, accuracy and L_den over all times, on n fresh reals and n fresh points of the exact base; r = 0 outside the window."""
    g = torch.Generator().manual_seed(31 + seed)
    real = {k: v.float() for k, v in toy.target(setting).draw(n, g).items()}
    fake = {k: v.float() for part in toy.base().parts for k, v in part.draw(n, g).items()}  # type: ignore[union-attr,operator]
    data = RealAndFake(real, fake)
    objective = DiscriminatorObjective(load_base(out), dropout=0.0, high=WINDOW[1])
    low = held_out_losses(ratio, objective, data, rounds=20, batch_size=min(n, 1000))
    nothing = Discriminator(ToyDiscriminator(channels=(4,)), cast(Mapping[str, Path_], ratio.paths))
    high = held_out_losses(nothing, replace(objective, low=WINDOW[1], high=1.0), data, rounds=10, batch_size=min(n, 1000))
    share = WINDOW[1] - WINDOW[0]
    return {name: share * low[name] + (1 - share) * high[name] for name in ("bce", "accuracy", "denoise")}


def _read(out: str, seed: int, setting: str, row: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(out) / f"{setting}-{row}-{seed}.json").read_text())
    return found


def _table(out: str, seeds: Sequence[int]) -> list[Measured]:
    rows: list[Measured] = []
    for setting in toy.TARGETS:
        known = {row: [_read(out, s, setting, row) for s in seeds] for row in ROWS}
        for row in ROWS:
            for measure in MEASURES:
                reference = f"paper {PAPER[setting][row]}" if measure == "nll_paper" and row in PAPER[setting] else ""
                bounds = REACH[setting].get(measure, [None]) if row == "all" else [None]  # type: ignore[list-item]
                for place, reach in enumerate(bounds):
                    name = f"{setting} {row}: {measure}" + (" (other bound)" if place else "")
                    rows.append(Measured(name, [float(r[measure]) for r in known[row]], reach, reference))
        rows += _against_bayes(setting, known["all"])
    return rows + ordering([row.row() for row in rows])


def _against_bayes(setting: str, found: Sequence[Mapping[str, Any]]) -> list[Measured]:
    return [
        Measured(
            f"{setting} all: {name} on fresh data / least possible",
            [r[name] / best for r in found],
            ("<=", 1.05 if name == "bce" else 1.15),
            f"least possible {best}",
        )
        for name, best in BAYES[setting].items()
    ]


def ordering(rows: Sequence[Mapping[str, Any]]) -> list[Measured]:
    """That out of domain all <= denoise < disc << none in nll_paper, as differences over the seeds, from the rows of the table.

    All is no worse than denoise within two standard errors of their difference; disc is worse than denoise by more than that, and better
    than none by at least 5 nats (the paper's difference is 5.5).

    Args:
        rows: as stored in the table, with "OOD ROW: nll_paper" for each of the four.
    """
    known = {row["measure"]: row["values"] for row in rows}

    def less(one: str, other: str) -> list[float]:
        return [b - a for a, b in zip(known[f"OOD {one}: nll_paper"], known[f"OOD {other}: nll_paper"], strict=True)]

    found = []
    for one, other, gap in (("denoise", "all", -0.1), ("denoise", "disc", 13.97), ("disc", "none", 5.5)):
        values = less(one, other)
        noise = 2 * Measured("", values).sd / len(values) ** 0.5
        reach = {"all": ("<=", noise), "disc": (">=", noise), "none": (">=", 5.0)}[other]
        told = f"paper {gap:.4g}" + ("; two standard errors" if other != "none" else "")
        found.append(Measured(f"OOD {other} minus {one}: nll_paper", values, reach, told))
    return found


def draw_figures(out: str | os.PathLike[str], seed: int, target: Path) -> list[Path]:
    """Figure 2 (base, truth and generated points) and figure 4 (each loss) as PNG: TARGET-figure2.png and TARGET-figure4.png."""
    points = {
        (setting, row): load_tensors(Path(out) / f"{setting}-{row}-{seed}.safetensors")["points"] for setting in toy.TARGETS for row in ROWS
    }
    two = [
        [("base, x and y apart", points["IND", "none"]), ("IND, truth", points["IND", "truth"]), ("OOD, truth", points["OOD", "truth"])],
        [("exact score, OOD", points["OOD", "oracle"]), ("IND, generated", points["IND", "all"]), ("OOD, generated", points["OOD", "all"])],
    ]
    titles = {"truth": "truth", "none": "no joint", "disc": "L_disc", "denoise": "L_denoise", "all": "both"}
    four = [[(f"{setting}, {titles[row]}", points[setting, row]) for row in titles] for setting in toy.TARGETS]
    return [_scatter(panels, Path(f"{target}-figure{n}.png")) for n, panels in ((2, two), (4, four))]


def _scatter(panels: Sequence[Sequence[tuple[str, Tensor]]], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(panels[0]), 2.8 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    for line, row in zip(axes, panels, strict=True):
        for axis, (title, xy) in zip(line, row, strict=True):
            axis.scatter(xy[:, 0], xy[:, 1], s=1, alpha=0.25, color="#1f4e79", linewidths=0)
            axis.set(title=title, xlim=(-4, 4), ylim=(-4, 4), aspect="equal", xticks=(-3, 0, 3), yticks=(-3, 0, 3))
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    return path
