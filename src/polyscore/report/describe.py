"""`polyscore inspect`: what a composer, a checkpoint, a data set or a result is, and how it was made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from polyscore.checkpoint import load_module, load_tensors, read_json
from polyscore.composer import Composer, locate
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.generate import fingerprint
from polyscore.media import read_metadata
from polyscore.media.prepare import SUFFIXES
from polyscore.spec import to_spec

__all__ = ["describe"]

Pairs = list[tuple[str, str]]
SHOWN = 12


def describe(path: str | os.PathLike[str]) -> str:
    """What is at `path`, as lines of text.

    A folder, shipped name or hub id of a composer (with its fakes and reviews, where `polyscore join` left them); a checkpoint's .json or
    .safetensors; the folder or latest.json of a training run, fakes.json of fakes, reviews.json of a discriminator's training; a prepared
    data set; a file that `polyscore sample` wrote.

    Raises:
        PolyscoreError: nothing there, or a file that is damaged or not one of ours.
    """
    file = Path(path)
    known = {
        "composer.json": _composer,
        "latest.json": _training,
        "manifest.json": _dataset,
        "fakes.json": _fakes,
        "reviews.json": _reviews,
    }
    for name, show in known.items():
        if file.name == name or (file / name).is_file():
            return show(file.parent if file.name == name else file)
    if file.suffix == ".safetensors" or (file.suffix == ".json" and file.with_suffix(".safetensors").exists()):
        return _checkpoint(file)
    return _result(file) if file.is_file() else _composer(path)


def _composer(source: str | os.PathLike[str]) -> str:
    composer, folder = Composer.load(source), locate(source)
    size = sum(f.stat().st_size for f in [*folder.glob("*.safetensors"), *folder.glob("*.json")])
    sampling = ", ".join(f"{k} {_value(v)}" for k, v in to_spec(composer.defaults).items())
    facts: Pairs = [
        ("folder", f"{folder} ({size / 1e6:.2f} MB)"),
        ("weights", fingerprint(composer)),
        ("denoiser", f"{type(composer.denoiser).__name__}, {_count(composer.denoiser):,} parameters"),
        ("sampling", sampling or "the defaults of sample"),
    ]
    rows = [("modality", "data", "latent", "path", "codec", "parameters", "file")]
    for name in composer.modalities:
        codec = composer.codecs.get(name)
        latent = composer.denoiser.shapes[name]
        kind = str(composer.media.get(name, {}).get("kind", "json"))
        rows.append(
            (
                name,
                _shape(codec.data_shape if codec else latent),
                _shape(latent),
                type(composer.denoiser.paths[name]).__name__,
                _codec(codec) if codec else "none",
                f"{_count(codec):,}" if codec else "0",
                SUFFIXES.get(kind, kind),
            )
        )
    left = ((folder / "fakes" / "fakes.json", _fakes), (folder / "training" / "reviews.json", _reviews))
    more = [show(file.parent) for file, show in left if file.is_file()]
    return _text(f"composer {source}", facts, _table(rows), _tree("made by", composer.meta), *more)


def _checkpoint(file: Path) -> str:
    header = file.with_suffix(".json")
    if not header.exists():
        return _text(f"tensors {file}", [], _tensors(load_tensors(file)), "")
    module = load_module(file, nn.Module)
    found = read_json(header)
    facts = [("class", type(module).__name__), ("parameters", f"{_count(module):,}"), ("sha256", f"{found.get('sha256')} (right)")]
    tensors = load_tensors(file.with_suffix(".safetensors"))
    return _text(f"checkpoint {file.with_suffix('')}", facts, _tensors(tensors), _tree("made by", found.get("meta", {})))


def _training(folder: Path) -> str:
    header = read_json(folder / "latest.json")
    if not isinstance(header, dict) or not {"step", "file", "sha256", "identity", "scalars"} <= set(header):
        raise CheckpointError(f"{folder / 'latest.json'}: not a training checkpoint (expected step, file, sha256, scalars and identity)")
    tensors = load_tensors(folder / Path(str(header["file"])).name, sha256=header["sha256"])
    facts = [
        ("step", str(header["step"])),
        ("seconds", _value(header.get("seconds"))),
        ("file", f"{header['file']} ({len(tensors)} tensors)"),
    ]
    return _text(f"training run {folder}", facts, _tree("last means", header["scalars"]), _tree("configuration", header["identity"]))


def _fakes(folder: Path) -> str:
    found = read_json(folder / "fakes.json")
    shards = found.get("shards") if isinstance(found, dict) else None
    if not isinstance(shards, list) or not all(isinstance(entry, dict) and isinstance(entry.get("n"), int) for entry in shards):
        raise CheckpointError(f"{folder / 'fakes.json'}: not a manifest of fakes (expected shards with a number of rows n)")
    facts = [("fakes", f"{sum(entry['n'] for entry in shards)} in {len(shards)} shards"), ("seed", _value(found.get("seed")))]
    facts += [("experts", _value(found.get("denoiser"))), ("conditions", _value(found.get("condition") or "none"))]
    return _text(f"fakes {folder}", facts, _tree("sampled with", found.get("sampling")))


def _reviews(folder: Path) -> str:
    """Held-out measures at every checkpoint: the last rows, and the one with the lowest loss."""
    file = folder / "reviews.json"
    found = read_json(file)
    if not isinstance(found, list) or not found or not all(isinstance(row, dict) and {"step", "loss"} <= set(row) for row in found):
        raise CheckpointError(f"{file}: not reviews of a training (expected a list of step, loss, ...)")
    best = min(found, key=lambda row: float(row["loss"]))
    names = [name for name in ("step", "loss", "bce", "accuracy", "denoise") if name in best]
    rows = [names, *([_value(row.get(name)) for name in names] for row in found[-SHOWN:])]
    facts = [("reviews", str(len(found))), ("best", f"step {best['step']}, held-out loss {_value(best['loss'])}")]
    return _text(f"reviews {folder}", facts, _table(rows), _tree("best", {k: v for k, v in best.items() if k not in names}))


def _dataset(folder: Path) -> str:
    from polyscore.data.loader import FolderData

    data = FolderData(folder)
    facts = [("samples", str(len(data))), ("unusable files", str(len(data.errors)))]
    facts += [("classes", "none" if data.classes is None else ", ".join(data.classes) or "numbers")]
    return _text(f"data set {folder}", facts, _tree("modalities", data.modalities), "")


def _result(file: Path) -> str:
    found = read_metadata(file)
    run = found.get("run")
    if not isinstance(run, dict) or "model" not in run:
        return _text(f"file {file}", [], _tree("metadata", found), "")
    given = run.get("given", {})
    edited = [("changed", f"{', '.join(run['content'])} from {run.get('start')} of the way to noise")] if run.get("content") else []
    facts = [
        ("modality", f"{found.get('modality')}, sample {found.get('index')} of {run.get('n')}"),
        *edited,
        ("given", ", ".join(given) if given else "nothing" if edited else "nothing (all modalities together)"),
        ("model", f"{run['model']} (weights {run.get('weights')}{_still(run)})"),
        ("seed", str(run.get("seed"))),
        ("options", ", ".join(f"{k} {_value(v)}" for k, v in run.get("options", {}).items()) or "none"),
        ("polyscore", str(run.get("polyscore"))),
        ("repeat", f"polyscore sample --from {file} --out FOLDER"),
    ]
    return _text(f"result {file}", facts, "", "")


def _still(run: Mapping[str, Any]) -> str:
    """Whether the model is still the one that made the result."""
    try:
        now = fingerprint(Composer.load(run["model"]))
    except PolyscoreError:
        return "; not found now"
    return ", the same now" if now == run.get("weights") else f"; now {now}, so it cannot be repeated"


def _text(title: str, facts: Pairs, *blocks: str) -> str:
    wide = max((len(name) for name, _ in facts), default=0)
    lines = [title, *(f"  {name:<{wide}}  {value}" for name, value in facts)]
    return "\n\n".join(["\n".join(lines), *(block for block in blocks if block)])


def _table(rows: Sequence[Sequence[str]]) -> str:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows)


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    rows = [("tensor", "shape", "type")]
    rows += [(name, _shape(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in sorted(tensors.items())[:SHOWN]]
    more = f"\n  ... and {len(tensors) - SHOWN} more" if len(tensors) > SHOWN else ""
    return _table(rows) + more


def _tree(title: str, values: Any) -> str:
    return "\n".join([f"  {title}", *_branches(values, 4)]) if isinstance(values, Mapping) and values else ""


def _branches(values: Mapping[str, Any], indent: int) -> Iterable[str]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value and len(json.dumps(value, default=str)) > 60:
            yield f"{' ' * indent}{name}:"
            yield from _branches(value, indent + 2)
        else:
            yield f"{' ' * indent}{name}: {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _codec(codec: nn.Module) -> str:
    stages = getattr(codec, "stages", None)
    return " > ".join(type(s).__name__ for s in stages) if isinstance(stages, nn.ModuleList) else type(codec).__name__


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "1"
