"""Editing: sampling that starts from content instead of noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.sampling.conditioning import content
from polyscore.sampling.loop import Samples, sample
from polyscore.tokens.paths import TokenPath

__all__ = ["edit"]


def edit(denoiser: Denoiser, z: Mapping[str, Tensor], start: float = 0.5, *, steps: int = 20, **options: Any) -> Samples:
    """Change existing content: corrupt the states z to time floor(steps * start) / steps and sample from there.

    The one way to start from content; `sample` always starts from noise. A discrete schedule of T steps so begins at index
    int(T start) - 1. For Gaussian modalities this is SDEdit (Meng et al. 2022), for tokens what CDCD calls editing.

    Args:
        denoiser: as of `sample`. z: clean states (n, *shape) of all modalities that are not in `given` nor `absent`.
        start: share of the way to noise, (0, 1]. steps: of a whole run; only the last floor(steps * start) are taken.
        options: as of `sample`, without `grid`.

    Raises:
        PolyscoreError: start leaves no step, a modality has no state or a wrong one, or a `grid` is given.
    """
    given = options.get("given") or {}
    if "grid" in options:
        raise PolyscoreError("edit: grid: expected none, an edit takes the last of even steps")
    missing = sorted(set(denoiser.paths) - set(z) - set(given) - set(options.get("absent") or ()))
    if missing:
        raise PolyscoreError(f"edit: modality {missing[0]!r} has no state; expected one for each of {sorted(denoiser.paths)} not given")
    left = math.floor(steps * start + 1e-9)
    if not 1 <= left <= steps:
        raise PolyscoreError(f"edit: start {start:g} of {steps} steps leaves {left}, expected between 1 and {steps}")
    clean = {name: value for name, value in z.items() if name not in given}
    if not clean:
        raise PolyscoreError("edit: expected a modality that is not given, found none")
    for name, value in clean.items():
        _check(denoiser, name, value)
    token = content.set(clean)
    try:
        grid = [k / steps for k in range(left, -1, -1)]
        return sample(denoiser, len(next(iter(clean.values()))), steps=left, grid=grid, **options)
    finally:
        content.reset(token)


def _check(denoiser: Denoiser, name: str, value: Tensor) -> None:
    path = denoiser.paths.get(name)
    if path is None:
        raise PolyscoreError(f"edit: modality {name!r}: the model has {', '.join(sorted(denoiser.paths))}")
    shape = tuple(denoiser.shapes[name])
    if isinstance(path, TokenPath):
        path.check(name, value, shape)
    elif tuple(value.shape[1:]) != shape or not bool(torch.isfinite(value).all()):
        raise PolyscoreError(f"edit: modality {name!r}: expected finite states of shape {('n', *shape)}, found {tuple(value.shape)}")
