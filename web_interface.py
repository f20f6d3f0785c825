"""The web page of the project (report sec. 6.3): whole episodes live, single-image predictions, the model.

Reads a checkpoint (without one, the scripted expert still runs), and where they exist the training curves beside it
and the latest evaluation's table. Writes nothing but temporary files, which Gradio serves and deletes.

    python web_interface.py --checkpoint checkpoints/best_model.pth
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import nn

from vla import stages
from vla.checkpoint import default_checkpoint, load_checkpoint, provenance, warn_of_drift
from vla.env import TEST_SEEDS, EnvConfig
from vla.errors import UserError, run_script
from vla.instructions import INSTRUCTIONS
from vla.stats import markdown_table
from vla.web_worker import MAX_INSTRUCTION_CHARS, Handlers, Policy, SimulatorThread

CACHE_S = 3600
"""How often Gradio looks for temporary files to delete, and how old they are by then."""
ACTION_COLUMNS = ("move x", "move y", "move z", "turn x", "turn y", "turn z", "gripper")
PARTS = {
    "vision": ("Vision encoder (ResNet18)", "11.2M"),
    "feature_norm": ("Normalisation of its output", "-"),
    "fusion": ("Cross-attention fusion", "2.1M"),
    "decoder": ("Action decoder (4 layers)", "8.3M"),
    "auxiliary": ("Auxiliary head (training only)", "-"),
}
"""Table 1 of the report, by the names of `VLA`'s parts."""

ABOUT_SIMULATION = (
    "Run one episode in the simulator and watch it. A seed fixes where the cube lies; seeds from 2,000,000 on are kept "
    "for tests. The simulator serves one visitor at a time, the others wait in a queue."
)
ABOUT_IMAGE = (
    "What would the policy do next if this picture were all that it had ever seen? It decides from its last frames; "
    "here the single picture fills that whole buffer, as at the start of an episode, and no dataset is involved. Any "
    "picture is cropped to its central square and resized to 224 x 224. One that is not from the simulator's camera "
    "gets an answer too, but not a meaningful one."
)
ABOUT_ACTIONS = (
    "Row *i* is for the *i*-th step of 50 ms from now. All numbers are in [-1, 1]: 1.0 is 5 cm along an axis, or "
    "0.5 rad about it (axis-angle); the gripper closes above 0."
)


@dataclass(frozen=True)
class WebOptions:
    """Options of the web page."""

    checkpoint: Path = field(default_factory=default_checkpoint)
    """Checkpoint of the policy; where there is none, the page offers the expert alone."""
    results: Path = Path("videos/results.md")
    """Table of the latest evaluation, shown where it exists."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0: on every network of this machine."""
    port: int = 7860
    """TCP port to listen on, 1-65535."""
    share: bool = False
    """Also open a public link through Gradio's servers."""
    clip_weights: str = "openai"
    """Text tower for instructions outside the training set: open_clip tag or local file."""

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port must be from 1 to 65535, got {self.port}; leave it out for 7860")


def main(options: WebOptions) -> None:
    policy, env = None, EnvConfig()
    if options.checkpoint.exists():
        checkpoint = load_checkpoint(options.checkpoint)
        warn_of_drift(checkpoint, options.checkpoint)
        print(f"policy: {options.checkpoint}, {provenance(checkpoint)}")
        policy = Policy.load(checkpoint, options.checkpoint, options.clip_weights)
        env = EnvConfig.from_env_args(checkpoint["env_args"])
        about_model = _about_model(policy.model, _origin(checkpoint))
    else:
        architecture = stages.model_architecture()
        about_model = _about_model(architecture.VLA(architecture.ModelConfig()), "None yet: see the notice above.")
    simulator = SimulatorThread(env)
    handlers = Handlers(simulator, policy, options.checkpoint)
    if policy is None:
        print(f"WARNING: only the scripted expert can run: {handlers.no_policy}")
    try:
        build_page(handlers, options, about_model).launch(
            server_name=options.host,
            server_port=options.port,
            share=options.share,
            theme=gr.themes.Default(font="system-ui", font_mono="monospace"),  # Gradio's own come from a font server
            footer_links=["api"],
            max_file_size="20mb",
        )
    except OSError:
        raise UserError(
            f"cannot listen on {options.host}:{options.port}: the port is taken or the address is not this machine's; "
            "give others with --port and --host"
        ) from None
    finally:
        simulator.close()


def build_page(handlers: Handlers, options: WebOptions, about_model: str) -> gr.Blocks:
    """The page: three tabs, and what each of their buttons calls."""
    page: gr.Blocks
    with gr.Blocks(title="Lift VLA", analytics_enabled=False, delete_cache=(CACHE_S, CACHE_S)) as page:
        gr.Markdown("# Lift VLA\nA robot arm, a camera and a sentence: a policy learned from demonstrations.")
        if handlers.policy is None:
            gr.Markdown(f"**Only the scripted expert can run here:** {handlers.no_policy}.")
        with gr.Tab("Full simulation"):
            _simulation_tab(handlers)
        with gr.Tab("Single image"):
            _image_tab(handlers)
        with gr.Tab("Model"):
            _model_tab(options, about_model)
    return page


def _simulation_tab(handlers: Handlers) -> None:
    drivers = [("scripted expert", "expert")]
    if handlers.policy is not None:
        drivers.insert(0, ("trained policy", "policy"))
    gr.Markdown(ABOUT_SIMULATION)
    with gr.Row():
        with gr.Column(scale=2):
            instruction = _instruction_box()
            driver = gr.Radio(drivers, value=drivers[0][1], label="Who drives the arm")
            seed = _seed_box()
            max_steps = gr.Slider(20, 200, 120, step=1, label="Steps at most (20 per second)")
            with gr.Row():
                run = gr.Button("Run", variant="primary")
                stop = gr.Button("Stop", variant="stop")
            progress = gr.Markdown(label="Progress")
        with gr.Column(scale=3):
            frame = gr.Image(label="Live", format="jpeg", interactive=False, buttons=["fullscreen"])
            verdict = gr.Markdown(label="Verdict")
            video = gr.Video(label="Video of the episode", interactive=False, buttons=["download"])
    run.click(handlers.forget_stop, api_visibility="private", queue=False).then(
        handlers.simulate,
        [instruction, driver, seed, max_steps],
        [frame, progress, verdict, video],
        api_name="simulate",
        show_progress="minimal",
        concurrency_limit=1,
        concurrency_id="simulator",
    )
    stop.click(handlers.stop, api_name="stop", queue=False)


def _image_tab(handlers: Handlers) -> None:
    gr.Markdown(ABOUT_IMAGE)
    with gr.Row():
        with gr.Column(scale=2):
            picture = gr.Image(label="Image", format="png", sources=["upload", "clipboard"], height=300)
            with gr.Row(equal_height=True):
                seed = _seed_box()
                from_simulator = gr.Button("Use a frame from the simulator")
            instruction = _instruction_box()
            predict = gr.Button("Predict", variant="primary")
        with gr.Column(scale=3):
            actions = gr.Dataframe(
                label="The next actions",
                headers=list(ACTION_COLUMNS),
                datatype="number",
                column_count=len(ACTION_COLUMNS),
                show_row_numbers=True,
                interactive=False,
            )
            gr.Markdown(ABOUT_ACTIONS)
    from_simulator.click(
        handlers.first_image, seed, picture, api_name="first_image", concurrency_limit=1, concurrency_id="simulator"
    )
    # The handler opens the upload itself: Gradio's reading answers a broken file with a bare "Error".
    predict.click(
        handlers.predict_actions, [picture, instruction], actions, api_name="predict_actions", preprocess=False
    )


def _model_tab(options: WebOptions, about_model: str) -> None:
    curves = options.checkpoint.parent / "training_curves.png"

    def training_curves() -> Image.Image:
        return Image.open(curves)

    def evaluation() -> str:
        if not options.results.is_file():
            return f"No evaluation at {options.results} yet; run one with: `make evaluate`"
        return options.results.read_text(encoding="utf-8")

    gr.Markdown(about_model)
    gr.Markdown("## Training")
    if curves.is_file():
        # A callable is asked at each visit, so that a training that goes on is seen to.
        gr.Image(training_curves, label=curves.name, interactive=False, format="png", buttons=["fullscreen"])
    else:
        gr.Markdown(f"No training curves at {curves} yet; train with: `make train`")
    gr.Markdown("## Latest evaluation")
    gr.Markdown(evaluation)


def _instruction_box() -> gr.Textbox:
    box = gr.Textbox(INSTRUCTIONS[0], label="Instruction", max_length=MAX_INSTRUCTION_CHARS)
    gr.Examples([[text] for text in INSTRUCTIONS], box, label="Examples: click one", api_visibility="private")
    return box


def _seed_box() -> gr.Number:
    return gr.Number(TEST_SEEDS.start, label=f"Seed (0 to {TEST_SEEDS.stop - 1})", precision=0)


def _about_model(model: nn.Module, weights: str) -> str:
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    rows = [(*PARTS.get(name, (name, "-")), f"{count:,}") for name, count in counts.items()]
    rows.append(("**Total trainable**", "21.6M", f"**{sum(counts.values()):,}**"))
    return (
        f"## Parameters\n{markdown_table(('Table 1: component', 'report', 'here'), rows)}\n\n"
        "The frozen text tower (CLIP ViT-B/32), which stands beside the network, has 63.4M more.\n\n"
        f"## Weights\n{weights}"
    )


def _origin(checkpoint: dict[str, Any]) -> str:
    training = checkpoint["training"]
    versions = ", ".join(f"{name} {version}" for name, version in checkpoint["versions"].items())
    return (
        f"Grown from: {provenance(checkpoint)}.\n\nTrained for {training['epoch']} epochs ({training['step']} steps), "
        f"seed {training['identity']['seed']}; its score: {training['score_text']}.\n\n"
        f"Demonstrations: sha256 `{training['identity']['data_sha256'][:16]}`. Versions: {versions}."
    )


if __name__ == "__main__":
    run_script(main, WebOptions, __doc__)
