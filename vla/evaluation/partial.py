"""The finished episodes of an evaluation that has not ended: one file each, so that a killed run loses none of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np

from vla.evaluation.episode import EpisodeResult, EvaluatedEpisode, Recording
from vla.evaluation.identity import Question, difference, digest
from vla.evaluation.plan import is_video
from vla.files import atomic_path, is_temporary, write_text

_PREFIX = "partial-"
_QUESTION = "question.json"


class PartialEpisodes:
    """A folder `partial-<digest of the question>` in an output directory, with the episodes that have finished.

    The same command finds the same folder. Another command has a folder of its own and leaves this one alone.
    """

    def __init__(self, output_dir: Path, question: Question) -> None:
        self.folder = output_dir / f"{_PREFIX}{digest(question)}"
        """Videos are written here, too, until the evaluation is whole."""
        self._question = question

    def load(self) -> dict[int, EvaluatedEpisode]:
        """The finished episodes by seed. A file that cannot be read is reported, and its episode counts as not run."""
        episodes = {}
        for path in sorted(self.folder.glob("episode_*.npz")):
            try:
                episode = _read(path)
            except Exception as error:  # np.load raises various types for damaged files
                print(f"WARNING: {path} is damaged ({type(error).__name__}); the episode is run again")
                continue
            episodes[episode.result.seed] = episode
        return episodes

    def save(self, episode: EvaluatedEpisode) -> None:
        """Write a finished episode; it is safe on the disk when this returns."""
        if not (self.folder / _QUESTION).exists():
            write_text(self.folder / _QUESTION, json.dumps(self._question, indent=1))
        recording = episode.recording
        with atomic_path(self.folder / f"episode_{episode.result.seed}.npz") as temporary:
            np.savez_compressed(
                temporary,
                result=np.array(json.dumps(dataclasses.asdict(episode.result))),
                has_video=np.array(episode.has_video),
                states=recording.states,
                actions=recording.actions,
                strip=np.zeros(0, np.uint8) if recording.strip is None else recording.strip,
            )

    def remove(self) -> None:
        """Delete the episodes and their videos. Anything else that lies in the folder stays, and the folder with it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if path.name == _QUESTION or path.match("episode_*.npz") or is_video(path) or is_temporary(path):
                path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def describe_others(self) -> list[str]:
        """A line for each evaluation of another question that was stopped in the same output directory."""
        lines = []
        for folder in sorted(self.folder.parent.glob(f"{_PREFIX}*")):
            count = len(list(folder.glob("episode_*.npz")))
            if folder == self.folder or not count:
                continue
            try:
                stored = json.loads((folder / _QUESTION).read_text(encoding="utf-8"))
                differs = difference(stored, self._question)
            except (OSError, ValueError, AttributeError):
                differs = "its question cannot be read"
            lines.append(
                f"{folder} is kept: {count} finished episodes of another evaluation ({differs}); "
                "the command that began it continues it"
            )
        return lines


def _read(path: Path) -> EvaluatedEpisode:
    with np.load(path, allow_pickle=False) as stored:
        result = EpisodeResult(**json.loads(str(stored["result"])))
        strip = stored["strip"]
        recording = Recording(stored["states"], stored["actions"], strip if strip.size else None)
        return EvaluatedEpisode(result, recording, bool(stored["has_video"]))
