"""Guidance by a ratio, on closed forms: what it adds, what it costs, and when."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from polyscore.denoisers import Expert, Independent, inside
from polyscore.errors import PolyscoreError
from polyscore.guided import Guided
from polyscore.networks.mlp import JointDenoiser
from polyscore.oracles import ExactRatio, GaussianDenoiser, MixtureDenoiser
from polyscore.paths import VE, VPSDE, Path, RectifiedFlow
from polyscore.ratios.base import FunctionRatio, SumRatio
from polyscore.ratios.contrastive import Contextual, ContrastiveEncoder
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import sample

PATHS: dict[str, Path] = {"x": VPSDE(), "y": RectifiedFlow()}
COV = [[1.0, 0.8], [0.8, 1.0]]


def joint():
    return GaussianDenoiser([0.3, -0.2], COV, PATHS)


def base(law=None):
    law = law or joint()
    return Independent(*(law.marginal([name]) for name in law.paths))


def states(n=6):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(n, 1, dtype=torch.float64, generator=generator) for name in PATHS}


class Counting(FunctionRatio):
    """r = sum of -|z|^2 / 2 over modalities; counts forward and backward passes."""

    def __init__(self, paths=None) -> None:
        super().__init__(self.value, paths)
        self.forwards = self.backwards = 0

    def value(self, z, t, condition):
        self.forwards += 1
        total = sum(-0.5 * v.square().sum(1) for v in z.values())
        if total.requires_grad:
            total.register_hook(self.seen)
        return total

    def seen(self, gradient) -> None:
        self.backwards += 1


T = {"x": 0.4, "y": 0.6}


def test_exact_ratio_turns_the_marginals_into_the_joint() -> None:
    """p_x p_y exp(r*) = q at every pair of noise levels."""
    law, z = joint(), states()
    guided = Guided(base(), ExactRatio.information(law))
    for t in ({"x": 0.4, "y": 0.6}, {"x": 0.05, "y": 0.9}, {"x": torch.linspace(0.1, 0.9, 6).double(), "y": 0.3}):
        found, wanted = guided(z, t), law(z, t)
        for name in PATHS:
            torch.testing.assert_close(found[name].eps, wanted[name].eps, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(found[name].x0, wanted[name].x0, atol=1e-8, rtol=1e-8)


def test_an_observed_partner_is_conditioned_on() -> None:
    law, z = joint(), states()
    found = Guided(base(), ExactRatio.information(law))(z, {"x": 0.5, "y": 0.0})["x"]
    wanted = law(z, {"x": 0.5, "y": 0.0})["x"]
    torch.testing.assert_close(found.x0, wanted.x0, atol=1e-9, rtol=1e-9)


def test_sampling_the_guided_base_gives_the_joint() -> None:
    """Sampling p_x p_y exp(r) has the joint's correlation."""
    found = sample(Guided(base(), ExactRatio.information(joint())), 3000, steps=30, dtype=torch.float64)
    both = torch.cat([found["x"], found["y"]], 1)
    assert float(torch.corrcoef(both.T)[0, 1]) == pytest.approx(0.8, abs=0.03)
    assert both.mean(0).tolist() == pytest.approx([0.3, -0.2], abs=0.06)


def test_one_backward_pass_serves_all_modalities() -> None:
    ratio = Counting()
    found = Guided(joint(), ratio)(states(), T)
    assert (ratio.forwards, ratio.backwards) == (1, 1)
    for name in PATHS:
        S = PATHS[name].coefficients(T[name])[1]
        torch.testing.assert_close(found[name].eps, joint()(states(), T)[name].eps + S * states()[name])


def test_scale_0_is_the_base_bit_for_bit_and_free() -> None:
    ratio = Counting()
    for scale in (0.0, {"x": 0.0, "y": 0.0}, {}):
        guided = Guided(joint(), ratio, scale)
        found = guided(states(), T)
        assert all(torch.equal(found[n].eps, joint()(states(), T)[n].eps) for n in PATHS)
        drawn, plain = sample(guided, 4, steps=3, solver="ddpm"), sample(joint(), 4, steps=3, solver="ddpm")
        assert all(torch.equal(drawn[n], plain[n]) for n in PATHS)
    assert ratio.forwards == 0


def test_scale_per_modality() -> None:
    z = states()
    found, plain = Guided(joint(), Counting(), {"x": 3.0})(z, T), joint()(z, T)
    torch.testing.assert_close(found["x"].score, plain["x"].score - 3 * z["x"])
    assert torch.equal(found["y"].eps, plain["y"].eps)
    both = Guided(joint(), Counting(), {"x": 3.0, "y": -1.0})(z, T)
    torch.testing.assert_close(both["y"].score, plain["y"].score + z["y"])


def test_guidance_acts_in_its_window_only() -> None:
    ratio = Counting()
    guided = Guided(joint(), ratio, window=(0.3, 0.7))
    for t in (0.2, 0.8):
        found = guided(states(), {"x": t, "y": t})
        assert torch.equal(found["x"].eps, joint()(states(), {"x": t, "y": t})["x"].eps)
    assert ratio.forwards == 0
    guided(states(), {"x": 0.5, "y": 0.0})
    assert ratio.forwards == 1
    guided(states(), {"x": 0.75, "y": 0.5})
    assert ratio.forwards == 1
    sample(Guided(joint(), ratio, window=(0.0, 0.5)), 2, steps=10)
    assert ratio.forwards == 1 + 5


def test_the_window_is_per_sample() -> None:
    """A row's guidance does not depend on its batch mates' times."""
    z, t = states(), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.4], dtype=torch.float64)
    guided = Guided(joint(), Counting(), window=(0.3, 0.7))
    together = guided(z, {"x": t, "y": t})
    for i in range(6):
        alone = guided({k: v[i : i + 1] for k, v in z.items()}, {"x": float(t[i]), "y": float(t[i])})
        torch.testing.assert_close(together["x"].eps[i : i + 1], alone["x"].eps, atol=1e-12, rtol=1e-12)


def test_inside() -> None:
    assert inside((0.3, 0.7), [0.1, 0.5]) is True
    assert inside((0.3, 0.7), [0.1, torch.tensor(0.2)]) is False
    assert inside((0.3, 0.7), []) is False
    assert inside((0.3, 0.7), [0.5, torch.tensor([0.1, 0.8])]).tolist() == [True, False]


def test_every_k_th_step_asks_the_ratio() -> None:
    ratio = Counting()
    sample(Guided(joint(), ratio, every=4), 2, steps=10)
    assert ratio.forwards == 3
    guided = Guided(joint(), ratio, every=4)
    guided(states(), T), guided(states(), T)
    assert ratio.forwards == 5  # outside a run every call asks


def test_every_reuses_the_last_gradient() -> None:
    linear = FunctionRatio(lambda z, t, c: z["x"].sum(1) - 2 * z["y"].sum(1))
    often, seldom = (sample(Guided(joint(), linear, every=k), 3, steps=6, dtype=torch.float64) for k in (1, 3))
    torch.testing.assert_close(often["x"], seldom["x"])


def test_the_ratio_gets_its_own_condition_or_the_denoisers() -> None:
    seen = []
    ratio = FunctionRatio(lambda z, t, c: (seen.append(c), z["x"].sum(1))[1])
    Guided(joint(), ratio)(states(), T, "given")
    Guided(joint(), ratio, condition="own")(states(), T, "given")
    assert seen == ["given", "own"]


def test_the_denoiser_is_never_differentiated_and_states_stay_as_they_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1).double()

        def forward(self, z, t, condition=None):
            assert not any(v.requires_grad for v in z.values())
            return {name: self.layer(v) for name, v in z.items()}

    model, z = Expert(Net(), PATHS, {"x": (1,), "y": (1,)}), states()
    with torch.no_grad():
        found = Guided(model, Counting())(z, T)
    assert not any(p.eps.requires_grad for p in found.values())
    assert all(v.grad is None for v in (*z.values(), *model.parameters()))
    assert not any(v.requires_grad for v in z.values())


def test_a_ratio_that_ignores_a_modality_leaves_it_alone() -> None:
    z = states()
    found = Guided(joint(), FunctionRatio(lambda z, t, c: z["x"].sum(1)))(z, T)
    torch.testing.assert_close(found["y"].eps, joint()(z, T)["y"].eps)
    constant = FunctionRatio(lambda z, t, c: torch.zeros(len(z["x"]), dtype=torch.float64))
    torch.testing.assert_close(Guided(joint(), constant)(z, T)["x"].eps, joint()(z, T)["x"].eps)


def test_a_sum_of_ratios() -> None:
    z, parts = states(), [Counting(), FunctionRatio(lambda z, t, c: z["x"].sum(1))]
    total = SumRatio(parts, [2.0, -1.0])
    torch.testing.assert_close(total(z, T), 2 * parts[0](z, T) - parts[1](z, T))
    found = total.gradient(z, T)
    torch.testing.assert_close(found["x"], -2 * z["x"] - 1)
    torch.testing.assert_close(found["y"], -2 * z["y"])
    torch.testing.assert_close(SumRatio(parts)(z, T), parts[0](z, T) + parts[1](z, T))


def test_a_ratio_must_be_used_with_the_pairing_it_was_trained_with() -> None:
    trained = Counting({"x": VPSDE(), "y": RectifiedFlow()})
    Guided(joint(), trained)
    with pytest.raises(PolyscoreError, match=r"modality 'x' was trained on VPSDE.*found VE.*paired as in training"):
        Guided(GaussianDenoiser([0.0, 0.0], COV, {"x": VE(), "y": RectifiedFlow()}), trained)
    with pytest.raises(PolyscoreError, match="trained on modality 'y', expected it among"):
        Guided(MixtureDenoiser([[0.0]], 1.0, {"x": VPSDE()}), SumRatio([trained]))


@pytest.mark.parametrize(
    ("options", "message"), [({"scale": {"z": 1.0}}, "scale for modality 'z'"), ({"every": 0}, "every is 0, expected at least 1")]
)
def test_what_is_refused(options, message) -> None:
    with pytest.raises(PolyscoreError, match=message):
        Guided(joint(), Counting(), **options)


def test_all_kinds_of_guidance_compose() -> None:
    """A discriminator on top of energies on top of subset guidance of a score that is told what is observed: each score is the sum of the
    parts, score_told + w (score_told - score_alone) + g grad(-E) + d grad h, on closed forms."""
    torch.manual_seed(0)
    shapes, path = {"x": (1,), "y": (1,), "c": (1,)}, VPSDE()
    told = Contextual(JointDenoiser(shapes, width=8, depth=1, hidden=8, embed=8, context=4), ContrastiveEncoder(shapes, 4, 8)).eval()
    alone = Independent(*(GaussianDenoiser([m], 1.0, {name: path}) for m, name in ((0.3, "x"), (-0.2, "y"), (0.1, "c"))))
    subset = SubsetGuided(told, 1.5, marginals=alone)
    energy = FunctionRatio(lambda z, t, c: -((z["x"] - z["y"]) ** 2).sum(1) - (z["y"] * z["c"]).sum(1))
    real = FunctionRatio(lambda z, t, c: (0.5 * z["x"].sin() + z["x"] * z["y"] * z["c"]).sum(1))
    guided = Guided(Guided(subset, energy, scale=2.0), real, scale=0.7)
    z = {name: torch.randn(5, 1) for name in shapes}
    x, y, c = z["x"], z["y"], z["c"]
    t = {"x": 0.4, "y": 0.4, "c": 0.0}
    said, own, found = told(z, t), alone(z, t), guided(z, t)
    pull = {"x": -2 * (x - y), "y": 2 * (x - y) - c}
    push = {"x": 0.5 * x.cos() + y * c, "y": x * c}
    for name in ("x", "y"):
        joint = said[name].score + 1.5 * (said[name].score - own[name].score)
        torch.testing.assert_close(found[name].score, joint + 2.0 * pull[name] + 0.7 * push[name], atol=1e-4, rtol=1e-4)
    summed = Guided(subset, SumRatio([energy, real], [2.0, 0.7]))(z, t)
    other = Guided(Guided(subset, real, scale=0.7), energy, scale=2.0)(z, t)
    for name in ("x", "y"):
        torch.testing.assert_close(found[name].eps, summed[name].eps, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[name].eps, other[name].eps, atol=1e-5, rtol=1e-5)
