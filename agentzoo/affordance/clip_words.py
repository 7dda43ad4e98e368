"""CLIP's words: sentences as numbers, by byte pairs, from a folder's vocab.json and merges.txt.

Source: Radford et al. 2021 (arXiv:2103.00020); openai/CLIP. Sennrich et al. 2016 for byte pairs.
"""

import html
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agentzoo.runtime.bundle.manifest import read_json
from agentzoo.runtime.errors import ConfigError
from agentzoo.runtime.spec import Array
from agentzoo.runtime.strict_json import read_object

START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
# contractions, words, single digits, and runs of what is neither nor space
PIECES = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


@lru_cache
def _letters() -> dict[int, str]:
    """A visible character for each byte: itself where it is one, else one above all bytes."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {
        byte: chr(256 + k) for k, byte in enumerate(others)
    }


class ClipWords:
    """A vocabulary, and the pairs that are joined, the earliest first.

    Args:
        folder: of a CLIP, with `vocab.json` and `merges.txt`.

    Raises:
        ConfigError: if it has not both.
    """

    def __init__(self, folder: str | Path) -> None:
        root = Path(folder).expanduser()
        for name in (VOCABULARY, MERGES):
            if not (root / name).is_file():
                raise ConfigError(
                    f"{root} has no {name}; give the folder of a CLIP that has {VOCABULARY} and "
                    f"{MERGES}, such as openai/clip-vit-base-patch16"
                )
        self.numbers: dict[str, Any] = read_object(
            read_json(root / VOCABULARY), str(root / VOCABULARY)
        )
        lines = (root / MERGES).read_text(encoding="utf-8").splitlines()
        pairs = [line.split() for line in lines if line and not line.startswith("#version")]
        self.ranks = {(a, b): rank for rank, (a, b) in enumerate(pairs)}
        for name in (START, END):
            if name not in self.numbers:
                raise ConfigError(f"{root / VOCABULARY} has no {name}; it is no CLIP's vocabulary")

    def tokens(self, texts: Sequence[str], length: int) -> Array:
        """Sentences as numbers of tokens (P, length) int64: start, text, end, then zeros."""
        found = np.zeros((len(texts), length), np.int64)
        for sentence, text in zip(found, texts, strict=True):
            inside = self.words(text)[: length - 2]
            numbers = [self.numbers[one] for one in (START, *inside, END)]
            sentence[: len(numbers)] = numbers
        return found

    def words(self, text: str) -> list[str]:
        """The pieces of a sentence, as they stand in the vocabulary.

        Raises:
            ConfigError: if one does not.
        """
        clean = " ".join(html.unescape(html.unescape(text)).split()).lower()
        letters = _letters()
        found: list[str] = []
        for piece in PIECES.findall(clean):
            found += self._joined("".join(letters[byte] for byte in piece.encode()))
        for one in found:
            if one not in self.numbers:
                raise ConfigError(f"the vocabulary has no {one!r}, which {text!r} needs")
        return found

    def _joined(self, piece: str) -> list[str]:
        parts = [*piece[:-1], piece[-1] + "</w>"]
        while len(parts) > 1:
            ranked = [(self.ranks.get(pair, len(self.ranks)), pair) for pair in pairwise(parts)]
            rank, pair = min(ranked)
            if rank == len(self.ranks):
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == pair:
                    joined[-1] += part
                else:
                    joined.append(part)
            parts = joined
        return parts
