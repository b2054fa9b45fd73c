"""The Composer: what a user holds. Codecs, a denoiser over their latents, and how to sample."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polyscore.checkpoint import load_module, read_json, save_module
from polyscore.codecs.base import Codec
from polyscore.denoisers import Denoiser, Independent
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.files import write_text
from polyscore.guided import Guided
from polyscore.labels import guided_by, labels_of
from polyscore.media.prepare import read_prepared, write_prepared
from polyscore.paths import GaussianPath
from polyscore.ratios.glimpse import Glimpsed
from polyscore.ratios.subset import SubsetGuided
from polyscore.refiner import Refiner
from polyscore.sampling.editing import edit
from polyscore.sampling.loop import Samples, sample
from polyscore.sampling.noise import mix
from polyscore.sampling.processes import sample_across
from polyscore.sampling.stages import sample_leaders
from polyscore.sampling.starts import MomentStart
from polyscore.sampling.tokens import partial
from polyscore.spec import from_spec, to_spec

__all__ = ["SHIPPED", "Composer", "fingerprint"]

FORMAT = 1
WEIGHTS = Path(__file__).parent / "weights"
OWN = ("guidance", "window", "scale", "every", "correction", "label", "prompt", "leaders", "rest", "again", "refine")
NOT_OF_EDITS = ("grid", "leaders", "rest", "again", "particles", "population")
SHIPPED = ("digits", "words")
"""Names of the composers whose weights come with the package."""


class Composer:
    """Codecs and a denoiser as one multimodal generator.

        composer = Composer.load("digits")
        pairs = composer.sample(8, seed=0)                           # {"image": (8, 1, 28, 28), "speech": (8, 8000)}
        spoken = composer.sample(8, given={"image": pictures})       # any subset gives the rest

    Args:
        codecs: codec of each modality, trained apart; a modality without one is its own latent.
        denoiser: over the latents of all modalities.
        defaults: arguments of `sample` where a call has none (steps, solver, corrector, guidance, ...); names, numbers, and solvers and
            correctors of `polyscore.sampling` as objects are kept by `save`.
        media: what an ordinary file of each modality is: {"kind": "audio", "rate": 8000} (see `polyscore.media.read`).
        meta: what trained it and the numbers it reaches.
        start: where sampling begins (`polyscore.sampling.starts`); by default at standard normal noise.
        refiners: of decoded data, by modality (`polyscore.refiner`); `sample(..., refine=8)` uses them.
        base: a composer (folder, shipped name or hub id) whose codecs are among these; `save` then names it and leaves them out.

    Raises:
        PolyscoreError: a codec whose latents are not the denoiser's states.
    """

    def __init__(
        self,
        codecs: Mapping[str, Codec],
        denoiser: Denoiser,
        defaults: Mapping[str, Any] | None = None,
        media: Mapping[str, Mapping[str, Any]] | None = None,
        meta: Mapping[str, Any] | None = None,
        base: str | None = None,
        start: MomentStart | None = None,
        refiners: Mapping[str, Refiner] | None = None,
    ) -> None:
        self.codecs, self.denoiser, self.base = dict(codecs), denoiser, base
        self.start, self.refiners = start, dict(refiners or {})
        self.defaults, self.media, self.meta = dict(defaults or {}), dict(media or {}), dict(meta or {})
        for name, codec in self.codecs.items():
            expected = tuple(denoiser.shapes.get(name, ()))
            if name not in denoiser.paths or tuple(codec.latent_shape) != expected:
                found = f"{expected}" if name in denoiser.paths else f"no such modality among {sorted(denoiser.paths)}"
                raise PolyscoreError(f"codec {name!r}: latents of shape {tuple(codec.latent_shape)}, but the denoiser has {found}")

    @property
    def modalities(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.denoiser.paths)

    def encode(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Data {modality: (B, *data_shape)} to latents.

        Raises:
            PolyscoreError: an unknown modality, a wrong shape, or values that are not finite.
        """
        return {name: self._encode(name, value) for name, value in data.items()}

    @torch.no_grad()
    def _encode(self, name: str, value: Tensor) -> Tensor:
        if name not in self.denoiser.paths:
            raise PolyscoreError(f"modality {name!r}: the model has {', '.join(self.modalities)}")
        codec = self.codecs.get(name)
        if codec is None:
            return value
        if tuple(value.shape[1:]) != tuple(codec.data_shape):
            raise PolyscoreError(
                f"modality {name!r}: expected data of shape (n, {', '.join(map(str, codec.data_shape))}), found {tuple(value.shape)}"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise PolyscoreError(f"modality {name!r}: expected finite data, found NaN or infinity")
        return codec.encode(value)

    def _in_part(self, name: str, value: Tensor, n: int) -> bool:
        """Whether only some entries of a modality's data are known."""
        codec = self.codecs.get(name)
        if codec is None or not value.is_floating_point() or not isinstance(self.denoiser.paths.get(name), GaussianPath):
            return False
        fits = tuple(value.shape[1:]) == tuple(codec.data_shape) and len(value) in (1, n)
        return fits and bool(value.isnan().any()) and not bool(value.isnan().all())

    def read(self, name: str, path: str | os.PathLike[str]) -> Tensor:
        """An ordinary file as one row of data, (1, *data_shape).

        Raises:
            PolyscoreError: a modality the model doesn't have, or a file that cannot be used.
        """
        if name not in self.denoiser.paths:
            raise PolyscoreError(f"given modality {name!r}: the model has {', '.join(self.modalities)}")
        return read_prepared(
            path, tuple(self.codecs[name].data_shape if name in self.codecs else self.denoiser.shapes[name]), self.media.get(name, {})
        )[None]

    def write(
        self,
        name: str,
        path: str | os.PathLike[str],
        value: Tensor,
        metadata: Mapping[str, Any] | None = None,
        sound: Tensor | None = None,
    ) -> Path:
        """Write one row of data as an ordinary file; the suffix is the modality's own if `path` has none.

        A video whose media name another modality as its "sound" is written with that waveform.
        """
        media = dict(self.media.get(name, {}))
        if sound is not None:
            media["rate"] = self.media[str(media["sound"])]["rate"]
        return write_prepared(path, value, media, metadata, sound)

    @torch.no_grad()
    def decode(self, latents: Mapping[str, Tensor], *, refine: int = 0, seed: int = 0, first: int = 0) -> dict[str, Tensor]:
        """Latents to data, refined in `refine` steps where the modality has a refiner; row i then depends on (seed, first + i)."""
        data = {name: self.codecs[name].decode(z) if name in self.codecs else z for name, z in latents.items()}
        chosen = self.refiners if refine else {}
        return data | {n: chosen[n].refine(x, refine, mix(seed, n), first) for n, x in data.items() if n in chosen}

    def operator(
        self,
        guidance: float = 0.0,
        window: tuple[float, float] | None = None,
        told: Tensor | str | None = None,
        scale: float | Mapping[str, float] | None = None,
        every: int | None = None,
        correction: float | None = None,
    ) -> Denoiser:
        """The denoiser, with guidance of the given strength: of subsets, or of labels (n,) or a prompt where there is one modality
        only; or one that a ratio guides, with that guidance changed.

        Raises:
            PolyscoreError: an option for a kind of guidance that the denoiser cannot have.
        """
        if guidance and (reason := _unguided(self.denoiser)):
            raise PolyscoreError(f"guidance {guidance:g}: expected a joint denoiser for subset guidance, found {reason}")
        if isinstance(self.denoiser, Guided):
            changes = any(value is not None for value in (scale, window, every, correction))
            return self.denoiser.changed(scale, window, every, correction) if changes else self.denoiser
        known = {"scale": scale, "every": every, "correction": correction, "window": None if guidance else window}
        for name, value in known.items():
            if value is not None:
                more = ", or guidance to act in it" if name == "window" else ""
                raise PolyscoreError(f"{name} {value}: expected a model guided by a ratio{more}, found {type(self.denoiser).__name__}")
        if guidance and len(self.denoiser.paths) > 1:
            return SubsetGuided(self.denoiser, guidance, window or (0.0, 1.0))
        return guided_by(self.denoiser, told, guidance, window or (0.0, 1.0)) if guidance and told is not None else self.denoiser

    def _operator(self, n: int, options: dict[str, Any]) -> tuple[Denoiser, dict[str, Any]]:
        """What is sampled, and the options of `polyscore.sampling.sample`: those of guidance, label and prompt are taken out of them."""
        rest = dict(options)
        window, label, prompt = (rest.pop(name, None) for name in ("window", "label", "prompt"))
        if label is not None and prompt is not None:
            raise PolyscoreError("label and prompt: expected one of them, found both")
        told = self._prompted(prompt) if prompt is not None else None
        if label is not None:
            told = labels_of(self.denoiser, label, n, rest.get("first", 0))
        window = None if window is None else (window[0], window[1])
        changes = {name: rest.pop(name, None) for name in ("scale", "every", "correction")}
        if changes["correction"] is not None and told is None:
            raise PolyscoreError(f"correction {changes['correction']}: expected a label or a prompt to guide by, found neither")
        found = self.operator(rest.pop("guidance", 0.0), window, told, **changes)
        return found, rest if told is None else rest | {"condition": told}

    def sample_latents(
        self,
        n: int,
        *,
        given: Mapping[str, Tensor] | None = None,
        partly: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Samples:
        """Latents of n samples given latents, and given parts of the *data* of others (NaN: not seen); options as in `sample`."""
        chosen = _checked({"start": self.start, **self.defaults, **options})
        denoiser, chosen = self._operator(n, chosen)
        leaders, again, rest, _ = (chosen.pop(name, None) for name in ("leaders", "again", "rest", "refine"))
        if partly:
            decode = {name: self.codecs[name].decode for name in partly if name in self.codecs}
            denoiser = Glimpsed(denoiser, decode, partly, first=chosen.get("first", 0))
        elif leaders and not given:
            chosen |= {"again": again or 0} | ({"steps": rest} if rest else {})
            return sample_leaders(denoiser, n, leaders, seed=seed, **chosen)
        return sample_across(denoiser, n, given=given, seed=seed, **chosen)

    def _prompted(self, prompt: str | Mapping[str, str]) -> Any:
        """Prompts as a condition."""
        parts = [m for m in self.denoiser.modules() if isinstance(m, Denoiser) and callable(getattr(m, "prompt", None))]
        able = sorted({name for part in parts for name in part.paths})
        unknown = sorted(set(prompt) - set(able)) if isinstance(prompt, Mapping) else []
        if unknown or not able:
            what = f"prompt of {unknown[0]!r}" if unknown else "prompt"
            raise PolyscoreError(f"{what}: expected a modality whose expert takes prompts, found {', '.join(able) or 'none'} in the model")
        if isinstance(prompt, str):
            return prompt
        return next(iter(prompt.values())) if len(self.modalities) == 1 else dict(prompt)

    def sample(self, n: int, given: Mapping[str, Tensor] | None = None, *, seed: int = 0, **options: Any) -> Samples:
        """n samples of all modalities as data; given ones are returned as they were given.

        Args:
            n: number of samples. given: observed data, (n, *data_shape), or (1, *data_shape) for all. Entries that are NaN are not
                seen: what is seen of such a modality guides it (`polyscore.ratios.glimpse`), and all of it is generated.
            seed: sample i depends on (seed, i) only.
            options: `guidance` (strength of subset guidance, or of the label's), `window`; `label` (a class, or several that the samples
                take in turn) of a class-conditional model; `prompt` (of experts that take one: one for all, or one a modality); of a
                model that a ratio guides, `scale` (one number, or one a modality), `window`, `every` (steps between gradients) and
                `correction` (strength of the ratio's guidance by a label or prompt); where
                nothing is given, `leaders` (modalities that come first, and their steps: `polyscore.sampling.stages`), `rest` (steps of
                the others, in place of `steps`) and `again` (steps in which the first leader is redrawn); `refine` (steps of the
                refiners); and those of `polyscore.sampling.sample`
                (steps, solver, grid, corrector, conditioning, batch_size, callback, ...).

        Returns:
            {modality: (n, *data_shape)}; `.info` as of `polyscore.sampling.sample`, with the latents under "latents".
        """
        partly = {name: value for name, value in (given or {}).items() if self._in_part(name, value, n)}
        encoded = self.encode({name: value for name, value in (given or {}).items() if name not in partly})
        latents = self.sample_latents(n, given=encoded, partly=partly, seed=seed, **options)
        whole = {name for name, z in encoded.items() if not partial(self.denoiser.paths[name], z)}
        made = self.decode({name: z for name, z in latents.items() if name not in whole}, **self._fine(seed, options))
        known = {name: value.expand(n, *value.shape[1:]) for name, value in (given or {}).items() if name in whole}
        data = made | known
        return Samples({name: data[name] for name in self.modalities}, latents.info | {"latents": dict(latents)})

    def _fine(self, seed: int, options: Mapping[str, Any]) -> dict[str, int]:
        """The arguments of `decode` that a call's options and the defaults say."""
        return {"refine": {**self.defaults, **options}.get("refine") or 0, "seed": seed, "first": options.get("first", 0)}

    @property
    def edit_defaults(self) -> dict[str, Any]:
        """The defaults that hold for an edit, too."""
        return {name: value for name, value in self.defaults.items() if name not in NOT_OF_EDITS}

    def edit_latents(
        self,
        content: Mapping[str, Tensor],
        start: float = 0.5,
        *,
        given: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Samples:
        """Latents changed from `start` on, given latents of others; options as in `edit`."""
        if foreign := sorted(set(options) & set(NOT_OF_EDITS)):
            raise PolyscoreError(f"edit: expected none of the options {', '.join(NOT_OF_EDITS)}, found {foreign[0]!r}")
        n = max((len(z) for z in content.values()), default=1)
        denoiser, chosen = self._operator(n, _checked(self.edit_defaults | options))
        chosen.pop("refine", None)
        known = dict(given or {})
        chosen["absent"] = {*self.modalities} - set(content) - set(known)
        return edit(denoiser, {name: z.expand(n, *z.shape[1:]) for name, z in content.items()}, start, given=known, seed=seed, **chosen)

    def edit(
        self, content: Mapping[str, Tensor], start: float = 0.5, *, given: Mapping[str, Tensor] | None = None, seed: int = 0, **options: Any
    ) -> Samples:
        """Change data that is there: it is corrupted to the share `start` of the way to noise and sampled from there.

            other = composer.edit({"image": pictures}, 0.6, given={"speech": spoken})

        Little of the content is left near start 1; at start 1 / steps it is hardly changed. A modality in neither `content` nor `given`
        is left out, as if it were never seen.

        Args:
            content: data to change, (n, *data_shape), of one modality or more. given: observed data, (n, *data_shape) or (1, *data_shape).
            start: in (0, 1]; only the last floor(steps * start) steps are taken.
            seed: row i depends on (seed, i) only. options: as of `sample`, without grid, leaders, rest, again, particles and population.

        Returns:
            The changed and the given modalities; `.info` as of `sample`.

        Raises:
            PolyscoreError: as `polyscore.sampling.edit`.
        """
        latents = self.edit_latents(self.encode(content), start, given=self.encode(given or {}), seed=seed, **options)
        made = self.decode({name: z for name, z in latents.items() if name in content}, **self._fine(seed, options))
        n = len(next(iter(made.values())))
        known = {name: value.expand(n, *value.shape[1:]) for name, value in (given or {}).items() if name in latents}
        return Samples(known | made, latents.info | {"latents": dict(latents)})

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Path:
        """Write a folder: `composer.json`, one safetensors and one JSON file a codec, and the denoiser's."""
        target = Path(folder)
        own, more = self.codecs, dict[str, Any]()
        if self.base is not None:
            known = Composer.load(self.base).codecs
            own = {name: codec for name, codec in own.items() if name not in known}
            more = {"base": {"model": self.base, "codecs": _fingerprint(known.values())}}
        for name, codec in own.items():
            save_module(codec, target / name, meta=getattr(codec, "_meta", None), dtype=dtype)
        save_module(self.denoiser, target / "denoiser", meta=getattr(self.denoiser, "_meta", None), dtype=dtype)
        if self.start is not None:
            save_module(self.start, target / "start")
        for name, refiner in self.refiners.items():
            save_module(refiner, target / f"{name}-refiner", dtype=dtype)
        more |= {"refiners": sorted(self.refiners)} if self.refiners else {}
        header = {"format": FORMAT, "codecs": sorted(own), "defaults": to_spec(self.defaults), "media": self.media, "meta": self.meta}
        write_text(target / "composer.json", json.dumps(header | more, indent=1) + "\n")
        return target

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Composer:
        """Load a folder, a shipped composer by name ("digits"), or a repository of the Hugging Face hub by its id.

        Raises:
            CheckpointError: nothing there, or files that are damaged or do not fit together.
        """
        folder = locate(source)
        header = _header(folder / "composer.json")
        codecs = {name: load_module(folder / name, Codec) for name in header["codecs"]}
        denoiser: Denoiser = load_module(folder / "denoiser", Denoiser)
        start = load_module(folder / "start", MomentStart) if (folder / "start.json").exists() else None
        refiners = {name: load_module(folder / f"{name}-refiner", Refiner) for name in header.get("refiners") or []}
        named = header.get("base")
        if named is not None:
            base = _based(folder, named)
            codecs, refiners = base.codecs | codecs, base.refiners | refiners
        above = named["model"] if named else None
        try:
            defaults = from_spec(header.get("defaults") or {})
        except CheckpointError as error:
            raise CheckpointError(f"{folder / 'composer.json'}: {error}") from error
        return cls(codecs, denoiser, defaults, header.get("media"), header.get("meta"), above, start, refiners)


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options themselves, if `sample` knows their names and the numbers among them are numbers."""
    known = [name for name, p in inspect.signature(sample).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name, value in options.items():
        if name not in (*known, *OWN):
            raise PolyscoreError(f"sampling option {name!r}: expected one of {', '.join((*known, *OWN))}")
        whole = name in ("steps", "resamplings", "first", "refine", "rest", "again")
        whole = whole or (name in ("batch_size", "every") and value is not None)
        least = int(name not in ("first", "refine", "again"))
        if whole and (not isinstance(value, int) or value < least):
            raise PolyscoreError(f"{name}: expected a whole number of at least {least}, found {value!r}")
        if name == "guidance" and not (isinstance(value, int | float) and math.isfinite(value)):
            raise PolyscoreError(f"guidance: expected a finite number, found {value!r}")
        if name == "window" and value is not None and not _is_window(value):
            raise PolyscoreError(f"window: expected two times, low <= high in [0, 1], found {value!r}")
    return options


def _is_window(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(t, int | float) for t in value)
    return numbers and 0 <= value[0] <= value[1] <= 1


def _unguided(denoiser: Denoiser) -> str | None:
    """Why guidance of a denoiser by subsets or labels has no meaning: nothing, if it has one."""
    if len(denoiser.paths) < 2:
        known = denoiser.classes or denoiser.null is not None
        return None if known else f"one modality without classes, {', '.join(denoiser.paths)}"
    if isinstance(denoiser, Guided):
        return "a model guided by a ratio, whose strength is its scale"
    return "modalities that are independent" if isinstance(denoiser, Independent) else None


def fingerprint(composer: Composer) -> str:
    """16 hexadecimal digits of the SHA-256 of all weights: a result is repeated by the same weights only."""
    return _fingerprint([*composer.codecs.values(), composer.denoiser, *composer.refiners.values()])


def _fingerprint(modules: Iterable[nn.Module]) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for value in module.state_dict().values():
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _based(folder: Path, named: Any) -> Composer:
    """The base composer, if it has the codecs on whose latents the denoiser was trained."""
    file = folder / "composer.json"
    if not isinstance(named, dict) or not isinstance(named.get("model"), str) or named["model"] == folder.name:
        raise CheckpointError(f"{file}: not a composer (expected a base with a model's name, found {named!r})")
    base = Composer.load(named["model"])
    if (found := _fingerprint(base.codecs.values())) != named.get("codecs"):
        raise CheckpointError(f"{file}: trained on the codecs {named.get('codecs')} of {named['model']}, found {found}; train it again")
    return base


def _header(file: Path) -> dict[str, Any]:
    """The checked content of composer.json."""
    found = read_json(file)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a composer (expected format {FORMAT})")
    codecs, media = found.get("codecs"), found.get("media") or {}
    if not isinstance(codecs, list) or not all(isinstance(name, str) for name in codecs):
        raise CheckpointError(f"{file}: not a composer (expected a list of codecs, found {codecs!r})")
    tables = {"defaults": found.get("defaults") or {}, "media": media, "meta": found.get("meta") or {}}
    tables |= {f"media of {name}": value for name, value in media.items()} if isinstance(media, dict) else {}
    for name, value in tables.items():
        if not isinstance(value, dict):
            raise CheckpointError(f"{file}: not a composer (expected {name} by name, found {value!r})")
    return found


def locate(source: str | os.PathLike[str], marker: str = "composer.json") -> Path:
    """The folder of a checkpoint: a folder, a shipped name, or a hub id (downloaded once).

    Raises:
        CheckpointError: none of these.
    """
    path = Path(source)
    if (path / marker).is_file():
        return path
    if str(source) in SHIPPED:
        return WEIGHTS / str(source)
    file = path.exists() or path.suffix in (".json", ".safetensors") or str(source).startswith((".", "/", "~"))
    if file or str(source).count("/") != 1:
        raise CheckpointError(f"{source}: expected a folder with {marker}, a shipped name ({', '.join(SHIPPED)}) or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{source}: no such folder, and the hub gave nothing ({str(error).splitlines()[0]})") from error
