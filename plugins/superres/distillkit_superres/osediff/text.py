"""Prompts: the texts a model is conditioned on, and their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from distillkit import DistillkitError

Tagger = Callable[[Tensor], list[str]]
"""Writes a text for each image, such as ``"dog, grass, ball"``.

The images are inputs enlarged to output size, shape (B, 3, H, W), in [-1, 1]."""

TAGGERS = "distillkit_superres.taggers"
"""The entry-point group in which packages offer taggers.

An entry point names a callable without arguments that returns a :data:`Tagger`."""

PADDING_TOKEN_ID = 0
"""The token that texts are padded with, ``"!"``, as Stable Diffusion 2 does."""


class PromptEncoder(nn.Module):
    """CLIP's text encoder over padded token ids; the padding is attended to.

    Args:
        network: A ``CLIPTextModel``.
        tokenizer: Its tokenizer; None if there are only empty texts, whose tokens are known.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: CLIPTokenizer | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer

    @torch.no_grad()
    def forward(self, texts: list[str]) -> Tensor:
        """Embed texts.

        Returns:
            The last hidden states, after the final norm, shape (N, length, width).

        Raises:
            DistillkitError: A text is not empty, and there is no tokenizer.
        """
        device = next(self.network.parameters()).device
        ids = self._token_ids(texts).to(device)
        return self.network(input_ids=ids).last_hidden_state

    def _token_ids(self, texts: list[str]) -> Tensor:
        config: Any = self.network.config
        length = config.max_position_embeddings
        nonempty = [text for text in texts if text]
        if not nonempty:
            padding = [PADDING_TOKEN_ID] * (length - 2)
            empty = [config.bos_token_id, config.eos_token_id, *padding]
            return torch.tensor([empty] * len(texts))
        if self.tokenizer is None:
            raise DistillkitError(
                f"the prompt {nonempty[0]!r} needs a tokenizer, "
                "and this model was built without one"
            )
        tokens = self.tokenizer(
            texts,
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """Read CLIP's tokenizer from a folder with ``vocab.json`` and ``merges.txt``.

    Raises:
        DistillkitError: It is no CLIP tokenizer.
    """
    try:
        return CLIPTokenizer.from_pretrained(str(folder), pad_token="!")
    except Exception as e:  # the library has no error of its own for damaged files
        raise DistillkitError(f"{folder} - not a CLIP tokenizer: {e}") from e


class FixedPrompt(nn.Module):
    """One text for every image.

    Args:
        embedding: The text's embedding, shape (1, length, width).
    """

    embedding: Tensor

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.register_buffer("embedding", embedding)

    def forward(self, image: Tensor, captions: Sequence[str | None]) -> Tensor:
        """Repeat the embedding for images (B, 3, H, W), shape (B, length, width)."""
        return self.embedding.expand(len(image), -1, -1)


class PromptPerImage(nn.Module):
    """A text for each image: its caption, or else its tags, followed by a prompt.

    Args:
        encoder: Embeds the texts.
        prompt: The text that follows an image's own.
        tagger: Called if an image of the batch has no caption.
        captions: Whether captions are used.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        prompt: str = "",
        tagger: Tagger | None = None,
        captions: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.prompt = prompt
        self.tagger = tagger
        self.captions = captions

    def forward(self, image: Tensor, captions: Sequence[str | None]) -> Tensor:
        """Embed the texts of images.

        Args:
            image: Shape (B, 3, H, W), in [-1, 1].
            captions: Each image's caption, or None where it has none.

        Returns:
            Shape (B, length, width).
        """
        if not self.captions:
            captions = [None] * len(image)
        # The tagger sees the whole batch or nothing: it is a network of its own.
        tags = [""] * len(image)
        if self.tagger is not None and None in captions:
            tags = self.tagger(image)
        texts = []
        for caption, tag in zip(captions, tags, strict=True):
            own = tag if caption is None else caption
            texts.append(", ".join(filter(None, [own, self.prompt])))
        return self.encoder(texts)


Prompt = FixedPrompt | PromptPerImage


def find_tagger(name: str) -> Tagger:
    """Find the tagger that an installed package offers under a name.

    Raises:
        DistillkitError: No installed package does.
    """
    offered = {entry_point.name: entry_point for entry_point in entry_points(group=TAGGERS)}
    if name not in offered:
        names = ", ".join(sorted(offered)) or "none"
        raise DistillkitError(
            f"tagger {name!r} - no installed package offers it "
            f"(entry-point group {TAGGERS}; offered: {names})"
        )
    make_tagger = offered[name].load()
    return make_tagger()
