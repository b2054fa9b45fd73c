"""A user's own files as a data set: a folder with one subfolder per modality, or a table with one column per modality.

    my_data/                         table.csv                          table.jsonl
      image/  001.png 002.png          name,image,speech,label            {"name": "001", "image": "a/1.png", "text": [4, 7], "label": 3}
      speech/ 001.wav 003.wav          001,a/1.png,b/1.wav,three          {"name": "002", "image": "a/2.png"}
      labels.csv   (optional)          002,a/2.png,,two

In a folder, files belong together when their path below the modality's folder is the same up to the suffix; `labels.csv` has the
columns name and label. In a table, paths are relative to the table, an empty or absent cell is a missing modality, and JSON
lines may hold the numbers of tokens and vectors themselves. Missing modalities become masks. The result is a folder of
safetensors shards and a `manifest.json`; `FolderData` reads it.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.checkpoint import save_tensors
from polyscore.data.download import sha256_of
from polyscore.data.loader import FORMAT, MANIFEST, FolderData, read_manifest
from polyscore.errors import DataError
from polyscore.files import write_text
from polyscore.media import KINDS, read
from polyscore.media.values import as_values

__all__ = ["Item", "list_items", "prepare_folder", "read_rows"]

BYTES = ("image", "video")  # stored as uint8: their files hold 8 bits a value
INLINE = ("tokens", "vector", "json")


@dataclass(frozen=True)
class Item:
    """One sample before it is read: its name, a file path or inline numbers per modality, and its label if it has one."""

    name: str
    sources: dict[str, Any]
    label: str | int | None = None


def prepare_folder(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    modalities: Mapping[str, Mapping[str, Any]],
    *,
    shard_size: int = 1024,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FolderData:
    """Read every sample once and store it as shards of `shard_size` samples, sorted by name.

    `modalities` gives each modality's kind, shape and reading options as in `polyscore.media.read`:
    `{"image": {"kind": "image", "shape": [1, 28, 28]}, "speech": {"kind": "audio", "rate": 8000, "shape": [8000]}}`.
    A file that cannot be used counts as missing and is listed in the manifest with its error; `strict` stops at the first one.
    A call that was interrupted continues after its last whole shard, to the same bytes; a finished one returns at once; changed
    files or options start again. `progress(done, total)` is called after every shard.

    Raises:
        DataError: no such folder or table, no samples, names used twice, an unknown kind, or not one usable file.
    """
    if not modalities or shard_size < 1:
        raise DataError(f"{source}: expected at least one modality and one sample a shard, found {len(modalities)} and {shard_size}")
    specs = {name: _spec(name, options) for name, options in sorted(modalities.items())}
    items = list_items(source, specs)
    target = Path(out)
    manifest = _manifest(items, specs, shard_size, Path(source), target)
    for index in range(len(manifest["shards"]), -(-len(items) // shard_size)):
        batch = items[index * shard_size : (index + 1) * shard_size]
        tensors, names, errors = _read_shard(batch, specs, manifest["classes"], strict)
        file = f"shard-{index:05d}.safetensors"
        digest = save_tensors(tensors, target / file)
        manifest["shards"].append({"file": file, "sha256": digest, "count": len(names), "names": names})
        manifest["errors"] += errors
        _save(target, manifest, complete=False)
        if progress is not None:
            progress(min((index + 1) * shard_size, len(items)), len(items))
    if not any(shard["count"] for shard in manifest["shards"]):
        first = manifest["errors"][0]["error"]
        raise DataError(f"{source}: expected usable files, found none in {len(items)} samples (the first error: {first})")
    _save(target, manifest, complete=True)
    _remove_stale(target, manifest)
    return FolderData(target)


def list_items(source: str | os.PathLike[str], modalities: Sequence[str] | Mapping[str, Any]) -> list[Item]:
    """The samples of a folder or a table (.csv, .jsonl), sorted by name, with at least one modality each."""
    path = Path(source)
    if path.is_dir():
        items = _from_folder(path, list(modalities))
    elif path.is_file() and path.suffix.lower() in (".csv", ".jsonl"):
        items = _from_table(path, list(modalities))
    else:
        raise DataError(
            f"{path}: expected a folder, or a table (.csv, .jsonl), found {'another file' if path.exists() else 'nothing there'}"
        )
    items = sorted((item for item in items if item.sources), key=lambda item: item.name)
    for one, two in itertools.pairwise(items):
        if one.name == two.name:
            raise DataError(f"{path}: expected every name once, found {one.name!r} twice")
    if not items:
        raise DataError(f"{path}: expected samples with {', '.join(modalities)}, found none")
    return items


def _from_folder(folder: Path, modalities: Sequence[str]) -> list[Item]:
    found: dict[str, dict[str, Any]] = {}
    for modality in modalities:
        if not (folder / modality).is_dir():
            names = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "no folders"
            raise DataError(f"{folder}: expected a folder {modality!r}, found {names}")
        for file in sorted((folder / modality).rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                name = file.relative_to(folder / modality).with_suffix("").as_posix()
                if modality in found.setdefault(name, {}):
                    raise DataError(f"{file}: expected one {modality} file called {name!r}, found {found[name][modality].name} too")
                found[name][modality] = file
    labels = _folder_labels(folder / "labels.csv")
    return [Item(name, sources, labels.get(name)) for name, sources in found.items()]


def _folder_labels(file: Path) -> dict[str, str | int]:
    rows = read_rows(file) if file.exists() else []
    if rows and not {"name", "label"} <= set(rows[0]):
        raise DataError(f"{file}: expected the columns name and label, found {', '.join(map(str, rows[0]))}")
    return {str(row["name"]): row["label"] for row in rows if row["label"] not in (None, "")}


def _from_table(table: Path, modalities: Sequence[str]) -> list[Item]:
    items = []
    rows = read_rows(table)
    columns = sorted({str(key) for row in rows for key in row})
    absent = [m for m in modalities if m not in columns]
    if rows and absent:
        raise DataError(f"{table}: expected a column {absent[0]!r}, found {', '.join(columns)}")
    for number, row in enumerate(rows):
        cells = {m: row[m] for m in modalities if row.get(m) not in (None, "")}
        sources = {m: table.parent / cell if isinstance(cell, str) else cell for m, cell in cells.items()}
        label = row.get("label")
        items.append(Item(str(row.get("name") or f"{number:08d}"), sources, None if label in (None, "") else label))
    return items


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a table in UTF-8, .csv with a header or JSON lines.

    Raises:
        DataError: unreadable, or something else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".csv":
            return list(csv.DictReader(text.splitlines(), strict=True))
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{file}: expected a table in UTF-8, found {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file}: expected one JSON object a line, found something else")
    return rows


def _spec(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    spec = dict(options)
    if spec.get("kind") not in KINDS:
        raise DataError(f"modality {name!r}: expected a kind ({', '.join(KINDS)}), found {spec.get('kind')!r}")
    if (
        not isinstance(spec.get("shape"), list | tuple)
        or not spec["shape"]
        or any(not isinstance(side, int) or side < 1 for side in spec["shape"])
    ):
        raise DataError(f"modality {name!r}: expected a shape of positive numbers, found {spec.get('shape')!r}")
    return {**spec, "shape": list(spec["shape"])}


def _classes(items: Sequence[Item]) -> list[str] | None:
    """The sorted label names; empty when the labels are numbers already; None when nothing is labelled."""
    labels = [item.label for item in items if item.label is not None]
    if not labels:
        return None
    if all(str(label).isdigit() for label in labels):
        return []
    return sorted({str(label) for label in labels})


def _manifest(items: Sequence[Item], specs: dict[str, dict[str, Any]], shard_size: int, source: Path, target: Path) -> dict[str, Any]:
    """The manifest to continue with: that of the same work done before, or an empty one."""
    fingerprint = _fingerprint(items, specs, shard_size, source)
    empty = {"format": FORMAT, "fingerprint": fingerprint, "modalities": specs, "classes": _classes(items), "shards": [], "errors": []}
    return _resume(target, fingerprint) or empty


def _read_shard(
    items: Sequence[Item], specs: Mapping[str, Mapping[str, Any]], classes: list[str] | None, strict: bool
) -> tuple[dict[str, Tensor], list[str], list[dict[str, str]]]:
    rows, errors = [], []
    for item in items:
        values: dict[str, Tensor] = {}
        for modality, source in item.sources.items():
            try:
                values[modality] = _read_one(source, item, specs[modality])
            except DataError as error:
                if strict:
                    raise
                errors.append({"name": item.name, "modality": modality, "error": str(error)})
        if values:
            rows.append((item, values))
    tensors: dict[str, Tensor] = {}
    for modality, spec in specs.items():
        blank = torch.zeros(spec["shape"], dtype=_dtype(spec["kind"]))
        stacked = [values.get(modality, blank) for _, values in rows]
        tensors[f"data.{modality}"] = torch.stack(stacked) if stacked else blank[None][:0]
        tensors[f"mask.{modality}"] = torch.tensor([modality in values for _, values in rows], dtype=torch.bool)
    if classes is not None:
        tensors["labels"] = torch.tensor([_label(item, classes) for item, _ in rows], dtype=torch.int64)
    return tensors, [item.name for item, _ in rows], errors


def _read_one(source: Any, item: Item, spec: Mapping[str, Any]) -> Tensor:
    options = {k: v for k, v in spec.items() if k != "kind"}
    kind = spec["kind"]
    if isinstance(source, Path):
        value = read(source, kind, **options)
    elif kind in INLINE:
        value = as_values(source, f"sample {item.name!r}", kind=kind, **options)
    else:
        raise DataError(f"sample {item.name!r}: expected the path of an {kind} file, found {type(source).__name__}")
    return (value * 255).round().to(torch.uint8) if kind in BYTES else value


def _dtype(kind: str) -> torch.dtype:
    return torch.uint8 if kind in BYTES else torch.int64 if kind == "tokens" else torch.float32


def _label(item: Item, classes: Sequence[str]) -> int:
    if item.label is None:
        return -1
    return classes.index(str(item.label)) if classes else int(item.label)


def _fingerprint(items: Sequence[Item], specs: Mapping[str, Any], shard_size: int, source: Path) -> str:
    """SHA-256 of everything the shards depend on: names, labels, file sizes and times, options."""

    def describe(value: Any) -> Any:
        if not isinstance(value, Path):
            return value
        state = value.stat() if value.exists() else None
        return [os.path.relpath(value, source), state.st_size if state else None, state.st_mtime_ns if state else None]

    listed = [{**asdict(item), "sources": {m: describe(v) for m, v in item.sources.items()}} for item in items]
    return hashlib.sha256(json.dumps([FORMAT, shard_size, dict(specs), listed], sort_keys=True, default=str).encode()).hexdigest()


def _resume(target: Path, fingerprint: str) -> dict[str, Any] | None:
    """The manifest of an interrupted or finished run of the same work, if every shard it lists is whole."""
    try:
        manifest = read_manifest(target)
    except DataError:
        return None
    files = [(target / shard["file"], shard["sha256"]) for shard in manifest["shards"]]
    whole = all(file.is_file() and sha256_of(file) == digest for file, digest in files)
    return manifest if whole and manifest["fingerprint"] == fingerprint else None


def _save(target: Path, manifest: Mapping[str, Any], *, complete: bool) -> None:
    write_text(target / MANIFEST, json.dumps({**manifest, "complete": complete}, indent=1) + "\n")


def _remove_stale(target: Path, manifest: Mapping[str, Any]) -> None:
    """Shards of an earlier, larger preparation in the same folder."""
    ours = {shard["file"] for shard in manifest["shards"]}
    for file in target.glob("shard-*.safetensors"):
        if file.name not in ours:
            file.unlink()
