"""Joint mixtures of Gaussians: exact at every combination of times, safe at both ends, saved, averaged with other denoisers."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Averaged, Denoiser
from polyscore.errors import PolyscoreError
from polyscore.networks.mixture import JointMixture
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import MixtureDenoiser, TokenTableDenoiser
from polyscore.paths import VPSDE, RectifiedFlow
from polyscore.sampling import sample
from polyscore.tokens import Absorbing

PATHS = [VPSDE(), RectifiedFlow()]


def spread_points(n: int = 3000) -> torch.Tensor:
    """Three blobs of different shapes."""
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.5, 0.0], [-1.0, -1.5, 0.5]])
    shapes = torch.tensor([[0.1, 0.5, 0.2], [0.4, 0.1, 0.3], [0.2, 0.2, 0.6]])
    which = torch.randint(3, (n,), generator=g)
    return centres[which] + shapes[which] * torch.randn(n, 3, generator=g)


def blobs(components: int = 3, **options) -> JointMixture:
    return JointMixture({"x": (3,)}, {"x": components}, **options)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_equals_the_oracle_of_the_mixture_it_found(path):
    x = spread_points()
    made = blobs(path=path).fit({"x": x})
    prior = made.priors["x"]
    cov = torch.einsum("kij,kj,klj->kil", prior.axes, prior.spread, prior.axes)
    oracle = MixtureDenoiser(prior.mean, cov, {"x": path}, prior.log_weight.exp(), {"x": 3})
    t = torch.linspace(0.02, 0.98, 50)
    z = path.corrupt(x[:50], t, torch.randn(50, 3))
    said, exact = made({"x": z}, {"x": t})["x"], oracle({"x": z.double()}, {"x": t.double()})["x"]
    assert torch.allclose(said.x0, exact.x0.float(), atol=5e-3)
    assert torch.allclose(said.eps, exact.eps.float(), atol=5e-3)


def test_finds_the_blobs_and_is_repeatable():
    prior, again = (blobs().fit({"x": spread_points()}, seed=4).priors["x"] for _ in range(2))
    assert torch.equal(prior.mean, again.mean)
    assert sorted(round(v, 1) for v in prior.mean[:, 0].tolist()) == [-1.0, -1.0, 2.0]
    assert torch.allclose(prior.log_weight.exp(), torch.full((3,), 1 / 3), atol=0.05)


def shared() -> tuple[JointMixture, MixtureDenoiser]:
    """Two modalities with three groups, and the oracle whose components are all pairs inside a group."""
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (4000,), generator=g)
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])[labels]
    x = {name: centres.roll(k, 1) + 0.6 * torch.randn(4000, 2, generator=g) for k, name in enumerate("xy")}
    made = JointMixture({"x": (2,), "y": (2,)}, {"x": 6, "y": 3}, groups=3).fit(x, dict.fromkeys("xy", labels))
    px, py = (made.priors[name] for name in "xy")
    means, covs, weights = [], [], []
    for group in range(3):
        for i in (2 * group, 2 * group + 1):
            means.append(torch.cat([px.mean[i], py.mean[group]]))
            covs.append(torch.block_diag(*(p.axes[k] @ p.spread[k].diag() @ p.axes[k].T for p, k in ((px, i), (py, group)))))
            weights.append(float(px.log_weight[i].exp()))
    paths = dict.fromkeys("xy", VPSDE())
    return made, MixtureDenoiser(torch.stack(means), torch.stack(covs), paths, torch.tensor(weights), {"x": 2, "y": 2})


def test_modalities_that_share_a_group_are_denoised_as_their_exact_joint_law():
    made, oracle = shared()
    z, t = {name: torch.randn(9, 2) for name in "xy"}, {"x": torch.linspace(0.1, 0.9, 9), "y": torch.linspace(0.7, 0.2, 9)}
    said, exact = made(z, t), oracle({n: v.double() for n, v in z.items()}, {n: v.double() for n, v in t.items()})
    for name in "xy":
        assert torch.allclose(said[name].eps, exact[name].eps.float(), atol=5e-3)
    gone = {**t, "y": torch.ones(9)}
    other = made({**z, "y": 3 * torch.randn(9, 2)}, gone)
    assert torch.equal(made(z, gone)["x"].x0, other["x"].x0)  # a modality at t = 1 is not looked at
    assert not torch.allclose(said["x"].x0, other["x"].x0, atol=0.05)


def test_joint_samples_agree_on_the_group():
    made, _ = shared()
    found = sample(made, 400, steps=12)
    nearest = [torch.cdist(found[name], made.priors[name].mean).argmin(1) // each for name, each in (("x", 2), ("y", 1))]
    assert float((nearest[0] == nearest[1]).float().mean()) > 0.85


def test_before_it_is_fitted_it_is_the_standard_normal_and_both_ends_of_time_are_finite():
    z = {"x": torch.randn(6, 3)}
    for t in (0.0, 0.5, 1.0):
        assert float(blobs()(z, {"x": t})["x"].v.abs().max()) < 1e-5
    fitted = blobs().fit({"x": spread_points()})
    for t in (0.0, 1.0):
        assert bool(fitted({"x": 10 * z["x"]}, {"x": t})["x"].v.isfinite().all())


def test_an_average_is_the_weighted_mean_and_is_saved(tmp_path):
    made, _ = shared()
    network = JointDenoiser({"x": (2,), "y": (2,)}, width=16, depth=1, hidden=16)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    both = Averaged(network, made, weights={"x": [0.0, 1.0], "y": [0.75, 0.25]})
    z, t = {name: torch.randn(5, 2) for name in "xy"}, {"x": 0.3, "y": 0.6}
    said, one, other = both(z, t), network(z, t), made(z, t)
    assert torch.allclose(said["x"].x0, other["x"].x0, atol=1e-5)
    assert torch.allclose(said["y"].eps, 0.75 * one["y"].eps + 0.25 * other["y"].eps, atol=1e-5)
    save_module(both, tmp_path / "both")
    assert torch.allclose(load_module(tmp_path / "both", Denoiser)(z, t)["y"].v, said["y"].v, atol=1e-6)
    assert torch.allclose(Averaged(network, made)(z, t)["x"].x0, (one["x"].x0 + other["x"].x0) / 2, atol=1e-5)


def test_wrong_numbers_end_in_one_line():
    with pytest.raises(PolyscoreError, match="0 components in 1 groups, expected the same number"):
        blobs(0)
    with pytest.raises(PolyscoreError, match="5 components in 2 groups"):
        blobs(5, groups=2)
    with pytest.raises(PolyscoreError, match=r"\(2, 3\) vectors of group 0, expected \(at least 5, 3\)"):
        blobs(5).fit({"x": torch.zeros(2, 3)})
    with pytest.raises(PolyscoreError, match="2 groups, expected a label for every vector"):
        blobs(4, groups=2).fit({"x": torch.zeros(9, 3)})
    with pytest.raises(PolyscoreError, match=r"components of \['x'\], vocabularies of \[\]; expected each of \['x', 'y'\]"):
        JointMixture({"x": (3,), "y": (2,)}, {"x": 4})
    with pytest.raises(PolyscoreError, match="components of one at least"):
        JointMixture({"w": (3,)}, {}, vocabularies={"w": 4})
    worded = JointMixture({"x": (3,), "w": (2,)}, {"x": 2}, 2, vocabularies={"w": 4})
    with pytest.raises(PolyscoreError, match="2 groups, expected a label for every sequence"):
        worded._table("w").fit(torch.zeros(3, 2).long())
    with pytest.raises(PolyscoreError, match="no sequence of group 1"):
        worded._table("w").fit(torch.zeros(3, 2).long(), torch.zeros(3))
    made, _ = shared()
    with pytest.raises(PolyscoreError, match="Averaged: weights"):
        Averaged(made, made, weights={"x": [0.5, 0.6]})
    with pytest.raises(PolyscoreError, match="Averaged: a part on"):
        Averaged(made, blobs())


WORDS = torch.tensor([[0, 0], [0, 1], [1, 2], [2, 2]])
MEANS = torch.tensor([[-1.0, 0.0], [-0.6, 0.3], [1.0, 0.5], [0.9, -0.8]])
WEIGHTS = torch.tensor([0.4, 0.2, 0.1, 0.3])


def named() -> tuple[JointMixture, TokenTableDenoiser]:
    """Points around four means, each with a word, and the oracle of that law."""
    g = torch.Generator().manual_seed(2)
    counts = (2000 * WEIGHTS).long()
    labels = torch.repeat_interleave(torch.arange(4), counts)
    points = torch.randn(len(labels), 2, generator=g)
    for k in range(4):  # exactly the moments of the law
        own = points[labels == k] - points[labels == k].mean(0)
        points[labels == k] = MEANS[k] + 0.3 * own @ torch.linalg.inv(torch.linalg.cholesky(own.T.cov(correction=0))).T
    made = JointMixture({"point": (2,), "word": (2,)}, {"point": 4}, 4, vocabularies={"word": 3})
    made.fit({"point": points, "word": WORDS}, {"point": labels, "word": torch.arange(4)})
    return made, TokenTableDenoiser({"point": VPSDE(), "word": Absorbing(3, "cosine")}, {"word": WORDS}, WEIGHTS, {"point": MEANS}, 0.3)


def test_tokens_beside_vectors_are_the_exact_joint_law():
    made, oracle = named()
    near = MEANS[[0, 1, 1, 3, 2, 3, 2, 1, 2]] + 0.2 * torch.randn(9, 2, generator=torch.Generator().manual_seed(3))
    z = {"point": near, "word": torch.tensor([[0, 0], [0, 1], [0, 3], [3, 2], [3, 3], [2, 2], [1, 3], [3, 1], [1, 2]])}
    for t in ({"point": 0.4, "word": 0.5}, {"point": 1.0, "word": 0.5}, {"point": 0.0, "word": 0.9}):
        said, exact = made(z, t), oracle(z, t)
        assert torch.allclose(said["point"].x0, exact["point"].x0.float(), atol=0.02)
        hidden = z["word"] == 3
        assert torch.allclose(said["word"].log_probs.exp()[hidden], exact["word"].log_probs.exp()[hidden].float(), atol=0.02)


def test_words_and_points_are_drawn_from_each_other():
    made, oracle = named()

    def apart(words: torch.Tensor, exact: torch.Tensor) -> float:
        same = (words[:, None] == WORDS).all(-1).double().mean(0)
        return 0.5 * float((same - exact).abs().sum() + 1 - same.sum())

    both = sample(made, 12_000, steps=40, token_solver="random", seed=1)
    assert apart(both["word"], WEIGHTS) < 0.02
    for word, centre in zip(WORDS, MEANS, strict=True):
        here = both["point"][(both["word"] == word).all(1)]
        assert torch.allclose(here.mean(0), centre, atol=0.06)
        drawn = sample(made, 3000, given={"word": word[None]}, steps=20, seed=2)["point"]
        assert torch.allclose(drawn.mean(0), centre, atol=0.03)
    point = torch.tensor([[-0.75, 0.2]])
    exact = oracle.log_likelihood({"point": point, "word": torch.full((1, 2), 3)}, {"point": 0.0, "word": 1.0}).softmax(1)[0]
    assert apart(sample(made, 12_000, given={"point": point}, steps=4, token_solver="random", seed=3)["word"], exact) < 0.02
