"""`index.html` of the inspection: all demonstrations on one page that opens from disk, with boxes to exclude them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import jinja2
import numpy as np
from PIL import Image
from tqdm import tqdm

from vla.demos.inspection import (
    IDLE_STEPS,
    NEAR_CM,
    PATH_POINTS,
    STILL_M,
    STILL_OPENING_M,
    Inspected,
    Neighbour,
    nearest,
    runs,
)
from vla.demos.inspection_charts import action_charts, closing_chart, start_chart
from vla.demos.schema import checked_demos, demo_array
from vla.files import write_text
from vla.judging.thresholds import Thresholds

FRAMES = 12
"""Frames of an episode, at most."""
FRAME_PX = 192
"""Edge of a frame on the page."""
PICTURE_CHARACTERS = 16_000_000
"""Length of all pictures on the page, as text. When it is reached, the other episodes are listed without theirs."""
NOTES = ("label differs", "actions out of range", "near-duplicate", "idle")
"""What can be noted of an episode, most urgent first."""
_QUALITY = 75


def write_page(path: Path, data: Path, file: h5py.File, episodes: Sequence[Inspected]) -> None:
    """Write the page.

    Args:
        path: HTML file.
        data: the file of demonstrations, as the user named it.
        file: the same, open; the pictures are read from it.
        episodes: all of its demonstrations, in order.
    """
    neighbours = nearest(episodes)
    notes = [_notes(episode, neighbour) for episode, neighbour in zip(episodes, neighbours, strict=True)]
    strips = _strips(file, [episodes[index].name for index in _viewing_order(notes)])
    rows = [
        _row(episode, None if neighbour is None else (episodes[neighbour.index], neighbour.distance_cm), found)
        for episode, neighbour, found in zip(episodes, neighbours, notes, strict=True)
    ]
    for row, episode in zip(rows, episodes, strict=True):
        row["pictures"] = None if episode.name not in strips else strips[episode.name] | _series(episode)
    kept = [episode for episode in episodes if not episode.excluded]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(Path(__file__).parent)
    )
    page = environment.get_template("inspection_page.html.j2").render(
        data=data,
        rows=rows,
        facts=_facts(rows, len(strips), unjudged=any(episode.verdict is None for episode in episodes)),
        kept=len(kept),
        actions=action_charts([e.actions for e in kept], [e.executed_actions for e in kept]),
        closings=closing_chart([episode.closings for episode in kept]),
        starts=start_chart(episodes),
        limits={
            "path_points": PATH_POINTS,
            "near_cm": NEAR_CM,
            "idle_steps": IDLE_STEPS,
            "still_mm": 1000 * STILL_M,
            "still_opening_mm": 1000 * STILL_OPENING_M,
            "frames": FRAMES,
        },
        height_cm=100 * Thresholds().min_height_m,
    )
    write_text(path, page)


def _notes(episode: Inspected, neighbour: Neighbour | None) -> list[str]:
    """What about an episode needs a look: some of NOTES, in this order."""
    found = (
        not episode.label_holds(),
        not episode.in_range(),
        neighbour is not None and neighbour.distance_cm < NEAR_CM,
        bool(episode.idle),
    )
    return [note for note, holds in zip(NOTES, found, strict=True) if holds]


def _viewing_order(notes: Sequence[Sequence[str]]) -> list[int]:
    """Indices of the episodes: those that need a look, then the others, spread so that a first part covers the file."""
    noted = [index for index, found in enumerate(notes) if found]
    others = [index for index, found in enumerate(notes) if not found]
    step = 1 << max(len(others) - 1, 0).bit_length()
    spread: dict[int, None] = {}
    while step >= 1:
        spread.update(dict.fromkeys(range(0, len(others), step)))
        step //= 2
    return noted + [others[place] for place in spread]


def _strips(file: h5py.File, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Strips of frames of the first episodes, as many as the page may hold."""
    strips: dict[str, dict[str, Any]] = {}
    characters = 0
    demos = checked_demos(file, names)
    for name, demo in tqdm(demos, total=len(names), unit="episode", desc="frames", leave=False, disable=None):
        strips[name] = _strip(demo_array(demo, "images"))
        characters += len(strips[name]["strip"])
        if characters > PICTURE_CHARACTERS:
            break
    return strips


def _strip(images: np.ndarray) -> dict[str, Any]:
    """Evenly spaced frames of an episode side by side, as a data URL, and their rows."""
    rows = np.linspace(0, len(images) - 1, min(FRAMES, len(images))).round().astype(int)
    strip = Image.new("RGB", (FRAME_PX * len(rows), FRAME_PX))
    for place, row in enumerate(rows):
        strip.paste(Image.fromarray(images[row]).resize((FRAME_PX, FRAME_PX)), (place * FRAME_PX, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="WEBP", quality=_QUALITY)
    return {
        "strip": f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "frames": rows.tolist(),
    }


def _row(episode: Inspected, neighbour: tuple[Inspected, float] | None, notes: list[str]) -> dict[str, Any]:
    """What the page's table shows of an episode."""
    sources = runs(episode.sources)
    shares = {name: sum(steps for other, steps in sources if other == name) for name in sorted(dict(sources))}
    return {
        "name": episode.name,
        "split": episode.split,
        "excluded": episode.excluded,
        "instruction": episode.instruction,
        "seed": episode.seed,
        "target": _target(episode),
        "steps": len(episode),
        "label": None if episode.verdict is None else episode.label,
        "success": None if episode.verdict is None else episode.verdict.success,
        "words": "unjudged: imported, without evidence" if episode.verdict is None else episode.verdict.words,
        "detours": _mistakes(episode, slips=False),
        "slips": _mistakes(episode, slips=True),
        "sources": {name: round(100 * steps / len(episode)) for name, steps in shares.items()},
        "closings": len(episode.closings),
        "idle": round(100 * episode.idle_share(), 1),
        "moves": episode.target is not None or episode.verdict is None,
        "start": None if episode.start is None else _numbers(np.array(episode.start), 1),
        "nearest": None
        if neighbour is None
        else [neighbour[0].name, neighbour[0].split, *_numbers(np.array([neighbour[1]]), 2)],
        "notes": notes,
    }


def _target(episode: Inspected) -> str:
    """The cube that the instruction names, of how many; empty in the scene with one cube."""
    if episode.layout is None:
        return ""
    cubes = episode.layout.cubes
    return f"{'none' if episode.target is None else cubes[episode.target].colour} of {len(cubes)}"


def _mistakes(episode: Inspected, slips: bool) -> int:
    """Stretches of detour in an episode: those that begin with the cube in the grip (slips), or the others."""
    detour = episode.sources == b"detour"
    begins = np.flatnonzero(detour & ~np.concatenate([[False], detour[:-1]]))
    return sum((phase in (b"lift", b"hold")) == slips for phase in episode.phases[begins])


def _series(episode: Inspected) -> dict[str, Any]:
    """What the page draws over the time of an episode. Lengths in mm, forces in N, actions in hundredths."""
    evidence = episode.evidence
    return {
        "phases": runs(episode.phases),
        "sources": runs(episode.sources),
        "gripper": runs(np.where(episode.actions[:, -1] > 0, b"closes", b"opens")),
        "idle": episode.idle,
        "height": _numbers(1000 * evidence["height_m"]),
        "opening": _numbers(1000 * evidence["opening_m"]),
        "left": _numbers(evidence["left_squeeze_n"], 1),
        "right": _numbers(evidence["right_squeeze_n"], 1),
        "labels": [_numbers(100 * episode.actions[:, axis]) for axis in range(3)],
        "executed": [_numbers(100 * episode.executed_actions[:, axis]) for axis in range(3)],
    }


def _numbers(values: np.ndarray, digits: int = 0) -> list[float | None]:
    """Rounded numbers; None for what is not finite, which JSON cannot hold."""
    rounded = np.round(values, digits).tolist()
    finite = [value if np.isfinite(value) else None for value in rounded]
    return finite if digits else [None if value is None else int(value) for value in finite]


def _facts(rows: Sequence[dict[str, Any]], pictured: int, unjudged: bool) -> dict[str, str]:
    """The head of the page: names and values."""
    total, lengths = len(rows), [row["steps"] for row in rows]
    sides = {side: sum(row["split"] == side for row in rows) for side in ("train", "valid")}
    noted = {note: [row for row in rows if note in row["notes"]] for note in NOTES}
    across = sum(row["split"] != row["nearest"][1] for row in noted["near-duplicate"])
    facts = {
        "Episodes": f"{total}: {sides['train']} train, {sides['valid']} valid",
        "Length": f"{min(lengths)} to {max(lengths)} steps, {np.mean(lengths):.0f} on average; 20 steps a second",
        "Judged anew": "none: imported, without evidence"
        if unjudged
        else f"{total - len(noted['label differs'])} of {total} labels hold",
        "Near-duplicates": f"{len(noted['near-duplicate'])} of {total} episodes, {across} across the split",
        "Idle stretches": f"in {len(noted['idle'])} of {total} episodes",
    }
    if noted["actions out of range"]:
        facts["Actions"] = f"not all in [-1, 1] in {len(noted['actions out of range'])} of {total} episodes"
    if pictured < total:
        facts["Left out"] = (
            f"frames and curves of {total - pictured} of {total} episodes, to keep this page small; those that need a "
            "look come first, the others are spread over the file"
        )
    return facts
