"""What training asks for, and in which words, so that a policy hears meanings and not a few sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vla.policies.asked import Asked
from vla.policies.grammar import MEANINGS, Meaning, another_meaning, counterfactuals, meaning_of, resolve, wordings
from vla.sim.table import TableLayout


def training_wordings(count: int) -> list[str]:
    """Draw `count` wordings of each meaning that training may ask for, or all where it has fewer; always the same.

    The shortest one is among them: it is what the page's buttons write.
    """
    rng = np.random.default_rng(0)
    chosen: list[str] = []
    for meaning in MEANINGS:
        if not meaning.held_out:
            shortest, *others = wordings(meaning, "training")
            chosen += [shortest, *(others[index] for index in rng.permutation(len(others)))][:count]
    return chosen


class Asker:
    """Draws the instructions of training pictures anew each time that they are served."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Choose among these `texts`; those that the grammar does not know are never drawn."""
        self._by_meaning: dict[Meaning, list[str]] = {}
        for text in texts:
            meaning = meaning_of(text)
            if meaning is not None:
                self._by_meaning.setdefault(meaning, []).append(text)
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Begin an epoch: the same seed draws the same."""
        self._rng = np.random.default_rng(seed)

    def again(self, instruction: str, layout: TableLayout | None, target: int | None) -> str:
        """Another instruction that asks for the same on this table; the same one where the grammar does not know it."""
        meaning = meaning_of(instruction)
        if meaning is None or layout is None:
            return instruction
        return self._words(another_meaning(layout.cubes, target, self._rng), instruction)

    def ask(self, layout: TableLayout) -> Asked:
        """An instruction that makes sense on this table, with the cube that it names."""
        (meaning,) = counterfactuals(layout.cubes, self._rng, 1)
        return Asked(self._words(meaning, str(meaning)), resolve(meaning, layout.cubes))

    def _words(self, meaning: Meaning, otherwise: str) -> str:
        texts = self._by_meaning.get(meaning, [otherwise])
        return texts[self._rng.integers(len(texts))]
