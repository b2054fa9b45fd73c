"""A tiny, untrained digits Composer and its judges, made of the recipe's own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from polyscore.checkpoint import save_module
from polyscore.codecs import LogMel
from polyscore.media import write_audio, write_image
from polyscore.metrics.judges import Judge
from polyscore.networks.conv import ConvEncoder
from tiny import IMAGE, tiny_composer


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny Composer."""
    return tiny_composer().save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two untrained judges."""
    folder = tmp_path_factory.mktemp("judges")
    front = LogMel(n_mels=40, n_fft=256, floor=0.1)
    meta = {"dataset": "none: not trained", "test_accuracy": 0.1, "test_items": 0}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_module(Judge(ConvEncoder(IMAGE, 8, (8, 8), pool=True), 8), folder / "image", meta=meta)
        save_module(Judge(ConvEncoder(front.latent_shape, 8, (8, 8), pool=True), 8, front=front), folder / "speech", meta=meta)
    return folder


@pytest.fixture(scope="session")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of a seven, dark on bright."""
    picture = torch.ones(3, 60, 50)
    picture[:, 8:14, 10:40] = 0.1
    for row in range(14, 52):
        picture[:, row, 38 - row // 2 : 43 - row // 2] = 0.1
    return write_image(tmp_path_factory.mktemp("given") / "seven.png", picture)


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a voice-like sound at 16 kHz, between silences."""
    t = torch.arange(8000) / 16000
    tone = sum(torch.sin(2 * torch.pi * 140 * k * t) / k for k in range(1, 12)) * torch.sin(torch.pi * t / 0.5)
    wave = torch.cat([torch.zeros(3000), 0.2 * tone, torch.zeros(5000)])
    return write_audio(tmp_path_factory.mktemp("given") / "three.wav", wave, rate=16000)


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`run_cli("sample", "--n", 2)` -> (exit code, standard output, standard error)."""
    from polyscore.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
