"""Joint mixtures of Gaussians: exact at every combination of times, safe at both ends, saved, averaged with other denoisers."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Averaged, Denoiser
from polyscore.errors import PolyscoreError
from polyscore.networks.mixture import JointMixture
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import MixtureDenoiser
from polyscore.paths import VPSDE, RectifiedFlow
from polyscore.sampling import sample

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
    with pytest.raises(PolyscoreError, match="'y' differs"):
        JointMixture({"x": (3,), "y": (2,)}, {"x": 4})
    made, _ = shared()
    with pytest.raises(PolyscoreError, match="Averaged: weights"):
        Averaged(made, made, weights={"x": [0.5, 0.6]})
    with pytest.raises(PolyscoreError, match="Averaged: a part on"):
        Averaged(made, blobs())
