"""Subset guidance against the closed form that an exact joint denoiser gives."""

from __future__ import annotations

import pytest
import torch

from polyscore.denoisers import count_evaluations
from polyscore.oracles import GaussianDenoiser, MixtureDenoiser
from polyscore.paths import Cosine, Path, RectifiedFlow
from polyscore.ratios.subset import SubsetGuided
from polyscore.sampling import sample

# Pure noise at t = 1, so that an absent partner truly tells nothing.
PATHS: dict[str, Path] = {"x": RectifiedFlow(), "y": Cosine(), "w": RectifiedFlow()}
COV = torch.tensor([[1.0, 0.7, 0.3], [0.7, 1.0, -0.2], [0.3, -0.2, 1.0]], dtype=torch.float64)


def joint():
    return GaussianDenoiser([0.3, -0.2, 0.1], COV, PATHS, {"x": 1, "y": 1, "w": 1})


def states(n=5):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(n, 1, dtype=torch.float64, generator=generator) for name in PATHS}


@pytest.mark.parametrize("strength", [0.5, 2.0, -1.0])
@pytest.mark.parametrize("t", [{"x": 0.4, "y": 0.6, "w": 0.5}, {"x": 0.4, "y": 0.0, "w": 0.7}, {"x": 0.2, "y": 0.0, "w": 0.0}], ids=str)
def test_prediction_is_the_closed_form(t, strength) -> None:
    """eps_m = (1 + w) eps(joint) - w eps(marginal of m), for every modality that is generated."""
    law, z = joint(), states()
    found, together = SubsetGuided(law, strength)(z, t), law(z, t)
    for name in PATHS:
        alone = law.marginal([name])({name: z[name]}, {name: t[name]})[name]
        moves = t[name] > 0
        for form in ("eps", "x0", "score"):
            a, b = getattr(together[name], form), getattr(alone, form)
            wanted = (1 + strength) * a - strength * b if moves else a
            torch.testing.assert_close(getattr(found[name], form), wanted, atol=1e-9, rtol=1e-9)


def test_the_ratio_it_adds_is_the_exact_one() -> None:
    """Its score minus the joint's is w times the gradient of log p(z_1, ..., z_M) - sum_m log p(z_m) for two modalities."""
    from polyscore.oracles import ExactRatio

    law = joint().marginal(["x", "y"])
    z = {k: v for k, v in states().items() if k != "w"}
    t = {"x": 0.4, "y": 0.6}
    gradient = ExactRatio.information(law).gradient(z, t)
    found, plain = SubsetGuided(law, 1.5)(z, t), law(z, t)
    for name in z:
        torch.testing.assert_close(found[name].score - plain[name].score, 1.5 * gradient[name], atol=1e-9, rtol=1e-9)


def test_times_per_row() -> None:
    law, z = joint(), states()
    t = {"x": torch.linspace(0.1, 0.9, 5, dtype=torch.float64), "y": torch.full((5,), 0.3, dtype=torch.float64), "w": 0.0}
    together = SubsetGuided(law, 1.0, (0.2, 0.8))(z, t)
    for i in range(5):
        row = {k: v[i : i + 1] for k, v in z.items()}
        alone = SubsetGuided(law, 1.0, (0.2, 0.8))(row, {"x": float(t["x"][i]), "y": 0.3, "w": 0.0})
        for name in PATHS:
            torch.testing.assert_close(together[name].x0[i : i + 1], alone[name].x0, atol=1e-9, rtol=1e-9)


def test_strength_0_is_the_denoiser_bit_for_bit_at_its_cost() -> None:
    law, z, t = joint(), states(), dict.fromkeys(PATHS, 0.5)
    with count_evaluations(law) as found:
        same = SubsetGuided(law, 0.0)(z, t)
    assert all(torch.equal(same[n].eps, law(z, t)[n].eps) for n in PATHS)
    assert (found.calls, found.rows) == (1, 5)


def test_one_call_of_m_plus_1_times_the_rows() -> None:
    law = joint()
    with count_evaluations(law) as found:
        SubsetGuided(law)(states(), dict.fromkeys(PATHS, 0.5))
    assert (found.calls, found.rows) == (1, 20)
    with count_evaluations(law) as found:
        SubsetGuided(law)(states(), {"x": 0.5, "y": 0.0, "w": 0.0})
    assert (found.calls, found.rows) == (1, 10)


def test_window() -> None:
    law = joint()
    guided = SubsetGuided(law, 1.0, (0.3, 0.7))
    for t, rows in ((0.2, 5), (0.5, 20), (0.8, 5)):
        with count_evaluations(law) as found:
            guided(states(), dict.fromkeys(PATHS, t))
        assert found.rows == rows


def test_one_modality_has_nothing_to_be_guided_by() -> None:
    law = GaussianDenoiser([0.0], 1.0, {"x": RectifiedFlow()})
    z = {"x": states()["x"]}
    assert torch.equal(SubsetGuided(law, 5.0)(z, {"x": 0.5})["x"].eps, law(z, {"x": 0.5})["x"].eps)


def test_labels_are_repeated_with_the_rows() -> None:
    from polyscore.oracles import ConditionalDenoiser

    laws = [MixtureDenoiser(m, COV[:2, :2][None], {"x": RectifiedFlow(), "y": Cosine()}) for m in ([[1.0, 1.0]], [[-1.0, 0.0]])]
    model, labels = ConditionalDenoiser(laws, laws[0]), torch.tensor([0, 1, 0, 1, 1])
    z, t = {k: v for k, v in states().items() if k != "w"}, {"x": 0.4, "y": 0.6}
    found = SubsetGuided(model, 1.0)(z, t, labels)["x"].eps
    for i, label in enumerate(labels.tolist()):
        row = {k: v[i : i + 1] for k, v in z.items()}
        torch.testing.assert_close(found[i : i + 1], SubsetGuided(laws[label], 1.0)(row, t)["x"].eps, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    "condition", [{0: torch.tensor([0, 1, 0, 1, 1]), 1: None}, {0: "red"}, None, "red", 3, object()], ids=list("abcdef")
)
def test_a_condition_is_never_lost(condition) -> None:
    """Mappings, texts, numbers and other objects reach every row of the widened call."""
    seen = []

    class Watched(GaussianDenoiser):
        def forward(self, z, t, condition=None):
            seen.append(condition)
            return super().forward(z, t, condition)

    watched = Watched([0.3, -0.2, 0.1], COV, PATHS, {"x": 1, "y": 1, "w": 1})
    SubsetGuided(watched)(states(), dict.fromkeys(PATHS, 0.5), condition)
    found = seen[0]
    if isinstance(condition, dict):
        found = found[0]
        assert seen[0].get(1) is None
        condition = condition[0]
    if isinstance(condition, torch.Tensor):
        assert torch.equal(found, condition.repeat(4))
    elif isinstance(found, torch.Tensor | list):
        assert list(found) == [condition] * 20
    else:
        assert found is condition


def test_guided_samples_depend_more_on_each_other() -> None:
    law = joint().marginal(["x", "y"])
    options = {"steps": 30, "dtype": torch.float64}
    strong, plain = sample(SubsetGuided(law, 1.0), 1500, **options), sample(law, 1500, **options)
    correlation = [float(torch.corrcoef(torch.cat([s["x"], s["y"]], 1).T)[0, 1]) for s in (plain, strong)]
    assert correlation[0] == pytest.approx(0.7, abs=0.05)
    assert correlation[1] > correlation[0] + 0.1


def test_a_given_partner_is_weighed_too() -> None:
    """p(x | y)^(1+w) / p(x)^w: its mean moves away from the prior's."""
    law = joint().marginal(["x", "y"])
    given = {"y": torch.full((1, 1), 1.3, dtype=torch.float64)}
    means = [float(sample(SubsetGuided(law, w), 1500, given=given, steps=30, dtype=torch.float64)["x"].mean()) for w in (0.0, 1.0)]
    assert means[0] == pytest.approx(0.3 + 0.7 * 1.5, abs=0.06)
    assert means[1] > means[0] + 0.2
