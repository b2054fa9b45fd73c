"""Tiny pipelines, built once a session and saved to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
from tiny_pipelines import FAMILIES

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
