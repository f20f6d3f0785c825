"""The page's simulator in a process of its own, and the messages to it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from vla.errors import UserError
from vla.evaluation.task import EvalTask
from vla.policies.checkpoint import load_policy
from vla.policies.execution import ControlConfig
from vla.sim.config import EnvConfig
from vla.sim.env import Simulator
from vla.web import simulator_process
from vla.web.mailbox import Mailbox, Mailboxes, Push
from vla.web.messages import EpisodeRequest, Intervention, StepRequest, StepView
from vla.web.simulator_process import SimulatorProcess
from vla.web.simulator_server import SimulatorServer

INSTRUCTION = "Pick up the cube"


def test_another_instruction_during_an_episode_reaches_the_network(sim: Simulator) -> None:
    """The next decision is made from the new instruction's embedding."""
    checkpoint = ROOT / "checkpoints/lift.pth"
    network: Any
    network, content = load_policy(checkpoint, torch.device("cpu"))
    first = content["language"]["embeddings"][0].numpy()
    other = np.ones(512, dtype=np.float32)
    server = SimulatorServer(sim)
    server.answer(EpisodeRequest(EvalTask("checkpoint", checkpoint, first, 5, INSTRUCTION, 10, ControlConfig(), None)))
    received = []
    decode = network.decode  # the server's actor uses the same network, which a process loads once

    def recording_decode(features: Any, language: Any) -> Any:
        received.append(language[0].numpy().copy())
        return decode(features, language)

    network.decode = recording_decode
    try:
        for intervention in (Intervention(), Intervention(embedding=other), Intervention()):
            view = server.answer(StepRequest(intervention))
            assert isinstance(view, StepView)
            assert view.action_chunk.shape == (10, 7)
    finally:
        del network.decode
    for got, expected in zip(received, (first, other, other), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    running = SimulatorProcess(EnvConfig())
    yield running
    running.close()


def _task(seed: int = 1) -> EvalTask:
    return EvalTask("zero", Path(), np.zeros(0), seed, INSTRUCTION, 10, ControlConfig(), None)


@pytest.mark.slow
def test_a_step_moves_its_own_episode_only(process: SimulatorProcess) -> None:
    first = process.start_episode(_task())
    process.step(first.number, Intervention())
    second = process.start_episode(_task())
    with pytest.raises(UserError, match="another episode has started"):
        process.step(first.number, Intervention())
    process.step(second.number, Intervention())
    process.start_view(3)
    with pytest.raises(UserError, match="another episode has started"):
        process.step(second.number, Intervention())


@pytest.mark.slow
def test_a_simulator_that_died_between_requests_is_replaced_silently(process: SimulatorProcess) -> None:
    process.start_view(1)
    assert process.ready_for(EnvConfig())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process._process.join()
    assert not process.ready_for(EnvConfig())
    assert process.start_view(1).image.shape == (224, 224, 3)


def test_a_simulator_that_hangs_is_ended(process: SimulatorProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    start = process.start_episode(_task())
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(simulator_process, "ANSWER_S", 0.5)
    with pytest.raises(UserError, match="did not answer; it is being started again"):
        process.step(start.number, Intervention())
    assert process.pid != pid


def test_messages_reach_their_own_episode_only() -> None:
    mailboxes = Mailboxes()
    first = mailboxes.open("visitor", "zero")
    second = mailboxes.open("visitor", "zero")
    mailboxes.close("visitor", first)  # the first episode ends late
    assert mailboxes.find("visitor") is second


def test_a_full_mailbox_refuses_all_but_a_stop() -> None:
    mailbox = Mailbox("zero")
    assert all(mailbox.put(Push()) for _ in range(mailbox.CAPACITY))
    assert not mailbox.put(Push())
    mailbox.stop()
    assert mailbox.stopped
    assert len(mailbox.take()) == mailbox.CAPACITY
    assert mailbox.take() == []
