"""The web page of the project (report sec. 6.3): whole episodes live, single pictures, comparisons, past results.

Reads checkpoints (without one, the scripted expert still runs), and where they exist the training curves, past
evaluations and demonstrations. Writes nothing but temporary files, which it deletes.

    python web_interface.py --checkpoint checkpoints/best_model.pth
"""

# torch and Gradio are imported in `main`, after the simulator's process has begun to start: the page is ready in
# two thirds of the time, and --help at once.

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vla.errors import UserError, run_script
from vla.files import default_checkpoint
from vla.sim.config import TEST_SEEDS, EnvConfig
from vla.web.simulator_process import SimulatorProcess
from vla.web.temporary_files import Sweeper, private_folder

QUEUE_MAX = 200
"""Largest number of waiting requests of all kinds, including those that a page sends when it is opened. The next one is
told that the page is full. `vla.web.waiting_line` bounds the episodes."""
SESSIONS_MAX = 200
"""Visits that Gradio remembers, with what each has asked last."""
UPLOAD_MB = 10
CSS = Path(__file__).with_name("vla") / "web" / "page.css"


@dataclass(frozen=True)
class WebOptions:
    """Options of the web page."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint of the policy; those beside it can be chosen too. Where there is none, the expert still runs."""
    results: Path = Path("videos")
    """Folder of past evaluations (5_evaluate.py's --output-dir), searched through."""
    data: Path = Path("data/lift_demos.hdf5")
    """Demonstrations to look at."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: on every network of this machine."""
    port: int = 7860
    """TCP port to listen on, 1-65535."""
    share: bool = False
    """Also open a public link through Gradio's servers."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""
    seed: int = TEST_SEEDS.start
    """Seed that the page offers first."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port must be from 1 to 65535, got {self.port}; leave it out for 7860")
        if not 0 <= self.seed < TEST_SEEDS.stop:
            raise UserError(f"--seed must be from 0 to {TEST_SEEDS.stop - 1}, got {self.seed}")


def main(options: WebOptions) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: nothing temporary is left behind
    simulator = SimulatorProcess(EnvConfig())  # which is nearly always the one that the checkpoint asks for
    try:
        with private_folder() as folder:
            _serve(options, simulator, folder)
    finally:
        simulator.close()
    # A visitor's picture may still be computed in some thread, and torch aborts where the interpreter ends beside it.
    sys.stdout.flush()
    os._exit(0)


def _serve(options: WebOptions, simulator: SimulatorProcess, folder: Path) -> None:
    import gradio as gr
    from starlette.middleware import Middleware

    from vla.web.handlers import Handlers
    from vla.web.limits import BodyLimit
    from vla.web.page import build_page
    from vla.web.policies import Policies

    handlers = Handlers(Policies(options.checkpoint, options.clip_weights), simulator, options.data, options.results)
    names = handlers.policies.names()
    for name, reason in handlers.policies.broken.items():
        print(f"WARNING: {name} cannot be used: {reason}")
    if handlers.first_driver == "expert":
        print(f"WARNING: only the scripted expert can run: {handlers.no_policy}")
    elif not options.checkpoint.is_file():
        print(f"WARNING: no checkpoint at {options.checkpoint}; offering {', '.join(names)} instead")
    page = build_page(handlers, options.seed)
    # Without api_open=False a request could pass the queue by, and break into a running episode.
    page.queue(max_size=QUEUE_MAX, default_concurrency_limit=2, api_open=False)
    handlers.rehearse(options.seed)
    handlers.warm_up()
    sweeper = Sweeper(folder)
    try:
        page.launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            theme=gr.themes.Default(font="system-ui", font_mono="monospace"),  # Gradio's own come from a font server
            css_paths=CSS,
            footer_links=["api"],
            max_file_size=f"{UPLOAD_MB}mb",
            app_kwargs={"middleware": [Middleware(BodyLimit, upload_bytes=UPLOAD_MB * 1_000_000)]},
            state_session_capacity=SESSIONS_MAX,
            enable_monitoring=False,
        )
    except OSError:
        raise UserError(
            f"cannot listen on {options.host}:{options.port}: the port is taken or the address is not this machine's; "
            "give others with --port and --host"
        ) from None
    finally:
        sweeper.close()
        handlers.close()


if __name__ == "__main__":
    run_script(main, WebOptions, __doc__)
