"""Pipelines of diffusers joined on a folder of clips: `polyscore join`."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.adapters.clips import CLIPS, clip_files, clips_of, read_captions
from polyscore.adapters.codecs import PipelineCodec, codec_of, media_of
from polyscore.adapters.experts import AdaptedExpert
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.adapters.pipelines import load_pipeline, modality_of
from polyscore.adapters.prompts import PromptedNetwork
from polyscore.checkpoint import load_tensors, read_json, save_tensors
from polyscore.composer import Composer
from polyscore.denoisers import Independent
from polyscore.errors import DataError, PolyscoreError
from polyscore.files import write_text
from polyscore.guided import Guided
from polyscore.networks.streams import StreamNetwork, StreamSize
from polyscore.spec import to_spec
from polyscore.training.config import TrainConfig

__all__ = ["JOIN", "SIZE", "Clips", "Experts", "discriminator_network", "encode_clips", "join", "load_experts"]

Progress = Callable[[int, int], None]
JOIN = TrainConfig(steps=2000, batch_size=16, lr=1e-4, ema=0.999, checkpoint_every=250, log_every=50)
SIZE = StreamSize()
_LENGTHS = ("audio_length_in_s", "audio_end_in_s")


@dataclass(frozen=True)
class Experts:
    """Pipelines of several modalities of clips, their codecs and what their files are."""

    experts: dict[str, PipelineExpert]
    codecs: dict[str, PipelineCodec]
    media: dict[str, dict[str, Any]]

    @property
    def base(self) -> Independent:
        """The experts side by side."""
        return Independent(*self.experts.values())


@dataclass(frozen=True)
class Clips:
    """Latents {modality: (N, *shape)} of the pieces of clips, and the clip that each piece is of."""

    latents: dict[str, Tensor]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def load_experts(
    experts: Mapping[str, str],
    guidance: float | Mapping[str, float] = 1.0,
    negative: str | Mapping[str, str] | None = None,
    call: Mapping[str, Mapping[str, Any]] | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
) -> Experts:
    """Load two or more pipelines of video, sound or pictures, "DIR_OR_HUB_ID" or "DIR_OR_HUB_ID:prompt" by modality name.

    With a video every sound is as long as the longest one, frames / fps seconds: sound pipelines are asked for that many (or cut to them).
    Without one all are as long as the shortest sound. A video is heard with the first sound.

    Args:
        guidance, negative: one for all, or one a modality (1 and the pipelines' own where absent). call: more arguments of each.
        prompts: more prompts of each expert.

    Raises:
        PolyscoreError: fewer than two pipelines, pictures only, a name that is no expert's, a sound that cannot reach the video's length.
    """
    found = {name: text.partition(":")[::2] for name, text in experts.items()}
    kinds = {name: modality_of(load_pipeline(source)) for name, (source, _) in found.items()}
    if len(kinds) < 2 or set(kinds.values()) == {"image"}:
        raise PolyscoreError(f"join: expected two or more pipelines, one of video or audio among them, found {kinds}")
    scales, negatives = _each("guidance", guidance, experts, 1.0), _each("negative", negative, experts, None)
    calls = {name: dict(own or {}) for name, own in _each("call", dict(call or {}), experts, {}).items()}
    made: dict[str, PipelineExpert] = {}
    codecs: dict[str, PipelineCodec] = {}
    media: dict[str, dict[str, Any]] = {}
    seconds = 0.0
    for name in sorted(kinds, key=lambda n: ("video", "audio", "image").index(kinds[n])):
        source, prompt = found[name]
        if kinds[name] == "audio" and seconds:
            accepted = inspect.signature(type(load_pipeline(source)).__call__).parameters
            calls[name] = {key: seconds for key in _LENGTHS if key in accepted} | calls[name]
        source = str(Path(source).resolve()) if Path(source).is_dir() else source
        made[name] = PipelineExpert(source, prompt, negatives[name], scales[name], name, calls[name], prompts=(prompts or {}).get(name))
        codecs[name], media[name] = codec_of(made[name]), media_of(made[name])
        if kinds[name] == "video":
            seconds = max(seconds, codecs[name].data_shape[0] / float(media[name]["fps"]))
    sounds = [name for name, kind in kinds.items() if kind == "audio"]
    _cut(made, codecs, media, sounds, seconds)
    for name, kind in kinds.items():
        media[name] |= {"sound": sounds[0]} if sounds and kind == "video" else {}
    return Experts({n: made[n] for n in experts}, {n: codecs[n] for n in experts}, {n: media[n] for n in experts})


def _each(what: str, value: Any, experts: Mapping[str, str], default: Any) -> dict[str, Any]:
    """One value for all experts, or one by name."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(experts, value)
    unknown = sorted(set(value) - set(experts))
    if unknown:
        raise PolyscoreError(f"join: {what} of {unknown[0]!r}, expected one of {', '.join(experts)}")
    return {name: value.get(name, default) for name in experts}


def _cut(
    made: Mapping[str, PipelineExpert], codecs: dict[str, PipelineCodec], media: Mapping[str, Any], sounds: Sequence[str], seconds: float
) -> None:
    """The sounds' codecs, all of one length."""
    own = {name: codecs[name].data_shape[0] / media[name]["rate"] for name in sounds}
    wanted = seconds or min(own.values())
    for name in sounds:
        length = round(wanted * media[name]["rate"])
        if codecs[name].data_shape[0] < length:
            raise PolyscoreError(f"join: {name} makes {own[name]:.3g} s, expected the video's {wanted:.3g} s; set --call.{name}")
        codecs[name] = codec_of(made[name], (length,))


def discriminator_network(experts: Mapping[str, AdaptedExpert], size: StreamSize = SIZE, prompted: bool = False) -> nn.Module:
    """A discriminator's network over the experts' latents, by the kind and order of axes that each states (`AdaptedExpert.stream`).

    With `prompted` it is told the prompts of the experts that take text.
    """
    shapes = {name: expert.shapes[expert.modality] for name, expert in experts.items()}
    kinds, axes = ({name: expert.stream[place] for name, expert in experts.items()} for place in (0, 1))
    told = {n: e for n, e in experts.items() if prompted and isinstance(e, PipelineExpert) and e.text_size is not None}
    text = {name: expert.text_size for name, expert in told.items()}
    network = StreamNetwork(shapes, kinds=kinds, axes=axes, text=text or None, **asdict(size))  # type: ignore[arg-type]
    return PromptedNetwork(network, told) if told else network


def encode_clips(
    experts: Experts, data: str | os.PathLike[str], out: str | os.PathLike[str], most: int = 8, progress: Progress | None = None
) -> Clips:
    """Latents of all clips in a folder, at most `most` pieces of each; kept in OUT/latents and reused.

    Raises:
        DataError: no clips, or none that can be used.
    """
    files, codecs = clip_files(data), experts.codecs
    key = {"files": [[f.name, f.stat().st_size] for f in files], "most": most, "codecs": {n: to_spec(c) for n, c in codecs.items()}}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    target = Path(out) / "latents.json"
    before = read_json(target) if target.exists() else {}
    if before.get("key") == digest and "names" in before:
        return Clips(load_tensors(target.with_suffix(".safetensors"), sha256=before["sha256"]), before["names"])
    rows: dict[str, list[Tensor]] = {name: [] for name in codecs}
    names: list[str] = []
    skipped: list[str] = []
    for number, file in enumerate(files):
        try:
            pieces = clips_of(file, {name: codec.data_shape for name, codec in codecs.items()}, experts.media, most)
        except DataError as error:
            skipped.append(str(error))
            pieces = []
        names += [file.relative_to(data).as_posix()] * len(pieces)
        for piece in pieces:
            for name, codec in codecs.items():
                rows[name].append(codec.encode(piece[name][None]))
        if progress is not None:
            progress(number + 1, len(files))
    if not names:
        raise DataError(f"{data}: expected clips of {', '.join(codecs)}, found none that can be used; {skipped[0] if skipped else ''}")
    latents = {name: torch.cat(parts) for name, parts in rows.items()}
    sha256 = save_tensors(latents, target.with_suffix(".safetensors"))
    write_text(target, json.dumps({"key": digest, "sha256": sha256, "clips": len(names), "names": names, "skipped": skipped}) + "\n")
    return Clips(latents, names)


def join(
    experts: Mapping[str, str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = "runs/join",
    fakes: int = 200,
    steps: int = 20,
    guidance: float | Mapping[str, float] = 1.0,
    negative: str | Mapping[str, str] | None = None,
    call: Mapping[str, Mapping[str, Any]] | None = None,
    scale: float | Mapping[str, float] = 1.0,
    denoise: float = 1.0,
    most: int = 8,
    seed: int = 0,
    training: TrainConfig = JOIN,
    patience: int | None = 4,
    progress: Progress | None = None,
    *,
    captions: str | os.PathLike[str] | None = None,
    network: StreamSize = SIZE,
    adversarial: float = 1.0,
    observed: float = 0.0,
    dropout: float = 0.1,
) -> Composer:
    """Clips to latents, fakes of the frozen experts, a discriminator between them, and a Composer in OUT that samples all together.

    Every stage is kept in OUT and reused: an interrupted call goes on where it stopped. Where the clips have captions, each real piece's
    caption is the condition of every expert and of the discriminator, and the fakes are made with the same captions, each equally often.

    Args:
        experts: pipelines by modality name, with a prompt each. data: folder of clips. fakes: how many. steps: of their sampling.
        guidance, negative, call: of the pipelines; `scale`: of the ratio at sampling; all but `call` one for all or one a modality.
        adversarial, denoise: weights of L_disc and L_den. most: pieces of each clip. seed: of everything drawn.
        training, patience: of the discriminator. captions: their table; default what `read_captions` finds in the folder.
        network: size of the discriminator. observed: share of training rows with one modality given, for `conditioning="time"`.
        dropout: share of training rows whose caption is dropped.

    Raises:
        PolyscoreError: see `load_experts`, `encode_clips`, `read_captions` and `train_discriminator`.
    """
    from polyscore.training.discriminator import DiscriminatorObjective
    from polyscore.training.fakes import make_fakes
    from polyscore.training.join import train_discriminator

    texts = read_captions(data, _names(data), list(experts), captions)
    prompts = None if texts is None else {name: sorted(set(own)) for name, own in texts.items()}
    joined = load_experts(experts, guidance, negative, call, prompts)
    _each("scale", scale, experts, 0.0)
    target, base = Path(out), joined.base
    real = encode_clips(joined, data, target, most, progress)
    told = None if texts is None else _told(joined, data, real, texts)
    drawn = None if told is None else _drawn(told, fakes, len(real), seed)
    sampling: dict[str, Any] = {"steps": steps, "solver": "dpmpp", "grid": "uniform"}
    made = make_fakes(base, fakes, target / "fakes", condition=drawn, seed=seed + 1, shard=50, progress=progress, **sampling)
    objective = DiscriminatorObjective(base, adversarial=adversarial, denoise=denoise, observed=observed, dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        judge = discriminator_network(joined.experts, network, prompted=told is not None)
    config = replace(training, batch_size=min(training.batch_size, len(real)))
    options: dict[str, Any] = {"network": judge, "condition": told, "objective": objective, "config": config, "patience": patience}
    ratio = train_discriminator(base, real.latents, made, target / "training", **options)
    meta = {"experts": dict(experts), "clips": len(real), "fakes": fakes, "data": Path(data).name, "kinds": list(CLIPS)}
    meta |= {"captions": 0 if texts is None else len({text for own in texts.values() for text in own})}
    defaults = sampling | {"conditioning": "time" if observed else "noised"}
    guided = Guided(base, ratio, scale, condition={} if told is None else None)
    composer = Composer(joined.codecs, guided, defaults, joined.media, meta)
    composer.save(target)
    return composer


def _names(data: str | os.PathLike[str]) -> list[str]:
    return [file.relative_to(data).as_posix() for file in clip_files(data)]


def _told(joined: Experts, data: str | os.PathLike[str], real: Clips, texts: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """Prompt numbers {modality: (N,)} of the captions of the real pieces."""
    places = {name: place for place, name in enumerate(_names(data))}
    rows = [places[name] for name in real.names]
    return {name: torch.cat([expert.prompt(texts[name][row]) for row in rows]) for name, expert in joined.experts.items()}


def _drawn(told: Mapping[str, Tensor], fakes: int, reals: int, seed: int) -> dict[str, Tensor]:
    """The captions of the fakes: those of the reals, permuted, and again; a longer list continues a shorter one."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.cat([torch.randperm(reals, generator=generator) for _ in range(-(-fakes // reals))])[:fakes]
    return {name: numbers[rows] for name, numbers in told.items()}
