"""Models that a recipe finds in its folder: they must be what is asked for now."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from polyscore.checkpoint import read_json
from polyscore.errors import PolyscoreError
from polyscore.spec import to_spec
from polyscore.training import TrainConfig

__all__ = ["check_stored", "is_stored", "trained"]


def trained(config: TrainConfig) -> dict[str, Any]:
    """The fields of a configuration that a trained model depends on."""
    found = asdict(config)
    return {name: found[name] for name in ("steps", *config.fixed())}


def check_stored(path: str | os.PathLike[str], asked: Mapping[str, Any], module: nn.Module | None = None) -> None:
    """Compare what is stored at PATH.json (its meta, and the arguments of its module) with what is asked; a fact that isn't stored agrees.

    Args:
        path: of the checkpoint, with or without suffix. asked: facts as they would be stored in its meta. module: one like the stored one.

    Raises:
        PolyscoreError: naming the file, the fact, and both values. CheckpointError: an unreadable file.
    """
    file = Path(path).with_suffix(".json")
    header = read_json(file)
    wanted = {"meta": dict(asked), "spec": to_spec(module) if module is not None else {}}
    for name, now, before in _differences(json.loads(json.dumps(wanted)), header):
        raise PolyscoreError(
            f"{file}: made with {name} = {before!r}, asked for {now!r}; ask for what is there, give another folder, or delete the file"
        )


def is_stored(path: str | os.PathLike[str], asked: Mapping[str, Any], module: nn.Module | None = None) -> bool:
    """Whether a checkpoint is there; if so it must be what is asked, as in `check_stored`."""
    there = Path(path).with_suffix(".json").exists()
    if there:
        check_stored(path, asked, module)
    return there


def _differences(asked: Any, stored: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if not (isinstance(asked, dict) and isinstance(stored, dict)):
        if asked != stored:
            yield name.partition(".")[2], asked, stored
        return
    for key in asked:
        if key in stored:
            yield from _differences(asked[key], stored[key], f"{name}.{key}" if name else key)
