"""Rows of several modalities: tensors with masks and labels in memory, ordinary files in the layout that `prepare_folder` reads."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from polyscore import media
from polyscore.errors import DataError
from polyscore.files import write_text

__all__ = ["Rows", "at_least", "write_rows"]

BLOCK = 256
SUFFIXES = {"image": ".png", "audio": ".wav"}
"""Of the kinds that `polyscore.media` writes; vectors are bare JSON lists."""


class Rows:
    """N rows whose modalities belong together; `labels` (N,), or None where there are none.

    A data set names the modalities among its attributes in `columns` (an attribute of None is no modality), and in `present` (N,) which
    rows have a modality that some lack. What stands in the place of a missing one is zeros.
    """

    columns: tuple[str, ...]
    labels: Tensor | None
    present: Mapping[str, Tensor] = MappingProxyType({})

    def __len__(self) -> int:
        return len(next(iter(self.modalities().values())))

    def modalities(self, rows: slice = slice(None)) -> dict[str, Tensor]:
        """{modality: (N, ...)} of some rows, by default of all: batches for training."""
        found = {name: getattr(self, name) for name in self.columns}
        return {name: x[rows] for name, x in found.items() if x is not None}

    def masks(self) -> dict[str, Tensor]:
        """{modality: (N,) bool}, False where a row lacks it."""
        everywhere = torch.ones(len(self), dtype=torch.bool)
        return {name: self.present.get(name, everywhere) for name in self.modalities(slice(0))}

    def each(self, limit: int | None = None) -> Iterator[dict[str, Tensor]]:
        """The first rows one by one, {modality: value} of what each has; a few are made at a time."""
        masks, count = self.masks(), len(range(len(self))[:limit])
        for start in range(0, count, BLOCK):
            part = self.modalities(slice(start, min(start + BLOCK, count)))
            for place in range(min(BLOCK, count - start)):
                yield {name: x[place] for name, x in part.items() if masks[name][start + place]}


def write_rows(
    out: str | os.PathLike[str],
    kinds: Mapping[str, Mapping[str, Any]],
    rows: Iterable[tuple[str, Mapping[str, Tensor], object]],
    total: int,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write rows (name, {modality: value}, label or None) as OUT/MODALITY/NAME.png, .wav or .json, and the labels as OUT/labels.csv.

    A modality that a row lacks gets no file, which `prepare_folder` reads as missing. Every file is whole or not there; labels.csv comes
    last, if there is any label. Returns the number of rows.

    Args:
        kinds: kind (image, audio, vector) and writing options of each modality, as in {"sound": {"kind": "audio", "rate": 8000}}.
        total: the number of rows, for `progress(done, total)`.
    """
    folder, labels, done = Path(out), [], 0
    for name, values, label in rows:
        for modality, value in values.items():
            _write_value(folder / modality / name, value, **kinds[modality])
        if label is not None:
            labels.append((name, label))
        done += 1
        if progress is not None:
            progress(done, total)
    if labels:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([("name", "label"), *labels])
        write_text(folder / "labels.csv", table.getvalue())
    return done


def _write_value(place: Path, value: Tensor, kind: str, **options: Any) -> None:
    if kind == "vector":
        write_text(f"{place}.json", json.dumps(value.tolist()) + "\n")
    else:
        media.write(f"{place}{SUFFIXES[kind]}", value, kind, **options)


def at_least(least: int, **numbers: int | None) -> None:
    """Check numbers of the user's, None where there is none.

    Raises:
        DataError: a smaller one.
    """
    for name, number in numbers.items():
        if number is not None and number < least:
            raise DataError(f"{name}: expected at least {least}, found {number}")
