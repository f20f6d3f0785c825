"""Other wordings of the instructions of training, so that a policy hears meanings and not a few sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla.policies.batch import Batch
from vla.policies.grammar import MEANINGS, Meaning, meaning_of, wordings


def training_wordings(count: int) -> list[str]:
    """Draw `count` wordings of each meaning that training may ask for, or all where it has fewer; always the same."""
    rng = np.random.default_rng(0)
    chosen: list[str] = []
    for meaning in MEANINGS:
        if not meaning.held_out:
            texts = wordings(meaning, "training")
            chosen += (texts[index] for index in rng.permutation(len(texts))[:count])
    return chosen


class Rewording:
    """Replaces the instructions of a batch by other wordings of the same meaning."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Choose among these `texts`; those that the grammar does not know are left as they are."""
        self._by_meaning: dict[Meaning, list[str]] = {}
        for text in texts:
            meaning = meaning_of(text)
            if meaning is not None:
                self._by_meaning.setdefault(meaning, []).append(text)

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """The batch with a wording drawn for each of its segments: the windows of a segment share their frames."""
        segments = batch.segments[batch.windows[:, -1]].tolist()  # (B,)
        drawn: dict[int, str] = {}
        for segment, instruction in zip(segments, batch.instructions, strict=True):
            if segment not in drawn:
                drawn[segment] = self._draw(instruction, rng)
        return batch._replace(instructions=[drawn[segment] for segment in segments])

    def _draw(self, instruction: str, rng: np.random.Generator) -> str:
        meaning = meaning_of(instruction)
        texts = [instruction] if meaning is None else self._by_meaning.get(meaning, [instruction])
        return texts[rng.integers(len(texts))]
