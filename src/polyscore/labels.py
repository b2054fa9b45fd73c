"""Class labels as a user gives them: numbers for all samples or in turn; and guidance towards labels or a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.product import Product, Term

__all__ = ["guided_by", "labels_of"]


def labels_of(denoiser: Denoiser, label: int | Sequence[int], n: int, first: int = 0) -> Tensor:
    """Labels (n,) of samples first, first + 1, ...: sample i has label i modulo their number, whatever the batch.

    Raises:
        PolyscoreError: a model that knows no classes, or a label that is none of its classes.
    """
    wanted = [label] if isinstance(label, int) else list(label)
    if denoiser.classes < 1:
        raise PolyscoreError(f"label {label!r}: expected a class-conditional model, found {type(denoiser).__name__} without classes")
    if not wanted:
        raise PolyscoreError(f"label: expected classes from 0 to {denoiser.classes - 1}, found none")
    for value in wanted:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < denoiser.classes:
            raise PolyscoreError(f"label: expected classes from 0 to {denoiser.classes - 1}, found {value!r}")
    return torch.tensor(wanted)[(first + torch.arange(n)) % len(wanted)]


def guided_by(denoiser: Denoiser, told: Tensor | str, strength: float, window: tuple[float, float] = (0.0, 1.0)) -> Denoiser:
    """Density: p(z | c) [p(z | c) / p(z)]^w for labels c (n,) or a prompt: classifier-free guidance; in `window` w acts, else p(z | c)
    is left.

    The denoiser must have been trained with some labels left out (-1), or prompts (its `null`).
    """
    null = torch.tensor(-1) if isinstance(told, Tensor) else denoiser.null
    plain = Term(denoiser, told, 1.0, name="own", null=null)
    return Product([plain, Term(denoiser, told, strength, window, "own", null)])
