"""The state of a training run between two epochs, and the content of its checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vla.errors import UserError
from vla.policies.asking import training_wordings
from vla.policies.checkpoint import build_model, load_checkpoint, load_parent
from vla.policies.network import NetworkConfig, TrainableNetwork, model_architecture
from vla.policies.text_encoder import load_text_encoder
from vla.policies.weights import NO_WEIGHTS, Identity, from_scratch, load_vision_weights
from vla.sim.config import installed_versions
from vla.training.demonstrations import Demonstrations
from vla.training.options import TrainOptions
from vla.training.recipes import Recipe
from vla.training.run_identity import RunIdentity


@dataclass
class RunState:
    """What training changes from epoch to epoch, and what its policy needs besides the weights."""

    network: TrainableNetwork
    vision_identity: Identity
    """Initial weights of the vision encoder."""
    text_identity: Identity
    """Weights of the text encoder."""
    language: dict[str, Any]
    """`texts`, the instructions of the training data, and `embeddings`, (n, text_dim)."""
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimiser steps made."""
    best_score: tuple[float, float] = (-1.0, -math.inf)
    """The best epoch's true success in rollouts, in [0, 1], and its negated validation loss."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record for each finished epoch."""
    optimiser_state: dict[str, Any] | None = None
    """State of the optimiser with which a stored run goes on; None in a new run."""

    @classmethod
    def begin(cls, options: TrainOptions, recipe: Recipe, config: NetworkConfig, instructions: list[str]) -> RunState:
        """The state before the first epoch: the policy of --init, or a new network for these instructions."""
        torch.manual_seed(options.seed)
        if options.init is not None:
            parent = load_parent(options.init, config)
            network = build_model(parent, options.init)
            return cls(network, parent["vision_identity"], parent["text_identity"], parent["language"])
        network = model_architecture().VLA(config)
        if options.vision_weights is None and recipe.vision_weights == NO_WEIGHTS:
            vision_identity = from_scratch(options.recipe)
        else:
            vision_identity = load_vision_weights(network.vision, recipe.vision_weights)
        encoder = load_text_encoder(options.language().text_encoder, options.clip_weights)
        embeddings = encoder(instructions)
        network.fit_language(embeddings)
        return cls(network, vision_identity, encoder.identity, {"texts": instructions, "embeddings": embeddings})

    @classmethod
    def restore(cls, stored: dict[str, Any], path: Path) -> RunState:
        """The state that `checkpoint_content` stored in a run's last.pth at `path`."""
        training = stored["training"]
        return cls(
            network=build_model(stored, path),
            vision_identity=stored["vision_identity"],
            text_identity=stored["text_identity"],
            language=stored["language"],
            epoch=training["epoch"],
            step=training["step"],
            best_score=(training["best_score"][0], training["best_score"][1]),
            history=training["history"],
            optimiser_state=stored["optimizer"],
        )

    def checkpoint_content(self, identity: RunIdentity, env_args: str, score_text: str) -> dict[str, Any]:
        """Content of a checkpoint: the policy and its run, without the optimiser."""
        return {
            "model_config": self.network.config.to_dict(),
            "model": {name: value.cpu() for name, value in self.network.state_dict().items()},
            "vision_identity": self.vision_identity,
            "text_identity": self.text_identity,
            "language": self.language,
            "env_args": env_args,
            "versions": {**installed_versions(), "torch": str(torch.__version__)},
            "training": {
                "identity": identity.to_dict(),
                "epoch": self.epoch,
                "step": self.step,
                "history": self.history,
                "best_score": list(self.best_score),
                "score_text": score_text,
            },
        }


def start_run(
    options: TrainOptions, recipe: Recipe, config: NetworkConfig, demonstrations: Demonstrations, identity: RunIdentity
) -> tuple[RunIdentity, RunState | None]:
    """Find where training begins, and say so.

    Returns:
        The run's identity, and its state: a new one, that of the run that --resume continues, or None if that one is
        finished.

    Raises:
        UserError: as `find_run` and `RunIdentity.continuing`.
    """
    last = options.output_dir / "last.pth"
    stored = find_run(last, options, identity)
    if stored is None:
        # Every instruction that the policy may hear in training: those of the demonstrations, and other wordings.
        instructions = {*demonstrations.instructions, *training_wordings(options.language().wordings)}
        return identity, RunState.begin(options, recipe, config, sorted(instructions))
    identity = identity.continuing(stored["training"], last, demonstrations, options.export is not None)
    if stored["training"]["epoch"] == recipe.epochs:
        print(f"the run in {options.output_dir} is finished: {recipe.epochs} epochs")
        return identity, None
    state = RunState.restore(stored, last)
    print(f"resuming after epoch {state.epoch} of {recipe.epochs}")
    return identity, state


def find_run(last: Path, options: TrainOptions, identity: RunIdentity) -> dict[str, Any] | None:
    """Return the checkpoint of the run that --resume continues, its last.pth, or None for a new run.

    Raises:
        UserError: there is a run, and neither --resume nor --overwrite was given; or it cannot be continued; or a
            policy is there without its run. With --resume, the policy of this run's own first epoch is no obstacle.
    """
    if options.overwrite:
        return None
    if not last.exists():
        best = last.with_name("best_model.pth")
        if best.exists() and not (options.resume and _is_from_first_epoch(best, identity)):
            raise UserError(
                f"{best} holds a policy without its run's {last.name}, and this training would replace it; "
                f"name another --output-dir, or move the policy away: mv -n {best} {best.with_suffix('.old.pth')}"
            )
        return None
    stored = load_checkpoint(last)
    if not options.resume:
        training = stored["training"]
        raise UserError(
            f"{last} holds a run ({training['epoch']} of {training['identity']['recipe']['epochs']} epochs); "
            "continue it with --resume, or name another --output-dir (or give up the run with --overwrite)"
        )
    if "optimizer" not in stored:
        raise UserError(
            f"{last} holds a policy without its optimiser, such as best_model.pth; "
            "put the run's own last.pth back, or name another --output-dir (--overwrite would delete this file)"
        )
    return stored


def _is_from_first_epoch(best: Path, identity: RunIdentity) -> bool:
    """Whether the run of this identity wrote `best` in its first epoch, and then failed to write last.pth."""
    try:
        training = load_checkpoint(best)["training"]
    except UserError:
        return False
    return bool(training["epoch"] == 1 and training["identity"] == identity.to_dict())
