"""Two pipelines of diffusers joined on a folder of clips: `polyscore join`."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyscore.adapters.clips import CLIPS, clip_files, clips_of
from polyscore.adapters.codecs import PipelineCodec, codec_of, media_of
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline, modality_of
from polyscore.checkpoint import load_tensors, read_json, save_tensors
from polyscore.composer import Composer
from polyscore.denoisers import Independent
from polyscore.errors import DataError, PolyscoreError
from polyscore.files import write_text
from polyscore.guided import Guided
from polyscore.spec import to_spec
from polyscore.training.config import TrainConfig

__all__ = ["JOIN", "Pair", "encode_clips", "join", "load_pair", "training_config"]

Progress = Callable[[int, int], None]
JOIN = TrainConfig(steps=2000, batch_size=16, lr=1e-4, ema=0.999, checkpoint_every=250, log_every=50)
_LENGTHS = ("audio_length_in_s", "audio_end_in_s")


@dataclass(frozen=True)
class Pair:
    """Experts of a video and a sound, their codecs and what their files are."""

    experts: dict[str, PipelineExpert]
    codecs: dict[str, PipelineCodec]
    media: dict[str, dict[str, Any]]

    @property
    def base(self) -> Independent:
        """The experts side by side."""
        return Independent(*self.experts.values())


def load_pair(
    experts: Mapping[str, str], guidance: float = 1.0, negative: str | None = None, call: Mapping[str, Mapping[str, Any]] | None = None
) -> Pair:
    """Load a video and a sound pipeline, "DIR_OR_HUB_ID" or "DIR_OR_HUB_ID:prompt" by modality name, at equal length.

    The sound is as long as the video, frames / fps seconds: the sound pipeline is asked for that many (or cut to them).

    Raises:
        PolyscoreError: not one video and one sound pipeline, or a sound pipeline that cannot reach the video's length.
    """
    found = {name: text.partition(":")[::2] for name, text in experts.items()}
    kinds = {name: modality_of(load_pipeline(source)) for name, (source, _) in found.items()}
    if sorted(kinds.values()) != ["audio", "video"]:
        raise PolyscoreError(f"join: expected one video and one audio pipeline, found {kinds}")
    video, audio = (next(n for n, kind in kinds.items() if kind == wanted) for wanted in ("video", "audio"))
    calls = {name: dict((call or {}).get(name, {})) for name in experts}

    def expert(name: str) -> PipelineExpert:
        source, prompt = found[name]
        return PipelineExpert(
            str(Path(source).resolve()) if Path(source).is_dir() else source, prompt, negative, guidance, name, calls[name]
        )

    shown = expert(video)
    frames = codec_of(shown)
    fps = float(media_of(shown)["fps"])
    seconds = frames.data_shape[0] / fps
    accepted = inspect.signature(type(load_pipeline(found[audio][0])).__call__).parameters
    for name in _LENGTHS:
        if name in accepted:
            calls[audio].setdefault(name, seconds)
    heard = expert(audio)
    media = {audio: media_of(heard), video: {**media_of(shown), "sound": audio}}
    length = round(seconds * media[audio]["rate"])
    own = codec_of(heard)
    if own.data_shape[0] < length:
        rate = media[audio]["rate"]
        raise PolyscoreError(
            f"join: {audio} makes {own.data_shape[0] / rate:.3g} s, expected the video's {seconds:.3g} s; set --call.{audio}"
        )
    codecs = {audio: codec_of(heard, (length,)), video: frames}
    both = {audio: heard, video: shown}
    return Pair({n: both[n] for n in experts}, {n: codecs[n] for n in experts}, {n: media[n] for n in experts})


def encode_clips(
    pair: Pair, data: str | os.PathLike[str], out: str | os.PathLike[str], most: int = 8, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Latents {modality: (N, *shape)} of all clips in a folder, at most `most` pieces of each; kept in OUT/latents and reused.

    Raises:
        DataError: no clips, or none that can be used.
    """
    files = clip_files(data)
    key = {"files": [[f.name, f.stat().st_size] for f in files], "most": most, "codecs": {n: to_spec(c) for n, c in pair.codecs.items()}}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    target = Path(out) / "latents.json"
    if target.exists() and read_json(target).get("key") == digest:
        return load_tensors(target.with_suffix(".safetensors"), sha256=read_json(target)["sha256"])
    rows: dict[str, list[Tensor]] = {name: [] for name in pair.codecs}
    skipped: list[str] = []
    for number, file in enumerate(files):
        try:
            pieces = clips_of(file, _shapes(pair), pair.media, most)
        except DataError as error:
            skipped.append(str(error))
            pieces = []
        for piece in pieces:
            for name, codec in pair.codecs.items():
                rows[name].append(codec.encode(piece[name][None]))
        if progress is not None:
            progress(number + 1, len(files))
    if not all(rows.values()):
        raise DataError(f"{data}: expected clips with a picture and a sound, found none that can be used; {skipped[0] if skipped else ''}")
    latents = {name: torch.cat(parts) for name, parts in rows.items()}
    sha256 = save_tensors(latents, target.with_suffix(".safetensors"))
    write_text(target, json.dumps({"key": digest, "sha256": sha256, "clips": len(latents[next(iter(latents))]), "skipped": skipped}) + "\n")
    return latents


def _shapes(pair: Pair) -> dict[str, Sequence[int]]:
    return {name: codec.data_shape for name, codec in pair.codecs.items()}


def join(
    experts: Mapping[str, str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "runs/join",
    fakes: int = 200,
    steps: int = 20,
    guidance: float = 1.0,
    negative: str | None = None,
    call: Mapping[str, Mapping[str, Any]] | None = None,
    scale: float = 1.0,
    denoise: float = 1.0,
    most: int = 8,
    seed: int = 0,
    training: TrainConfig = JOIN,
    patience: int | None = 4,
    progress: Progress | None = None,
) -> Composer:
    """Clips to latents, fakes of the frozen experts, a discriminator between them, and a Composer in OUT that samples both together.

    Every stage is kept in OUT and reused: an interrupted call goes on where it stopped.

    Args:
        experts: pipelines by modality name, with a prompt each. data: folder of clips. fakes: how many. steps: of their sampling.
        guidance, negative, call: of the pipelines; `scale`: of the ratio at sampling. denoise: weight of L_den (0: L_disc only).
        most: pieces of each clip. seed: of everything drawn. training, patience: of the discriminator.

    Raises:
        PolyscoreError: see `load_pair`, `encode_clips` and `train_discriminator`.
    """
    from polyscore.training.discriminator import DiscriminatorObjective
    from polyscore.training.fakes import make_fakes
    from polyscore.training.join import train_discriminator

    pair = load_pair(experts, guidance, negative, call)
    target, base = Path(out), pair.base
    real = encode_clips(pair, data, target, most, progress)
    made = make_fakes(
        base, fakes, target / "fakes", seed=seed + 1, shard=50, progress=progress, steps=steps, solver="dpmpp", grid="uniform"
    )
    objective = DiscriminatorObjective(base, denoise=denoise)
    config = _smaller(training, len(next(iter(real.values()))))
    ratio = train_discriminator(base, real, made, target / "training", objective=objective, config=config, patience=patience, progress=True)
    meta = {
        "experts": dict(experts),
        "clips": len(next(iter(real.values()))),
        "fakes": fakes,
        "data": Path(data).name,
        "kinds": list(CLIPS),
    }
    defaults = {"steps": steps, "solver": "dpmpp", "grid": "uniform"}
    composer = Composer(pair.codecs, Guided(base, ratio, scale), defaults, pair.media, meta)
    composer.save(target)
    return composer


def training_config(changes: Mapping[str, Any]) -> TrainConfig:
    """The preset of the training with some fields changed.

    Raises:
        PolyscoreError: an unknown field.
    """
    known = [field.name for field in fields(TrainConfig)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise PolyscoreError(f"training: field {unknown[0]!r}, expected one of {', '.join(known)}")
    return replace(JOIN, **changes)


def _smaller(training: TrainConfig, rows: int) -> TrainConfig:
    return replace(training, batch_size=min(training.batch_size, max(1, rows)))
