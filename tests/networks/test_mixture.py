"""Mixtures of Gaussians inside a joint denoiser: exact, safe at both ends of time, saved with it."""

from __future__ import annotations

import pytest
import torch

from polyscore.checkpoint import load_module, save_module
from polyscore.denoisers import Denoiser
from polyscore.errors import PolyscoreError
from polyscore.networks.mixture import MixturePrior, denoise_together
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import MixtureDenoiser
from polyscore.paths import VPSDE, RectifiedFlow

PATHS = [VPSDE(), RectifiedFlow()]


def spread_points(n: int = 3000) -> torch.Tensor:
    """Three blobs of different shapes."""
    g = torch.Generator().manual_seed(0)
    centres = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.5, 0.0], [-1.0, -1.5, 0.5]])
    shapes = torch.tensor([[0.1, 0.5, 0.2], [0.4, 0.1, 0.3], [0.2, 0.2, 0.6]])
    which = torch.randint(3, (n,), generator=g)
    return centres[which] + shapes[which] * torch.randn(n, 3, generator=g)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: type(p).__name__)
def test_equals_the_oracle_of_the_mixture_it_found(path):
    x = spread_points()
    prior = MixturePrior(path, 3, 3).fit(x)
    cov = torch.einsum("kij,kj,klj->kil", prior.axes, prior.spread, prior.axes)
    oracle = MixtureDenoiser(prior.mean, cov, {"x": path}, prior.log_weight.exp(), {"x": 3})
    t = torch.linspace(0.02, 0.98, 50)
    z = path.corrupt(x[:50], t, torch.randn(50, 3))
    v, share = prior(z, t)
    A, S = (part[:, None] for part in path.coefficients(t))
    said = oracle({"x": z.double()}, {"x": t.double()})["x"]
    assert torch.allclose(v, (A * said.eps - S * said.x0).float(), atol=2e-3)
    assert torch.allclose(share.sum(1), torch.ones(50), atol=1e-5)


def test_finds_the_blobs_and_is_repeatable():
    prior, again = (MixturePrior(VPSDE(), 3, 3).fit(spread_points(), seed=4) for _ in range(2))
    assert torch.equal(prior.mean, again.mean)
    assert sorted(round(v, 1) for v in prior.mean[:, 0].tolist()) == [-1.0, -1.0, 2.0]
    assert torch.allclose(prior.log_weight.exp(), torch.full((3,), 1 / 3), atol=0.05)


def test_modalities_that_share_a_group_are_denoised_as_their_exact_joint_law():
    """Two modalities, three groups: equal to the oracle whose components are all pairs inside a group, at times of their own."""
    g = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (4000,), generator=g)
    centres = torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]])[labels]
    x = {name: centres.roll(k, 1) + 0.6 * torch.randn(4000, 2, generator=g) for k, name in enumerate("xy")}
    made = JointDenoiser({"x": (2,), "y": (2,)}, width=8, depth=1, hidden=8, components={"x": 6, "y": 3}, groups=3)
    made.fit_priors(x, dict.fromkeys("xy", labels))
    px, py = (made.network.priors[name] for name in "xy")
    means, covs, weights = [], [], []
    for group in range(3):
        for i in (2 * group, 2 * group + 1):
            means.append(torch.cat([px.mean[i], py.mean[group]]))
            covs.append(torch.block_diag(*(p.axes[k] @ p.spread[k].diag() @ p.axes[k].T for p, k in ((px, i), (py, group)))))
            weights.append(float(px.log_weight[i].exp()))
    paths = dict.fromkeys("xy", VPSDE())
    oracle = MixtureDenoiser(torch.stack(means), torch.stack(covs), paths, torch.tensor(weights), {"x": 2, "y": 2})
    z, t = {name: torch.randn(9, 2) for name in "xy"}, {"x": torch.linspace(0.1, 0.9, 9), "y": torch.linspace(0.7, 0.2, 9)}
    said, exact = made(z, t), oracle({n: v.double() for n, v in z.items()}, {n: v.double() for n, v in t.items()})
    for name in "xy":
        assert torch.allclose(said[name].eps, exact[name].eps.float(), atol=5e-3)
    shares = denoise_together({"x": px, "y": py}, z, t)["x"][1]
    assert not torch.allclose(shares, px(z["x"], t["x"])[1], atol=0.05)  # y tells x of its group
    assert torch.allclose(made(z, {**t, "y": torch.ones(9)})["x"].v, px(z["x"], t["x"])[0], atol=1e-4)  # not at t = 1


def test_before_it_is_fitted_it_says_nothing_and_both_ends_of_time_are_finite():
    blank = MixturePrior(VPSDE(), 4, 5)
    z = torch.randn(6, 4)
    for t in (0.0, 0.5, 1.0):
        v, share = blank(z, torch.full((6,), t))
        assert float(v.abs().max()) < 1e-5
        assert torch.allclose(share, torch.full((6, 5), 0.2))
    fitted = MixturePrior(VPSDE(), 3, 3).fit(spread_points())
    for t in (0.0, 1.0):
        assert all(bool(part.isfinite().all()) for part in fitted(10 * torch.randn(6, 3), torch.full((6,), t)))


def test_a_joint_denoiser_starts_as_its_mixtures_and_keeps_them(tmp_path):
    x = spread_points()
    made = JointDenoiser({"x": (3,), "y": (2,)}, width=16, depth=1, hidden=16, components={"x": 3})
    made.fit_priors({"x": x, "y": x[:, :2]})
    z, t = {"x": torch.randn(7, 3), "y": torch.randn(7, 2)}, {"x": 0.3, "y": 0.6}
    alone = made.network.priors["x"](z["x"], torch.full((7,), 0.3))[0]
    said = made(z, t)
    assert torch.allclose(said["x"].v, alone, atol=1e-5)
    assert torch.allclose(said["y"].v, torch.zeros(7, 2), atol=1e-5)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_module(made, tmp_path / "joint")
    again = load_module(tmp_path / "joint", Denoiser)
    assert torch.allclose(again(z, t)["x"].v, made(z, t)["x"].v)


def test_wrong_numbers_end_in_one_line():
    with pytest.raises(PolyscoreError, match="0 components in 1 groups, expected the same number"):
        MixturePrior(VPSDE(), 3, 0)
    with pytest.raises(PolyscoreError, match=r"\(2, 3\) vectors of group 0, expected \(at least 5, 3\)"):
        MixturePrior(VPSDE(), 3, 5).fit(torch.zeros(2, 3))
    with pytest.raises(PolyscoreError, match="2 groups, expected a label for every vector"):
        MixturePrior(VPSDE(), 3, 4, 2).fit(torch.zeros(9, 3))
    with pytest.raises(PolyscoreError, match="5 components in 2 groups"):
        MixturePrior(VPSDE(), 3, 5, 2)
    with pytest.raises(PolyscoreError, match="'word' is not a Gaussian modality"):
        JointDenoiser({"x": (3,), "word": (1,)}, vocabularies={"word": 10}, components={"word": 4})
