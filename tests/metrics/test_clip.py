"""CLIPScore by a tiny CLIP with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from polyscore.errors import DataError, PolyscoreError
from polyscore.metrics.clip import clip_score

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz"), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(letters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = size | {"vocab_size": len(letters), "max_position_embeddings": 16, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPConfig(text_config=text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_scores_are_of_each_pair(tiny_clip: Path) -> None:
    images = torch.rand(5, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    captions = ["a red seven", "b", "c d", "a red seven", "zz"]
    found = clip_score(images, captions, tiny_clip)
    assert found.shape == (5,)
    assert bool(((found >= 0) & (found <= 2.5)).all())
    torch.testing.assert_close(clip_score(images, captions, tiny_clip, batch_size=2), found, atol=1e-5, rtol=0)
    grey = images.mean(1, keepdim=True)
    torch.testing.assert_close(clip_score(grey, captions, tiny_clip), clip_score(grey.expand(-1, 3, -1, -1), captions, tiny_clip))


def test_what_is_missing_is_said(tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="N captions"):
        clip_score(torch.rand(4, 3, 8, 8), list("abcde"), tiny_clip)
    with pytest.raises(PolyscoreError, match="expected the folder or hub id of a CLIP model"):
        clip_score(torch.rand(1, 3, 8, 8), ["a"], tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(PolyscoreError, match="pip install"):
        clip_score(torch.rand(1, 3, 8, 8), ["a"], tiny_clip)
