"""Off-the-shelf pipelines multiplied: `polyscore compose`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import polyscore
from polyscore.adapters.codecs import codec_of, media_of
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.errors import PolyscoreError
from polyscore.media import read_image, read_metadata
from polyscore.media.prepare import SUFFIXES, write_prepared
from polyscore.product import Product, Term
from polyscore.report.diagnostics import write_diagnostics
from polyscore.sampling import sample
from polyscore.sampling.diagnostics import Recorder
from polyscore.sampling.loop import Step

__all__ = ["compose", "compose_product", "recompose"]

Progress = Callable[[int, int], None]


def compose_product(
    expert: Mapping[str, str],
    strength: Mapping[str, float] | None = None,
    reliability: Mapping[str, float] | None = None,
    negative: str | None = None,
    call: Mapping[str, Any] | None = None,
    prior: Mapping[str, float] | None = None,
    window: Mapping[str, Sequence[float]] | None = None,
    mask: Mapping[str, str] | None = None,
) -> tuple[Product, list[PipelineExpert]]:
    """The product of diffusers pipelines, and the pipelines in order.

        product, experts = compose_product({"a": "models/one:a red cat", "b": "models/two:the sea"}, {"a": 5, "b": 5})
        latents = sample(product, 4, **experts[0].plan(30))

    A pipeline that is named twice is loaded once: its prompts share one null and one network call.

    Args:
        expert: "DIR_OR_HUB_ID:prompt" by name. strength: w by name, 5 where absent. reliability: a by name (sums to 1), or the default.
        negative: prompt of the nulls. call: more arguments of every pipeline (height, width, num_frames, ...).
        prior: r by name, the weights of the pipelines' own priors, in place of a. window: [low, high] by name, the times a term acts in.
        mask: a picture by name, whose brightness (resized to the latent) multiplies the term's strength.

    Raises:
        PolyscoreError: pipelines whose latent spaces or states differ; names that don't match.
    """
    for kind, given in (("strength", strength), ("reliability", reliability), ("prior", prior), ("window", window), ("mask", mask)):
        unknown = sorted(set(given or {}) - set(expert))
        if unknown:
            raise PolyscoreError(f"compose: {kind} of {unknown[0]!r}, expected one of {', '.join(expert)}")
    loaded: dict[str, tuple[str, PipelineExpert]] = {}
    terms: list[Term] = []
    shares: dict[str, float] = {}
    weights = prior if reliability is None else reliability
    for name, text in expert.items():
        source, _, prompt = text.partition(":")
        if source not in loaded:
            loaded[source] = (name, PipelineExpert(source, prompt or None, negative, modality="state", call=call))
        first, own = loaded[source]
        _same_space(own, next(iter(loaded.values()))[1], name, next(iter(expert)))
        null, has_null = _null(own)
        strong: Any = (strength or {}).get(name, 5.0)
        if mask and name in mask:
            strong = strong * _mask(mask[name], own.shapes["state"])
        acts = _window((window or {}).get(name, (0.0, 1.0)), name)
        terms.append(Term(own, own.prompt(prompt or None), strong, acts, name=first, null=null, has_null=has_null))
        if weights is not None:
            shares[first] = shares.get(first, 0.0) + weights.get(name, 0.0)
    weighting: dict[str, Any] = {} if weights is None else {"prior" if reliability is None else "reliability": shares}
    if prior is not None and reliability is not None:
        raise PolyscoreError("compose: give reliability or prior, not both")
    return Product(terms, **weighting), [own for _, own in loaded.values()]


def compose(
    expert: Mapping[str, str],
    strength: Mapping[str, float] | None = None,
    reliability: Mapping[str, float] | None = None,
    negative: str | None = None,
    n: int = 1,
    steps: int = 30,
    seed: int = 0,
    out: str | os.PathLike[str] = "outputs/compose",
    call: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    prior: Mapping[str, float] | None = None,
    window: Mapping[str, Sequence[float]] | None = None,
    mask: Mapping[str, str] | None = None,
    particles: int | None = None,
    diagnostics: bool = False,
) -> list[Path]:
    """Sample a product of pipelines with the first one's scheduler, and write OUT/0000.png, ... with the run inside.

    With particles the solver is "dpmpp_sde" on the scheduler's times. With diagnostics OUT/diagnostics.png and .json are written too.

    Raises:
        PolyscoreError: see `compose_product`; files that cannot be written.
    """
    product, experts = compose_product(expert, strength, reliability, negative, call, prior, window, mask)
    run = {
        "polyscore": polyscore.__version__,
        "command": "compose",
        "expert": {k: _absolute(v) for k, v in expert.items()},
        "strength": {term: (strength or {}).get(term, 5.0) for term in expert},
        "reliability": None if reliability is None else dict(reliability),
        "weights": {e.source: e.weights for e in experts},
        "negative": negative,
        "n": n,
        "steps": steps,
        "seed": seed,
        "call": dict(call or {}),
        "prior": None if prior is None else dict(prior),
        "window": None if window is None else {k: list(v) for k, v in window.items()},
        "mask": None if mask is None else {k: str(Path(v).resolve()) for k, v in mask.items()},
        "particles": particles,
    }
    recorder = Recorder() if diagnostics else None
    options = experts[0].plan(steps) | ({} if particles is None else {"particles": particles, "solver": "dpmpp_sde"})
    latents = sample(product, n, seed=seed, callback=_watch(progress, recorder), **options)
    if recorder is not None:
        write_diagnostics(recorder, out)
    data = codec_of(experts[0]).decode(latents["state"])
    media = media_of(experts[0])
    suffix = SUFFIXES[media["kind"]]
    report = {"run": run, "prior": product.prior, "reliability": product.reliability, "info": _plain(latents.info)}
    report |= {"particles": latents.info["particles"]} if particles is not None else {}
    return [write_prepared(Path(out) / f"{i:04d}{suffix}", data[i], media, {**report, "index": i}) for i in range(n)]


def recompose(result: str | os.PathLike[str], out: str | os.PathLike[str], progress: Progress | None = None) -> list[Path]:
    """Repeat the run that wrote `result`.

    Raises:
        PolyscoreError: a file that `compose` did not write, or a pipeline with other weights now.
    """
    run = read_metadata(result).get("run")
    if not isinstance(run, dict) or run.get("command") != "compose":
        raise PolyscoreError(f"{result}: expected a file written by `polyscore compose`, found none of its metadata")
    names = ("expert", "strength", "reliability", "negative", "n", "steps", "seed", "call")
    later: dict[str, Any] = {name: run.get(name) for name in ("prior", "window", "mask")}
    first: list[Any] = [run[name] for name in ("expert", "strength", "reliability", "negative", "call")]
    _, experts = compose_product(*first, **later)
    found = {e.source: e.weights for e in experts}
    if found != run["weights"]:
        raise PolyscoreError(f"{result}: made by weights {run['weights']}, found {found} now")
    options: dict[str, Any] = {name: run[name] for name in names} | later
    return compose(**options, out=out, progress=progress, particles=run.get("particles"))


def _same_space(own: PipelineExpert, first: PipelineExpert, name: str, first_name: str) -> None:
    spaces, shapes = own.spaces["state"], own.shapes["state"]
    if spaces != first.spaces["state"]:
        raise PolyscoreError(
            f"compose: {name} ({own.source}) lives in the latent space {spaces}, expected {first.spaces['state']} of {first_name} "
            f"({first.source}): their autoencoders differ, so their latents cannot be multiplied"
        )
    if shapes != first.shapes["state"]:
        raise PolyscoreError(
            f"compose: {name} ({own.source}) has latents {shapes}, expected {first.shapes['state']} as {first_name}; set --call"
        )


def _null(expert: PipelineExpert) -> tuple[torch.Tensor | None, bool]:
    try:
        return expert.null, True
    except PolyscoreError:
        return None, False


def _absolute(text: str) -> str:
    source, colon, prompt = text.partition(":")
    return (str(Path(source).resolve()) if Path(source).is_dir() else source) + colon + prompt


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in info.items() if k != "seconds" and isinstance(v, bool | int | float | str)}


def _watch(progress: Progress | None, recorder: Recorder | None) -> Callable[[Step], None]:
    def watch(step: Step) -> None:
        if recorder is not None:
            recorder(step)
        if progress is not None:
            progress(step.index + 1, step.steps)

    return watch


def _mask(path: str, shape: Sequence[int]) -> torch.Tensor:
    """A picture's brightness at the size of the latent, (1, 1, ..., H, W)."""
    grey = read_image(path).mean(0, keepdim=True)[None]
    small = torch.nn.functional.interpolate(grey, size=tuple(shape[-2:]), mode="area")
    return small.reshape(*[1] * (len(shape) - 1), *shape[-2:])


def _window(limits: Sequence[float], name: str) -> tuple[float, float]:
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1] <= 1:
        raise PolyscoreError(f"compose: window of {name} is {list(limits)}, expected two times from 0 to 1, the lower first")
    return float(limits[0]), float(limits[1])
