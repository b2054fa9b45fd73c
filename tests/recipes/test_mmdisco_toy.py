"""MMDisCo's toy: the whole recipe in small, and its pieces against closed forms."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import torch

from polyscore import cli
from polyscore.checkpoint import load_module
from polyscore.networks.timed import SharedMLP
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes import toy
from polyscore.recipes.mmdisco.toy import BASE_TRAINING, RATIO_TRAINING, ToySize, _Rows, load_base, real_points, train_base, train_ratios
from polyscore.recipes.mmdisco.toy_table import MEASURES, ROWS, ordering, run_toy
from polyscore.recipes.tables import read_table
from polyscore.training import Draw

SMALL = ToySize(real=50, fakes=40, samples=40, steps=8, channels=(16, 16), waves=(1.0,))
BASE = replace(BASE_TRAINING, steps=4, batch_size=64)
RATIO = replace(RATIO_TRAINING, steps=4, batch_size=32)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Tables of the base model's values with 1024 points a step instead of 8192."""
    monkeypatch.setattr(SharedMLP, "tabulate", partialmethod(SharedMLP.tabulate, 1024))


def test_the_recipe_writes_its_table_and_keeps_what_is_done(tmp_path):
    table = tmp_path / "toy.json"
    rows = run_toy(str(tmp_path / "run"), str(table), (0,), SMALL, BASE, RATIO, jobs=1)
    assert {f"{s} {r}: {m}" for s in toy.TARGETS for r in ROWS for m in MEASURES} <= {row.measure for row in rows}
    stored = read_table(table)
    assert stored["protocol"]["n"] == 40
    assert stored["protocol"]["preset"]["size"]["channels"] == [16, 16]
    assert {row["measure"]: row["values"] for row in stored["rows"]}["OOD all minus denoise: nll_paper"] == ordering(stored["rows"])[
        0
    ].values
    for name in ("figure2", "figure4"):
        assert (tmp_path / f"toy-{name}.png").read_bytes()[:4] == b"\x89PNG"
    done = tmp_path / "run" / "OOD-all-0.json"
    before = done.stat().st_mtime_ns
    again = run_toy(str(tmp_path / "run"), str(table), (0,), SMALL, BASE, RATIO, jobs=1)
    assert done.stat().st_mtime_ns == before
    assert [row.values for row in again] == [row.values for row in rows]


def test_the_order_of_the_losses_out_of_domain_is_measured():
    def rows(**values):
        return [{"measure": f"OOD {name}: nll_paper", "values": found} for name, found in values.items()]

    good = {"all": [1.72, 1.78, 1.74], "denoise": [1.75, 1.76, 1.72], "disc": [10.0, 11.0, 10.5], "none": [22.0, 22.1, 22.2]}
    for changes, met in (
        ({}, [True, True, True]),
        ({"all": [1.85, 1.86, 1.82]}, [False, True, True]),
        ({"disc": [1.74, 1.77, 1.72]}, [True, False, True]),
        ({"disc": [20.0, 20.0, 20.0]}, [True, True, False]),
    ):
        assert [row.met for row in ordering(rows(**{**good, **changes}))] == met
    table = read_table(Path(__file__).parents[2] / "benchmarks" / "results" / "mmdisco-toy.json")
    stored = {row["measure"]: row for row in table["rows"]}
    for row in ordering(table["rows"]):
        found, written = stored[row.measure], row.row()
        assert {k: v for k, v in found.items() if k not in ("mean", "sd")} == {k: v for k, v in written.items() if k not in ("mean", "sd")}
        assert [found["mean"], found["sd"]] == pytest.approx([written["mean"], written["sd"]], abs=1e-6)


def test_a_stack_trains_each_network_on_its_own_loss(tmp_path):
    base = train_base(tmp_path, BASE, progress=False)
    config = replace(RATIO, steps=3)
    together = train_ratios(base, "OOD", ["disc", "all"], tmp_path / "a", SMALL, config, progress=False)
    assert set(together) == {"disc", "all"}
    weights = {loss: ratio.network.mlp.stem.weight for loss, ratio in together.items()}
    assert not torch.equal(weights["disc"], weights["all"])
    stored = load_module(tmp_path / "a" / f"OOD-all-{config.seed}" / "ratio", Discriminator)
    assert torch.equal(stored.network.mlp.stem.weight, weights["all"])


def test_rows_are_weighed_by_their_loss():
    batch = _Rows({"x": torch.zeros(5, 1)}, {"x": torch.ones(3, 1)}, ["disc", "denoise", "all"])(Draw(0, 0, 6))
    assert batch["weight.adversarial"].tolist() == [1, 1, 0, 0, 1, 1]
    assert batch["weight.denoise"].tolist() == [0, 0, 1, 1, 1, 1]
    assert batch["fake.x"].shape == (6, 1)


def test_real_points_are_balanced_and_tight():
    points = real_points("OOD", 500, 0)
    found = toy.measure(toy.points(points), "OOD")
    assert found["mode_weights"] == pytest.approx([0.2] * 5)
    assert found["variance_ratio"] == pytest.approx(1, abs=0.15)
    assert not torch.equal(points["x"], real_points("OOD", 500, 1)["x"])


def test_one_network_serves_both_scalars(tmp_path):
    base = train_base(tmp_path, BASE, progress=False)
    again = load_base(tmp_path)
    z = {"x": torch.randn(5, 1), "y": torch.randn(5, 1)}
    one, other = base(z, {"x": 0.2, "y": 0.2}), again({"x": z["y"], "y": z["x"]}, {"x": 0.2, "y": 0.2})
    assert torch.allclose(one["x"].eps, other["y"].eps, atol=1e-6)
    assert not any(p.requires_grad for p in base.parameters())


def test_unknown_names_end_in_one_line(capsys):
    assert cli.main(["train", "mmdisco-toy", "--loss", "gan"]) == 2
    assert "expected one of disc, denoise, all" in capsys.readouterr().err
    assert cli.main(["train", "mmdisco-toy", "--setting", "XYZ"]) == 2
