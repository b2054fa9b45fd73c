"""The acceptance checks 10 to 20 of token diffusion as deviations, one number a seed: `polyscore evaluate cdcd-checks`."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from polyscore.metrics.attributes import fgsm
from polyscore.metrics.beats import beats_score, click_track, onsets, pick_onsets, seconds_with_onsets, white_noise
from polyscore.paths import VPSDE, Path
from polyscore.recipes.tables import Measured, write_table
from polyscore.sampling import edit, sample
from polyscore.token_oracles import TokenTableDenoiser
from polyscore.tokens import Absorbing, Bound, MaskReplace, TokenPath, VQDiffusion, model_posterior, posterior, truncate
from polyscore.tokens.posterior import reveal_rate
from polyscore.tokens.times import ImportanceTimes
from polyscore.training.contrast import infonce, subtracted
from polyscore.training.negatives import chunk_shuffle

__all__ = ["CHECKS", "checks_table", "dense_divergence", "matrix", "memory_of"]

Found = dict[str, tuple[float, tuple[str, float] | None]]
T = 12


def matrix(levels: tuple[Tensor, Tensor, Tensor], K: int) -> Tensor:
    """The transition matrix (K + 1, K + 1) of (alpha, beta, gamma): rows from, columns to, the mask last; float64."""
    alpha, beta, gamma = (float(v) for v in levels)
    out = torch.full((K + 1, K + 1), beta, dtype=torch.float64) + alpha * torch.eye(K + 1, dtype=torch.float64)
    out[:, K], out[K], out[K, K] = gamma, 0, 1
    return out


def transitions(seed: int) -> Found:
    """10: matrices are stochastic and compose; the released schedule's numbers."""
    row, product_gap = 0.0, 0.0
    for path in (Absorbing(5), MaskReplace(16), VQDiffusion(6, 80)):
        product = torch.eye(path.vocabulary + 1, dtype=torch.float64)
        for i in range(T):
            step = matrix(path.transition(i / T, (i + 1) / T), path.vocabulary)
            row = max(row, float((step.sum(1) - 1).abs().max()))
            product = product @ step
            product_gap = max(product_gap, float((product - matrix(path.cumulative((i + 1) / T), path.vocabulary)).abs().max()))
    alpha, _, gamma = (float(v) for v in VQDiffusion(2048, 80).cumulative(41 / 80))
    published = max(abs(alpha - 0.4937), abs(gamma - 0.5063))
    return {
        "10: rows of transitions less 1": (row, ("<=", 1e-6)),
        "10: product of steps less cumulative": (product_gap, ("<=", 1e-6)),
        "10: released schedule at t = 40 less the published four digits": (published, ("<=", 1e-4)),
    }


def bayes(seed: int) -> Found:
    """11: posteriors against explicit Bayes; reveal rates."""
    worst = 0.0
    for path in (MaskReplace(16), MaskReplace(3, 0.05, 0.85)):
        K = path.vocabulary
        log_probs = (3 * torch.randn(1, K + 1, K, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
        z = torch.arange(K + 1)[None]
        for s, t in ((0.0, 1 / T), (0.25, 0.5), (1 - 1 / T, 1.0), (0.1, 0.9)):
            found = model_posterior(path, log_probs, z, s, t)[0].double()
            first, second, whole = (matrix(v, K) for v in (path.cumulative(s), path.transition(s, t), path.cumulative(t)))
            each = first[:-1, None] * second.T[None] / whole[:-1].clamp(min=1e-300)[:, :, None]
            exact = torch.einsum("xj,jxk->xk", log_probs[0].double().exp(), each)
            worst = max(worst, float((found - exact).abs().max()))
    rates = [abs(float(reveal_rate(VQDiffusion(8, 80), t / 80, (t + 1) / 80)) - 1 / t) * t for t in (10, 40, 79)]
    return {
        "11: posterior less brute-force Bayes, float32": (worst, ("<=", 1e-6)),
        "11: reveal rate less 1/t, relative": (max(rates), ("<=", 0.01)),
    }


def dense_divergence(path: TokenPath, log_probs: Tensor, z0: Tensor, z: Tensor, s: float, t: float) -> Tensor:
    """KL of posteriors built in full, summed over positions and candidates z0 (B, N, L)."""
    model = model_posterior(path, log_probs, z, s, t).clamp(min=1e-30).log()
    total = torch.zeros(())
    for j in range(z0.shape[1]):
        q = posterior(path, z0[:, j], z, s, t).float()
        total = total + torch.where(q > 0, q * (q.clamp(min=1e-30).log() - model), 0.0).sum()
    return total


def memory_of(loss: Callable[[], Tensor]) -> tuple[float, int]:
    """The loss's value and the bytes that autograd keeps for it, leaves left out, every storage once."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if not (x.is_leaf and x.requires_grad):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = loss()
    return float(value.detach()), sum(kept.values())


def closed_form(seed: int, K: int = 2048, L: int = 344, N: int = 10) -> Found:
    """12: the closed-form loss against the dense one, value and memory; at masked positions it weighs the likelihood."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = (2 * torch.randn(1, L, K, generator=generator)).log_softmax(-1).requires_grad_()
    candidates = torch.randint(K, (1, N, L), generator=generator)
    path = MaskReplace(K)
    z = path.corrupt(candidates[:, 0], 0.6, torch.rand(1, L, 2, generator=generator))
    size = N * L
    ours, small = memory_of(lambda: Bound(path, log_probs, z, 0.59, 0.6).divergence(candidates).sum() / size)
    theirs, large = memory_of(lambda: dense_divergence(path, log_probs, candidates, z, 0.59, 0.6) / size)
    masked = torch.full((1, L), K)
    bound = Bound(Absorbing(K), log_probs.detach(), masked, 0.5, 0.6)
    weighed = bound.divergence(candidates) - float(reveal_rate(Absorbing(K), 0.5, 0.6)) * bound.nll(candidates)
    return {
        f"12: closed-form loss less dense, nats a token, K {K}, L {L}, N {N}": (abs(ours - theirs), ("<=", 1e-5)),
        "12: its memory over the dense one's": (small / large, ("<=", 0.1)),
        "12: step loss at masked positions less w_t times the likelihood, relative": (
            float((weighed / bound.nll(candidates)).abs().max()),
            ("<=", 1e-5),
        ),
    }


def contrast(seed: int) -> Found:
    """13: equal negatives, the tilted optimum, the bounded form."""
    C = 5 * torch.rand(7, generator=torch.Generator().manual_seed(seed))
    valid = torch.ones(7, 4, dtype=torch.bool)
    same = C[:, None].expand(7, 4)
    q, n = torch.tensor([0.6, 0.25, 0.1, 0.05]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = torch.zeros(4, requires_grad=True)
    for _ in range(4000):
        log_p = logits.log_softmax(0)
        (gradient,) = torch.autograd.grad(-(q * log_p).sum() + 0.1 * (n * log_p).sum(), logits)
        logits = (logits - gradient).detach().requires_grad_()
    tilt = torch.tensor([0.6556, 0.2556, 0.0778, 0.0111])
    return {
        "13: contrast of equal negatives plus the positive": (float((subtracted(same, valid, 100.0) + C).abs().max()), ("<=", 1e-6)),
        "13: optimum by gradient descent less (.6556, .2556, .0778, .0111)": (
            float((logits.softmax(0) - tilt).abs().max().detach()),
            ("<=", 1e-4),
        ),
        "13: bounded form of equal negatives less log(1 + N)": (
            float((infonce(C, same, valid, 0.3) - math.log(5)).abs().max()),
            ("<=", 1e-6),
        ),
        "13: least value of the bounded form": (float(infonce(C, 9 * torch.rand(7, 4), valid, 0.3).min()), (">=", 0.0)),
    }


def shuffles(seed: int) -> Found:
    """14 and 15: chunk shuffles and truncation."""
    tokens = torch.arange(51).expand(200, 51)
    found = chunk_shuffle(tokens, torch.rand(200, 6, 2, generator=torch.Generator().manual_seed(seed)))
    wrong = (found.sort(-1).values != torch.arange(51)).any(-1) | (found[..., 50] != 50) | (found == tokens[:, None]).all(-1)
    log_probs = (4 * torch.randn(200, 30, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)
    moved = [float((truncate(log_probs, r).argmax(-1) != log_probs.argmax(-1)).double().mean()) for r in (0.0, 0.1, 0.86)]
    return {
        "14: chunk shuffles that are the identity, lose a token or move the tail": (float(wrong.double().sum()), ("<=", 0)),
        "15: truncations that lose the most probable token": (max(moved), ("<=", 0)),
        "15: truncation at 1, change": (float((truncate(log_probs, 1.0) - log_probs).abs().max()), ("<=", 0)),
        "15: tokens beside the most probable one left at 0": (
            float((truncate(log_probs, 0.0).exp() > 1e-6).sum(-1).max()) - 1,
            ("<=", 0),
        ),
    }


def _table(seed: int) -> tuple[TokenTableDenoiser, Tensor]:
    joint = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).square()
    joint /= joint.sum()
    return TokenTableDenoiser.dense(joint, {"word": VQDiffusion(2, 80), "tag": VQDiffusion(2, 80)}, {"word": 2, "tag": 1}), joint


def strides(seed: int, n: int = 12_000) -> Found:
    """16, and the toy: shares that are masked at any stride, and the joint law and all conditionals by samples."""
    table, joint = _table(seed)
    path, worst = table.paths["word"], [0.0]

    def watch(step: Any) -> None:
        level = float(path.cumulative(1 - (step.index + 1) / 20)[2])  # type: ignore[attr-defined]
        worst[0] = max(worst[0], abs(float((step.z["word"] == 2).double().mean()) - level))

    sample(table, n, steps=20, callback=watch, seed=seed)
    exact = TokenTableDenoiser.dense(joint, {"word": Absorbing(2), "tag": Absorbing(2)}, {"word": 2, "tag": 1})
    return {
        "16: masked share after each of 20 strided steps less its level": (worst[0], ("<=", 0.012)),
        "toy: total variation, joint": (_variation(exact, joint, {}, n, seed), ("<=", 0.02)),
        "toy: total variation, worst of all conditionals": (
            max(_variation(exact, joint, given, n, seed) for given in _givens()),
            ("<=", 0.02),
        ),
    }


def _givens() -> list[dict[str, list[int]]]:
    words: list[dict[str, list[int]]] = [{"word": [a, b]} for a in (0, 1) for b in (0, 1)]
    half: list[dict[str, list[int]]] = [{"word": [a, -1]} for a in (0, 1)]
    return [*words, *half, {"tag": [0]}, {"tag": [1]}]


def _variation(table: TokenTableDenoiser, joint: Tensor, given: dict[str, list[int]], n: int, seed: int) -> float:
    known = {name: torch.tensor([value]) for name, value in given.items()}
    found = sample(table, n, given=known, steps=3, token_solver="random", seed=seed)
    cells = torch.cat([found["word"], found["tag"]], 1)
    fits = torch.ones(2, 2, 2, dtype=torch.bool)
    index = torch.stack(torch.meshgrid(*[torch.arange(2)] * 3, indexing="ij"), -1)
    for name, value in given.items():
        for place, token in enumerate(value):
            if token >= 0:
                fits &= index[..., place if name == "word" else 2] == token
    wanted = torch.where(fits, joint, torch.zeros_like(joint))
    share = torch.bincount(cells[:, 0] * 4 + cells[:, 1] * 2 + cells[:, 2], minlength=8).double().reshape(2, 2, 2) / n
    return 0.5 * float((share - wanted / wanted.sum()).abs().sum())


def beside_pixels(seed: int, n: int = 12_000, steps: int = 30) -> Found:
    """A toy of three modalities: a picture of three well-separated values, a sound of two, a word of two letters (one of two words).

    Their 12 combinations have random weights. For each of the seven ways to condition: the total variation between samples (half of n where
    something is given) and the exact law of the combinations, the worst over all that can be given.
    """
    joint = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).square()
    joint /= joint.sum()
    values = {
        "picture": torch.tensor([[-1.5], [0.0], [1.5]]),
        "sound": torch.tensor([[-1.0, 0.5], [1.0, -0.5]]),
        "word": torch.tensor([[0, 1], [1, 2]]),
    }
    places = torch.cartesian_prod(*[torch.arange(k) for k in joint.shape]).unbind(1)
    entries = {name: value[place] for (name, value), place in zip(values.items(), places, strict=True)}
    paths: dict[str, Path] = {"picture": VPSDE(), "sound": VPSDE(), "word": Absorbing(3)}
    table = TokenTableDenoiser(paths, {"word": entries.pop("word")}, joint.flatten(), entries, 0.1)
    found: Found = {}
    for subset in (subset for size in range(3) for subset in itertools.combinations(values, size)):
        worst, many = 0.0, n if not subset else n // 2
        for cell in itertools.product(*[range(len(values[name])) for name in subset]):
            given = {name: values[name][k][None] for name, k in zip(subset, cell, strict=True)}
            at = tuple(cell[subset.index(name)] if name in subset else slice(None) for name in values)
            exact = torch.zeros_like(joint)
            exact[at] = joint[at] / joint[at].sum()
            share = _cells(sample(table, many, given=given, steps=steps, token_solver="random", seed=seed), values)
            worst = max(worst, 0.5 * float((share - exact).abs().sum() + 1 - share.sum()))
        title = f"{' + '.join(subset) or 'nothing'} -> {' + '.join(name for name in values if name not in subset)}"
        found[f"toy beside pixels: total variation, {title}"] = (worst, ("<=", 0.02))
    return found


def _cells(made: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Tensor:
    """Shares of samples at each combination of values; what is at none (.6 or more from all) is left out."""
    gaps = [torch.cdist(made[name].double(), value.double()) for name, value in values.items()]
    valid = torch.stack([gap.amin(1) < 0.6 for gap in gaps]).all(0)
    sizes = [len(value) for value in values.values()]
    index = torch.zeros(len(valid), dtype=torch.int64)
    for gap, size in zip(gaps, sizes, strict=True):
        index = index * size + gap.argmin(1)
    return torch.bincount(index[valid], minlength=math.prod(sizes)).double().reshape(sizes) / len(valid)


def importance(seed: int) -> Found:
    """17: the estimator's mean."""
    times, losses = ImportanceTimes(10, warm=2), torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.01])
    for _ in range(4):
        times.update(torch.arange(10), losses)
    p = times.probabilities()
    index, chance = times.draw(torch.rand(200_000, generator=torch.Generator().manual_seed(seed)))
    return {
        "17: expectation of loss / p less the sum, exact, relative": (
            abs(float((p * (losses / p)).sum() / losses.sum()) - 1),
            ("<=", 1e-6),
        ),
        "17: the same by 200 000 draws": (abs(float((losses[index] / chance).mean() / losses.sum()) - 1), ("<=", 0.01)),
    }


def beats(seed: int, clips: int = 40) -> Found:
    """18: the rule on hand-made envelopes, coverage over 1, the guard, and the two trivial sounds."""
    picked = pick_onsets([0, 0, 1, 1, 0.3, 0.8, 0]).tolist()
    over = beats_score([[True, False]], [[True, True]])
    guard = beats_score([[False, False], [True, True]], [[True, True], [True, True]])
    noise = [seconds_with_onsets(onsets(white_noise(2.0, 1000 * seed + i)), 2.0) for i in range(clips)]
    clicks = seconds_with_onsets(onsets(click_track(2.0)), 2.0)
    return {
        "18: hand-made envelope, onsets other than at frames 2 and 5": (float(picked != [2, 5]), ("<=", 0)),
        "18: coverage of twice as many": (over.coverage, (">=", 2.0)),
        "18: clips without a reference onset that were counted": (float(guard.skipped != 1 or guard.clips != 1), ("<=", 0)),
        "18: two seconds of white noise, share of seconds with an onset (report: about .75)": (float(np.mean(noise)), None),
        "18: a click a second, the same": (float(np.mean(clicks)), (">=", 1.0)),
    }


def attack(seed: int) -> Found:
    """19: the perturbation is exactly epsilon before it is clamped."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    x, labels = 0.2 + 0.6 * torch.rand(5, 12), torch.randint(3, (5,))
    moved = fgsm(lambda y: nn.functional.cross_entropy(network(y), labels), x, 0.05, None)
    return {"19: size of the FGSM step less epsilon": (float(((moved - x).abs() - 0.05).abs().max()), ("<=", 1e-6))}


def editing(seed: int) -> Found:
    """20: the edit path starts at its step; sampling starts from nothing but masks."""
    table, _ = _table(seed)
    clean = {"word": torch.tensor([[1, 0]]).expand(100, 2), "tag": torch.zeros(100, 1, dtype=torch.int64)}
    times: list[float] = []
    edit(table, clean, 0.3, steps=10, callback=lambda step: times.append(step.t))
    start = sample(table, 100, grid=[1.0, 1 - 1e-9], seed=seed)["word"]
    return {
        "20: steps of an edit from .3 of 10 less 3": (float(abs(len(times) - 3)), ("<=", 0)),
        "20: its first time less .3": (abs(times[0] - 0.3), ("<=", 1e-9)),
        "20: tokens that a sampling starts with and that are not masks": (float((start != 2).sum()), ("<=", 0)),
    }


CHECKS: tuple[Callable[[int], Found], ...] = (
    transitions,
    bayes,
    closed_form,
    contrast,
    shuffles,
    strides,
    beside_pixels,
    importance,
    beats,
    attack,
    editing,
)


def checks_table(out: str, seeds: Sequence[int], progress: Callable[[int, int], None] | None = None) -> list[Measured]:
    """All checks for every seed, as a table."""
    began = time.perf_counter()
    found: dict[str, list[tuple[float, tuple[str, float] | None]]] = {}
    for place, (seed, check) in enumerate((seed, check) for seed in seeds for check in CHECKS):
        for name, value in check(seed).items():
            found.setdefault(name, []).append(value)
        if progress is not None:
            progress(place + 1, len(seeds) * len(CHECKS))
    rows = [Measured(name, [v for v, _ in values], values[0][1]) for name, values in found.items()]
    protocol = {"command": "polyscore evaluate cdcd-checks", "n": 12_000, "seeds": list(seeds)}
    write_table(out, rows, {**protocol, "seconds": round(time.perf_counter() - began, 1)})
    return rows
