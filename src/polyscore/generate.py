"""From files to files: sample with a composer, write ordinary files that carry what made them, and repeat a run from any of them."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import polyscore
from polyscore.composer import Composer, fingerprint
from polyscore.errors import PolyscoreError
from polyscore.media import read_metadata
from polyscore.media.prepare import SUFFIXES
from polyscore.processes import share
from polyscore.ratios.glimpse import glimpse
from polyscore.sampling.loop import Step
from polyscore.sampling.tokens import partial
from polyscore.spec import from_spec, to_spec

__all__ = ["edit", "fingerprint", "generate", "repeat"]

Progress = Callable[[int, int], None]
RUN = {"model": str, "weights": str, "n": int, "seed": int, "batch_size": int, "options": dict, "given": dict}


def generate(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    n: int = 4,
    given: Mapping[str, str | os.PathLike[str]] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    recorder: Callable[[Step], None] | None = None,
    seen: Mapping[str, str] | None = None,
) -> list[Path]:
    """Sample n items and write one file an item and generated modality: OUT/0000_image.png, OUT/0000_speech.wav, ...

    Every file holds the run (model, seed, options, given latents) in its metadata. Files of the same run that are already there are
    kept, so an interrupted run goes on where it stopped.

    Args:
        model: folder, shipped name or hub id. given: ordinary file of each observed modality.
        seen: half of a given file that is known ("left", "right", "top", "bottom"); all of its modality is generated then.
        options: of `Composer.sample`. progress: called with (steps done, steps in all). recorder: a callback of `sample`.

    Raises:
        PolyscoreError: any input that cannot be used; nothing is half-written.
    """
    _check_counts(n, batch_size)
    composer = Composer.load(model)
    data = {name: composer.read(name, path) for name, path in (given or {}).items()}
    partly = {name: _glimpse(composer, data, name, half) for name, half in (seen or {}).items()}
    rows = composer.encode({name: value for name, value in data.items() if name not in partly})
    run = _run(composer, model, n, rows, seed, batch_size, options or {}) | ({"partly": _packed(partly)} if partly else {})
    return _write_run(composer, run, rows, Path(out), progress, recorder, partly)


def edit(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    content: Mapping[str, str | os.PathLike[str]],
    start: float = 0.5,
    n: int = 4,
    given: Mapping[str, str | os.PathLike[str]] | None = None,
    seed: int = 0,
    batch_size: int = 64,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """n changes of what is in the files `content`, as `Composer.edit` makes them: OUT/0000_image.png, ...; otherwise as `generate`.

    Raises:
        PolyscoreError: any input that cannot be used; nothing is half-written.
    """
    _check_counts(n, batch_size)
    twice = sorted(set(content) & set(given or {}))
    if twice or not content:
        found = f"{twice[0]!r} in both" if twice else "none"
        raise PolyscoreError(f"edit: expected content of a modality that is not given, found {found}")
    composer = Composer.load(model)
    rows, begin = (composer.encode({name: composer.read(name, path) for name, path in files.items()}) for files in (given or {}, content))
    run = _run(composer, model, n, rows, seed, batch_size, options or {}) | {"content": _packed(begin), "start": start}
    run["options"] = to_spec(composer.edit_defaults | dict(options or {}))
    return _write_run(composer, run, rows, Path(out), progress)


def _check_counts(n: int, batch_size: int) -> None:
    for name, value in (("batch_size", batch_size), ("n", n)):
        if value < 1:
            raise PolyscoreError(f"{name} is {value}, expected at least 1")


def _glimpse(composer: Composer, data: Mapping[str, Tensor], name: str, half: str) -> Tensor:
    if name not in data or name not in composer.codecs:
        raise PolyscoreError(f"seen modality {name!r}: expected one of {sorted(set(data) & set(composer.codecs))}, whose files are given")
    return glimpse(data[name], half)


def repeat(result: str | os.PathLike[str], out: str | os.PathLike[str], progress: Progress | None = None) -> list[Path]:
    """Repeat the run that wrote `result`, from the metadata inside it.

    Raises:
        PolyscoreError: a file without such metadata, or one whose model is gone or is another one now.
    """
    found = read_metadata(result).get("run")
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in RUN.items()):
        raise PolyscoreError(f"{result}: expected a file written by `polyscore sample`, found none of its metadata")
    composer = Composer.load(found["model"])
    weights = fingerprint(composer)
    if found.get("weights") != weights:
        raise PolyscoreError(f"{result}: made by weights {found.get('weights')} of {found['model']!r}, found weights {weights} now")
    rows = {name: _unpack(value, result) for name, value in found["given"].items()}
    partly = {name: _unpack(value, result) for name, value in dict(found.get("partly", {})).items()}
    return _write_run(composer, found, rows, Path(out), progress, partly=partly)


def _run(
    composer: Composer, model: Any, n: int, rows: Mapping[str, Tensor], seed: int, batch_size: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    name = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
    return {
        "polyscore": polyscore.__version__,
        "model": name,
        "weights": fingerprint(composer),
        "n": n,
        "seed": seed,
        "batch_size": batch_size,
        "options": to_spec({**composer.defaults, **options}),
        "given": _packed(rows),
    }


def _write_run(
    composer: Composer,
    run: dict[str, Any],
    given: Mapping[str, Tensor],
    out: Path,
    progress: Progress | None,
    recorder: Callable[[Step], None] | None = None,
    partly: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    begin = {name: _unpack(value, "content") for name, value in dict(run.get("content", {})).items()}
    made = [name for name in composer.modalities if name not in given or partial(composer.denoiser.paths[name], given[name])]
    made = [name for name in made if name in begin] if begin else made
    if not made:
        raise PolyscoreError(f"given: all modalities ({', '.join(composer.modalities)}) are given, nothing is left to generate")
    files: list[Path] = []
    for start in range(0, run["n"], run["batch_size"]):
        rows = range(start, min(start + run["batch_size"], run["n"]))
        paths = {(i, name): out / f"{i:04d}_{name}{_suffix(composer, name)}" for i in rows for name in made}
        files += paths.values()
        if share(all(_same(path, run) for path in paths.values())):
            continue
        options: dict[str, Any] = {"given": given, "seed": run["seed"], "first": start} | from_spec(run["options"])
        options["callback"] = _bar(progress, start, run, recorder)
        if begin:
            content = {name: value.expand(len(rows), *value.shape[1:]) for name, value in begin.items()}
            latents = composer.edit_latents(content, run["start"], **options)
        else:
            latents = composer.sample_latents(len(rows), partly=partly, **options)
        fine = {"refine": run["options"].get("refine") or 0, "seed": run["seed"], "first": start}
        data = composer.decode({name: latents[name] for name in {*made, *_sounds(composer, made)}}, **fine)
        values = {(i, name): data[name][i - start] for i, name in paths}
        values |= {(i, sound): data[sound][i - start] for i in rows for sound in _sounds(composer, made)}
        if failure := share(_write(composer, paths, values, run)):
            raise PolyscoreError(failure)
    return files


def _sounds(composer: Composer, made: list[str]) -> list[str]:
    """Modalities that are heard in the files of others: a video's `sound`."""
    return [str(sound) for name in made if (sound := composer.media.get(name, {}).get("sound")) is not None]


def _write(composer: Composer, paths: Mapping[tuple[int, str], Path], values: Mapping[tuple[int, str], Tensor], run: Any) -> str:
    """The main process writes; returns what went wrong, or nothing."""
    if os.environ.get("RANK", "0") != "0":
        return ""
    try:
        for (i, name), path in paths.items():
            sound = composer.media.get(name, {}).get("sound")
            more = {"sound": values[i, sound]} if sound else {}
            composer.write(name, path, values[i, name], {"run": run, "index": i, "modality": name}, **more)
    except PolyscoreError as error:
        return str(error)
    return ""


def _bar(
    progress: Progress | None, start: int, run: Mapping[str, Any], recorder: Callable[[Step], None] | None
) -> Callable[[Step], None] | None:
    """One callback for the progress bar and the recorder."""
    batches, done = -(-run["n"] // run["batch_size"]), start // run["batch_size"]

    def both(step: Step) -> None:
        if progress is not None:
            progress(done * step.steps + step.index + 1, batches * step.steps)
        if recorder is not None:
            recorder(step)

    return None if progress is None and recorder is None else both


def _same(path: Path, run: Mapping[str, Any]) -> bool:
    try:
        return bool(read_metadata(path).get("run") == run)
    except PolyscoreError:
        return False


def _suffix(composer: Composer, name: str) -> str:
    return SUFFIXES[str(composer.media.get(name, {}).get("kind", "json"))]


def _packed(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: _pack(value) for name, value in values.items()}


def _pack(value: Tensor) -> dict[str, Any]:
    array = value.detach().cpu().contiguous().numpy()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "base64": base64.b64encode(array.tobytes()).decode()}


def _unpack(value: Any, source: object) -> Tensor:
    try:
        array = np.frombuffer(base64.b64decode(value["base64"]), dtype=value["dtype"]).reshape(value["shape"])
        return torch.from_numpy(array.copy())
    except (KeyError, TypeError, ValueError) as error:
        raise PolyscoreError(f"{source}: expected given latents in its metadata, found damaged ones ({error})") from error
