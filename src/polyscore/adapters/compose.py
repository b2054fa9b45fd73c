"""Off-the-shelf pipelines multiplied: `polyscore compose`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import polyscore
from polyscore.adapters.codecs import codec_of, media_of
from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.errors import PolyscoreError
from polyscore.media import read_metadata
from polyscore.media.prepare import SUFFIXES, write_prepared
from polyscore.product import Product, Term
from polyscore.sampling import sample
from polyscore.sampling.loop import Step

__all__ = ["compose", "compose_product", "recompose"]

Progress = Callable[[int, int], None]


def compose_product(
    expert: Mapping[str, str],
    strength: Mapping[str, float] | None = None,
    reliability: Mapping[str, float] | None = None,
    negative: str | None = None,
    call: Mapping[str, Any] | None = None,
) -> tuple[Product, list[PipelineExpert]]:
    """The product of diffusers pipelines, and the pipelines in order.

        product, experts = compose_product({"a": "models/one:a red cat", "b": "models/two:the sea"}, {"a": 5, "b": 5})
        latents = sample(product, 4, **experts[0].plan(30))

    A pipeline that is named twice is loaded once: its prompts share one null and one network call.

    Args:
        expert: "DIR_OR_HUB_ID:prompt" by name. strength: w by name, 5 where absent. reliability: a by name (sums to 1), or the default.
        negative: prompt of the nulls. call: more arguments of every pipeline (height, width, num_frames, ...).

    Raises:
        PolyscoreError: pipelines whose latent spaces or states differ; names that don't match.
    """
    for kind, given in (("strength", strength), ("reliability", reliability)):
        unknown = sorted(set(given or {}) - set(expert))
        if unknown:
            raise PolyscoreError(f"compose: {kind} of {unknown[0]!r}, expected one of {', '.join(expert)}")
    loaded: dict[str, tuple[str, PipelineExpert]] = {}
    terms: list[Term] = []
    shares: dict[str, float] = {}
    for name, text in expert.items():
        source, _, prompt = text.partition(":")
        if source not in loaded:
            loaded[source] = (name, PipelineExpert(source, prompt or None, negative, modality="state", call=call))
        first, own = loaded[source]
        _same_space(own, next(iter(loaded.values()))[1], name, next(iter(expert)))
        null, has_null = _null(own)
        terms.append(Term(own, own.prompt(prompt or None), (strength or {}).get(name, 5.0), name=first, null=null, has_null=has_null))
        if reliability is not None:
            shares[first] = shares.get(first, 0.0) + reliability.get(name, 0.0)
    return Product(terms, shares or None), [own for _, own in loaded.values()]


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
) -> list[Path]:
    """Sample a product of pipelines with the first one's scheduler, and write OUT/0000.png, ... with the run inside.

    Raises:
        PolyscoreError: see `compose_product`; files that cannot be written.
    """
    product, experts = compose_product(expert, strength, reliability, negative, call)
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
    }
    bar = None if progress is None else _bar(progress)
    latents = sample(product, n, seed=seed, callback=bar, **experts[0].plan(steps))
    data = codec_of(experts[0]).decode(latents["state"])
    media = media_of(experts[0])
    suffix = SUFFIXES[media["kind"]]
    report = {"run": run, "prior": product.prior, "reliability": product.reliability, "info": _plain(latents.info)}
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
    _, experts = compose_product(*(run[name] for name in ("expert", "strength", "reliability", "negative", "call")))
    found = {e.source: e.weights for e in experts}
    if found != run["weights"]:
        raise PolyscoreError(f"{result}: made by weights {run['weights']}, found {found} now")
    return compose(**{name: run[name] for name in names}, out=out, progress=progress)


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


def _bar(progress: Progress) -> Callable[[Step], None]:
    return lambda step: progress(step.index + 1, step.steps)
