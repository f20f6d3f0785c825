"""The web page of the project (report sec. 6.3): live episodes, single images, comparisons, past results.

Reads the checkpoints (without one, the scripted expert still runs) and, if they exist, the training curves, past
evaluations and demonstrations. Writes only temporary files, which it deletes.

    python web_interface.py --checkpoint checkpoints/best_model.pth
"""

# Gradio is imported in `_serve`, after the simulator's process has been started, so that both start at the same time;
# torch, when the page is already shown. --help needs neither.

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vla.errors import UserError, run_script
from vla.files import default_checkpoint
from vla.sim.config import TEST_SEEDS, EnvConfig
from vla.web.simulator_process import SimulatorProcess
from vla.web.temporary_files import Sweeper, private_folder

if TYPE_CHECKING:
    import gradio as gr

SESSIONS_MAX = 200
"""Visits whose state Gradio keeps."""
UPLOAD_MB = 10
"""Size of an upload at most."""
CSS = Path(__file__).with_name("vla") / "web" / "page.css"


@dataclass(frozen=True)
class WebOptions:
    """Options of the web page."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint of the policy, or hf://USER/NAME of one on the Hugging Face Hub; those beside it can be chosen too.
    Without any, the expert still runs."""
    results: Path = Path("videos")
    """Folder that is searched for past evaluations (5_evaluate.py's --output-dir)."""
    data: Path = Path("data/lift_demos.hdf5")
    """File of demonstrations to show."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: all networks of this machine."""
    port: int = 7860
    """TCP port to listen on, 1-65535."""
    share: bool = False
    """Also open a public link through Gradio's servers."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""
    seed: int = TEST_SEEDS.start
    """Seed that the page offers first."""

    def __post_init__(self) -> None:
        if self.checkpoint.is_dir():
            raise UserError(f"--checkpoint {self.checkpoint} is a folder; name a checkpoint in it")
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port must be from 1 to 65535, got {self.port}; leave it out for 7860")
        if not 0 <= self.seed < TEST_SEEDS.stop:
            raise UserError(f"--seed must be from 0 to {TEST_SEEDS.stop - 1}, got {self.seed}")


def main(options: WebOptions) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: temporary files are deleted
    with private_folder() as folder:
        simulator = SimulatorProcess(EnvConfig())  # restarted below if the checkpoint was trained in another simulator
        try:
            _serve(options, simulator, folder)
        finally:
            simulator.close()


def _serve(options: WebOptions, simulator: SimulatorProcess, folder: Path) -> None:
    from vla.policies.hub import local_checkpoint
    from vla.web.checkpoint_choices import EXPERT, CheckpointChoices
    from vla.web.handlers import Handlers
    from vla.web.page import empty_page, fill_page
    from vla.web.waiting_lines import MAX_WAITING, WaitingLines

    checkpoint = local_checkpoint(options.checkpoint)
    choices = CheckpointChoices(checkpoint, options.clip_weights)
    page = empty_page()
    handlers = Handlers(choices, simulator, options.data, options.results, WaitingLines(page))
    known_broken = _warn_of_broken(choices.broken(), set())
    if handlers.choices.first_driver() == EXPERT:
        print(f"WARNING: only the scripted expert can run: {choices.missing()}")
    elif not checkpoint.is_file():
        print(f"WARNING: no checkpoint at {checkpoint}; offering {', '.join(choices.names())} instead")
    fill_page(page, handlers, options.seed)
    # Without api_open=False a request could bypass the queue and interrupt a running episode.
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=2, api_open=False)
    sweeper = Sweeper(folder)
    handlers.runner.second.hold_back()
    try:
        _show(page, options)
        handlers.warm_up(options.seed)
        _warn_of_broken(choices.broken(), known_broken)
        threading.Event().wait()
    except KeyboardInterrupt:  # the way to end it
        print("closing the page")
    finally:
        page.close(verbose=False)
        sweeper.close()
        handlers.close()


def _show(page: gr.Blocks, options: WebOptions) -> None:
    """Open the page to visitors.

    Raises:
        UserError: the port is taken.
    """
    import gradio as gr
    from starlette.middleware import Middleware

    from vla.web.body_limit import BodyLimit

    try:
        page.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            theme=gr.themes.Default(font="system-ui", font_mono="monospace"),  # Gradio's fonts come from a font server
            css_paths=CSS,
            footer_links=["api"],
            max_file_size=f"{UPLOAD_MB}mb",
            app_kwargs={"middleware": [Middleware(BodyLimit, upload_bytes=UPLOAD_MB * 1_000_000)]},
            state_session_capacity=SESSIONS_MAX,
            enable_monitoring=False,
            prevent_thread_lock=True,
        )
    except OSError:
        raise UserError(
            f"cannot listen on {options.host}:{options.port}: the port is taken or this machine does not have that "
            "address; give others with --port and --host"
        ) from None


def _warn_of_broken(broken: Mapping[str, str], known: set[str]) -> set[str]:
    """Print why checkpoints cannot be used, those in `known` left out; returns the names of all."""
    for name, reason in broken.items():
        if name not in known:
            print(f"WARNING: {name} cannot be used: {reason}")
    return set(broken)


if __name__ == "__main__":
    exit_code: object = 0
    try:
        run_script(main, WebOptions, __doc__)
    except SystemExit as end:
        exit_code = end.code
    # A thread may still compute a visitor's answer, and torch aborts if the interpreter ends meanwhile.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code if isinstance(exit_code, int) else 0)
