"""What a policy heard: the wording of its training that is nearest to what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vla.policies.grammar import Meaning, meaning_of

SMALLEST_VARIANCE = 0.003
"""Added to each variance in `Listener`, as a share of the largest: in most directions wordings hardly differ."""


@dataclass(frozen=True)
class Heard:
    """What a policy heard: the wording of its training that is nearest to what was said."""

    wording: str
    meaning: Meaning | None
    """None: the wording is not of this grammar, as the eight of the scene "lift"."""
    similarity: float
    """How near it is, in [-1, 1]; 1: the same sentence, as far as the text encoder can tell (`Listener`)."""


class Listener:
    """Finds the nearest of the wordings that a policy was trained with, by cosine.

    The embeddings are first scaled so that they differ equally in all directions among wordings of one meaning (Hatch
    et al. 2006). The plain cosine hears the verb before the place: for MiniLM, "on the left" and "on the right" are
    nearer to each other than "lift" and "grab".
    """

    def __init__(self, texts: Sequence[str], embeddings: np.ndarray) -> None:
        """Hold the wordings and their embeddings, (n, dim); a checkpoint stores both under `language`."""
        self._texts = tuple(texts)
        self._centre = embeddings.mean(axis=0)
        self._scaling = _within_meanings(embeddings, [meaning_of(text) or text for text in texts])  # (dim, dim)
        self._known = self._scaled(embeddings)

    def hear(self, embedding: np.ndarray) -> Heard:
        """The wording nearest to an embedding, (dim,), of the same text encoder."""
        similarities = self._known @ self._scaled(embedding)
        index = int(similarities.argmax())
        return Heard(self._texts[index], meaning_of(self._texts[index]), float(similarities[index]))

    def _scaled(self, embeddings: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = (embeddings - self._centre) @ self._scaling
        return scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-12)


def _within_meanings(embeddings: np.ndarray, meanings: Sequence[Meaning | str]) -> np.ndarray:
    """Returns the matrix after which wordings of one meaning differ equally in all directions, (dim, dim)."""
    rows: dict[Meaning | str, list[int]] = {}
    for row, meaning in enumerate(meanings):
        rows.setdefault(meaning, []).append(row)
    apart = np.concatenate([embeddings[group] - embeddings[group].mean(axis=0) for group in rows.values()])
    variances, directions = np.linalg.eigh(apart.T @ apart / len(apart))
    if variances[-1] < 1e-12:  # no meaning has two wordings
        return np.eye(len(variances))
    scaling: np.ndarray = directions / np.sqrt(variances.clip(0) + SMALLEST_VARIANCE * variances[-1])
    return scaling
