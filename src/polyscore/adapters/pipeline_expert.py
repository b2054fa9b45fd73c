"""Any diffusers pipeline as an expert: its true path and prediction type, its own prompts, guidance and latent space."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polyscore.adapters.capture import Capture, block, capture, networks_of, spread
from polyscore.adapters.experts import AdaptedExpert
from polyscore.adapters.layouts import layout_of
from polyscore.adapters.pipelines import fingerprint as fingerprint_of
from polyscore.adapters.pipelines import load_pipeline, modality_of, space_of
from polyscore.adapters.schedulers import Schedule, convention_of, path_of, schedule_of
from polyscore.adapters.solvers import solver_of
from polyscore.errors import CheckpointError, PolyscoreError
from polyscore.spec import register

__all__ = ["PipelineExpert"]

# Arguments of a pipeline's call that are this module's own, or that change its rule in ways an expert does not follow.
_OWN = ("prompt", "negative_prompt", "class_labels", "batch_size", "latents", "generator", "num_inference_steps", "output_type")
_RULES = ("guidance_rescale", "eta", "skip_guidance_layers", "guidance_scale_2", "timesteps", "sigmas", "true_cfg_scale")


@register
class PipelineExpert(AdaptedExpert):
    """A diffusers pipeline as an expert on its latents (B, *shape): raw = u + guidance (c - u), as the pipeline computes it.

    The condition is a text, a list of B texts, or a tensor of prompt numbers from `prompt`, (B,) or (1,), where -1 is the null; several
    prompts go through the network in one call. None is the first prompt. The weights stay where they are: a checkpoint names the
    pipeline by `source`.

    Args:
        source: folder or hub id, or a pipeline in memory (which a checkpoint cannot name).
        prompt: text, class label of a class-conditional pipeline, or None.
        negative_prompt: of classifier-free guidance; None is the pipeline's own null.
        guidance: 1 is off (one evaluation a sample); otherwise two evaluations in one call.
        modality: its name; by default audio, video or image. call: more arguments of the pipeline (height, num_frames, ...).
        fingerprint: of the network's weights, when stored: other weights at `source` are then refused.
        prompts: more prompts that have numbers (`prompt` says which); each is encoded when it is first asked for.

    Raises:
        CheckpointError: a source that cannot be loaded or has changed. PolyscoreError: a pipeline that cannot be used this way.
    """

    def __init__(
        self,
        source: Any,
        prompt: str | None = "",
        negative_prompt: str | None = None,
        guidance: float = 1.0,
        modality: str | None = None,
        call: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        pipe = load_pipeline(source) if isinstance(source, str) else source
        networks = networks_of(pipe)
        found = fingerprint_of(*networks)
        if fingerprint is not None and fingerprint != found:
            raise CheckpointError(f"{source}: expected a network with weights {fingerprint}, found {found}")
        if "_spec" in self.__dict__:
            self._spec: dict[str, Any] = {**self.__dict__["_spec"], "fingerprint": found}
        self.source, self.weights = source, found
        _check_call(pipe, dict(call or {}))
        self._pipe, self._arguments, self._negative = pipe, dict(call or {}), negative_prompt
        self._embedded = getattr(networks[0].config, "time_cond_proj_dim", None) is not None
        self.guidance = 1.0 if self._embedded else float(guidance)
        self._strength = float(guidance)
        single = self._capture([prompt])
        layout = layout_of(pipe, self._arguments)
        assert single.latents is not None
        shape = layout.unpack(single.latents).shape[1:]
        super().__init__(
            modality or modality_of(pipe), path_of(single.scheduler, single.mu), convention_of(single.scheduler), shape, space_of(pipe)
        )
        self.layout, self._networks = layout, (networks,)
        self._ratio = _ratio(single, pipe)
        self._single, self._double = single.calls[0], self._capture([prompt, prompt]).calls[0]
        self._texts: list[Any] = [("prompt", prompt)] + [("prompt", text) for text in prompts or () if text != prompt]
        self._known: dict[int, Any] = {0: self._single}
        self._embeddings: dict[int, Tensor] = {}

    @property
    def pipe(self) -> Any:
        """The pipeline."""
        return self._pipe

    @property
    def arguments(self) -> dict[str, Any]:
        """More arguments of its calls (height, num_frames, ...)."""
        return dict(self._arguments)

    @property
    def kind(self) -> str:
        """ "audio", "video" or "image"."""
        return modality_of(self._pipe)

    def prompt(self, text: str | None) -> Tensor:
        """Number of a prompt, (1,), to be used as a condition; each is encoded once, by the pipeline's own `encode_prompt`."""
        return self._number(("prompt", text))

    @property
    def null(self) -> Tensor:
        """Number of the negative prompt, or of the pipeline's own null condition."""
        return self._number(("null", self._negative))

    def numbers(self, condition: Any, rows: int) -> list[int]:
        """The prompt number of each of so many rows; texts that are new get one.

        Raises:
            PolyscoreError: neither texts nor prompt numbers, a number that no prompt has, or of another number of rows.
        """
        value = 0 if condition is None else [condition] if isinstance(condition, str) else condition
        if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
            value = [int(self.prompt(text)) for text in value]
        try:
            found: list[int] = torch.as_tensor(value).long().reshape(-1).tolist()
        except (TypeError, ValueError, RuntimeError) as error:
            raise PolyscoreError(f"{self.modality!r}: expected a prompt or prompt numbers, found {type(condition).__name__}") from error
        if len(found) not in (1, rows) or not all(-1 <= number < len(self._texts) for number in found):
            raise PolyscoreError(
                f"{self.modality!r}: expected 1 or {rows} prompts, by text or number below {len(self._texts)}, found {condition!r}"
            )
        null = int(self.null) if -1 in found else -1
        return [null if number == -1 else number for number in found] * (rows if len(found) == 1 else 1)

    @property
    def text_size(self) -> int | None:
        """Size of the pooled text embeddings, or None for a pipeline whose network is told no text."""
        found = _pooled(self._single)
        return None if found is None else found.shape[1]

    def embed(self, condition: Any, rows: int) -> Tensor:
        """The prompts' pooled text embeddings (rows, text_size), zeros where the condition is the null (-1): what a discriminator is told.

        The mean over the tokens that the network is handed, or its one vector (AudioLDM), as the authors of MMDisCo do.

        Raises:
            PolyscoreError: as `numbers`; a pipeline without text.
        """
        told = isinstance(condition, Tensor) and condition.ndim > 0 and len(condition) in (1, rows)
        none = (condition.reshape(-1) == -1).expand(rows).tolist() if told else [False] * rows
        asked = torch.where(condition == -1, 0, condition) if told else condition
        parts = []
        for number, nothing in zip(self.numbers(asked, rows), none, strict=True):
            if number not in self._embeddings:
                found = _pooled(self._row(number))
                if found is None:
                    raise PolyscoreError(f"{type(self._pipe).__name__}: its network is told no text, so a prompt has no embedding")
                self._embeddings[number] = found[0]
            value = self._embeddings[number]
            parts.append(torch.zeros_like(value) if nothing else value)
        return torch.stack(parts)

    def _number(self, key: tuple[str, str | None]) -> Tensor:
        if key not in self._texts:
            self._texts.append(key)
        return torch.tensor([self._texts.index(key)])

    def _row(self, number: int) -> Any:
        """What the network is handed for a prompt, encoded once."""
        if number not in self._known:
            kind, text = self._texts[number]
            self._known[number] = self._capture([text]).calls[0] if kind == "prompt" else self._null_row()
        return self._known[number]

    def _null_row(self) -> Any:
        """The unconditional half of what the network is handed under guidance: the part that isn't the prompt's."""
        calls = self._capture([self._texts[0][1]], guided=True).calls
        if len(calls) == 1:
            if _size(calls[0], self._single, self._double) != 2 * _size(self._single, self._single, self._double):
                raise PolyscoreError(f"{type(self._pipe).__name__}: has no null condition, so guidance must be 1 and no prompt be dropped")
            halves = [block(calls[0], self._single, self._double, i, 2) for i in (0, 1)]
        else:
            halves = [calls[1], calls[0]]
        return halves[1] if _equal(halves[0], self._single) else halves[0]

    def plan(self, steps: int) -> dict[str, Any]:
        """The pipeline's own run as options of `polyscore.sample`: `sample(expert, n, **expert.plan(20))`."""
        schedule, scheduler = self.schedule(steps)
        return {"grid": self.follow(schedule), "solver": solver_of(scheduler, schedule)}

    def schedule(self, steps: int) -> tuple[Schedule, Any]:
        """The pipeline's own schedule for this number of steps, and its scheduler after `set_timesteps`."""
        found = self._capture([self._texts[0][1]], steps=steps)
        return schedule_of(found.scheduler, mu=found.mu), found.scheduler

    def own_arguments(self, n: int, steps: int) -> dict[str, Any]:
        """Arguments with which the pipeline's own call makes n samples of the first prompt, guided as here."""
        return self._asking([self._texts[0][1]] * n, steps, self._strength)

    def _capture(self, prompts: list[str | None], guided: bool = False, steps: int = 2) -> Capture:
        scale = self._strength if self._embedded else 2.0 if guided else 1.0
        arguments = self._asking(prompts, steps, scale)
        return capture(self._pipe, **{"generator": torch.Generator().manual_seed(0), **arguments})

    def _asking(self, prompts: list[str | None], steps: int, scale: float) -> dict[str, Any]:
        pipe, accepted = self._pipe, inspect.signature(type(self._pipe).__call__).parameters
        arguments: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent"}
        if "prompt" in accepted:
            arguments["prompt"] = [p or "" for p in prompts]
        elif "class_labels" in accepted:
            arguments["class_labels"] = [_label(pipe, p) for p in prompts]
        else:
            arguments["batch_size"] = len(prompts)
        true = "true_cfg_scale" in accepted
        arguments["true_cfg_scale" if true else "guidance_scale"] = scale
        if scale != 1 and (self._negative is not None or true):
            arguments["negative_prompt"] = [self._negative or ""] * len(prompts)
        return {**arguments, **self._arguments}

    def call(self, z: Tensor, timestep: Tensor, condition: Any) -> Tensor:
        """The network's raw output, guided; z (B, *shape), timestep (B,), condition as of the class."""
        numbers = self.numbers(condition, len(z))
        with torch.no_grad():
            if self.guidance == 1:
                return self._ask(z, timestep, numbers)
            null: list[int] = self.null.tolist() * len(z)
            u, c = self._ask(torch.cat([z, z]), torch.cat([timestep, timestep]), null + numbers).chunk(2)
            return u + self.guidance * (c - u)

    def _ask(self, z: Tensor, timestep: Tensor, numbers: list[int]) -> Tensor:
        asked = {k: self._row(k) for k in sorted(set(numbers))}
        if len({_shapes(row) for row in asked.values()}) == 1:
            return self._network(z, timestep, [asked[k] for k in numbers])
        found = torch.empty_like(z)
        for k, row in asked.items():
            rows = [i for i, number in enumerate(numbers) if number == k]
            found[rows] = self._network(z[rows], timestep[rows], [row] * len(rows))
        return found

    def _network(self, z: Tensor, timestep: Tensor, rows: list[Any]) -> Tensor:
        network = self._which(float(timestep[0]))
        parameter = next(network.parameters())
        state = self.layout.pack(z).to(parameter)
        arguments = spread(rows, self._single, self._double)
        told = (timestep * self._ratio).to(parameter.device)
        raw = network(state, timestep=told, **_to(arguments, parameter.device))[0]
        if raw.shape[1] == 2 * state.shape[1]:
            raw = raw.chunk(2, dim=1)[0]  # the other half is a learned variance
        return self.layout.unpack(raw).to(z)

    def _which(self, timestep: float) -> Any:
        """Wan 2.2 has two networks: the second one below its boundary."""
        (networks,) = self._networks
        boundary = getattr(self._pipe.config, "boundary_ratio", None)
        late = len(networks) > 1 and boundary is not None and timestep < boundary * self.convention.steps
        return networks[1 if late else 0]


def _check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    accepted = inspect.signature(type(pipe).__call__).parameters
    scale = () if "true_cfg_scale" in accepted else ("guidance_scale",)
    for name in call:
        if name in _OWN + _RULES + scale:
            raise PolyscoreError(
                f"{type(pipe).__name__}: call argument {name!r} is set by polyscore (guidance, plan, prompt) or not supported"
            )
        if name not in accepted:
            known = sorted(set(accepted) - {"self", *_OWN, *_RULES, *scale})
            raise PolyscoreError(f"{type(pipe).__name__}: call argument {name!r}, expected one of {', '.join(known)}")


def _label(pipe: Any, prompt: str | None) -> int:
    text = str(prompt or 0)
    if text.isdigit():
        return int(text)
    labels = getattr(pipe, "labels", None) or {}
    if text not in labels:
        raise PolyscoreError(f"{type(pipe).__name__}: class {text!r}, expected a number or one of {', '.join(list(labels)[:5])} ...")
    return int(labels[text])


def _ratio(single: Capture, pipe: Any) -> float:
    first, steps = float(single.scheduler.timesteps[0]), float(single.scheduler.config.get("num_train_timesteps", 1000))
    for ratio in (1.0, 1 / steps):
        if abs(single.timestep - ratio * first) < 1e-3 * max(abs(ratio * first), 1e-6):
            return ratio
    raise PolyscoreError(f"{type(pipe).__name__}: tells its network {single.timestep:g} at timestep {first:g}; expected t or t / {steps:g}")


def _pooled(row: Any) -> Tensor | None:
    """(1, size): the mean over the tokens of the first argument that is a text, or that argument itself."""
    for name in ("encoder_hidden_states", "class_labels", "pooled_projections"):
        value = row.get(name)
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim in (2, 3):
            return (value.mean(1) if value.ndim == 3 else value)[:1].float()
    return None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, dict):
        return [t for k in sorted(value) for t in _tensors(value[k])]
    if isinstance(value, list | tuple):
        return [t for v in value for t in _tensors(v)]
    return [value] if isinstance(value, Tensor) else []


def _shapes(row: Any) -> tuple[Any, ...]:
    return tuple(tuple(t.shape) for t in _tensors(row))


def _size(row: Any, single: Any, double: Any) -> int:
    sizes = [
        len(t) for t, s, d in zip(_tensors(row), _tensors(single), _tensors(double), strict=True) if s.ndim > 0 and len(d) == 2 * len(s)
    ]
    return sizes[0] if sizes else 0


def _equal(first: Any, second: Any) -> bool:
    pairs = list(zip(_tensors(first), _tensors(second), strict=True))
    return bool(pairs) and all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to(v, device) for v in value)
    return value.to(device) if isinstance(value, Tensor) else value
