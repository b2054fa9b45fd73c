"""Specs: what is registered goes to JSON and comes back; what is not, or is foreign, ends in one clear line."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from polyscore.denoisers import Expert, Independent, OnPath
from polyscore.errors import CheckpointError
from polyscore.networks.mlp import JointDenoiser
from polyscore.paths import VE, VPSDE, Linear, RectifiedFlow, Tabulated
from polyscore.ratios.subset import SubsetGuided
from polyscore.spec import from_spec, register, to_spec

SHAPES = {"image": (3,), "speech": (2,)}


def small(path=None):
    return JointDenoiser(SHAPES, path, width=8, depth=1, hidden=8, embed=8)


def again(value):
    return from_spec(json.loads(json.dumps(to_spec(value))))


@pytest.mark.parametrize("value", [1, 2.5, True, None, "text", [1, [2, None]], {"a": {"b": [1.0]}}, math.pi], ids=str)
def test_plain_values(value) -> None:
    assert again(value) == value


def test_tuples_come_back_as_lists() -> None:
    assert again((1, (2, 3))) == [1, [2, 3]]


@pytest.mark.parametrize("path", [VPSDE(1, 5), Linear(steps=10), RectifiedFlow(3.0), VE(), Tabulated([0.9, 0.1])], ids=repr)
def test_paths(path) -> None:
    assert again(path) == path
    assert again({"x": [path, None]}) == {"x": [path, None]}


def test_compositions_nest() -> None:
    made = SubsetGuided(OnPath(Independent(small(), JointDenoiser({"w": (4,)}, width=8)), {"w": VE()}), 2.0, (0.1, 0.9))
    found = again(made)
    assert to_spec(found) == json.loads(json.dumps(to_spec(made)))
    assert found.paths == made.paths and found.window == made.window
    found.load_state_dict(made.state_dict())
    z = {"image": torch.randn(2, 3), "speech": torch.randn(2, 2), "w": torch.randn(2, 4)}
    t = dict.fromkeys(z, 0.5)
    assert torch.equal(found(z, t)["image"].eps, made(z, t)["image"].eps)


def test_defaults_are_stored_so_that_they_may_change() -> None:
    assert to_spec(VPSDE()) == {"class": "VPSDE", "beta_min": 0.1, "beta_max": 20.0}


def test_a_modality_may_be_called_class() -> None:
    model = JointDenoiser({"class": (2,), "items": (1,)}, width=8)
    found = again(model)
    assert found.shapes == {"class": (2,), "items": (1,)}
    assert again({"class": "eps", "x": 1}) == {"class": "eps", "x": 1}


def test_what_is_not_registered_cannot_be_stored() -> None:
    with pytest.raises(CheckpointError, match="cannot store a Identity: expected a class registered"):
        to_spec({"network": nn.Identity()})
    with pytest.raises(CheckpointError, match="cannot store a Tensor"):
        to_spec([torch.zeros(2)])
    with pytest.raises(CheckpointError, match="cannot store a Sequential"):
        to_spec(Expert(nn.Sequential(), {"x": VPSDE()}, {"x": (1,)}))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"class": "Pickle"}, "unknown class 'Pickle': expected one of"),
        ({"class": ["os", "system"]}, r"a class is named by \['os', 'system'\], expected a text"),
        ({"class": 3}, "a class is named by 3"),
        ({"class": "VPSDE", "beta": 3}, r"cannot build VPSDE from its stored arguments \['beta'\]"),
        ({"class": "Linear", "steps": "many"}, "cannot build Linear"),
        ({"class": "JointDenoiser", "shapes": {"x": [2]}, "width": -4}, "cannot build JointDenoiser"),
        ({"class": "Tabulated", "alphas_cumprod": [0.1, 0.9]}, "strictly falling"),
        ({"class": "Independent", "parts": [{"class": "Nothing"}]}, "unknown class 'Nothing'"),
    ],
)
def test_foreign_specs_end_in_one_line(spec, message) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        from_spec(spec)
    assert "\n" not in str(caught.value)


def test_only_the_class_itself_is_described() -> None:
    """A subclass that is not registered is not mistaken for its parent."""

    class Mine(VPSDE):
        pass

    with pytest.raises(CheckpointError, match="cannot store a Mine"):
        to_spec(Mine())


def test_one_name_one_class() -> None:
    with pytest.raises(TypeError, match="two registered classes are called VPSDE"):
        register(type("VPSDE", (), {}))
