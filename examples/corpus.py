"""Real English text that every Python has: the reference manual behind `help()`."""

from __future__ import annotations

from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

RARE = 20  # characters that occur less often are written as UNKNOWN
UNKNOWN = "\N{REPLACEMENT CHARACTER}"
VALIDATED = 64  # windows of the validation text


@dataclass(frozen=True)
class Corpus:
    """A text as numbers.

    Attributes:
        characters: the alphabet; a character's number is its place here.
        train: the first nine tenths, int32.
        valid: the rest, from other topics of the manual.

    Example:
        >>> corpus = load()
        >>> corpus.decode(corpus.encode("def f(x):"))
        'def f(x):'
    """

    characters: str
    train: np.ndarray
    valid: np.ndarray

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text; characters that are not in the alphabet become UNKNOWN."""
        number = {c: i for i, c in enumerate(self.characters)}
        return np.array([number.get(c, number[UNKNOWN]) for c in text], np.int32)

    def decode(self, numbers: np.ndarray) -> str:
        """The text of numbers."""
        return "".join(self.characters[i] for i in numbers)


def load() -> Corpus:
    """The topics of Python's manual, in the order of their names; they differ by Python version."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    found, counts = np.unique(np.array(list(text)), return_counts=True)
    characters = "".join(sorted({*found[counts >= RARE], UNKNOWN}))
    corpus = Corpus(characters, np.zeros(0, np.int32), np.zeros(0, np.int32))
    numbers = corpus.encode(text)
    cut = len(numbers) * 9 // 10
    return Corpus(characters, numbers[:cut], numbers[cut:])


def windows(key: Array, text: Any, n: int, length: int) -> tuple[Array, Array]:
    """`n` windows of the text at random places: characters, and those that follow them."""
    starts = jax.random.randint(key, (n, 1), 0, len(text) - length)
    places = starts + jnp.arange(length)[None, :]
    text = jnp.asarray(text)
    return text[places], text[places + 1]


def cut(text: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows side by side, spread over the whole text: characters, and those that follow."""
    most = (len(text) - 1) // length
    chosen = np.linspace(0, most - 1, min(VALIDATED, most)).astype(int)
    places = chosen[:, None] * length + np.arange(length)
    return text[places], text[places + 1]
