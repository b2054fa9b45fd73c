"""What frozen experts generate, kept on disk: the other class of a discriminator.

A folder of `fakes-00000.safetensors`, ... and `fakes.json`, which says how they were made and names each shard with its SHA-256.
Sample i depends on (seed, i) only, so an interrupted folder is completed to the same result, and a larger n adds to it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_tensors, read_json, save_tensors
from polyscore.conditions import by_modality
from polyscore.denoisers import Denoiser
from polyscore.errors import CheckpointError, DataError, PolyscoreError
from polyscore.files import write_text
from polyscore.spec import to_spec

__all__ = ["Fakes", "condition_of", "flat_condition", "load_fakes", "make_fakes", "slice_condition", "weights_digest"]

FORMAT = 1
CONDITION = "condition"


@dataclass(frozen=True)
class Fakes:
    """Generated states and how they were made.

    Args:
        states: {modality: (n, *shape)}. condition: what each was generated with: a tensor (n, ...), a mapping of such, or None.
        manifest: contents of fakes.json.
    """

    states: dict[str, Tensor]
    condition: Any
    manifest: dict[str, Any]

    def __len__(self) -> int:
        return len(next(iter(self.states.values())))


def _given(spec: Any) -> Any:
    """A specification without arguments that are None: one that a later version adds changes nothing."""
    if isinstance(spec, list):
        return [_given(value) for value in spec]
    return {name: _given(value) for name, value in spec.items() if value is not None} if isinstance(spec, dict) else spec


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a module's tensors, and its specification if it has one."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    if hasattr(module, "_spec"):
        try:
            digest.update(json.dumps(_given(to_spec(module)), sort_keys=True).encode())
        except CheckpointError:
            digest.update(type(module).__name__.encode())
    return digest.hexdigest()


def make_fakes(
    denoiser: Denoiser,
    n: int,
    out: str | os.PathLike[str],
    *,
    condition: Any = None,
    seed: int = 0,
    shard: int = 1000,
    progress: Callable[[int, int], None] | None = None,
    **sampling: Any,
) -> Fakes:
    """Generate n samples of frozen experts once, with the settings used at sampling; call it again to complete or to reuse them.

    Args:
        denoiser: the experts, usually `Independent(...)`.
        n: number of fakes. out: their folder. shard: samples a file.
        condition: of the fakes: a tensor (n, ...), or a mapping of tensors by modality (or number of the part, as `Independent` takes it;
            stored by modality), distributed as the reals' conditions are (else the discriminator learns the difference of the conditions).
        seed: of the samples; choose another than at sampling.
        sampling: arguments of `polyscore.sampling.sample` (steps, solver, grid, ...).

    Raises:
        PolyscoreError: the folder holds fakes made otherwise; a condition for an unknown modality. CheckpointError: a damaged shard.
    """
    from polyscore.sampling import sample

    folder, condition = Path(out), by_modality(denoiser, condition)
    settings = {"denoiser": weights_digest(denoiser), "seed": seed, "shard": shard, "sampling": _plain(sampling)}
    settings["condition"] = None if not flat_condition(condition) else _digest(condition, shard)
    done = _resume(folder, settings)
    for start in range(0, n, shard):
        rows = range(start, min(start + shard, n))
        index = start // shard
        if index < len(done) and done[index]["n"] == len(rows):
            continue
        part = slice_condition(condition, rows)
        made: Mapping[str, Tensor] = sample(denoiser, len(rows), condition=part, seed=seed, first=start, **sampling)
        tensors = {f"state.{name}": value.cpu() for name, value in made.items()} | flat_condition(part)
        name = f"fakes-{index:05d}.safetensors"
        entry = {"file": name, "n": len(rows), "sha256": save_tensors(tensors, folder / name)}
        done = [*done[:index], entry, *done[index + 1 :]]
        write_text(folder / "fakes.json", json.dumps({"format": FORMAT, **settings, "shards": done}, indent=1) + "\n")
        if progress is not None:
            progress(rows.stop, n)
    return load_fakes(folder, n)


def load_fakes(folder: str | os.PathLike[str], n: int | None = None) -> Fakes:
    """The first n (default all) fakes of a folder.

    Raises:
        CheckpointError: no manifest, a missing or damaged shard. DataError: fewer than n.
    """
    manifest = _manifest(Path(folder))
    shards = [load_tensors(Path(folder) / entry["file"], sha256=entry["sha256"]) for entry in manifest["shards"]]
    if not shards:
        raise DataError(f"{folder}: expected fakes, found none")
    joined = {name: torch.cat([shard[name] for shard in shards])[:n] for name in shards[0]}
    states = {name.removeprefix("state."): value for name, value in joined.items() if name.startswith("state.")}
    count = len(next(iter(states.values())))
    if n is not None and count < n:
        raise DataError(f"{folder}: expected {n} fakes, found {count}")
    return Fakes(states, condition_of(joined), manifest)


def slice_condition(condition: Any, rows: range | Tensor) -> Any:
    """The rows of a condition: of a tensor, or of each tensor of a mapping (None stays)."""
    if condition is None:
        return None
    chosen = rows if isinstance(rows, Tensor) else torch.arange(rows.start, rows.stop)
    if isinstance(condition, Mapping):
        return {name: slice_condition(value, chosen) for name, value in condition.items()}
    return condition[chosen]


def flat_condition(condition: Any, name: str = CONDITION) -> dict[str, Tensor]:
    """A condition as tensors with names: "condition", or "condition.MODALITY" where it is a mapping. `condition_of` puts it back.

    Raises:
        PolyscoreError: something other than tensors, or a mapping with other keys than texts.
    """
    if condition is None:
        return {}
    if isinstance(condition, Mapping):
        for key in condition:
            if not isinstance(key, str) or "." in key:
                raise PolyscoreError(f"{name}: key {key!r}, expected the name of a modality")
        return {full: value for key, part in condition.items() for full, value in flat_condition(part, f"{name}.{key}").items()}
    if not isinstance(condition, Tensor):
        raise PolyscoreError(f"{name}: a {type(condition).__name__}, expected a tensor with a row for each sample")
    return {name: condition}


def condition_of(tensors: Mapping[str, Tensor], name: str = CONDITION) -> Any:
    """The condition among named tensors, as `flat_condition` named it."""
    if name in tensors:
        return tensors[name]
    keys = dict.fromkeys(full.removeprefix(f"{name}.").partition(".")[0] for full in tensors if full.startswith(f"{name}."))
    return {key: condition_of(tensors, f"{name}.{key}") for key in keys} or None


def _manifest(folder: Path) -> dict[str, Any]:
    found = read_json(folder / "fakes.json")
    if not isinstance(found, dict) or found.get("format") != FORMAT or not isinstance(found.get("shards"), list):
        raise CheckpointError(f"{folder / 'fakes.json'}: not a manifest of fakes (expected format {FORMAT} with shards)")
    return found


def _resume(folder: Path, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not (folder / "fakes.json").exists():
        return []
    found = _manifest(folder)
    wanted = json.loads(json.dumps(settings))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise PolyscoreError(
                f"{folder}: holds fakes made otherwise: {name}: expected {value!r}, found {found.get(name)!r}; give another folder"
            )
    shards = found["shards"]
    return [entry for i, entry in enumerate(shards) if all((folder / e["file"]).exists() for e in shards[: i + 1])]


def _digest(condition: Any, rows: int) -> str:
    """Of the first rows: a longer list of conditions may continue a shorter one."""
    head = slice_condition(condition, range(min(rows, _length(condition))))
    digest = hashlib.sha256()
    for name, value in sorted(flat_condition(head).items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _length(condition: Any) -> int:
    return len(next(iter(flat_condition(condition).values())))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, bool | int | float | str | None) else repr(value) for name, value in settings.items()}
