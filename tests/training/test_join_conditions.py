"""Conditions by modality reach the experts, the discriminator and the fakes; a discriminator refuses what it cannot use."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from polyscore.checkpoint import load_module, read_json
from polyscore.denoisers import Denoiser, Independent
from polyscore.errors import PolyscoreError
from polyscore.files import write_text
from polyscore.guided import Guided
from polyscore.networks.ratio import RatioMLP, RatioTwins, default_network
from polyscore.networks.streams import StreamNetwork
from polyscore.networks.timed import ToyDiscriminator
from polyscore.oracles import GaussianDenoiser
from polyscore.paths import VPSDE
from polyscore.predictions import Prediction
from polyscore.ratios.discriminator import Discriminator
from polyscore.sampling import sample
from polyscore.training import TrainConfig, fit
from polyscore.training.discriminator import DiscriminatorObjective, RealAndFake
from polyscore.training.fakes import condition_of, flat_condition, load_fakes, make_fakes
from polyscore.training.join import train_discriminator

PATHS = {"x": VPSDE(), "y": VPSDE()}
SHAPES = {"x": (1,), "y": (1,)}
TINY = TrainConfig(steps=8, batch_size=32, lr=3e-3, ema=0.9, warmup=2, checkpoint_every=8, log_every=8)
LABELS = {"x": torch.arange(60) % 3, "y": torch.arange(60) % 2}


class Told(Denoiser):
    """N(4 label, 0.1) on one scalar; remembers what it was told."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.paths, self.shapes = name, {name: PATHS[name]}, {name: (1,)}
        self.asked, self.mixed = [], []

    def forward(self, z, t, condition=None):
        self.asked.append(condition)
        self.mixed.append(torch.is_autocast_enabled("cpu"))
        label = torch.zeros(len(z[self.name])) if condition is None else condition
        A, S = self.coefficients(self.name, t)
        A, S = (torch.as_tensor(v).reshape(-1, 1) for v in (A, S))
        x = z[self.name]
        mean = 4 * label[:, None].to(x)
        return {self.name: Prediction.from_eps(S * (x - A * mean) / (0.1 * A**2 + S**2), x, *self.coefficients(self.name, t))}


def experts() -> Independent:
    return Independent(Told("x"), Told("y"))


def real(n: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {name: 4 * LABELS[name][:n, None].float() + 0.3 * torch.randn(n, 1, generator=g) for name in PATHS}


def test_names_and_numbers_of_parts_reach_the_same_experts_and_fakes(tmp_path):
    base = experts()
    made = make_fakes(base, 60, tmp_path / "fakes", condition={1: LABELS["y"], "x": LABELS["x"]}, steps=5)
    for name, labels in LABELS.items():
        assert torch.equal(made.condition[name], labels)
        assert float((made.states[name][:, 0] - 4 * labels).abs().max()) < 2
    again = make_fakes(base, 60, tmp_path / "fakes", condition=LABELS, steps=5)  # the same folder: the same conditions
    assert torch.equal(again.states["x"], made.states["x"])
    assert set(load_fakes(tmp_path / "fakes").condition) == {"x", "y"}


@pytest.mark.parametrize(
    ("key", "problem"),
    [("w", "'w'"), ("0", "'0'"), (2, "a condition for 2"), (-1, "a condition for -1"), (True, "True"), (0, "two conditions")],
)
def test_unknown_keys_are_refused_everywhere(tmp_path, key, problem):
    wrong, base = {"x": LABELS["x"], key: LABELS["y"]}, experts()
    with pytest.raises(PolyscoreError, match=problem):
        make_fakes(base, 60, tmp_path / "a", condition=wrong, steps=2)
    with pytest.raises(PolyscoreError, match=problem):
        sample(base, 60, condition=wrong, steps=2)
    made = make_fakes(base, 60, tmp_path / "b", condition=LABELS, steps=2)
    with pytest.raises(PolyscoreError, match=problem):
        train_discriminator(base, real(60), made, tmp_path / "c", condition=wrong, config=TINY, progress=False)


def test_conditions_reach_the_loss_the_network_and_sampling(tmp_path):
    base = experts()
    made = make_fakes(base, 60, tmp_path / "fakes", condition=LABELS, steps=5)
    for part in base.parts:
        part.asked.clear()
    given = {0: LABELS["x"], 1: LABELS["y"]}
    train_discriminator(base, real(60), made, tmp_path / "run", condition=given, config=TINY, progress=False)
    for part, classes in zip(base.parts, (3, 2), strict=True):
        seen = torch.cat(part.asked)
        assert set(seen.tolist()) == {-1, *range(classes)}  # -1: dropped
    ratio = load_module(tmp_path / "run" / "ratio", Discriminator)
    assert ratio._meta["reals_used"] == 60
    assert {name: table.num_embeddings for name, table in ratio.network.classes.items()} == {"x": 4, "y": 3}
    nn.init.normal_(ratio.network.head.weight)
    for table in ratio.network.classes.values():
        nn.init.normal_(table.weight)
    joint = Guided(base, ratio)
    by_name, by_number = (sample(joint, 60, condition=c, steps=3) for c in (LABELS, given))
    assert torch.equal(by_name["x"], by_number["x"])
    only_x = sample(joint, 60, condition={"x": LABELS["x"]}, steps=3)
    assert not torch.equal(only_x["x"], by_name["x"])  # what y is told reaches x through the ratio
    plain = sample(base, 60, condition=LABELS, steps=3)
    quiet = sample(Guided(base, ratio, condition={}), 60, condition=LABELS, steps=3)
    assert not torch.equal(quiet["x"], plain["x"]) and not torch.equal(quiet["x"], by_name["x"])


@pytest.mark.parametrize("kind", ["labels", "vectors"])
def test_a_network_for_conditions_learns_what_they_say(tmp_path, kind):
    """The condition decides whether x and y are equal or opposite; the experts know nothing of it."""
    law = GaussianDenoiser([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], PATHS)
    base = Independent(law.marginal(["x"]), law.marginal(["y"]))
    label = torch.arange(1000) % 2
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(1))
    noise = 0.3 * torch.randn(1000, 1, generator=torch.Generator().manual_seed(2))
    data = {"x": x, "y": (1 - 2 * label[:, None]) * x + noise}
    told = label if kind == "labels" else {"y": nn.functional.one_hot(label, 2).float()}
    made = make_fakes(base, 1000, tmp_path / "fakes", shard=1000, steps=5, condition=told)
    config = TrainConfig(steps=200, batch_size=128, lr=5e-3, ema=0.9, warmup=5, checkpoint_every=200, log_every=200)
    torch.manual_seed(0)
    network = default_network(SHAPES, told, width=64, depth=2, hidden=64)
    assert isinstance(network, RatioMLP)
    ratio = train_discriminator(base, data, made, tmp_path / "run", condition=told, network=network, config=config, progress=False)
    joined = sample(Guided(base, ratio), 200, condition=label[:200] if kind == "labels" else {"y": told["y"][:200]}, steps=10)
    for which, sign in ((0, 1), (1, -1)):
        rows = label[:200] == which
        assert sign * float(torch.corrcoef(torch.cat([joined["x"][rows], joined["y"][rows]], 1).T)[0, 1]) > 0.4


def test_default_networks_are_built_for_their_conditions():
    shapes = {"a": (4,), "b": (1, 8, 8)}
    network = default_network(shapes, torch.tensor([0, 4, 2]), torch.tensor([5, 0]))
    assert isinstance(network, StreamNetwork) and network.classes.num_embeddings == 7
    network = default_network(shapes, {"a": torch.tensor([0, 1]), "b": torch.zeros(2, 7, 5)})
    z, t = {"a": torch.randn(2, 4), "b": torch.randn(2, 1, 8, 8)}, {name: torch.tensor([0.1, 0.2]) for name in shapes}
    nn.init.normal_(network.head.weight)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1) if float(parameter.detach().abs().max()) == 0 else None
    tokens = torch.randn(2, 7, 5)
    told = network(z, t, {"a": torch.tensor([0, 1]), "b": tokens})
    assert torch.allclose(told, network(z, t, {"a": torch.tensor([0, 1]), "b": tokens.mean(1)}), atol=1e-5)
    assert not torch.allclose(told, network(z, t), atol=1e-5)
    for wrong, problem in (({"c": torch.zeros(2, 3)}, "'c'"), (torch.zeros(2), "shape"), (["red"], "type list")):
        with pytest.raises(PolyscoreError, match=problem):
            default_network(shapes, wrong)
    with pytest.raises(PolyscoreError, match="one or the other"):
        default_network(shapes, torch.tensor([1]), {"a": torch.tensor([1])})


def test_networks_refuse_a_condition_that_they_cannot_use():
    z, t = {name: torch.zeros(3, 1) for name in SHAPES}, {name: torch.full((3,), 0.5) for name in SHAPES}
    for network in (RatioMLP(SHAPES), RatioTwins(SHAPES), ToyDiscriminator(), StreamNetwork(SHAPES, width=32, blocks=1)):
        assert network(z, t, {}).shape == network(z, t).shape == (3,)
        with pytest.raises(PolyscoreError, match=type(network).__name__):
            network(z, t, torch.tensor([0, 1, 2]))
    for network in (RatioMLP(SHAPES, classes=2, text={"x": 4}), StreamNetwork(SHAPES, width=32, blocks=1, classes=2, text={"x": 4})):
        for wrong, problem in (
            (torch.tensor([0, 1, 2]), r"in \[-1, 1\]"),
            ({"y": torch.ones(3, 4)}, "a vector condition .* for 'y', expected a vector of 4 for 'x', labels"),
            ({"x": torch.ones(3, 5)}, r"\(B, 4\)"),
            ({"w": torch.zeros(3, dtype=torch.long)}, "for 'w'"),
            ({0: torch.ones(3, 4)}, "for 0"),
            ("red", "type str"),
        ):
            with pytest.raises(PolyscoreError, match=problem):
                network(z, t, wrong)


def test_training_refuses_half_told_data_and_networks(tmp_path):
    base = experts()
    made = make_fakes(base, 60, tmp_path / "fakes", condition=LABELS, steps=2)
    with pytest.raises(PolyscoreError, match="conditions for the reals only, or for the fakes only"):
        train_discriminator(base, real(60), made, tmp_path / "a", config=TINY, progress=False)
    with pytest.raises(PolyscoreError, match="RatioTwins: takes no condition"):
        train_discriminator(
            base, real(60), made, tmp_path / "b", condition=LABELS, network=RatioTwins(SHAPES), config=TINY, progress=False, held_out=0
        )


def test_nested_conditions_are_kept_by_name():
    condition = {"x": {"label": torch.arange(2), "text": torch.zeros(2, 3)}, "y": None}
    found = condition_of(flat_condition(condition))
    assert set(found) == {"x"} and set(found["x"]) == {"label", "text"}
    with pytest.raises(PolyscoreError, match="key 0, expected the name of a modality"):
        flat_condition({0: torch.zeros(2)})


def test_fakes_of_other_experts_are_refused_unless_asked_for(tmp_path):
    def base(mean: float) -> Independent:
        return Independent(*(GaussianDenoiser([mean], 1.0, {name: path}) for name, path in PATHS.items()))

    made = make_fakes(base(1.0), 40, tmp_path / "fakes", steps=2)
    data = {name: torch.randn(40, 1) for name in PATHS}
    with pytest.raises(PolyscoreError, match="fakes made by other experts"):
        train_discriminator(base(0.0), data, made, tmp_path / "a", config=TINY, progress=False)
    train_discriminator(base(1.0), data, made, tmp_path / "b", config=TINY, progress=False)
    train_discriminator(base(0.0), data, made, tmp_path / "c", config=TINY, progress=False, other_fakes=True)


class Watched(nn.Module):
    """A layer that remembers the precision that it is computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last, self.seen = nn.Linear(2, 8), nn.Linear(8, 1), set()

    def forward(self, z, t, condition=None):
        hidden = self.layer(torch.cat([z["x"], z["y"]], 1)).tanh()
        self.seen.add((hidden.dtype, torch.is_autocast_enabled("cpu")))
        return self.last(hidden)[:, 0]


def test_half_precision_is_for_the_experts_only(tmp_path):
    base, data = experts(), real(60)
    made = make_fakes(base, 60, tmp_path / "fakes", steps=2)
    for part in base.parts:
        part.mixed.clear()
    config = TrainConfig(steps=3, batch_size=16, warmup=0, ema=0, precision="bf16", checkpoint_every=3, log_every=3)
    batches, z, t = RealAndFake(data, made.states), {name: data[name][:4] for name in PATHS}, {"x": 0.3, "y": 0.3}
    for name, weights in (("all", {}), ("disc", {"denoise": 0.0})):
        module = Discriminator(Watched(), PATHS)
        fit(module, batches, DiscriminatorObjective(base, **weights), config, out=tmp_path / name, progress=False)
        assert module.network.seen == {(torch.float32, False)}
        with torch.autocast("cpu", torch.bfloat16):
            mixed, value = module.gradient(z, t), module(z, t)
        assert value.dtype == torch.float32
        assert torch.equal(mixed["x"], module.gradient(z, t)["x"])
    assert all(part.mixed and all(part.mixed) for part in base.parts)


def test_the_times_of_training_are_kept_and_nothing_acts_outside(tmp_path):
    base = Independent(*(GaussianDenoiser([0.0], 1.0, {name: path}) for name, path in PATHS.items()))
    made = make_fakes(base, 60, tmp_path / "fakes", steps=2)
    objective = DiscriminatorObjective(base, low=0.1, high=0.6)
    ratio = train_discriminator(base, real(60), made, tmp_path / "run", objective=objective, config=TINY, progress=False)
    stored = load_module(tmp_path / "run" / "ratio", Discriminator)
    assert (stored.low, stored.high) == (0.1, 0.6)
    z = {name: torch.randn(3, 1) for name in PATHS}
    for t in (0.05, 0.7):
        assert torch.equal(ratio.gradient(z, {"x": t, "y": t})["x"], torch.zeros(3, 1))
        assert torch.equal(ratio(z, {"x": t, "y": t}), torch.zeros(3))
    rows = torch.tensor([0.05, 0.5, 0.7])
    slope = ratio.gradient(z, {"x": rows, "y": rows})["y"][:, 0]
    assert [bool(s) for s in slope] == [False, True, False]
    free = Discriminator(ratio.network, PATHS)
    assert (free.low, free.high) == (0, 1)
    gated, by_hand, whole = (
        sample(g, 20, steps=8)["x"] for g in (Guided(base, ratio), Guided(base, free, window=(0.1, 0.6)), Guided(base, free))
    )
    assert torch.equal(gated, by_hand)
    assert not torch.equal(gated, whole)
    info = sample(Guided(base, ratio), 4, steps=4, particles=2, solver="dpmpp_sde").info
    assert "trained at times 0.1 to 0.6" in str(info["particles"]["approximations"])
    with pytest.raises(PolyscoreError, match="expected a range"):
        Discriminator(ratio.network, PATHS, times=(0.5, 0.2))
    file = tmp_path / "run" / "ratio.json"
    header = read_json(file)
    del header["spec"]["times"]  # as it was before they were stored
    write_text(file, json.dumps(header))
    assert load_module(file, Discriminator).high == 1
