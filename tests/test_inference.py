"""The inference server: the same answers as a network in the worker, in any batch, and an error for every failure."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest
import torch

from vla import stages
from vla.errors import MachineError
from vla.evaluation.episode import run_episode
from vla.policies.actor import PolicyActor
from vla.policies.inference_server import InferenceError, InferenceServer, RemoteModel
from vla.policies.network import PolicyNetwork, Prediction
from vla.policies.preprocess import ImageSpec
from vla.policies.text_encoder import InstructionEmbeddings
from vla.sim.env import Observation, Simulator
from vla.sim.rollout import Decision

architecture = stages.model_architecture()
CONFIG = architecture.ModelConfig(image=ImageSpec(size_px=64), observation_horizon=2)
EMBEDDINGS = InstructionEmbeddings({"go": torch.linspace(-1, 1, 512)}, {"source": "none"}, "none")
CPU = torch.device("cpu")


def test_a_remote_policy_acts_like_a_local_one_in_any_batch() -> None:
    torch.manual_seed(0)
    model = architecture.VLA(CONFIG).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 224, 224, 3), dtype=np.uint8)

    def episode(model: PolicyNetwork, frames: np.ndarray) -> np.ndarray:
        actor = PolicyActor(model, EMBEDDINGS, CPU)
        actor.reset("go", 0)
        return np.stack([actor.select_action_from_image(frame).action for frame in frames])

    server = InferenceServer(model, CPU, batch=4)
    try:
        alone = episode(RemoteModel(server.address, CONFIG.to_dict()), images[0])
        assert set(server.batches) == {1}
        with ThreadPoolExecutor(4) as threads:
            remotes = [RemoteModel(server.address, CONFIG.to_dict()) for _ in images]
            together = list(threads.map(episode, remotes, images))
    finally:
        server.close()
    assert sum(server.batches) == 2 * 3 * 5  # encode and decode, three steps, one episode and four
    assert max(server.batches) > 1
    np.testing.assert_array_equal(alone, together[0])
    for frames, actions in zip(images, together, strict=True):
        np.testing.assert_allclose(actions, episode(model, frames), atol=1e-5)


class StandIn:
    """A network whose features are the first pixels. A black image is an error of its own; for a very bright one the
    GPU's memory is too small; a dark one takes it a while."""

    config = CONFIG

    def __init__(self) -> None:
        self.asked = threading.Event()

    def encode(
        self,
        images: torch.Tensor,
        proprioception: torch.Tensor | None = None,
        language: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.asked.set()
        if any(float(image.sum()) == 0 for image in images):
            raise ValueError("a black image")
        if float(images.max()) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        if float(images.max()) < 1:
            time.sleep(0.2)
        return images.flatten(1)[:, :4]

    def decode(self, features: torch.Tensor, language: torch.Tensor) -> Prediction:
        raise NotImplementedError


@pytest.fixture
def server() -> Iterator[InferenceServer]:
    server = InferenceServer(StandIn(), CPU, batch=4)
    yield server
    server.close()


def _image(value: float) -> torch.Tensor:
    return torch.full((1, 3, 8, 8), value)


def test_a_request_that_fails_gets_its_error_and_the_others_their_answers(server: InferenceServer) -> None:
    remotes = [RemoteModel(server.address, CONFIG.to_dict()) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for _ in range(5):  # alone, or in one batch with the others
            asked = [threads.submit(remote.encode, _image(value)) for value, remote in enumerate(remotes)]
            assert [float(future.result()[0, 0]) for future in asked[1:]] == [1.0, 2.0]
            with pytest.raises(InferenceError, match="ValueError: a black image"):
                asked[0].result()


def test_a_full_gpu_is_a_fault_of_the_machine(server: InferenceServer) -> None:
    remote = RemoteModel(server.address, CONFIG.to_dict())
    with pytest.raises(MachineError, match=r"inference server failed: OutOfMemoryError: CUDA out of memory\. Tried"):
        remote.encode(_image(200.0))
    assert float(remote.encode(_image(1.0))[0, 0]) == 1.0


def test_a_client_that_is_not_ours_does_not_stop_the_server(server: InferenceServer) -> None:
    with pytest.raises((AuthenticationError, OSError, EOFError)):
        Client(server.address, authkey=b"another's")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(server.address)  # leaves in the middle of the handshake
    assert float(RemoteModel(server.address, CONFIG.to_dict()).encode(_image(1.0))[0, 0]) == 1.0


def test_closing_frees_the_clients_that_wait_for_an_answer() -> None:
    """Otherwise Ctrl-C would wait for workers that wait for the server."""
    network = StandIn()
    server = InferenceServer(network, CPU, batch=1)
    remotes = [RemoteModel(server.address, CONFIG.to_dict()) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(remote.encode, _image(0.5)) for remote in remotes]
        assert network.asked.wait(10)
        server.close()
        ended = [future.exception(timeout=10) for future in answers]
    assert all(error is None or isinstance(error, MachineError) for error in ended)
    with pytest.raises(MachineError, match="the inference server cannot be reached"):
        RemoteModel(server.address, CONFIG.to_dict())


def test_an_episode_without_its_inference_server_stops_the_run(sim: Simulator) -> None:
    """It is no failure of the policy, as an INVALID episode would be."""
    server = InferenceServer(architecture.VLA(CONFIG).eval(), CPU, batch=1)
    policy = PolicyActor(RemoteModel(server.address, CONFIG.to_dict()), EMBEDDINGS, CPU)

    class ServerDiesAtStepThree:
        def reset(self, instruction: str, seed: int) -> None:
            policy.reset(instruction, seed)
            self.steps = 0

        def select_action(self, obs: Observation) -> Decision:
            self.steps += 1
            if self.steps == 3:
                server.close()
            return policy.select_action(obs)

    with pytest.raises(MachineError, match="the inference server has ended"):
        run_episode(sim, ServerDiesAtStepThree(), "go", 2_000_000, 10)
