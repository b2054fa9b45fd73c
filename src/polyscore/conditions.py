"""Conditions and what is held one a sample: cut with the batch, and several conditions of one denoiser asked in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from polyscore.denoisers import AnyPrediction, Denoiser, Independent, State, Times, current_run
from polyscore.errors import PolyscoreError
from polyscore.predictions import Prediction

__all__ = ["by_modality", "cut", "own_rows", "repeat_condition", "stack", "together"]


def by_modality(denoiser: Denoiser, condition: Any) -> Any:
    """A condition of a composition in which the numbers of parts are names of modalities, so that ratios, fakes and files know it too.

    What is not a mapping, or a mapping for a denoiser without an `Independent` inside, is left as it is.

    Raises:
        PolyscoreError: as `Independent`; the number of a part of several modalities, for which the condition does not name them.
    """
    if not isinstance(condition, Mapping):
        return condition
    inner: Any = denoiser
    while not isinstance(inner, Independent) and isinstance(getattr(inner, "denoiser", None), Denoiser):
        inner = inner.denoiser
    if not isinstance(inner, Independent):
        return condition
    found: dict[str, Any] = {}
    for part, own in zip(inner.parts, inner.own_conditions(condition), strict=True):
        names = list(cast(Denoiser, part).paths)
        if len(names) == 1:
            found |= {} if own is None else {names[0]: own}
        elif isinstance(own, Mapping) and set(inside := by_modality(cast(Denoiser, part), own)) <= set(names):
            found |= inside
        elif own is not None:
            raise PolyscoreError(f"condition of the part of {names}: expected one by name of a modality, {{{names[0]!r}: ...}}")
    return found


def own_rows(value: Any, rows: int, what: str) -> Any:
    """The rows of a tensor or list held one a sample that belong to this batch of `rows`; numbers, texts and single rows pass through.

    Inside a run what has a row for each of the run's samples (or one for every sample number from 0) is cut as the batch is,
    and repeated as the batch is (particles, stacked conditions). Outside a run it must have `rows` rows.

    Raises:
        PolyscoreError: a number of rows that fits neither, or own rows in one shared population.
    """
    if isinstance(value, Mapping):
        return {key: own_rows(part, rows, what) for key, part in value.items()}
    if not isinstance(value, Tensor | list) or (isinstance(value, Tensor) and value.ndim == 0) or len(value) == 1:
        return value
    run = current_run.get()
    if run is None or run.rows is None:
        if len(value) != rows:
            raise PolyscoreError(f"{what}: {len(value)} rows, expected 1 or {rows} (one a sample)")
        return value
    if run.shared:
        raise PolyscoreError(f"{what}: {len(value)} rows, expected 1: all samples of one particle population share their conditions")
    last = run.first + run.n
    if len(value) != run.n and len(value) < last:
        raise PolyscoreError(f"{what}: {len(value)} rows, expected 1 or {run.n} (one a sample)")
    index = run.rows if len(value) == run.n else run.rows + run.first
    if isinstance(value, list):
        return [value[i] for i in index.tolist()] * (rows // len(index))
    return value[index.to(value.device)].repeat(rows // len(index), *[1] * (value.ndim - 1))


def together(expert: Denoiser, z: State, t: Times, conditions: Sequence[Any]) -> list[dict[str, AnyPrediction]]:
    """Predictions of one expert under several conditions: equal ones once, and in one call where they can be stacked."""
    if not conditions:
        return []
    rows = len(next(iter(z.values())))
    distinct: list[Any] = []
    where = [_place(distinct, c) for c in conditions]
    stacked = stack(distinct, rows) if len(distinct) > 1 else None
    if stacked is None:
        found = [expert(z, t, c) for c in distinct]
        return [found[i] for i in where]
    many = len(distinct)
    wide_z = {k: v.repeat(many, *[1] * (v.ndim - 1)) for k, v in z.items()}
    wide_t = {k: v.repeat(many) if isinstance(v, Tensor) and v.ndim and len(v) > 1 else v for k, v in t.items()}
    wide = expert(wide_z, wide_t, stacked)
    found = [{k: cut(p, z[k], i * rows, rows) for k, p in wide.items()} for i in range(many)]
    return [found[i] for i in where]


def cut(prediction: AnyPrediction, z: Tensor, start: int, rows: int) -> AnyPrediction:
    """Rows start to start + rows of a prediction, as a statement about z."""
    part = slice(start, start + rows)
    return prediction.rows(part, z) if isinstance(prediction, Prediction) else prediction.rows(part)


def repeat_condition(condition: Any, rows: int, times: int) -> Any:
    """A condition for `rows` rows, for the batch repeated `times` times; what cannot be stacked holds for all rows as it is."""
    found = stack([condition] * times, rows)
    return condition if found is None else found


def stack(conditions: Sequence[Any], rows: int) -> Any:
    """Conditions one after another for a batch of `rows` each: tensors, numbers, texts, lists of `rows` items, and mappings of these.

    None: they are of different kinds or shapes, and need a call each.
    """
    kinds: list[tuple[type | tuple[type, ...], Callable[[Sequence[Any], int], Any]]] = [
        ((Tensor, int, float), _stack_tensors),
        (Mapping, _stack_mappings),
        ((str, list, tuple), _stack_lists),
    ]
    for kind, join in kinds:
        if all(isinstance(c, kind) for c in conditions):
            return join(conditions, rows)
    return None


def _stack_tensors(conditions: Sequence[Any], rows: int) -> Tensor | None:
    tensors = [torch.as_tensor(c) for c in conditions]
    if any(c.ndim and len(c) not in (1, rows) for c in tensors):
        return None
    full = [c.expand(rows, *c.shape[1:]) if c.ndim else c.expand(rows) for c in tensors]
    return torch.cat(full) if len({(c.shape[1:], c.dtype) for c in full}) == 1 else None


def _stack_mappings(conditions: Sequence[Mapping[Any, Any]], rows: int) -> dict[Any, Any] | None:
    keys = list(conditions[0])
    if any(set(c) != set(keys) for c in conditions):
        return None
    absent = {key for key in keys if all(c[key] is None for c in conditions)}
    joined = {key: None if key in absent else stack([c[key] for c in conditions], rows) for key in keys}
    return None if any(value is None and key not in absent for key, value in joined.items()) else joined


def _stack_lists(conditions: Sequence[Any], rows: int) -> list[Any] | None:
    full = [[c] * rows if isinstance(c, str) else list(c) * rows if len(c) == 1 else list(c) for c in conditions]
    return [item for part in full for item in part] if all(len(part) == rows for part in full) else None


def _place(distinct: list[Any], condition: Any) -> int:
    for index, other in enumerate(distinct):
        if _same(other, condition):
            return index
    distinct.append(condition)
    return len(distinct) - 1


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return set(a) == set(b) and all(_same(a[k], b[k]) for k in a)
    return type(a) is type(b) and isinstance(a, str | int | float | list | tuple) and bool(a == b)
