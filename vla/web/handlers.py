"""Everything that the page's events call, for all visitors."""

from __future__ import annotations

import threading
from pathlib import Path

from vla.sim import gl
from vla.web.archive_handlers import ArchiveHandlers
from vla.web.checkpoint_choices import CheckpointChoices
from vla.web.demo_listing import DemoFile
from vla.web.episode_handlers import EpisodeHandlers
from vla.web.episode_runner import EpisodeRunner
from vla.web.image_handlers import ImageHandlers
from vla.web.scene_handlers import SceneHandlers
from vla.web.simulator_process import SimulatorProcess
from vla.web.waiting_lines import WaitingLines


class Handlers:
    """The events' handlers, by what they share."""

    def __init__(
        self, choices: CheckpointChoices, simulator: SimulatorProcess, data: Path, results: Path, lines: WaitingLines
    ) -> None:
        """`data` is the file of demonstrations, `results` the folder of past evaluations."""
        self.choices = choices
        self.lines = lines
        self.runner = EpisodeRunner(choices, simulator)
        self.episodes = EpisodeHandlers(self.runner, lines)
        self.scene = SceneHandlers(choices)
        self.images = ImageHandlers(choices, self.runner.second)
        self.archive = ArchiveHandlers(results, DemoFile(data))

    def warm_up(self, seed: int) -> None:
        """Rehearse an episode of `seed`, and begin to load, in the background, what only some visitors ask for.

        Raises:
            UserError: see `EpisodeRunner.rehearse`.
        """
        self.runner.rehearse(seed)
        gl.select_backend()  # so that the simulators that start from here on need not try it again
        self.runner.second.start()
        threading.Thread(target=self.choices.load_text_encoder, daemon=True).start()

    def close(self) -> None:
        """End the second simulator."""
        self.runner.second.close()
