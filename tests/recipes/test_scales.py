"""The grid search of the guidance scale finds the scale that an exact ratio should have: 1."""

from __future__ import annotations

import pytest
import torch

from polyscore import cli
from polyscore.checkpoint import load_module, save_module, save_tensors
from polyscore.composer import Composer
from polyscore.denoisers import Independent
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.networks.mlp import JointDenoiser
from polyscore.networks.ratio import RatioMLP
from polyscore.oracles import ExactRatio, GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.ratios.discriminator import Discriminator
from polyscore.recipes.mmdisco.scale import load_guided, search_scales, tune

PATHS = {"x": VPSDE(), "y": VPSDE()}
JOINT = GaussianDenoiser([0.0, 0.0], [[1.0, 0.9], [0.9, 1.0]], PATHS)
BASE = Independent(JOINT.marginal(["x"]), JOINT.marginal(["y"]))


def test_the_exact_ratio_wants_scale_one():
    guided = Guided(BASE, ExactRatio.information(JOINT), 3.0)
    real = JOINT.draw(600, torch.Generator().manual_seed(5))
    found = search_scales(guided, real, {"x": (0.0, 1.0, 3.0), "y": (1.0,)}, n=400, seeds=(0, 1), steps=15)
    assert found[0][0] == {"x": 1.0, "y": 1.0}
    assert len(found) == 3
    assert sum(found[0][1]) < 0.5 * sum(found[-1][1])
    with pytest.raises(PolyscoreError, match="modality 'w'"):
        search_scales(guided, real, {"w": (1.0,)})


def test_the_command_writes_table_and_model(tmp_path, capsys):
    small = {"width": 16, "depth": 1, "hidden": 16, "embed": 16}
    apart = Independent(JointDenoiser({"x": (1,)}, **small), JointDenoiser({"y": (1,)}, **small))
    ratio = Discriminator(RatioMLP({"x": (1,), "y": (1,)}, width=16, depth=1, hidden=16, embed=16), PATHS)
    save_tensors({k: v.float() for k, v in JOINT.draw(40, torch.Generator().manual_seed(1)).items()}, tmp_path / "real.safetensors")
    save_module(Guided(apart, ratio), tmp_path / "model")
    Composer({}, Guided(apart, ratio)).save(tmp_path / "composer")
    options = ["--real", str(tmp_path / "real.safetensors"), "--n", "20", "--steps", "2", "--seeds", "[0]", "--keep", "true"]
    for model in ("model", "composer"):
        table = tmp_path / f"{model}-scales.json"
        arguments = ["recipe", "scales", "--model", str(tmp_path / model), "--out", str(table), "--grid", '{"x": [2.0], "y": [3.0]}']
        assert cli.main([*arguments, *options]) == 0
        assert table.exists()
        assert load_guided(str(tmp_path / model))[0].scale == {"x": 2.0, "y": 3.0}
    composer = Composer({}, Guided(apart, ratio), {"steps": 3, "solver": "heun", "grid": "log_snr", "conditioning": "noised"})
    composer.save(tmp_path / "own")
    real, grid = str(tmp_path / "real.safetensors"), {"x": [2.0], "y": [3.0]}
    rows, protocol = tune(str(tmp_path / "own"), real, grid, n=20, seeds=(0,))
    assert {name: protocol[name] for name in ("steps", "solver", "grid")} == {"steps": 3, "solver": "heun", "grid": "log_snr"}
    assert rows[0].values != tune(str(tmp_path / "own"), real, grid, n=20, seeds=(0,), steps=2)[0][0].values
    save_module(apart, tmp_path / "plain")
    assert cli.main(["recipe", "scales", "--model", str(tmp_path / "plain"), *options]) == 2
    assert "guided by a ratio" in capsys.readouterr().err
    assert isinstance(load_module(tmp_path / "model"), Guided)
