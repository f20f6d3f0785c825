"""What makes two runs the same: only then may one of them continue the other."""

from __future__ import annotations

import hashlib
import json
from typing import Any

Question = dict[str, Any]
"""Everything that decides the episodes of a run, as JSON types: policy, seeds, options, versions, machine."""


def as_json(question: Question) -> Question:
    """The question as it reads from a file: lists for tuples."""
    stored: Question = json.loads(json.dumps(question))
    return stored


def digest(question: Question) -> str:
    """12 hex digits that name the question."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12]


def difference(stored: Question, wanted: Question) -> str | None:
    """The first difference between two questions, in words; None: there is none."""
    wanted = as_json(wanted)
    for name in (*wanted, *stored):
        if stored.get(name) != wanted.get(name):
            return f"{name} is {str(stored.get(name))[:80]} there, {str(wanted.get(name))[:80]} here"
    return None
