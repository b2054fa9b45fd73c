"""Choosing the strength of the guidance, one number a modality: the paper's grid search (Table 6), with a measure that needs no judge."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import load_module, load_tensors, save_module
from polyscore.composer import Composer, locate
from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.metrics.toy import energy_distance
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import sample
from polyscore.spec import to_spec

__all__ = ["PAPER_GRID", "load_guided", "search_scales", "tune"]

PAPER_GRID = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
SAMPLING = ("steps", "solver", "token_solver", "corrector", "grid")
"""Defaults of a Composer that the search samples with."""


def search_scales(
    guided: Guided,
    real: State,
    choices: Mapping[str, Sequence[float]],
    n: int = 500,
    seeds: Sequence[int] = (0,),
    progress: Callable[[int, int], None] | None = None,
    **sampling: Any,
) -> list[tuple[dict[str, float], list[float]]]:
    """Energy distance between guided samples and real tuples, for every combination of scales; the best one first.

    The distance is taken on all modalities together, each scaled to unit variance of the reals and divided by the root of its size, so
    that it sees both fidelity and dependence. The same seeds for all combinations.

    Args:
        guided: a guided denoiser; its scale is replaced. real: held-out tuples {modality: (N, *shape)}.
        choices: scales of each modality; modalities without one keep scale 1. n: samples a seed. sampling: of `sample`.
    """
    unknown = sorted(set(choices) - set(guided.paths))
    if unknown:
        raise PolyscoreError(f"scales for modality {unknown[0]!r}: expected some of {sorted(guided.paths)}")
    names = [name for name in guided.paths if name in real]
    cells = list(itertools.product(*(choices.get(name, (1.0,)) for name in names)))
    found = []
    for done, values in enumerate(cells):
        scale = dict(zip(names, values, strict=True))
        trial = _rescaled(guided, scale)
        distances = [_distance(sample(trial, n, seed=seed, **sampling), real, names) for seed in seeds]
        found.append((scale, distances))
        if progress is not None:
            progress(done + 1, len(cells))
    return sorted(found, key=lambda item: sum(item[1]))


def _distance(made: Mapping[str, Tensor], real: State, names: Sequence[str]) -> float:
    def joined(states: Mapping[str, Tensor]) -> Tensor:
        parts = [(states[name].flatten(1) - real[name].flatten(1).mean(0)) / _spread(real[name]) for name in names]
        return torch.cat(parts, 1)

    return energy_distance(joined(made), joined(real))


def _spread(value: Tensor) -> Tensor:
    flat = value.flatten(1)
    return flat.std(0).clamp(min=1e-4) * flat.shape[1] ** 0.5


def load_guided(model: str) -> tuple[Guided, dict[str, Any], Callable[[Guided], None]]:
    """The guided denoiser of a Composer's folder or of a checkpoint, its sampling options, and a function that puts a changed one back."""
    folder = Path(model)
    options: dict[str, Any] = {}
    if (folder / "composer.json").is_file():
        composer = Composer.load(locate(model))
        denoiser: Any = composer.denoiser
        options = {name: composer.defaults[name] for name in SAMPLING if name in composer.defaults}

        def save(changed: Guided) -> None:
            composer.denoiser = changed
            composer.save(folder)

    else:
        denoiser = load_module(folder)

        def save(changed: Guided) -> None:
            save_module(changed, folder, meta=getattr(denoiser, "_meta", None))

    if not isinstance(denoiser, Guided):
        raise PolyscoreError(f"{model}: expected a denoiser guided by a ratio, found {type(denoiser).__name__}")
    return denoiser, options, save


def tune(
    model: str,
    real: str,
    grid: Mapping[str, Sequence[float]] | None = None,
    out: str | None = None,
    n: int = 500,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int | None = None,
    keep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Measured], dict[str, Any]]:
    """Search the scales of a saved model against real latents {modality: (N, *shape)} in a safetensors file; the best row is first.

    Args:
        grid: default the paper's for every modality. out: the table, as JSON. steps: default the model's own, like solver and times, or 20.
        keep: write the best scales into the model.

    Returns:
        The rows, and the protocol.
    """
    guided, options, save = load_guided(model)
    options = {"steps": 20, **options} | ({} if steps is None else {"steps": steps})
    choices = grid or dict.fromkeys(guided.paths, PAPER_GRID)
    found = search_scales(guided, load_tensors(real), choices, n, seeds, progress, **options)
    rows = [Measured(f"energy distance at {_named(scale)}", values) for scale, values in found]
    protocol = {"command": "polyscore recipe scales", "model": model, "real": real, "n": n, "seeds": list(seeds)}
    protocol |= {name: to_spec(value) for name, value in options.items()}
    if out is not None:
        write_table(out, rows, protocol)
    if keep:
        save(_rescaled(guided, found[0][0]))
    return rows, protocol


def _rescaled(guided: Guided, scale: Mapping[str, float]) -> Guided:
    return guided.changed(dict.fromkeys(guided.paths, 0.0) | dict(scale))


def _named(scale: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in scale.items())
