"""The shared network answers as the worker's own would, whoever else asks."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import numpy as np
import pytest
import torch

from vla import stages
from vla.policies.actor import PolicyActor
from vla.policies.inference_server import InferenceError, InferenceServer, RemoteModel
from vla.policies.network import PolicyNetwork
from vla.policies.preprocess import ImageSpec
from vla.policies.text_encoder import InstructionEmbeddings

architecture = stages.model_architecture()


def test_a_remote_policy_acts_like_a_local_one_in_any_company() -> None:
    torch.manual_seed(0)
    config = architecture.ModelConfig(image=ImageSpec(size_px=64), observation_horizon=2)
    model = architecture.VLA(config).eval()
    known = {"go": torch.randn(512)}
    embeddings = InstructionEmbeddings(known, {"source": "none"}, "none")
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 224, 224, 3), dtype=np.uint8)

    def episode(model: PolicyNetwork, frames: np.ndarray) -> np.ndarray:
        actor = PolicyActor(model, embeddings, torch.device("cpu"))
        actor.reset("go", 0)
        return np.stack([actor.select_action_from_image(frame).action for frame in frames])

    server = InferenceServer(model, torch.device("cpu"), batch=4)
    try:
        alone = episode(RemoteModel(server.address, config.to_dict()), images[0])
        assert set(server.batches) == {1}
        with ThreadPoolExecutor(5) as threads:
            remotes = [RemoteModel(server.address, config.to_dict()) for _ in images]
            together = list(threads.map(episode, remotes, images))
    finally:
        server.close()
    assert sum(server.batches) == 2 * 6 * 6  # encode and decode, six steps, one episode and five
    assert max(server.batches) > 1
    np.testing.assert_array_equal(alone, together[0])
    for frames, actions in zip(images, together, strict=True):
        np.testing.assert_allclose(actions, episode(model, frames), atol=1e-5)


class Failing:
    """A network that cannot see a black picture."""

    def encode(self, images: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        if any(float(image.sum()) == 0 for image in images):
            raise ValueError("a black picture")
        return images.flatten(1)[:, :4]


def test_who_asks_the_impossible_is_told_and_the_others_are_answered() -> None:
    config = architecture.ModelConfig(image=ImageSpec(size_px=64)).to_dict()
    server = InferenceServer(Failing(), torch.device("cpu"), batch=4)
    try:
        remotes = [RemoteModel(server.address, config) for _ in range(3)]
        pictures = [torch.full((1, 3, 8, 8), float(value)) for value in range(3)]
        with ThreadPoolExecutor(3) as threads:
            for _ in range(5):  # alone or in one batch with the others
                asked = [
                    threads.submit(remote.encode, picture) for remote, picture in zip(remotes, pictures, strict=True)
                ]
                assert [float(future.result()[0, 0]) for future in asked[1:]] == [1.0, 2.0]
                with pytest.raises(InferenceError, match="ValueError: a black picture"):
                    asked[0].result()
    finally:
        server.close()
    with pytest.raises((EOFError, OSError)):
        remotes[1].encode(pictures[1])


def test_a_visitor_who_is_not_ours_does_not_stop_the_server() -> None:
    config = architecture.ModelConfig(image=ImageSpec(size_px=64)).to_dict()
    server = InferenceServer(Failing(), torch.device("cpu"), batch=1)
    try:
        with pytest.raises((AuthenticationError, OSError, EOFError)):
            Client(server.address, authkey=b"another's")
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(server.address)  # leaves in the middle of the handshake
        assert float(RemoteModel(server.address, config).encode(torch.ones(1, 3, 8, 8))[0, 0]) == 1.0
    finally:
        server.close()


def test_closing_frees_whoever_waits_for_an_answer() -> None:
    """Else Ctrl-C would wait for workers that wait for the server."""
    config = architecture.ModelConfig(image=ImageSpec(size_px=64)).to_dict()
    asked = threading.Event()

    class Slow:
        def encode(self, images: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
            asked.set()
            time.sleep(0.2)
            return images

    server = InferenceServer(Slow(), torch.device("cpu"), batch=1)
    remotes = [RemoteModel(server.address, config) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        answers = [threads.submit(remote.encode, torch.ones(1, 3, 8, 8)) for remote in remotes]
        assert asked.wait(10)
        server.close()
        ended = [future.exception(timeout=10) for future in answers]
    assert all(error is None or isinstance(error, EOFError | OSError) for error in ended)
