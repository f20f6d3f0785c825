"""What a decision costs: milliseconds from a picture to an action on one CPU thread, and missed deadlines at 20 Hz.

Everything is measured in one process and in turn, so that a machine that slows down slows all of it: a bare ResNet18
forward pass at the policy's input size (the least that seeing costs), the network as it was trained, the network
arranged for acting (`vla.policies.acting_network`) in float32 and bfloat16, and onnxruntime where it is installed
(requirements-onnx.txt). Then the arranged network decides 20 times a second; a decision that ends after its 50 ms is a
missed deadline. Times mean something only on a machine that does nothing else. Writes the result file into
docs/results, from which `benchmarks/tables.py` makes the table in docs/performance.md.

    python benchmarks/action_latency.py
"""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import scripts
import torch
import torchvision

from vla.errors import UserError, run_script
from vla.evaluation.machine import machine_facts
from vla.evaluation.results_json import run_versions
from vla.files import SHIPPED, SHIPPED_LANGUAGE, write_text
from vla.markdown import markdown_table
from vla.policies.actor import PolicyActor
from vla.policies.checkpoint import build_model, build_policy, instruction_embeddings, load_checkpoint
from vla.policies.devices import uses_bfloat16
from vla.policies.network import PolicyNetwork
from vla.policies.onnx_export import export_onnx
from vla.policies.preprocess import proprioception

CPU = torch.device("cpu")
PERIOD_S = 0.05
"""Time between two decisions at 20 Hz."""
START_EEF_POS_M, START_GRIPPER_QPOS_M = np.array([-0.1, 0.0, 1.0]), np.array([0.02, -0.02])
"""An arm near its start, for policies that ask for their own state."""
WARM_UP = 5
"""Decisions before the clock starts."""
Decide = Callable[[int], np.ndarray]
"""Decides on the picture of this number; returns the chunk, (K, 7), or any array where there is no policy."""


@dataclass(frozen=True)
class LatencyOptions:
    """Options of the benchmark."""

    checkpoints: tuple[Path, ...] = (SHIPPED, SHIPPED_LANGUAGE)
    """Policies to measure."""
    repetitions: int = 300
    """Decisions of each kind."""
    loop_steps: int = 10_000
    """Decisions at 20 Hz, for each policy: 10,000 take 500 seconds. 0: no loop."""
    output: Path = Path("docs/results/action_latency.json")
    """Result file."""

    def __post_init__(self) -> None:
        if self.repetitions < 1 or self.loop_steps < 0 or not self.checkpoints:
            raise UserError(
                f"--repetitions must be at least 1, --loop-steps at least 0, and --checkpoints not empty; got "
                f"{self.repetitions}, {self.loop_steps} and {len(self.checkpoints)} checkpoints"
            )


class Subject:
    """A policy with the pictures that it decides on."""

    def __init__(self, path: Path) -> None:
        self.path, self.checkpoint = path, load_checkpoint(path)
        self.config = build_model(self.checkpoint, path).config
        with np.load(scripts.ROOT / "docs/examples/familiar.npz") as file:
            self.pictures = file["pictures"]  # (n, 224, 224, 3) uint8, frames of demonstrations
        self.instruction = self.checkpoint["language"]["texts"][0]
        self.embeddings = instruction_embeddings(self.checkpoint, "none")
        self.state = None
        if self.config.proprioception:
            self.state = proprioception(START_EEF_POS_M, START_GRIPPER_QPOS_M)

    def actor(self, network: PolicyNetwork) -> Decide:
        """How `network` decides, from the picture to the chunk."""
        actor = PolicyActor(network, self.embeddings, CPU)
        actor.reset(self.instruction, seed=0)

        def decide(index: int) -> np.ndarray:
            actor.select_action_from_image(self.pictures[index % len(self.pictures)], self.state)
            return actor.action_chunk

        return decide

    def onnx(self, folder: Path) -> Decide:
        """How onnxruntime decides, on one thread; a policy of several frames sees the same one in all places."""
        path = folder / f"{self.path.stem}.onnx"
        export_onnx(self.path, path)
        runtime: Any = importlib.import_module("onnxruntime")
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = runtime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        horizon, words = self.config.observation_horizon, self.embeddings[self.instruction].numpy()
        state = {} if self.state is None else {"state": np.repeat(self.state[None], horizon, axis=0)}

        def decide(index: int) -> np.ndarray:
            images = np.repeat(self.pictures[index % len(self.pictures)][None], horizon, axis=0)
            chunk: np.ndarray = session.run(None, {"images": images, "instruction": words, **state})[0]
            return chunk

        return decide


def main(options: LatencyOptions) -> None:
    torch.set_num_threads(1)
    subjects = [Subject(path) for path in options.checkpoints]
    policies = {}
    for subject in subjects:
        kinds = _bare(subject.config.image.size_px) | _policies(subject)
        if find_spec("onnxruntime") is not None and find_spec("onnxscript") is not None:
            with tempfile.TemporaryDirectory() as folder:
                kinds["onnxruntime"] = subject.onnx(Path(folder))
        policies[str(subject.path)] = measure(kinds, options.repetitions)
    for subject in subjects if options.loop_steps else []:
        network = build_policy(subject.checkpoint, subject.path, CPU)
        policies[str(subject.path)]["loop"] = run_at_20_hz(subject.actor(network), options.loop_steps)
    content = {
        "repetitions": options.repetitions,
        "policies": policies,
        "versions": run_versions(),
        "machine": machine_facts(),
    }
    write_text(options.output, json.dumps(content, indent=1))
    print(f"{latency_table(content)}\n\n{loop_list(content)}")


def _bare(size_px: int) -> dict[str, Decide]:
    """A ResNet18 with nothing around it, as torch builds it, with channels last, and in bfloat16."""

    def forward(layout: torch.memory_format, dtype: torch.dtype) -> Decide:
        network: Any = torchvision.models.resnet18(weights=None).eval().to(dtype=dtype, memory_format=layout)
        picture = torch.randn(1, 3, size_px, size_px).to(dtype=dtype, memory_format=layout)

        @torch.inference_mode()
        def run(index: int) -> np.ndarray:
            scores: np.ndarray = network(picture).float().numpy()
            return scores

        return run

    kinds = {
        "ResNet18 alone": forward(torch.contiguous_format, torch.float32),
        "ResNet18 alone, channels last": forward(torch.channels_last, torch.float32),
    }
    if uses_bfloat16("auto", CPU):
        kinds["ResNet18 alone, bfloat16"] = forward(torch.channels_last, torch.bfloat16)
    return kinds


def _policies(subject: Subject) -> dict[str, Decide]:
    kinds = {
        "as trained": subject.actor(build_model(subject.checkpoint, subject.path)),
        "arranged": subject.actor(build_policy(subject.checkpoint, subject.path, CPU)),
    }
    if uses_bfloat16("auto", CPU):
        kinds["arranged, bfloat16"] = subject.actor(build_policy(subject.checkpoint, subject.path, CPU, "bfloat16"))
    return kinds


def measure(kinds: dict[str, Decide], repetitions: int) -> dict[str, Any]:
    """Time all kinds in turn, in alternating order; also how far their actions are from those of "as trained"."""
    times: dict[str, list[float]] = {name: [] for name in kinds}
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in kinds}
    for index in range(WARM_UP + repetitions):
        for name in list(kinds)[:: 1 if index % 2 else -1]:
            start = time.perf_counter()
            chunk = kinds[name](index)
            taken = time.perf_counter() - start
            if index >= WARM_UP:
                times[name].append(1e3 * taken)
                chunks[name].append(chunk)
    trained = np.stack(chunks["as trained"])
    result: dict[str, Any] = {}
    for name, taken_ms in times.items():
        low, median, high = (float(value) for value in np.percentile(taken_ms, (0, 50, 95)))
        result[name] = {"min_ms": low, "median_ms": median, "p95_ms": high}
        if not name.startswith("ResNet18"):
            result[name]["largest_difference"] = float(np.abs(np.stack(chunks[name]) - trained).max())
    return {"kinds": result}


def run_at_20_hz(decide: Decide, steps: int) -> dict[str, Any]:
    """Decide every 50 ms, as a controller does; returns how many decisions were late, and how long they took.

    After a late decision the next one begins at the next tick, as the arm has missed one.
    """
    for index in range(WARM_UP):
        decide(index)
    taken_ms, missed = [], 0
    tick = time.perf_counter()
    for index in range(steps):
        time.sleep(max(0.0, tick - time.perf_counter()))
        start = time.perf_counter()
        decide(index)
        end = time.perf_counter()
        taken_ms.append(1e3 * (end - start))
        missed += end > tick + PERIOD_S
        tick += PERIOD_S * max(1, int(np.ceil((end - tick) / PERIOD_S)))
    median, p99, worst = (float(value) for value in np.percentile(taken_ms, (50, 99, 100)))
    return {"steps": steps, "missed": missed, "median_ms": median, "p99_ms": p99, "max_ms": worst}


def latency_table(content: dict[str, Any]) -> str:
    """Each kind's milliseconds, beside the bare network and the network as trained, as Markdown."""
    rows = []
    for policy, result in content["policies"].items():
        kinds = result["kinds"]
        for name, kind in kinds.items():
            difference = kind.get("largest_difference")
            rows.append(
                (
                    Path(policy).stem,
                    name,
                    f"{kind['min_ms']:.1f} / {kind['median_ms']:.1f} / {kind['p95_ms']:.1f}",
                    f"{kind['median_ms'] / kinds['ResNet18 alone']['median_ms']:.2f}",
                    f"{kinds['as trained']['median_ms'] / kind['median_ms']:.2f} x",
                    "" if difference is None else f"{difference:.1e}",
                )
            )
    heads = ("policy", "one decision", "ms: least / median / 95%", "of ResNet18 alone", "faster", "actions differ by")
    return markdown_table(heads, rows)


def loop_list(content: dict[str, Any]) -> str:
    """How the policies kept to 20 Hz, as a Markdown list."""
    loops = {Path(path).stem: result["loop"] for path, result in content["policies"].items() if "loop" in result}
    return "\n".join(
        f"- `{name}` at 20 Hz: {loop['missed']} of {loop['steps']:,} deadlines missed; a decision took "
        f"{loop['median_ms']:.1f} ms (median), {loop['p99_ms']:.1f} (99%), at most {loop['max_ms']:.1f} ms."
        for name, loop in loops.items()
    )


if __name__ == "__main__":
    run_script(main, LatencyOptions, __doc__)
