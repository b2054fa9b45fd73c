"""A discriminator that is told the experts' prompts, as the text embeddings of the experts' own encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from polyscore.adapters.pipeline_expert import PipelineExpert
from polyscore.denoisers import State
from polyscore.errors import PolyscoreError
from polyscore.spec import register

__all__ = ["PromptedNetwork"]


@register
class PromptedNetwork(nn.Module):
    """network(z, t, {modality: pooled text embedding}) for a condition in the experts' own words: prompts, or prompt numbers.

    The condition is what `Independent(*experts)` takes: one for all, or {modality: texts or numbers}; a modality that is not named has its
    expert's first prompt, and -1 is no text (zeros).

    Args:
        network: of a discriminator, with `text` sizes of these modalities (`StreamNetwork`). experts: whose encoders are used.

    Raises:
        PolyscoreError: an expert whose network is told no text.
    """

    def __init__(self, network: nn.Module, experts: Mapping[str, PipelineExpert]) -> None:
        super().__init__()
        self.network = network
        self._experts = (dict(experts),)  # in a tuple: not modules of this one
        for name, expert in experts.items():
            if expert.text_size is None:
                raise PolyscoreError(f"discriminator: {name!r}: expected an expert that is told text, found {type(expert.pipe).__name__}")

    def forward(self, z: State, t: Mapping[str, Tensor], condition: Any = None) -> Tensor:
        """Logits (B,)."""
        told = {name: self._told(expert, name, z[name], condition) for name, expert in self._experts[0].items()}
        return cast(Tensor, self.network(z, t, told))

    def _told(self, expert: PipelineExpert, name: str, like: Tensor, condition: Any) -> Tensor:
        own = condition.get(name) if isinstance(condition, Mapping) else condition
        return expert.embed(own, len(like)).to(like)
