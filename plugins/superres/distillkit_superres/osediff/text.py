"""Prompts: the texts a model is conditioned on, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from distillkit import DistillkitError, current_captions

Tagger = Callable[[Tensor], list[str]]
"""Images (B, 3, H, W) in [-1, 1], the input enlarged to output size -> a text for each, such as ``"dog, grass, ball"``."""

TAGGERS = "distillkit_superres.taggers"
"""Entry-point group in which packages offer taggers: a callable without arguments that returns a :data:`Tagger`."""


class PromptEncoder(nn.Module):
    """CLIP's text tower over padded token ids.

    Texts are padded to the full length with token 0 ("!"), as Stable Diffusion 2 does, and the padding is attended to.

    Args:
        tokenizer: may be None if only empty texts are asked for, whose tokens are known.
    """

    def __init__(self, network: nn.Module, tokenizer: CLIPTokenizer | None = None) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Tensor:
        """-> (N, length, width): the last hidden states, after the final norm.

        Raises:
            DistillkitError: a text that is not empty, and no tokenizer.
        """
        ids = self._token_ids(texts).to(next(self.network.parameters()).device)
        return self.network(input_ids=ids).last_hidden_state

    def _token_ids(self, texts: list[str]) -> Tensor:
        config: Any = self.network.config
        if not any(texts):
            return torch.tensor(
                [
                    [config.bos_token_id, config.eos_token_id]
                    + [0] * (config.max_position_embeddings - 2)
                ]
                * len(texts)
            )
        if self.tokenizer is None:
            raise DistillkitError(
                f"the prompt {next(t for t in texts if t)!r} needs a tokenizer, and this model was built without one"
            )
        length = config.max_position_embeddings
        return self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer from a folder with ``vocab.json`` and ``merges.txt``."""
    try:
        return CLIPTokenizer.from_pretrained(str(folder), pad_token="!")
    except Exception as e:  # whatever the library makes of damaged files
        raise DistillkitError(f"{folder} - not a CLIP tokenizer: {e}") from e


class FixedPrompt(nn.Module):
    """One text for every image. ``embedding``: (1, length, width)."""

    embedding: Tensor

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding)

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, length, width)."""
        return self.embedding.expand(len(image), -1, -1)


class PromptOfEach(nn.Module):
    """A text for each image: its caption, or else its tags, and after them ``prompt``.

    Args:
        tagger: asked if an image of the batch has no caption. captions: whether captions are looked at.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        prompt: str = "",
        tagger: Tagger | None = None,
        captions: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.prompt, self.tagger, self.captions = encoder, prompt, tagger, captions

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> (B, length, width)."""
        captions = current_captions(image) if self.captions else [None] * len(image)
        tags = (
            self.tagger(image)
            if self.tagger is not None and None in captions
            else [""] * len(image)
        )
        own = [
            tag if caption is None else caption for caption, tag in zip(captions, tags, strict=True)
        ]
        return self.encoder([", ".join(filter(None, [text, self.prompt])) for text in own])


Prompt = FixedPrompt | PromptOfEach


def find_tagger(name: str) -> Tagger:
    """The tagger that an installed package offers under ``name``.

    Raises:
        DistillkitError: no installed package does.
    """
    known = {e.name: e for e in entry_points(group=TAGGERS)}
    if name not in known:
        offered = ", ".join(sorted(known)) or "none"
        raise DistillkitError(
            f"tagger {name!r} - no installed package offers it (entry-point group {TAGGERS}; offered: {offered})"
        )
    return known[name].load()()
