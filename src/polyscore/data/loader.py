"""Prepared shards as batches: {"data": {modality: tensor}, "masks": {modality: bool tensor}, "labels": tensor or None}."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.data.download import sha256_of
from polyscore.errors import DataError

__all__ = ["FORMAT", "MANIFEST", "FolderData", "missing", "read_manifest"]

FORMAT = 1
MANIFEST = "manifest.json"


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked content of a prepared folder's manifest. DataError if it is missing, not JSON or not ours."""
    file = Path(folder) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: expected a prepared data set, but it cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{file}: expected JSON, found {error}") from error
    keys = {"format", "fingerprint", "modalities", "classes", "shards", "errors", "complete"}
    if not isinstance(manifest, dict) or not keys <= set(manifest) or manifest["format"] != FORMAT:
        raise DataError(f"{file}: expected a polyscore manifest of format {FORMAT} with {', '.join(sorted(keys))}")
    return manifest


class FolderData:
    """A data set prepared by `prepare_folder`; the shards are mapped into memory, not loaded.

    `data[m]` is (B, *shape): float in [0, 1] for pictures and videos, float for sounds and vectors, int64 for tokens; zeros where
    `masks[m]` (B,) is False. `labels` is (B,) int64 with -1 where a sample has none, or None for an unlabelled set.

    Raises:
        DataError: not a prepared folder, not finished, or a shard that is missing, truncated or changed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if not manifest["complete"]:
            raise DataError(f"{self.folder}: expected a finished data set, found an interrupted one (prepare it again to continue)")
        self.modalities: dict[str, dict[str, Any]] = manifest["modalities"]
        self.classes: list[str] | None = manifest["classes"]
        self.errors: list[dict[str, str]] = manifest["errors"]
        self.fingerprint: str = manifest["fingerprint"]
        self.names: list[str] = [name for shard in manifest["shards"] for name in shard["names"]]
        self._shards = [self._load(shard) for shard in manifest["shards"]]
        self._ends = list(accumulate(shard["count"] for shard in manifest["shards"]))

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.names)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """The samples at these indices, in this order."""
        places = [self._place(int(i)) for i in indices]
        return {
            "data": {m: _as_values(self._gather(f"data.{m}", places)) for m in self.modalities},
            "masks": {m: self._gather(f"mask.{m}", places) for m in self.modalities},
            "labels": None if self.classes is None else self._gather("labels", places),
        }

    def values(self, modality: str, indices: Sequence[int]) -> Tensor:
        """One modality of the samples at these indices, (B, *shape)."""
        return _as_values(self._gather(f"data.{modality}", [self._place(int(i)) for i in indices]))

    def mask(self, modality: str) -> Tensor:
        """Which samples have a modality, (N,) bool.

        Raises:
            DataError: the data set has no such modality.
        """
        if modality not in self.modalities:
            raise DataError(f"{self.folder}: expected one of the modalities {', '.join(self.modalities)}, found {modality!r}")
        return torch.cat([shard[f"mask.{modality}"] for shard in self._shards])

    def batches(self, size: int, *, seed: int | None = None, epoch: int = 0, drop_last: bool = False) -> Iterator[dict[str, Any]]:
        """One pass in batches of `size`: in order, or shuffled by `seed` and `epoch` (the same pair gives the same order)."""
        order = list(range(len(self)))
        if seed is not None:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order) - (size - 1 if drop_last else 0), size):
            yield self.batch(order[start : start + size])

    def _load(self, shard: dict[str, Any]) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.folder / shard["file"]
        try:
            if (found := sha256_of(file)) != shard["sha256"]:
                raise DataError(f"{file}: truncated or changed: expected sha256 {shard['sha256'][:12]}..., found {found[:12]}...")
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file}: expected a shard, but it cannot be read ({error})") from error

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: sample {index} of {len(self)}")
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard - 1] if shard else 0)

    def _gather(self, key: str, places: Sequence[tuple[int, int]]) -> Tensor:
        return torch.stack([self._shards[shard][key][row] for shard, row in places])


def missing(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{NAME: True where present} as {NAME_missing: True where absent}, which objectives read; none where a modality never lacks."""
    return {f"{name}_missing": ~mask for name, mask in masks.items() if not bool(mask.all())}


def _as_values(value: Tensor) -> Tensor:
    return value.float() / 255 if value.dtype == torch.uint8 else value
