"""The shared network answers as the worker's own would, whoever else asks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from vla import stages
from vla.inference import InferenceServer, RemoteModel
from vla.policy import PolicyActor
from vla.preprocess import ImageSpec
from vla.text import InstructionEmbeddings

architecture = stages.model_architecture()


def test_a_remote_policy_acts_like_a_local_one_in_any_company() -> None:
    torch.manual_seed(0)
    config = architecture.ModelConfig(image=ImageSpec(size_px=64), observation_horizon=2)
    model = architecture.VLA(config).eval()
    known = {"go": torch.randn(512)}
    embeddings = InstructionEmbeddings(known, {"source": "none"}, "none")
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 224, 224, 3), dtype=np.uint8)

    def episode(model: object, frames: np.ndarray) -> np.ndarray:
        actor = PolicyActor(model, embeddings, torch.device("cpu"))
        actor.reset("go", 0)
        return np.stack([actor.act_on_image(frame).action for frame in frames])

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
