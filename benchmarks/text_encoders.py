"""What a text encoder knows before any training: how near two instructions are, and what can be read from one.

Compares the sentence encoder MiniLM with CLIP's text tower, untrained unless --clip-weights says otherwise. A linear
layer learns kind, colour and place from wordings of training, and is asked about held-out ones; so is the nearest
wording of training (`vla.policies.listener`). Where the layer fails, a policy that reads the same embeddings can hardly
succeed. Takes some minutes, most of them for CLIP, and no simulator. Writes the result file into docs/results.

    python -m pip install --no-deps -r requirements-language.txt
    python benchmarks/text_encoders.py
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scripts  # noqa: F401 (makes the packages importable)
import torch
from torch import Tensor

from vla.errors import run_script
from vla.evaluation.results_json import run_versions
from vla.evaluation.statistics import success_interval
from vla.files import write_text
from vla.markdown import markdown_table
from vla.policies.grammar import CUBE_COLOURS, MEANINGS, Meaning, grammar_sha256, wordings
from vla.policies.listener import Listener
from vla.policies.text_encoder import EncoderName, load_text_encoder
from vla.policies.wordings import SPLITS, Split

ENCODERS: tuple[EncoderName, ...] = ("minilm", "clip")
SAID = "Lift the red cube"
PAIRS = (
    ("same meaning, another verb of training", SAID, "Grab the red cube"),
    ("same meaning, another noun of training", SAID, "Lift the red object"),
    ("same meaning, held-out template", SAID, "Would you lift the cube that is red for me"),
    ("same meaning, held-out verb", SAID, "Hoist the red cube"),
    ("same meaning, held-out noun", SAID, "Lift the red block"),
    ("same meaning, held-out colour word", SAID, "Lift the crimson cube"),
    ("same meaning, every word held out", SAID, "Hoist the crimson block"),
    ("another colour", SAID, "Lift the green cube"),
    ("another colour, the same held-out words", "Hoist the crimson block", "Hoist the lime block"),
    ("a colour that no cube has", SAID, "Lift the purple cube"),
    ("negation", SAID, "Lift the cube that is not red"),
    ("nothing", SAID, "Do nothing"),
    ("left and right", "Lift the cube on the left", "Lift the cube on the right"),
    ("nearest and farthest", "Lift the cube nearest to the robot", "Lift the cube farthest from the robot"),
    ("left and leftmost", "Lift the cube on the left", "Lift the leftmost cube"),
    ("a colour and a place", SAID, "Lift the cube on the left"),
)
"""Pairs of instructions whose cosine is reported: what is compared, and the two."""
HELD_OUT_MEANINGS = "meaning"
"""Row of colours and places that training never names together, and of colours that no cube has and training omits."""


@dataclass(frozen=True)
class TextEncoderOptions:
    """Options of the benchmark."""

    training_texts: int = 1000
    """Wordings of training that the linear layer learns from, drawn evenly over the kinds of meaning."""
    texts_per_split: int = 200
    """Wordings that are asked of each split."""
    clip_weights: str = "none"
    """CLIP's weights: open_clip tag, local file, or 'none' for the untrained tower."""
    output: Path = Path("docs/results/text_encoders.json")
    """Result file."""


class Labels(NamedTuple):
    """What a meaning says: kind, colour ("absent" for any that no cube has) and place, as numbers."""

    kind: int
    colour: int
    place: int


KINDS = sorted({meaning.kind for meaning in MEANINGS})
COLOURS = ("none", "absent", *CUBE_COLOURS)
PLACES = ("none", "left", "right", "nearest", "farthest")


def labels(meaning: Meaning) -> Labels:
    """The numbers of a meaning."""
    colour = meaning.colour if meaning.colour in (None, *CUBE_COLOURS) else "absent"
    return Labels(KINDS.index(meaning.kind), COLOURS.index(colour or "none"), PLACES.index(meaning.place or "none"))


def main(options: TextEncoderOptions) -> None:
    rng = np.random.default_rng(0)
    trained = [meaning for meaning in MEANINGS if not meaning.held_out]
    held_out = [meaning for meaning in MEANINGS if meaning.held_out]
    learned = _draw(trained, "training", options.training_texts, rng)
    seen = {text for text, _ in learned}
    asked: dict[str, list[Example]] = {
        split: [each for each in _draw(trained, split, options.texts_per_split, rng) if each[0] not in seen]
        for split in SPLITS
    }
    asked[HELD_OUT_MEANINGS] = _draw(held_out, "training", options.texts_per_split, rng)
    results = {name: _measure(name, options.clip_weights, learned, asked) for name in ENCODERS}
    content = {
        "encoders": results,
        "learned_texts": len(learned),
        "grammar_sha256": grammar_sha256(),
        "versions": run_versions(),
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(f"{cosine_table(content)}\n\n{understanding_table(content)}")


Example = tuple[str, Meaning]


def _draw(meanings: Sequence[Meaning], split: Split, count: int, rng: np.random.Generator) -> list[Example]:
    """Draw up to `count` different wordings: first a kind, then one of its meanings, then its wording."""
    by_kind = {
        kind: [meaning for meaning in meanings if meaning.kind == kind and wordings(meaning, split)] for kind in KINDS
    }
    kinds = [kind for kind, members in by_kind.items() if members]
    drawn: dict[str, Meaning] = {}
    for _ in range(20 * count):
        members = by_kind[kinds[rng.integers(len(kinds))]]
        meaning = members[rng.integers(len(members))]
        texts = wordings(meaning, split)
        drawn[texts[rng.integers(len(texts))]] = meaning
        if len(drawn) == count:
            break
    return list(drawn.items())


def _measure(
    name: EncoderName, clip_weights: str, learned: list[Example], asked: dict[str, list[Example]]
) -> dict[str, Any]:
    encoder = load_text_encoder(name, clip_weights)
    texts = [text for text, _ in learned]
    known = encoder(texts)  # (n, dim)
    centre = known.mean(dim=0)
    pairs = [torch.stack([encoder([first])[0], encoder([second])[0]]) for _, first, second in PAIRS]
    read = _linear_reader(known, [labels(meaning) for _, meaning in learned])
    listener = Listener(texts, known.numpy())
    splits = {}
    for split, examples in asked.items():
        embeddings = encoder([text for text, _ in examples])
        right = [labels(meaning) for _, meaning in examples]
        heard = [listener.hear(embedding).meaning for embedding in embeddings.numpy()]
        nearest = [None if meaning is None else labels(meaning) for meaning in heard]
        splits[split] = {
            "asked": len(examples),
            "linear": sum(map(_same, read(embeddings), right)),
            "nearest": sum(map(_same, nearest, right)),
        }
    return {
        "identity": encoder.identity,
        "cosines": [float(torch.cosine_similarity(pair[0], pair[1], dim=0)) for pair in pairs],
        "centred_cosines": [
            float(torch.cosine_similarity(pair[0] - centre, pair[1] - centre, dim=0)) for pair in pairs
        ],
        "splits": splits,
    }


def _same(found: Labels | None, right: Labels) -> bool:
    """Whether kind, colour and place are all right."""
    return found == right


def _linear_reader(known: Tensor, right: list[Labels]) -> Callable[[Tensor], list[Labels]]:
    """Learn a linear layer with a softmax for kind, colour and place; returns what reads (n, dim) embeddings with it.

    It is given what the network is given: embeddings that are centred, and scaled by one number.
    """
    centre, scale = known.mean(dim=0), (known - known.mean(dim=0)).square().mean().sqrt()
    sizes = (len(KINDS), len(COLOURS), len(PLACES))
    targets = torch.tensor(right)  # (n, 3)
    torch.manual_seed(0)
    layer = torch.nn.Linear(known.shape[1], sum(sizes))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(500):
        scores = layer((known - centre) / scale).split(sizes, dim=1)
        loss = sum(torch.nn.functional.cross_entropy(scores[part], targets[:, part]) for part in range(len(sizes)))
        optimiser.zero_grad()
        torch.as_tensor(loss).backward()
        optimiser.step()

    def read(embeddings: Tensor) -> list[Labels]:
        with torch.no_grad():
            scores = layer((embeddings - centre) / scale).split(sizes, dim=1)
        return list(itertools.starmap(Labels, torch.stack([part.argmax(dim=1) for part in scores], dim=1).tolist()))

    return read


def cosine_table(content: dict[str, Any]) -> str:
    """The cosine of each of PAIRS with each encoder; centred: with the mean of all instructions taken off."""
    head = [
        "two instructions",
        "first",
        "second",
        *itertools.chain.from_iterable((n, f"{n}, centred") for n in ENCODERS),
    ]
    rows = [
        (
            what,
            f'"{first}"',
            f'"{second}"',
            *itertools.chain.from_iterable(
                (f"{content['encoders'][name][kind][index]:.2f}" for kind in ("cosines", "centred_cosines"))
                for name in ENCODERS
            ),
        )
        for index, (what, first, second) in enumerate(PAIRS)
    ]
    return markdown_table(head, rows)


def understanding_table(content: dict[str, Any]) -> str:
    """Of each split, how many wordings are read right in kind, colour and place, by each encoder and reader."""
    head = ["held out", "asked", *(f"{name}, {reader}" for name in ENCODERS for reader in ("linear", "nearest"))]
    rows = []
    for split, first in content["encoders"][ENCODERS[0]]["splits"].items():
        cells = []
        for name, reader in itertools.product(ENCODERS, ("linear", "nearest")):
            right = content["encoders"][name]["splits"][split][reader]
            low, high = success_interval(right, first["asked"])
            cells.append(f"{right / first['asked']:.0%} [{low:.0%}, {high:.0%}]")
        rows.append(("nothing" if split == "training" else split, str(first["asked"]), *cells))
    return markdown_table(head, rows)


if __name__ == "__main__":
    run_script(main, TextEncoderOptions, __doc__)
