"""Product: strengths and reliabilities, on closed forms."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from polyscore.denoisers import Expert, OnPath, count_evaluations
from polyscore.errors import PolyscoreError
from polyscore.oracles import ConditionalDenoiser, GaussianDenoiser, MixtureDenoiser, gaussian_product
from polyscore.paths import VE, VPSDE, Path, RectifiedFlow
from polyscore.predictions import TokenPrediction
from polyscore.product import Product, Term
from polyscore.sampling import sample

P = {"x": VPSDE()}
Z = {"x": torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
T = {"x": 0.4}
FIRST, SECOND, NONE = torch.tensor([0]), torch.tensor([1]), torch.tensor([-1])


def gaussian(mean, variance, path=None):
    return GaussianDenoiser(mean, variance, {"x": path or VPSDE()})


def expert(paths=None, prior=(0.0, 0.0)):
    """One model with two classes and a prior."""
    paths = paths or P
    laws = [GaussianDenoiser([1.0, 0.5], 0.3, paths), GaussianDenoiser([-0.5, 1.0], 0.6, paths)]
    return ConditionalDenoiser(laws, GaussianDenoiser(list(prior), 1.0, paths))


def eps(denoiser, condition=None, t=T):
    return denoiser(Z, t, condition)["x"].eps


def quietly(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Product(*args, **kwargs)


@pytest.mark.parametrize("seed", range(5))
def test_coefficients_sum_to_one(seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = (4 * torch.rand(4, generator=generator, dtype=torch.float64) - 1).tolist()
    a = torch.randn(2, generator=generator, dtype=torch.float64).tolist()
    one, two = expert(), expert()
    terms = [Term(e, c, s, null=NONE, name=n) for e, c, s, n in zip((one, one, two, two), (FIRST, SECOND) * 2, w, "aabb", strict=True)]
    product = quietly(terms, reliability={"a": a[0], "b": 1 - a[0]})
    weights, nulls = product.coefficients_at(T)
    assert sum(weights) + sum(nulls) == pytest.approx(1, abs=1e-12)
    assert sum(product.prior.values()) == pytest.approx(1, abs=1e-12)


def test_one_expert_is_classifier_free_guidance() -> None:
    model = expert()
    for w in (0.0, 1.0, 5.0, -2.0):
        found = eps(Product([Term(model, FIRST, w, null=NONE)]))
        c, u = eps(model, FIRST), eps(model, NONE)
        torch.testing.assert_close(found, u + w * (c - u), atol=1e-12, rtol=1e-12)


def test_one_expert_with_several_conditions_is_composable_diffusion() -> None:
    model = expert()
    found = eps(Product([Term(model, FIRST, 2.0, null=NONE), Term(model, SECOND, -0.5, null=NONE)]))
    c, d, u = (eps(model, k) for k in (FIRST, SECOND, NONE))
    torch.testing.assert_close(found, u + 2 * (c - u) - 0.5 * (d - u), atol=1e-12, rtol=1e-12)


def test_two_experts_are_equation_10() -> None:
    one, two = expert(), expert(prior=(0.5, -0.5))
    a, w = {"one": 0.55, "two": 0.45}, (3.0, 2.0)
    product = Product([Term(one, FIRST, w[0], null=NONE, name="one"), Term(two, SECOND, w[1], null=NONE, name="two")], a)
    u = 0.55 * eps(one, NONE) + 0.45 * eps(two, NONE)
    wanted = u + 3 * (eps(one, FIRST) - u) + 2 * (eps(two, SECOND) - u)
    torch.testing.assert_close(eps(product), wanted, atol=1e-12, rtol=1e-12)
    swapped = Product([Term(two, SECOND, 2.0, null=NONE, name="two"), Term(one, FIRST, 3.0, null=NONE, name="one")], a)
    torch.testing.assert_close(eps(swapped), wanted, atol=1e-12, rtol=1e-12)


def test_reliability_has_no_effect_where_the_nulls_coincide() -> None:
    one, two = expert(), expert()

    def terms():
        return [Term(one, FIRST, 3.0, null=NONE, name="one"), Term(two, SECOND, 3.0, null=NONE, name="two")]

    found = [eps(quietly(terms(), {"one": a, "two": 1 - a})) for a in (0.0, 0.5, 1.7)]
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(found[0], found[2], atol=1e-12, rtol=1e-12)


def test_default_reliability_keeps_every_experts_own_prior() -> None:
    one, two = expert(), expert(prior=(0.5, -0.5))
    product = Product([Term(one, FIRST, 3.0, null=NONE), Term(two, SECOND, 1.0, null=NONE)])
    assert product.reliability == {"expert0": 0.75, "expert1": 0.25}
    assert product.prior == pytest.approx(product.reliability)
    u, v = eps(one, NONE), eps(two, NONE)
    wanted = 0.75 * u + 0.25 * v + 3 * (eps(one, FIRST) - u) + (eps(two, SECOND) - v)
    torch.testing.assert_close(eps(product), wanted, atol=1e-12, rtol=1e-12)


def test_prior_weights_are_another_way_to_give_reliabilities() -> None:
    one, two = expert(), expert(prior=(0.5, -0.5))

    def terms(w=3.0):
        return [Term(one, FIRST, w, null=NONE, name="one"), Term(two, SECOND, 1.0, null=NONE, name="two")]

    by_prior = Product(terms(), prior={"one": 0.4, "two": 0.6})
    assert by_prior.prior == pytest.approx({"one": 0.4, "two": 0.6})
    torch.testing.assert_close(eps(by_prior), eps(Product(terms(), by_prior.reliability)))
    assert Product(terms(0.0), prior={"one": 0.5, "two": 0.5}).reliability == {"one": 0.5, "two": 0.5}


@pytest.mark.parametrize(
    ("w", "a", "r"),
    [((5, 5), (0.5, 0.5), (0.5, 0.5)), ((5, 5), (5 / 9, 4 / 9), (0, 1)), ((5, 5), (1, 0), (-4, 5)), ((1, 1), (0.3, 0.7), (0.7, 0.3))],
)
def test_prior_weights_as_tabulated(w, a, r) -> None:
    """mmdisco-unite B1.3: what the paper's reliabilities mean."""
    product = quietly(
        [Term(expert(), FIRST, w[i], null=NONE, name=n) for i, n in enumerate("pq")], dict(zip("pq", map(float, a), strict=True))
    )
    assert list(product.prior.values()) == pytest.approx(r)
    if w == (5, 5):
        assert product.safe_interval["p"] == pytest.approx((4 / 9, 5 / 9))


def test_a_negative_prior_weight_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"prior of p has net weight r = -4 < 0.*safe between 0.444 and 0.556"):
        Product([Term(expert(), FIRST, 5.0, null=NONE, name="p"), Term(expert(), FIRST, 5.0, null=NONE, name="q")], {"p": 1.0, "q": 0.0})


def test_the_product_of_gaussians_at_t_0() -> None:
    """At t = 0 the score of the product is the score of prod_i p_i^c_i, in closed form."""
    covs = [torch.tensor([[0.5, 0.2], [0.2, 0.4]]).double(), torch.eye(2).double() * 0.8]
    means = [torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, -1.0]).double()]
    laws = [gaussian(m, C) for m, C in zip(means, covs, strict=True)]
    prior = gaussian([0.0, 0.0], 1.0)
    product = Product([Term(law) for law in laws], base=prior)
    mean, cov = gaussian_product([*means, torch.zeros(2).double()], [*covs, torch.eye(2).double()], [1, 1, -1])
    t = {"x": 1e-7}
    found = product(Z, t)["x"].score
    torch.testing.assert_close(found, -torch.linalg.solve(cov, (Z["x"] - mean).T).T, atol=1e-4, rtol=1e-4)


def test_a_base_of_its_own_serves_as_the_null() -> None:
    law, base = gaussian([1.0, 1.0], 0.5), gaussian([0.0, 0.0], 1.0, VE())
    found = eps(Product([Term(law, strength=2.0)], base=base))
    wanted = 2 * eps(law) - OnPath(base, P)(Z, T)["x"].eps
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-12)


def test_experts_on_other_paths_are_asked_at_equal_snr() -> None:
    laws = [gaussian([1.0, 0.0], 0.5), gaussian([0.0, 1.0], 0.7, RectifiedFlow())]
    same = [gaussian([1.0, 0.0], 0.5), gaussian([0.0, 1.0], 0.7)]
    found, wanted = (Product([Term(e, strength=0.5) for e in es]) for es in (laws, same))
    assert found.paths == P
    torch.testing.assert_close(eps(found), eps(wanted), atol=1e-9, rtol=1e-9)


def test_what_the_strength_0_terms_cost() -> None:
    model, other = expert(), expert()
    product = Product([Term(model, FIRST, 1.0, null=NONE, name="m"), Term(other, SECOND, 0.0, null=NONE, name="o")])
    with count_evaluations(product) as found:
        result = eps(product)
    assert torch.equal(result, eps(model, FIRST))
    assert (found.calls, found.rows) == (1, 5)


class Labels(nn.Module):
    """A network that remembers the conditions of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[float]] = []

    def forward(self, z, t, condition=None):
        self.calls.append(condition.tolist())
        return {"x": condition[:, None].to(z["x"]) * z["x"] + t["x"][:, None].to(z["x"])}


def labelled():
    return Expert(Labels(), P, {"x": (2,)}, "eps")


def test_one_call_per_expert_and_one_row_per_distinct_condition() -> None:
    one, two = labelled(), labelled()
    one_terms = [Term(one, torch.tensor([c]), 1.0, null=torch.tensor([0.0])) for c in (1.0, 2.0, 1.0)]
    product = Product([*one_terms, Term(two, torch.tensor([3.0]), 2.0, null=torch.tensor([0.0]))])
    eps(product)
    assert one.network.calls == [[1.0] * 5 + [2.0] * 5 + [0.0] * 5]
    assert two.network.calls == [[3.0] * 5 + [0.0] * 5]


def test_stacked_calls_give_every_row_its_condition_and_time() -> None:
    model, rows = labelled(), torch.arange(5.0)
    product = Product([Term(model, rows, 2.0, null=torch.tensor([7.0]))])
    for t in (torch.linspace(0.1, 0.9, 5, dtype=torch.float64), torch.full((1,), 0.3, dtype=torch.float64)):
        wanted = 2 * (rows[:, None] * Z["x"] + t[:, None]) - (7 * Z["x"] + t[:, None])
        torch.testing.assert_close(eps(product, t={"x": t}), wanted, atol=1e-6, rtol=1e-6)


def test_a_null_of_none_is_a_call_of_its_own() -> None:
    model = expert()
    with count_evaluations(model) as found:
        result = eps(Product([Term(model, FIRST, 3.0)]))
    torch.testing.assert_close(result, 3 * eps(model, FIRST) - 2 * eps(model), atol=1e-12, rtol=1e-12)
    assert found.calls == 2


def test_strengths_per_sample_and_per_pixel() -> None:
    model = expert()
    c, u = eps(model, FIRST), eps(model, NONE)
    rows = torch.tensor([0.0, 1.0, 2.0, -1.0, 5.0])
    torch.testing.assert_close(eps(Product([Term(model, FIRST, rows, null=NONE)])), u + rows[:, None] * (c - u), atol=1e-6, rtol=1e-6)
    mask = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(eps(Product([Term(model, FIRST, mask, null=NONE)])), u + mask * (c - u), atol=1e-6, rtol=1e-6)


def test_a_term_acts_in_its_window_only() -> None:
    model = expert()
    product = Product([Term(model, FIRST, 3.0, window=(0.3, 0.5), null=NONE)])
    c, u = eps(model, FIRST), eps(model, NONE)
    torch.testing.assert_close(eps(product), u + 3 * (c - u), atol=1e-12, rtol=1e-12)
    assert torch.equal(eps(product, t={"x": 0.6}), eps(model, NONE, {"x": 0.6}))
    t = {"x": torch.tensor([0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)}
    c, u = eps(model, FIRST, t), eps(model, NONE, t)
    acts = torch.tensor([0, 1, 1, 1, 0])[:, None]
    torch.testing.assert_close(eps(product, t=t), u + 3 * acts * (c - u), atol=1e-9, rtol=1e-9)
    masked = Product([Term(model, FIRST, torch.tensor([[3.0, 0.0]]), window=(0.3, 0.5), null=NONE)])
    torch.testing.assert_close(eps(masked, t=t)[:, 0], (u + 3 * acts * (c - u))[:, 0], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(eps(masked, t=t)[:, 1], u[:, 1], atol=1e-6, rtol=1e-6)


def test_tokens_multiply_in_log_probabilities() -> None:
    class Tokens(nn.Module):
        def forward(self, z, t, condition=None):
            return {"text": torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])[condition][:, None].log()}

    class TokenLike(Path):
        def corrupt(self, z0, t, noise):
            return z0

        def start(self, t, name, shape, noise):
            return noise.uniform(name, shape)

    model = Expert(Tokens(), {"text": TokenLike()}, {"text": (1,)}, "logits")
    product = Product([Term(model, FIRST, 3.0, null=SECOND)])
    found = product({"text": torch.zeros(2, 1, dtype=torch.long)}, {"text": 0.5})["text"]
    assert isinstance(found, TokenPrediction)
    wanted = torch.tensor([0.7, 0.2, 0.1]) ** 3 / torch.tensor([0.5, 0.3, 0.2]) ** 2
    torch.testing.assert_close(found.log_probs[0, 0].exp(), wanted / wanted.sum())


def test_low_precision_states_are_combined_in_float32() -> None:
    half = {"x": Z["x"].half()}
    found = Product([Term(expert(), FIRST, 3.0, null=NONE)])(half, T)["x"].eps
    assert found.dtype == torch.float32


def test_composition_reads_only() -> None:
    model = Expert(Net(), P, {"x": (2,)}, "eps")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sample(Product([Term(model, torch.zeros(1), 3.0, null=torch.ones(1))]), 3, steps=2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, z, t, condition=None):
        return {"x": self.layer(z["x"]) + condition[:, None]}


def wrong_shape():
    return GaussianDenoiser([0.0, 0.0, 0.0], 1.0, P)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Product([]), "at least one term"),
        (lambda: Product([Term(expert()), Term(wrong_shape())]), r"expert1 has states \{'x': \(3,\)\}, expected \{'x': \(2,\)\}"),
        (lambda: Product([Term(expert(), FIRST, 2.0, name="p")], {"q": 1.0}), r"weights for \['q'\], expected exactly \['p'\]"),
        (lambda: Product([Term(expert(), FIRST, 2.0, name="p")], {"p": 0.9}), "sum to 0.9, expected 1"),
        (lambda: Product([Term(expert(), name="p")], {"p": 1.0}, {"p": 1.0}), "`reliability` or `prior`, not both"),
        (lambda: Product([Term(expert(), name="p"), Term(expert(), name="p")]), "one name an expert"),
        (lambda: Product([Term(expert(), strength=2.0, has_null=False)]), "no expert has a null condition"),
        (
            lambda: Product([Term(expert(), strength=2.0, name="p", has_null=False), Term(expert(), name="q")], {"p": 1.0, "q": 0.0}),
            "p has no null condition, so its reliability must be 0, found 1",
        ),
    ],
)
def test_what_is_refused(make, message) -> None:
    with pytest.raises(PolyscoreError, match=message):
        make()


def test_experts_of_two_latent_spaces_are_refused() -> None:
    one, two = (Expert(Labels(), P, {"x": (2,)}, "eps", {"x": s}) for s in ("vae-a", "vae-b"))
    with pytest.raises(PolyscoreError, match="expert1 lives in latent space 'vae-b' of 'x', expected 'vae-a'"):
        Product([Term(one, FIRST), Term(two, FIRST)])


def test_an_expert_without_null_lends_no_prior() -> None:
    one, two = expert(), expert(prior=(0.5, -0.5))
    product = quietly([Term(one, FIRST, 2.0, null=NONE, name="p"), Term(two, SECOND, 1.0, name="q", has_null=False)])
    assert product.reliability == {"p": 1.0, "q": 0.0}
    u = eps(one, NONE)
    torch.testing.assert_close(eps(product), u + 2 * (eps(one, FIRST) - u) + eps(two, SECOND) - u, atol=1e-12, rtol=1e-12)


def test_conditions_on_independent_parts_compose_exactly() -> None:
    """A prior that factorises and conditions on one factor each: the sum of scores is exact at every t."""
    prior = MixtureDenoiser([[x, y] for x in (-1.0, 1.0) for y in (-1.0, 1.0)], 0.05, P)
    row, column = (MixtureDenoiser(m, 0.05, P) for m in ([[-1.0, 1.0], [1.0, 1.0]], [[-1.0, -1.0], [-1.0, 1.0]]))
    product = Product([Term(ConditionalDenoiser([law], prior), FIRST, null=NONE) for law in (row, column)])
    exact = MixtureDenoiser([[-1.0, 1.0]], 0.05, P)
    for t in (0.05, 0.4, 0.9):
        torch.testing.assert_close(eps(product, t={"x": t}), eps(exact, t={"x": t}), atol=1e-9, rtol=1e-9)
