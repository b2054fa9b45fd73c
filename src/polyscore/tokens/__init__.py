"""Token modalities: how they are corrupted, and what follows from it in closed form.

A state is int64 (B, L) with tokens 0..K-1 and the mask K. Each position is kept with probability alpha_bar(t), masked with
gamma_bar(t), and replaced by each token alike with beta_bar(t); alpha_bar + K beta_bar + gamma_bar = 1.
"""

from __future__ import annotations

from polyscore.tokens.bound import Bound
from polyscore.tokens.draws import categorical, gumbel, truncate
from polyscore.tokens.paths import Absorbing, MaskReplace, TabulatedTokens, TokenPath, UniformReplace, VQDiffusion, make_token_path
from polyscore.tokens.posterior import model_posterior, posterior

__all__ = [
    "Absorbing",
    "Bound",
    "MaskReplace",
    "TabulatedTokens",
    "TokenPath",
    "UniformReplace",
    "VQDiffusion",
    "categorical",
    "gumbel",
    "make_token_path",
    "model_posterior",
    "posterior",
    "truncate",
]
