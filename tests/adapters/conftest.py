"""Tiny pipelines, built once a session and saved to disk."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from tiny_pipelines import FAMILIES
from torch import Tensor

diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline, by the name of its family."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def build(name: str) -> Path:
        if name not in made:
            made[name] = root / name
            FAMILIES[name][0](made[name]).save_pretrained(made[name], safe_serialization=True)
        return made[name]

    return build


@pytest.fixture
def own_latents() -> Callable[..., Tensor]:
    """The latents at the end of a pipeline's own call, begun from `start`."""

    def run(pipe: Any, start: Tensor, **arguments: Any) -> Tensor:
        accepted = inspect.signature(type(pipe).__call__).parameters
        kept: list[Tensor] = []
        step = pipe.scheduler.step

        def recorded(*args: Any, **kwargs: Any) -> Any:
            found = step(*args, **kwargs)
            kept.append(found[0])
            return found

        recorded.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
        module = inspect.getmodule(type(pipe))
        drawn = getattr(module, "randn_tensor", None)
        pipe.scheduler.step = recorded
        pipe.set_progress_bar_config(disable=True)
        if "latents" in accepted:
            arguments["latents"] = start
        else:
            module.randn_tensor = lambda *_, **__: start  # type: ignore[union-attr]
        try:
            with torch.no_grad():
                pipe(**{k: v for k, v in arguments.items() if k in accepted})
        finally:
            del pipe.scheduler.step
            module.randn_tensor = drawn  # type: ignore[union-attr]
        return kept[-1]

    return run
