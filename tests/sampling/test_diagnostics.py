"""What the recorder says of experts that agree, disagree and contradict each other."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.product import Product, Term
from polyscore.report.diagnostics import write_diagnostics
from polyscore.sampling import sample
from polyscore.sampling.diagnostics import Recorder


def product(first: float, second: float) -> Product:
    laws = [GaussianDenoiser([m, 0.0], 0.3, {"x": VPSDE()}) for m in (first, second)]
    return Product([Term(law, has_null=False) for law in laws], base=GaussianDenoiser([0.0, 0.0], 2.0, {"x": VPSDE()}))


def test_every_step_is_recorded_once_whatever_the_batches() -> None:
    whole, parts = Recorder(), Recorder()
    found = sample(product(1.0, -0.2), 6, steps=7, callback=whole)
    sample(product(1.0, -0.2), 6, steps=7, batch_size=4, callback=parts)
    assert [row["index"] for row in whole.rows("x")] == list(range(7)) and all(row["rows"] == 6 for row in parts.rows("x"))
    for one, other in zip(whole.rows(), parts.rows(), strict=True):
        for key in ("disagreement", "clipped", "norm expert0[0]", "norm expert1[1]", "cosine expert0[0] and expert1[1]"):
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-6), key
    assert found.info["diagnostics"]["modalities"]["x"]["disagreement"] == pytest.approx(
        sum(row["disagreement"] for row in whole.rows()) / 7
    )


def test_disagreement_and_clipping_are_those_of_the_predictions() -> None:
    recorder, seen = Recorder(limit=0.5), []
    sample(product(1.0, -0.2), 5, steps=3, callback=lambda step: (recorder(step), seen.append(step.predictions["x"])))
    for row, p in zip(recorder.rows(), seen, strict=True):
        assert row["disagreement"] == pytest.approx(float(p.disagreement.mean()) / 2)
        assert row["clipped"] == pytest.approx(float((p.x0.abs() > 0.5).double().mean()))


def test_conditions_that_contradict_give_a_warning_and_others_none() -> None:
    with pytest.warns(UserWarning, match=r"conditions expert0\[0\] and expert1\[1\] contradict"):
        sample(product(4.0, -4.0), 4, steps=6, callback=Recorder())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(product(1.0, 0.9), 4, steps=6, callback=Recorder())


def test_the_picture_and_the_numbers_are_written(tmp_path) -> None:
    recorder = Recorder()
    sample(product(1.0, 0.5), 3, steps=4, particles=2, callback=recorder)
    write_diagnostics(recorder, tmp_path)
    assert (tmp_path / "diagnostics.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "diagnostics.json").read_text())
    assert len(content["steps"]) == 4 and content["summary"]["contradictions"] == []
    assert torch.tensor([row["rows"] for row in content["steps"]]).eq(6).all()
