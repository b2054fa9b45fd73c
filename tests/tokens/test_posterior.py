"""Paths and posteriors against brute-force Bayes on explicit transition matrices."""

from __future__ import annotations

import pytest
import torch
from diffusers import VQDiffusionScheduler
from torch import Tensor

from polyscore.errors import PolyscoreError
from polyscore.spec import from_spec, to_spec
from polyscore.tokens import (
    Absorbing,
    Bound,
    MaskReplace,
    TabulatedTokens,
    TokenPath,
    UniformReplace,
    VQDiffusion,
    categorical,
    make_token_path,
    model_posterior,
    posterior,
    truncate,
)
from polyscore.tokens.posterior import reveal_rate

torch.set_num_threads(1)
PATHS = [
    Absorbing(5),
    Absorbing(5, "cosine"),
    UniformReplace(7),
    MaskReplace(16),
    MaskReplace(3, 0.05, 0.85),
    VQDiffusion(6, 80),
    TabulatedTokens(4, [0.7, 0.2, 0.0], [0.2, 0.5, 0.9]),
]
T = 12


def matrix(levels: tuple[Tensor, Tensor, Tensor], K: int) -> Tensor:
    """Rows: from; columns: to; the mask last."""
    alpha, beta, gamma = (float(v) for v in levels)
    out = torch.full((K + 1, K + 1), beta, dtype=torch.float64)
    out += alpha * torch.eye(K + 1, dtype=torch.float64)
    out[:, K] = gamma
    out[K] = 0
    out[K, K] = 1
    return out


def bayes(path: TokenPath, p: Tensor, x: int, s: float, t: float) -> Tensor:
    """sum_j p_j q(z_s | z_t = x, z_0 = j) from the matrices."""
    first, second, whole = (matrix(v, path.vocabulary) for v in (path.cumulative(s), path.transition(s, t), path.cumulative(t)))
    each = first[:-1] * second[:, x] / whole[:-1, x].clamp(min=1e-300)[:, None]
    return (p[:, None] * each).sum(0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_matrices_are_stochastic_and_compose(path: TokenPath) -> None:
    K = path.vocabulary
    product = torch.eye(K + 1, dtype=torch.float64)
    for i in range(T):
        step = matrix(path.transition(i / T, (i + 1) / T), K)
        torch.testing.assert_close(step.sum(1), torch.ones(K + 1, dtype=torch.float64), atol=1e-12, rtol=0)
        assert bool((step >= 0).all())
        product = product @ step
        torch.testing.assert_close(product, matrix(path.cumulative((i + 1) / T), K), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("times", [(0.0, 1 / T), (0.0, 1.0), (0.25, 0.5), (1 - 1 / T, 1.0), (0.1, 0.9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posterior_is_bayes(path: TokenPath, times: tuple[float, float], dtype: torch.dtype) -> None:
    s, t = times
    K = path.vocabulary
    logits = torch.randn(1, K + 1, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    z = torch.arange(K + 1)[None]
    log_probs = logits.log_softmax(-1)
    if not path.replaces:  # an unmasked token is known
        log_probs[0, :-1] = torch.where(torch.eye(K, dtype=torch.bool), 0.0, -200.0)
    found = model_posterior(path, log_probs.to(dtype), z, s, t)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    seen = [x for x in range(K + 1) if float(matrix(path.cumulative(t), K)[:-1, x].sum()) > 0]
    for x in seen:
        wanted = bayes(path, log_probs[0, x].exp(), x, s, t)
        torch.testing.assert_close(found[0, x].double(), wanted, atol=tolerance, rtol=1e-5)
    torch.testing.assert_close(found[0, seen].double().sum(-1), torch.ones(len(seen), dtype=torch.float64), atol=tolerance, rtol=0)
    for j in range(K):
        exact = posterior(path, torch.full((1, K + 1), j), z, s, t)
        for x in seen:
            if float(matrix(path.cumulative(t), K)[j, x]) > 0:
                wanted = bayes(path, torch.eye(K, dtype=torch.float64)[j], x, s, t)
                torch.testing.assert_close(exact[0, x], wanted, atol=1e-12, rtol=0)


def test_times_may_differ_by_row() -> None:
    path = MaskReplace(5)
    z, log_probs = torch.tensor([[0, 5], [5, 3]]), torch.randn(2, 2, 5).log_softmax(-1)
    s, t = torch.tensor([0.1, 0.4]), torch.tensor([0.3, 0.9])
    both = model_posterior(path, log_probs, z, s, t)
    for row in range(2):
        one = model_posterior(path, log_probs[row : row + 1], z[row : row + 1], float(s[row]), float(t[row]))
        torch.testing.assert_close(both[row : row + 1], one)


def test_released_schedule_has_the_published_values() -> None:
    path = VQDiffusion(2048, 80)
    for index, (alpha, gamma) in {7: (0.9114, 0.0886), 40: (0.4937, 0.5063)}.items():
        a, b, g = (float(v) for v in path.cumulative((index + 1) / 80))
        assert (round(a, 4), round(g, 4)) == (alpha, gamma)
        assert 2048 * b == pytest.approx(1e-6, rel=1e-4)
    assert 2048 * max(float(path.transition(i / 80, (i + 1) / 80)[1]) for i in range(80)) == pytest.approx(7.9e-5, rel=0.02)
    for index, rate in {1: 0.9993, 10: 0.1, 40: 0.025, 79: 0.01266}.items():
        assert float(reveal_rate(path, index / 80, (index + 1) / 80)) == pytest.approx(rate, rel=2e-3)


@pytest.mark.parametrize("ends", [((0.99999, 0.000009), (0.000009, 0.99999)), ((0.99, 0.05), (0.005, 0.85))])
def test_posterior_equals_diffusers(ends: tuple[tuple[float, float], tuple[float, float]]) -> None:
    K, steps = 7, 20
    path = VQDiffusion(K, steps, *ends)
    theirs = VQDiffusionScheduler(K + 1, steps, *ends[0], *ends[1])
    z = torch.arange(K + 1)[None]
    log_probs = (torch.randn(1, K + 1, K, generator=torch.Generator().manual_seed(1)) * 2).log_softmax(-1)
    for index in (1, 5, steps - 1):
        wanted = theirs.q_posterior(log_probs.transpose(1, 2), z, torch.tensor(index)).transpose(1, 2)
        found = model_posterior(path, log_probs, z, index / steps, (index + 1) / steps)
        torch.testing.assert_close(found, wanted.exp(), atol=3e-5, rtol=1e-3)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bound_is_the_divergence(path: TokenPath, dtype: torch.dtype) -> None:
    K = path.vocabulary
    z = torch.arange(K + 1).expand(4, K + 1)
    s, t = torch.tensor([0.0, 0.25, 0.5, 11 / 12]).double(), torch.tensor([1 / 12, 0.5, 7 / 12, 1.0]).double()
    logits = torch.randn(4, K + 1, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    log_probs = (3 * logits).log_softmax(-1)
    model = model_posterior(path, log_probs, z, s, t)
    wanted, bound = [], Bound(path, log_probs.to(dtype), z, s, t)
    for j in range(K):
        q = posterior(path, torch.full_like(z, j), z, s, t)
        wanted.append(torch.where(q > 0, q * (q.clamp(min=1e-300).log() - model.clamp(min=1e-300).log()), 0.0).sum(-1))
    dense = torch.stack(wanted, 1)
    candidates = torch.arange(K)[None, :, None].expand(4, K, K + 1)
    found = bound.positions(candidates)
    used = torch.ones(4, K, K + 1, dtype=torch.bool)
    if not path.masks:
        used[..., -1] = False
    if not path.replaces:
        used[..., :-1] = False
        assert float(found[..., :-1].detach().abs().max()) == 0
    torch.testing.assert_close(found[used].double(), dense[used], atol=2e-5 if dtype == torch.float32 else 1e-9, rtol=2e-5)
    torch.testing.assert_close(bound.divergence(candidates[:, 1]), found[:, 1].sum(-1))
    if dtype == torch.float64:
        weights = torch.randn(int(used.sum()), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        (ours,) = torch.autograd.grad((found[used] * weights).sum(), logits, retain_graph=True)
        (theirs,) = torch.autograd.grad((dense[used] * weights).sum(), logits)
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


def test_first_step_is_the_likelihood() -> None:
    path = MaskReplace(9)
    z, z0 = torch.tensor([[9, 3, 3, 9]]), torch.tensor([[1, 3, 4, 0]])
    log_probs = torch.randn(1, 4, 9).log_softmax(-1)
    bound = Bound(path, log_probs, z, 0.0, 0.1)
    torch.testing.assert_close(bound.divergence(z0), bound.nll(z0))


def test_masked_positions_weigh_the_likelihood() -> None:
    z, z0 = torch.full((1, 6), 32), torch.arange(6)[None]
    log_probs = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(7)).log_softmax(-1)
    for path, tolerance in ((Absorbing(32), 1e-6), (VQDiffusion(32, 80), 5e-4)):  # the released schedule replaces 1e-6 of the tokens
        for index in (1, 10, 79):
            bound = Bound(path, log_probs, z, index / 80, (index + 1) / 80)
            rate = reveal_rate(path, index / 80, (index + 1) / 80).float()
            torch.testing.assert_close(bound.divergence(z0)[0], rate * bound.nll(z0)[0], rtol=tolerance, atol=0)


def test_corrupt_has_the_levels() -> None:
    for path in PATHS:
        z0 = torch.zeros(1, 200_000, dtype=torch.int64)
        uniform = torch.rand(1, 200_000, 2, generator=torch.Generator().manual_seed(4))
        a, b, g = (float(v) for v in path.cumulative(0.6))
        z = path.corrupt(z0, 0.6, uniform)
        assert float((z == path.mask).float().mean()) == pytest.approx(g, abs=0.005)
        assert float((z == 0).float().mean()) == pytest.approx(a + b, abs=0.005)
        assert float((z == 1).float().mean()) == pytest.approx(b, abs=0.005)
        later = path.advance(z, 0.6, 0.8, torch.rand(1, 200_000, 2, generator=torch.Generator().manual_seed(5)))
        assert float((later == path.mask).float().mean()) == pytest.approx(float(path.cumulative(0.8)[2]), abs=0.005)
        assert torch.equal(path.corrupt(z0, 0.0, uniform), z0)


def test_truncation() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[[2, 0, 3, 1]]
    assert torch.equal(truncate(log_probs, 1.0), log_probs)
    assert truncate(log_probs, 0.0).exp().tolist() == pytest.approx([0, 1, 0, 0], abs=1e-6)
    assert truncate(log_probs, 1e-9).exp().argmax() == 1
    assert truncate(log_probs, 0.6).exp().tolist() == pytest.approx([0, 0.625, 0, 0.375], abs=1e-6)
    many = (torch.randn(50, 30) * 4).log_softmax(-1)
    for r in (0.1, 0.86):
        kept = truncate(many, r)
        assert torch.equal(kept.argmax(-1), many.argmax(-1))
        assert bool((kept.exp() * (kept > -60)).sum(-1).sub(1).abs().max() < 1e-5)
    with pytest.raises(PolyscoreError, match="truncation"):
        truncate(log_probs, 1.5)


def test_categorical_follows_the_weights() -> None:
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0, 1.0, 0.0])
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(6))
    found = categorical(weights.expand(100_000, 6), uniform).bincount(minlength=6) / 100_000
    torch.testing.assert_close(found, weights / 4, atol=0.01, rtol=0)
    assert categorical(weights, torch.tensor(0.0)) == 1
    assert categorical(weights, torch.tensor(1 - 2**-24)) == 4


def test_paths_go_through_specs_and_refuse_nonsense() -> None:
    for path in PATHS:
        assert from_spec(to_spec(path)) == path
    assert Absorbing(5) != Absorbing(6)
    with pytest.raises(PolyscoreError, match="falling"):
        TabulatedTokens(4, [0.5, 0.6], [0.1, 0.2])
    with pytest.raises(PolyscoreError, match="sum <= 1"):
        MaskReplace(4, 0.5, 0.6)
    with pytest.raises(PolyscoreError, match="expected integer tokens"):
        Absorbing(4).check("word", torch.zeros(2, 3), (3,))
    with pytest.raises(PolyscoreError, match="from 0 to 3, found 4"):
        Absorbing(4).check("word", torch.full((2, 3), 4), (3,))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("absorbing", Absorbing(7)),
        ("absorbing:cosine", Absorbing(7, "cosine")),
        ("released:20", VQDiffusion(7, 20)),
        ("uniform", UniformReplace(7)),
        ("replace", MaskReplace(7)),
        ("replace:0.1:gamma_end=0.4", MaskReplace(7, 0.1, 0.4)),
    ],
)
def test_paths_by_name(text: str, path: TokenPath) -> None:
    found, times = make_token_path(text, 7), torch.linspace(0, 1, 5)
    assert type(found) is type(path)
    for ours, theirs in zip(found.cumulative(times), path.cumulative(times), strict=True):
        assert torch.equal(ours, theirs)
    for wrong in ("masking", "uniform:3", "replace:0.9:0.9", "released:many", "absorbing:sine"):
        with pytest.raises(PolyscoreError, match="expected"):
            make_token_path(wrong, 7)
