"""What the simulator's parts cost, beside the least that they can cost and beside robosuite as it is (`bench.py`)."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench_clock import Part
from bench_plain import STILL, PlainRobosuite

from vla.errors import UserError
from vla.experts.scripted import ExpertActor, ExpertConfig
from vla.judging.measurement import measure
from vla.judging.verdict import Judge
from vla.judging.world import WorldWatch
from vla.sim.config import TEST_SEEDS
from vla.sim.env import Simulator
from vla.sim.rollout import Actor, Trace, rollout

SUBSTEPS = 25
"""Physics steps in a control step."""


EPISODE_STEPS = 47
"""Control steps of a typical lift: what an episode of the other ways lasts."""
Call = Callable[[], object]


@contextmanager
def simulator_parts(policy: Actor, bare_network: Call, naive_network: Call) -> Iterator[list[Part]]:
    """Physics, drawing, a control step, a reset, judging, and whole episodes of expert and policy, ready to be timed.

    Args:
        policy: the actor of a checkpoint.
        bare_network: the least that a decision of it can cost.
        naive_network: a decision as one would begin with.
    """
    sim = Simulator()
    mujoco: Any = importlib.import_module("mujoco")  # after the simulator has chosen the GL backend
    plain = PlainRobosuite(sim.config)
    seeds = itertools.cycle(TEST_SEEDS[:50])
    sim.reset(TEST_SEEDS[0])
    bare = mujoco.MjData(sim.model)
    renderer = mujoco.Renderer(sim.model, sim.config.image_size_px, sim.config.image_size_px)
    options = mujoco.MjvOption()
    options.geomgroup[0] = 0  # what the simulator leaves out is left out here
    renderer.update_scene(sim.data, camera=sim.config.camera, scene_option=options)
    for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
        renderer.scene.flags[flag] = 0

    def bare_physics() -> None:
        for _ in range(SUBSTEPS):
            mujoco.mj_step(sim.model, bare)

    def bare_step() -> None:
        bare_physics()
        renderer.render()

    def bare_reset() -> None:
        mujoco.mj_resetData(sim.model, bare)
        mujoco.mj_forward(sim.model, bare)

    def episode_of(actor: Actor) -> Call:
        def run() -> None:
            judge = Judge()
            for _ in rollout(sim, actor, "Pick up the cube", next(seeds), 200, judge, Trace()):
                pass
            if not judge.success:
                raise UserError(f"an episode that is timed failed: {judge.explain()}")

        return run

    def bare_episode(decide: Call) -> Call:
        def run() -> None:
            bare_reset()
            for _ in range(EPISODE_STEPS):
                decide()
                bare_step()

        return run

    def naive_episode(decide: Call) -> Call:
        def run() -> None:
            plain.hard_reset()
            for _ in range(EPISODE_STEPS):
                decide()
                plain.step()

        return run

    expert = episode_of(ExpertActor(ExpertConfig(noise_std=0.0, rotation_noise_std=0.0)))
    once = {"calls": 1, "naive_calls": 1}
    try:
        yield [
            Part("physics of a control step", lambda: sim.advance(STILL), bare_physics, None),
            Part("drawing a picture", sim.render, renderer.render, plain.draw),
            Part("control step with picture and evidence", lambda: sim.step(STILL), bare_step, lambda: plain.step()),
            Part("reset", lambda: sim.reset(next(seeds)), bare_reset, plain.hard_reset, naive_calls=1),
            Part("judging a step", _judging(sim, mujoco), None, None),
            Part("an episode of the expert", expert, bare_episode(_nothing), naive_episode(_nothing), **once),
            Part(
                "an episode of the policy",
                episode_of(policy),
                bare_episode(bare_network),
                naive_episode(naive_network),
                **once,
            ),
        ]
    finally:
        renderer.close()
        plain.close()
        sim.close()


def _nothing() -> None:
    """What a decision of the expert costs, nearly."""


def _judging(sim: Simulator, mujoco: Any) -> Any:
    """All that judging adds to a control step."""
    scratch, watch, judge = mujoco.MjData(sim.model), WorldWatch(sim.model, sim.data), Judge()
    watch.remember()
    judge.start(sim.evidence())

    def run() -> None:
        watch.check(sim.model, sim.data)
        watch.stepped()
        watch.check(sim.model, sim.data)
        judge.update(measure(sim.model, sim.data, scratch, sim.target_name, False))

    return run
