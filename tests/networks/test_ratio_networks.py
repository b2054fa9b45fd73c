"""Discriminator networks: the parameter counts of the paper, derivatives, independence of batch mates, conditions."""

from __future__ import annotations

import pytest
import torch

from polyscore.errors import PolyscoreError
from polyscore.networks.fusion import AlignedFusion, TransformerFusion
from polyscore.networks.mlp import _Block
from polyscore.networks.ratio import RatioMLP, RatioTwins, default_network
from polyscore.networks.streams import StreamNetwork, infer_kind
from polyscore.networks.timed import ModulatedMLP, SharedMLP, Stack, ToyDiscriminator

AV = {"video": (4, 3, 8, 8), "audio": (2, 64)}
ALL = {"video": (3, 2, 8, 8), "audio": (1, 64), "mel": (2, 6, 8), "image": (1, 8, 8), "vector": (5,)}
KINDS = {"mel": "spectrogram"}


def count(**options):
    with torch.device("meta"):
        return sum(p.numel() for p in StreamNetwork(**options).parameters())


def states(shapes, rows=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, *shape, generator=generator) for name, shape in shapes.items()}


def awake(network):
    """The same network with its zero-initialised layers made random."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            if float(p.abs().max()) == 0:
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return network.eval()


def test_toy_networks_have_the_papers_counts():
    assert sum(p.numel() for p in SharedMLP().parameters()) == 2_201_105
    assert sum(p.numel() for p in ToyDiscriminator().parameters()) == 171_377


@pytest.mark.parametrize(
    ("width", "blocks", "parameters"),
    [
        (32, 1, 401_825),
        (32, 2, 798_977),
        (32, 4, 1_593_281),
        (64, 2, 3_179_009),
        (256, 2, 50_661_377),
        (128, 1, 6_362_753),
        (128, 2, 12_682_241),
        (128, 3, 19_001_729),
        (128, 4, 25_321_217),
    ],
)
def test_in_domain_counts(width, blocks, parameters):
    shapes = {"video": (16, 3, 64, 64), "audio": (1, 25600)}
    assert count(shapes=shapes, width=width, blocks=blocks, max_dilation=10) == parameters


@pytest.mark.parametrize(
    ("audio", "text", "width", "fusion", "parameters"),
    [
        ((8, 50, 16), {"video": 768, "audio": 512}, 256, "mlp", 132_582_913),
        ((8, 50, 16), {"video": 768, "audio": 512}, 128, "mlp", 33_261_313),
        ((4, 25, 32), {"video": 1024, "audio": 768}, 128, "transformer", 38_972_161),
    ],
)
def test_out_of_domain_counts(audio, text, width, fusion, parameters):
    shapes = {"video": (16, 4, 32, 32), "audio": audio}
    assert count(shapes=shapes, kinds={"audio": "spectrogram"}, width=width, blocks=4, text=text, fusion=fusion) == parameters


def test_dilations_follow_the_code():
    with torch.device("meta"):
        stream = StreamNetwork({"audio": (1, 256)}, width=32, blocks=2, max_dilation=10).streams["audio"]
    assert [block.conv.space.dilation[0] for block in stream.blocks] == [2, 4, 8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize("fusion", ["mlp", "transformer", "aligned"])
@pytest.mark.parametrize("extractor", ["resblock", "vit"])
def test_two_derivatives_and_zero_start(fusion, extractor):
    torch.manual_seed(0)
    network = StreamNetwork(AV, width=32, blocks=1, fusion=fusion, fusion_depth=2, extractor=extractor)
    z, t = states(AV), {name: torch.tensor([0.1, 0.5, 0.9]) for name in AV}
    assert torch.equal(network(z, t), torch.zeros(3))
    awake(network)
    leaves = {name: value.requires_grad_(True) for name, value in z.items()}
    slopes = torch.autograd.grad(network(leaves, t).sum(), list(leaves.values()), create_graph=True)
    sum(s.square().sum() for s in slopes).backward()
    assert all(float(s.detach().abs().sum()) > 0 for s in slopes)
    assert float(network.head.weight.grad.abs().sum()) > 0


def test_second_derivative_is_right():
    torch.manual_seed(0)
    network = awake(StreamNetwork({"audio": (1, 16), "vector": (3,)}, width=32, blocks=1, fusion="transformer", fusion_depth=1)).double()
    z = {name: value.double() for name, value in states({"audio": (1, 16), "vector": (3,)}, 1).items()}
    t = dict.fromkeys(z, torch.tensor([0.3], dtype=torch.float64))

    def slope(audio):
        return torch.autograd.grad(network({**z, "audio": audio}, t).sum(), audio, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, z["audio"].requires_grad_(True), atol=1e-6, rtol=1e-4)


def test_every_kind_and_no_batch_mates():
    torch.manual_seed(0)
    network = awake(StreamNetwork(ALL, width=32, blocks=1, kinds=KINDS))
    z, t = states(ALL, 4), {name: torch.rand(4) for name in ALL}
    whole = network(z, t)
    alone = torch.cat([network({k: v[i : i + 1] for k, v in z.items()}, {k: v[i : i + 1] for k, v in t.items()}) for i in range(4)])
    assert whole.shape == (4,)
    assert torch.allclose(whole, alone, atol=1e-5)
    assert len(set(whole.tolist())) == 4


def test_conditions_enter_and_vanish():
    torch.manual_seed(0)
    network = awake(StreamNetwork(AV, width=32, blocks=1, text={"video": 5}, classes=3))
    z, t = states(AV), dict.fromkeys(AV, torch.full((3,), 0.4))
    none = network(z, t)
    assert torch.allclose(network(z, t, torch.full((3,), -1)), none)
    assert torch.allclose(network(z, t, {"video": torch.zeros(3, 5), "label": None}), none)
    assert not torch.allclose(network(z, t, torch.tensor([0, 1, 2])), none)
    assert not torch.allclose(network(z, t, {"video": torch.ones(3, 5)}), none)


def test_aligned_slots_and_limits():
    network = StreamNetwork({"video": (4, 1, 4, 4), "audio": (1, 256)}, width=32, blocks=1, fusion="aligned", fusion_depth=1)
    z = states({"video": (4, 1, 4, 4), "audio": (1, 256)}, 2)
    assert network(z, dict.fromkeys(z, torch.rand(2))).shape == (2,)
    with pytest.raises(PolyscoreError, match="130 slots of time: a transformer fusion has 128"):
        TransformerFusion(1, 8, 8, 1)([torch.zeros(1, 128, 8)], torch.zeros(1, 8))
    for wrong in ({"fusion": "sum"}, {"extractor": "lstm"}, {"kinds": {"audio": "music"}}):
        with pytest.raises(PolyscoreError, match="expected"):
            StreamNetwork(AV, width=32, **wrong)
    with pytest.raises(PolyscoreError, match="one to four"):
        infer_kind((1, 2, 3, 4, 5))


def test_tabulated_times_are_the_same():
    torch.manual_seed(0)
    network = ModulatedMLP(2, (8, 16), 16, steps=20).eval()
    x, t = torch.randn(64, 2), torch.randint(1, 21, (64,)) / 20
    plain = network(x, t)
    one = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(64)])
    network.tabulate()
    assert torch.allclose(network(x, t), plain, atol=1e-6)
    assert torch.allclose(one, plain, atol=1e-6)
    between = network(x, t - 0.013)
    network.train().eval()
    assert torch.allclose(network(x, t - 0.013), between, atol=1e-6)


def test_default_network_follows_the_ranks():
    assert isinstance(default_network({"a": (4,), "b": (3,)}), RatioMLP)
    network = default_network({"a": (4,), "b": (1, 8, 8)})
    assert isinstance(network, StreamNetwork)
    assert network.kinds == {"a": "vector", "b": "image"}
    labelled = awake(RatioMLP({"a": (4,)}, classes=2))
    z, t = states({"a": (4,)}), {"a": torch.rand(3)}
    assert not torch.allclose(labelled(z, t), labelled(z, t, torch.tensor([0, 1, 1])))


def test_a_stack_is_its_members_side_by_side():
    torch.manual_seed(0)
    members = [ToyDiscriminator(channels=(8, 8), waves=(1.0, 2.0)) for _ in range(3)]
    for member in members:
        torch.nn.init.normal_(member.mlp.head.weight)
    stack = Stack(members)
    z = {name: torch.randn(12, 1, requires_grad=True) for name in ("x", "y")}
    t = (torch.arange(12) % 4 % 2 + 1) / 500
    together = stack(z, dict.fromkeys(z, t))
    parts = [m({k: v[4 * i : 4 * i + 4] for k, v in z.items()}, dict.fromkeys(z, t[:4])) for i, m in enumerate(members)]
    assert torch.allclose(together, torch.cat(parts), atol=1e-5)
    one, other = (torch.autograd.grad(y.sum(), z["x"], create_graph=True)[0] for y in (together, torch.cat(parts)))
    assert torch.allclose(one, other, atol=1e-5)
    one.square().sum().backward()
    assert stack.stacked["mlp-stem-weight"].grad.shape[0] == 3
    assert torch.equal(stack.member(2).mlp.head.weight, members[2].mlp.head.weight)
    assert len(list(stack.parameters())) == len(list(members[0].parameters()))


def test_equal_times_are_embedded_once_with_the_same_result():
    torch.manual_seed(0)
    network = RatioMLP({"a": (3,), "b": (2,)}, width=16, depth=1, hidden=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z = {"a": torch.randn(4, 3), "b": torch.randn(4, 2)}
    t = {"a": torch.full((4,), 0.3), "b": torch.full((4,), 0.3)}
    mixed = {name: torch.cat([value[:3], torch.tensor([0.9])]) for name, value in t.items()}
    assert torch.allclose(network(z, t)[:3], network(z, mixed)[:3], atol=1e-5)


def test_a_scalar_network_is_read_from_a_table():
    torch.manual_seed(0)
    network = SharedMLP(channels=(8, 8), embed=8, steps=4).eval()
    z = {"x": torch.linspace(-5, 5, 40)[:, None], "y": torch.randn(40, 1)}
    t = dict.fromkeys(z, torch.full((40,), 0.5))
    before = network(z, t)
    assert network.tabulate(2048).shape == (5, 2048)
    assert all(torch.allclose(network(z, t)[name], value, atol=1e-3) for name, value in before.items())
    far = {"x": z["x"] * 3, "y": z["y"]}
    assert torch.allclose(network(far, t)["x"], network.mlp(far["x"], t["x"]), atol=1e-5)
    assert network.train().values is None


def test_twins_start_at_zero_and_meet_only_in_products():
    shapes = {"a": (3,), "b": (2,), "c": (4,)}
    network = RatioTwins(shapes, width=16, depth=1, hidden=16, features=8)
    z = {name: torch.randn(5, *shape) for name, shape in shapes.items()}
    t = {name: torch.linspace(0.1, 0.9, 5) for name in shapes}
    assert torch.equal(network(z, t), torch.zeros(5))
    awake(network)
    order = torch.tensor([2, 0, 4, 1, 3])
    other = network({**z, "b": z["b"][order]}, {**t, "b": t["b"][order]})
    features = network.features(z, t)
    assert torch.allclose(network.combine({**features, "b": features["b"][order]}, 5)[0], other, atol=1e-5)
    turned = network.combine({name: e[:4] for name, e in features.items()}, groups=2, turns=2)
    moved = {"a": torch.arange(4), "b": torch.tensor([2, 3, 0, 1]), "c": torch.arange(4)}  # c goes on by two of its two rows
    anew = network({n: z[n][rows] for n, rows in moved.items()}, {n: t[n][rows] for n, rows in moved.items()})
    assert torch.allclose(turned, torch.stack([network(z, t)[:4], anew]), atol=1e-5)
    one = dict.fromkeys(shapes, torch.full((5,), 0.3))
    assert torch.allclose(network(z, one)[:1], network({n: v[:1] for n, v in z.items()}, {n: v[:1] for n, v in one.items()}), atol=1e-5)


def test_one_time_for_all_rows_is_a_faster_way_to_the_same():
    """A row of embedding for all gives what that row repeated gives, gradients with respect to inputs and weights too."""
    torch.manual_seed(0)
    block = _Block(6, 10, 4, 0.0)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    embedding, found = torch.randn(1, 4), []
    for told in (embedding, embedding.expand(5, -1)):
        x = torch.linspace(-1, 2, 30).view(5, 6).requires_grad_()
        y = block(x, told)
        found.append((y, *torch.autograd.grad(y.square().sum(), [x, *block.parameters()])))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("fusion", ["mlp", "transformer", "aligned"])
def test_three_modalities_are_fused(fusion):
    shapes = {"video": (4, 1, 4, 4), "audio": (1, 64), "mel": (1, 6, 8)}
    torch.manual_seed(0)
    network = awake(StreamNetwork(shapes, width=32, blocks=1, kinds=KINDS, fusion=fusion, fusion_depth=1))
    z = {name: value.requires_grad_() for name, value in states(shapes).items()}
    slopes = torch.autograd.grad(network(z, dict.fromkeys(shapes, torch.rand(3))).sum(), list(z.values()))
    assert all(float(s.abs().sum()) > 0 for s in slopes)


def test_aligned_tokens_are_shared_out():
    for streams, widths in ((2, [128, 128]), (3, [86, 85, 85]), (5, [52, 51, 51, 51, 51])):
        assert [layer.out_features for layer in AlignedFusion(streams, 8, 8, 1).inputs] == widths
    with pytest.raises(PolyscoreError, match="257 streams: expected at most 256"):
        AlignedFusion(257, 8, 8, 1)


def test_vit_sees_every_entry_and_lets_vectors_in():
    """Axes that patches don't divide are filled up: the gradient reaches the last row, column and frame."""
    shapes = {"video": (5, 2, 9, 7), "audio": (1, 33), "mel": (2, 5, 6), "image": (1, 6, 10), "vector": (5,)}
    torch.manual_seed(0)
    vit = {"width": 32, "depth": 1, "side": 4, "step": 2}
    network = awake(StreamNetwork(shapes, width=32, blocks=1, kinds=KINDS, extractor="vit", vit=vit))
    assert network.streams["video"].grid == [3, 3, 2]
    z = {name: value.requires_grad_() for name, value in states(shapes).items()}
    slopes = torch.autograd.grad(network(z, dict.fromkeys(shapes, torch.rand(3))).sum(), list(z.values()))
    assert all(float(slope.abs().min()) > 0 for slope in slopes)
    wide = StreamNetwork({"image": (1, 8, 8)}, width=32, extractor="vit").streams["image"]
    assert (wide.embed.out_features, len(wide.layers), wide.patch) == (256, 4, [4, 4])
    for wrong, problem in (({"heads": 2}, "'heads'"), ({"width": 6}, "multiple of 4"), ({"step": 0}, "1 or more")):
        with pytest.raises(PolyscoreError, match=problem):
            StreamNetwork({"audio": (1, 32)}, width=32, extractor="vit", vit=wrong)
    with pytest.raises(PolyscoreError, match="without extractor 'vit'"):
        StreamNetwork({"audio": (1, 32)}, width=32, vit=vit)
