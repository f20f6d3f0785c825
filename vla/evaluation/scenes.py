"""The simulator of an evaluation: the one that the policy belongs to, with other numbers of cubes where asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from vla.errors import UserError
from vla.files import SHIPPED, SHIPPED_LANGUAGE
from vla.policies.checkpoint import load_checkpoint
from vla.sim.config import EnvConfig, Scene, SceneKind


def checkpoint_env(path: Path) -> EnvConfig:
    """The simulator that a checkpoint's policy was trained in.

    Raises:
        UserError: the checkpoint is missing, broken or of another format.
    """
    return EnvConfig.from_env_args(load_checkpoint(path)["env_args"])


def evaluated_env(
    checkpoint: Path | None, scene: SceneKind | None, counts: tuple[int, ...] | None, same_colour_share: float | None
) -> EnvConfig:
    """The simulator of an evaluation.

    Args:
        checkpoint: of the policy; None for a control, which any scene will do for.
        scene: the scene that was asked for; None: the policy's own, for a control "lift".
        counts: numbers of cubes on the table; None: the policy's own.
        same_colour_share: share of the episodes with two cubes of one colour; None: the policy's own.

    Raises:
        UserError: the policy was trained in another scene, or the scene "lift" was given numbers of cubes.
    """
    if checkpoint is None:
        env = EnvConfig(scene=Scene(scene or "lift"))
    else:
        env = checkpoint_env(checkpoint)
        check_scene(checkpoint, env, scene)
    if env.scene.kind == "lift" and (counts is not None or same_colour_share is not None):
        raise UserError(
            "--cubes and --same-colour-share are for the scene cubes, and this evaluation is in the scene lift; "
            f"leave them out, or give a policy of the scene cubes with --checkpoint {_policy_of('cubes')}"
        )
    own = env.scene
    share = own.same_colour_share if same_colour_share is None else same_colour_share
    return dataclasses.replace(env, scene=Scene(own.kind, counts or own.counts, share))


def check_scene(checkpoint: Path, env: EnvConfig, scene: SceneKind | None) -> None:
    """Check that a checkpoint's policy was trained in a scene; None: any.

    Raises:
        UserError: it was trained in another one.
    """
    trained = env.scene.kind
    if scene is not None and scene != trained:
        raise UserError(
            f"{checkpoint} was trained in the scene {trained}, not in {scene}; evaluate it with --scene {trained}, or "
            f"give another policy with --checkpoint {_policy_of(scene)}"
        )


def _policy_of(scene: SceneKind) -> str:
    """A checkpoint of a scene, and how to make it where it is not there."""
    if scene == "lift" or SHIPPED_LANGUAGE.exists():
        return str(SHIPPED if scene == "lift" else SHIPPED_LANGUAGE)
    return "FILE, which make demo-language trains (checkpoints/language/best_model.pth)"
