"""The network: its size, gradients and losses; its weights and checkpoints; control computes what training trained."""

from __future__ import annotations

import dataclasses
import functools
import resource
import socket
import threading
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vla.policies.clip_text
from tests.conftest import ROOT
from vla import stages
from vla.errors import MachineError, UserError
from vla.files import SHIPPED
from vla.policies.actor import PolicyActor
from vla.policies.batch import Batch
from vla.policies.checkpoint import build_model, instruction_embeddings, load_checkpoint, load_parent, save_checkpoint
from vla.policies.clip_text import ClipTextEncoder
from vla.policies.execution import ControlConfig
from vla.policies.instructions import INSTRUCTIONS
from vla.policies.network import Losses
from vla.policies.preprocess import ImageSpec, prepare
from vla.policies.reachable import is_reachable
from vla.policies.text_encoder import InstructionEmbeddings
from vla.policies.weights import load_vision_weights
from vla.sim.env import Observation, Simulator
from vla.training.recipes import RECIPES, Recipe

architecture, loader = stages.model_architecture(), stages.dataset_loader()
SMALL = architecture.ModelConfig(image=ImageSpec(size_px=64))
CPU = torch.device("cpu")
EQUAL_WEIGHTS = Recipe(chunk_discount=1.0)


@pytest.fixture(scope="module")
def text() -> ClipTextEncoder:
    return ClipTextEncoder.load("none")


@pytest.fixture
def model(text: ClipTextEncoder) -> Any:
    torch.manual_seed(0)
    network = architecture.VLA(SMALL)
    network.fit_language(text(INSTRUCTIONS))
    return network


@pytest.fixture(scope="module")
def batch(demo_file: Path) -> Batch:
    dataset = loader.LiftDataset(demo_file, ["demo_0", "demo_1"], 5, 4)
    joined: Batch = loader.collate([dataset[0], dataset[2], dataset[5]])
    return joined


@functools.cache
def _embed_all(text: ClipTextEncoder) -> torch.Tensor:
    return text(INSTRUCTIONS)


def _losses(model: Any, batch: Batch, text: ClipTextEncoder, recipe: Recipe = EQUAL_WEIGHTS) -> Losses:
    known = dict(zip(INSTRUCTIONS, _embed_all(text), strict=True))
    language = torch.stack([known[instruction] for instruction in batch.instructions])
    prediction, auxiliary = model(prepare(batch.frames, SMALL.image), batch.windows, language)
    losses: Losses = architecture.compute_losses(prediction, auxiliary, batch, recipe)
    return losses


def _count(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_parameters_are_near_the_reports_table_1(text: ClipTextEncoder) -> None:
    model = architecture.VLA(architecture.ModelConfig())
    assert _count(text) == pytest.approx(63.4, abs=0.05)
    assert _count(model.vision) == pytest.approx(11.2, abs=0.3)
    assert _count(model.fusion) == pytest.approx(2.1, abs=0.05)
    assert _count(model.decoder) == pytest.approx(8.3, abs=0.3)
    assert _count(model) == pytest.approx(21.6, abs=0.3)
    assert _count(model) + _count(text) == pytest.approx(85.0, abs=0.3)
    average = architecture.VLA(architecture.ModelConfig(pooling="average"))
    assert _count(average.vision) == pytest.approx(11.2, abs=0.05)
    assert "| Total model size" in architecture.parameter_table(model, text)


def test_shapes(model: Any, text: ClipTextEncoder) -> None:
    images = torch.zeros(12, 3, 64, 64)
    windows = torch.arange(20).reshape(2, 10) % 12
    prediction, auxiliary = model(images, windows, text(INSTRUCTIONS[:2]))
    assert prediction.actions().shape == (2, 10, 7)
    assert prediction.actions().abs().max() <= 1
    assert auxiliary.shape == (12, 13)
    assert model.encode(images).shape == (12, 512)


def test_gradients_reach_everything_but_clip(model: Any, text: ClipTextEncoder, batch: Batch) -> None:
    _losses(model, batch, text).total.backward()
    unmoved = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert unmoved == []
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in text.parameters())


@pytest.mark.slow
def test_one_batch_can_be_learned(model: Any, text: ClipTextEncoder, demo_file: Path) -> None:
    dataset = loader.LiftDataset(demo_file, ["demo_0"], 5, 2)
    batch: Batch = loader.collate([dataset[0], dataset[2], dataset[4]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = float(_losses(model, batch, text).motion.detach())
    for _ in range(40):
        losses = _losses(model, batch, text)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
    assert float(losses.motion.detach()) < 0.25 * first
    assert float(losses.gripper.detach()) < 0.15


def test_padding_counts_nowhere(model: Any, text: ClipTextEncoder, batch: Batch) -> None:
    model.eval()
    mask = batch.mask.clone()
    mask[:, 6:] = False
    padded = batch._replace(mask=mask)
    garbage = padded._replace(actions=torch.where(mask[..., None], batch.actions, torch.full((), -1.0)))
    assert float(_losses(model, padded, text).total) == float(_losses(model, garbage, text).total)


def test_chunk_discount_leaves_the_first_action(model: Any, text: ClipTextEncoder, batch: Batch) -> None:
    model.eval()
    with torch.no_grad():
        losses = _losses(model, batch, text, Recipe(chunk_discount=1e-6))
    assert float(losses.motion) == pytest.approx(float(losses.first_motion), rel=1e-3)


def test_auxiliary_targets_grow_fine_near_the_cube() -> None:
    near, far = torch.tensor([[0.01, 0.0, 0.0, 0.8]]), torch.tensor([[1.01, 0.0, 0.0, 0.8]])
    at_cube = architecture.auxiliary_targets(torch.tensor([[0.0, 0.0, 0.0, 0.8]]))
    across = architecture.auxiliary_targets(torch.tensor([[1.0, 0.0, 0.0, 0.8]]))
    assert at_cube.shape == (1, architecture.auxiliary_dim(1))
    finest = architecture.auxiliary_dim(1) - 3  # tanh(x / 1 cm)
    assert (architecture.auxiliary_targets(near) - at_cube)[0, finest] > 0.09  # one millimetre
    assert (architecture.auxiliary_targets(far) - across)[0, finest].abs() < 1e-6


def test_instruction_reaches_the_action(model: Any, text: ClipTextEncoder) -> None:
    model.eval()
    features = model.encode(torch.randn(1, 3, 64, 64)).repeat(10, 1)[None]
    chunks = [model.decode(features, text([words])).motion for words in INSTRUCTIONS[:2]]
    assert (chunks[0] - chunks[1]).abs().max() > 1e-3


def test_untrained_text_encoder_is_repeatable_and_tells_instructions_apart(text: ClipTextEncoder) -> None:
    again = ClipTextEncoder.load("none")
    assert again.identity == text.identity
    embeddings = torch.nn.functional.normalize(text(INSTRUCTIONS), dim=-1)
    cosine = embeddings @ embeddings.T - 2 * torch.eye(8)
    assert cosine.max() < 0.99


def test_language_normalisation_spreads_instructions(model: Any, text: ClipTextEncoder) -> None:
    spread = (text(INSTRUCTIONS) - model.language_mean) / model.language_scale
    assert spread.square().mean() == pytest.approx(1.0, rel=1e-3)
    torch.testing.assert_close(spread.mean(dim=0), torch.zeros(512), atol=1e-4, rtol=0)


def _actor(model: Any, text: ClipTextEncoder, control: ControlConfig | None = None) -> PolicyActor:
    embeddings = InstructionEmbeddings(dict(zip(INSTRUCTIONS, text(INSTRUCTIONS), strict=True)), text.identity, "none")
    return PolicyActor(model.eval(), embeddings, CPU, control)


def test_control_computes_what_training_computes(model: Any, text: ClipTextEncoder, demo_file: Path) -> None:
    """Compares the feature buffer and the preprocessing of control with whole windows of the dataset."""
    dataset = loader.LiftDataset(demo_file, ["demo_0"], 1, 25)
    segment = dataset[0]
    model.eval()
    with torch.inference_mode():
        language = text(segment.instructions)
        expected = model(prepare(segment.frames, SMALL.image), segment.windows, language)[0].actions()
    actor = _actor(model, text)
    actor.reset(segment.instructions[0], 0)
    for row, frame in enumerate(segment.frames):
        decision = actor.select_action_from_image(frame.numpy())
        np.testing.assert_allclose(actor.action_chunk, expected[row], atol=2e-4)
        np.testing.assert_array_equal(decision.action, actor.action_chunk[0])


def test_execute_steps_follow_the_chunk(model: Any, text: ClipTextEncoder, demo_file: Path) -> None:
    with h5py.File(demo_file) as file:
        images = file["data/demo_0/images"][:7]
    actor = _actor(model, text, ControlConfig(execute_steps=3))
    actor.reset(INSTRUCTIONS[0], 0)
    chunks, actions = [], []
    for image in images:
        actions.append(actor.select_action_from_image(image).action)
        chunks.append(actor.action_chunk)
    for step, action in enumerate(actions):
        np.testing.assert_array_equal(action, chunks[step - step % 3][step % 3])
    assert not np.array_equal(chunks[0], chunks[3])


def test_temporal_ensembling_averages_the_chunks_that_reach_a_step(
    model: Any, text: ClipTextEncoder, demo_file: Path
) -> None:
    with h5py.File(demo_file) as file:
        images = file["data/demo_0/images"][:3]
    actor = _actor(model, text, ControlConfig(ensemble_decay=0.5))
    actor.reset(INSTRUCTIONS[0], 0)
    chunks = []
    for image in images:
        action = actor.select_action_from_image(image).action
        chunks.append(actor.action_chunk)
    weights = np.exp(-0.5 * np.arange(3))  # the oldest chunk first, as in ACT
    votes = np.stack([chunks[0][2], chunks[1][1], chunks[2][0]])
    np.testing.assert_allclose(action, (weights[:, None] * votes).sum(0) / weights.sum(), rtol=1e-5)


def test_blind_policy_sees_nothing(model: Any, text: ClipTextEncoder) -> None:
    embeddings = InstructionEmbeddings(dict(zip(INSTRUCTIONS, text(INSTRUCTIONS), strict=True)), text.identity, "none")
    bright, dark = np.full((224, 224, 3), 200, np.uint8), np.zeros((224, 224, 3), np.uint8)

    def answer(image: np.ndarray, blind: bool) -> np.ndarray:
        actor = PolicyActor(model.eval(), embeddings, CPU, blind=blind)
        actor.reset(INSTRUCTIONS[0], 0)
        return actor.select_action_from_image(image).action

    np.testing.assert_array_equal(answer(bright, blind=True), answer(dark, blind=False))
    assert not np.array_equal(answer(bright, blind=False), answer(bright, blind=True))


def test_actions_do_not_need_the_auxiliary_head(model: Any, text: ClipTextEncoder, sim: Simulator) -> None:
    observation: Observation = sim.reset(0)
    actor = _actor(model, text)
    actor.reset(INSTRUCTIONS[0], 0)
    before = actor.select_action(observation).action
    del model.auxiliary
    actor.reset(INSTRUCTIONS[0], 0)
    np.testing.assert_array_equal(before, actor.select_action(observation).action)


def test_the_shipped_policys_actions_do_not_need_its_auxiliary_head(sim: Simulator) -> None:
    path = ROOT / "checkpoints/lift.pth"
    checkpoint = load_checkpoint(path)
    chunks = []
    for broken in (False, True):
        if broken:
            checkpoint["model"]["auxiliary.weight"].fill_(torch.nan)
        network = build_model(checkpoint, path)
        actor = PolicyActor(network, instruction_embeddings(checkpoint, "none"), torch.device("cpu"))
        actor.reset(INSTRUCTIONS[0], 0)
        actor.select_action(sim.reset(0))
        chunks.append(actor.action_chunk)
    np.testing.assert_array_equal(chunks[0], chunks[1])
    assert np.ptp(chunks[0][:, :6]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("proprioception", [False, True])
def test_a_policy_sees_no_pose_of_the_cube_and_no_seed(
    text: ClipTextEncoder, sim: Simulator, proprioception: bool
) -> None:
    """Its actions stay the same when everything but the picture (and the arm's own state, if it asks) is nonsense."""
    torch.manual_seed(0)
    vla = architecture.VLA(dataclasses.replace(SMALL, proprioception=proprioception))
    observations: list[Observation] = [sim.reset(0)]
    for _ in range(3):
        observations.append(sim.step(np.array([1.0, 0, -1, 0, 0, 0, 1]))[0])
    own = ("gripper_pos",) if proprioception else ()

    def scrambled(seen: Observation) -> Observation:
        nonsense: dict[str, Any] = {
            name: np.full_like(value, np.nan, dtype=float)
            for name, value in vars(seen.evidence).items()
            if name not in own
        }
        fingers = seen.gripper_qpos if proprioception else np.full(2, np.nan)
        evidence = dataclasses.replace(seen.evidence, **nonsense)
        return Observation(seen.image, evidence, np.full(4, np.nan), fingers)

    def actions(seed: int, seen: list[Observation]) -> np.ndarray:
        actor = _actor(vla, text)
        actor.reset(INSTRUCTIONS[0], seed)
        return np.stack([actor.select_action(observation).action for observation in seen])

    honest = actions(0, observations)
    np.testing.assert_array_equal(honest, actions(2_000_123, [scrambled(seen) for seen in observations]))
    assert not np.array_equal(honest, actions(0, observations[::-1]))


def test_hub_that_never_answers_is_given_up_within_5_seconds() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        accepted = threading.Thread(target=server.accept, daemon=True)
        accepted.start()
        start = time.perf_counter()
        assert not is_reachable(f"http://127.0.0.1:{server.getsockname()[1]}/weights")
        assert time.perf_counter() - start < 5
    assert not is_reachable("http://127.0.0.1:9/weights")


def test_vision_weights_from_a_local_file(tmp_path: Path) -> None:
    import torchvision

    torch.manual_seed(1)
    state = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path / "resnet.pth"
    torch.save(state, path)
    model = architecture.VLA(SMALL)
    identity = load_vision_weights(model.vision, str(path))
    assert identity["pretrained"]
    assert torch.equal(model.vision.stem[0].weight, state["conv1.weight"])
    assert torch.equal(model.vision.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])

    torch.save({"wrong": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not hold ResNet18"):
        load_vision_weights(model.vision, str(path))
    path.write_bytes(b"no weights at all")
    with pytest.raises(UserError, match="not a file of weights"):
        load_vision_weights(model.vision, str(path))
    with pytest.raises(UserError, match="IMAGENET1K_V1"):
        load_vision_weights(model.vision, "imagenet")


@pytest.mark.slow
@pytest.mark.parametrize(("tag", "quick_gelu"), [("openai", True), ("laion2b_s34b_b79k", False)])
def test_downloaded_and_cached_text_weights_are_the_same_function(
    tag: str, quick_gelu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    path = tmp_path / "open_clip_model.safetensors"
    built = open_clip.create_model("ViT-B-32", force_quick_gelu=quick_gelu)
    save_file(built.state_dict(), path)
    create = open_clip.create_model
    monkeypatch.setattr(vla.policies.clip_text, "is_reachable", lambda url: True)
    # The local file stands in for the one that the hub would send.
    monkeypatch.setattr(
        open_clip, "create_model", lambda name, pretrained, **rest: create(name, pretrained=str(path), **rest)
    )
    downloaded = ClipTextEncoder.load(tag)
    monkeypatch.setattr(vla.policies.clip_text, "_cached", lambda repository: str(path))
    cached = ClipTextEncoder.load(tag)
    assert downloaded.identity == cached.identity
    with torch.no_grad():
        expected = built.encode_text(open_clip.get_tokenizer("ViT-B-32")(["Lift the red cube"]))
    for encoder in (downloaded, cached):
        torch.testing.assert_close(encoder(["Lift the red cube"]), expected)


def test_training_can_begin_from_the_shipped_policy() -> None:
    """The configuration in its checkpoint lacks fields that were added later."""
    config = architecture.ModelConfig(image=RECIPES["cpu"].image, observation_horizon=1)
    assert load_parent(SHIPPED, config)["model_config"]["pooling"] == "keypoints"
    with pytest.raises(UserError, match=r"another network .*pooling"):
        load_parent(SHIPPED, dataclasses.replace(config, pooling="average"))


def test_a_full_disk_is_reported_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pth"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # larger files fail as on a full disk
    try:
        with pytest.raises(MachineError, match="the disk is full"):
            save_checkpoint(path, {"model": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pth"]
    assert path.read_bytes() == b"old"


@pytest.mark.slow
def test_text_weights_from_a_local_file_and_their_mismatch(text: ClipTextEncoder, tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(5)
    path = tmp_path / "clip.pt"
    torch.save(open_clip.create_model("ViT-B-32").state_dict(), path)
    loaded = ClipTextEncoder.load(str(path))
    assert loaded.identity["pretrained"]
    assert loaded.identity["sha256"] != text.identity["sha256"]
    assert ClipTextEncoder.matching(loaded.identity, str(path)).identity == loaded.identity
    with pytest.raises(UserError, match="trained with a text encoder"):
        ClipTextEncoder.matching(loaded.identity, "none")
    path.write_bytes(b"broken")
    with pytest.raises(UserError, match="does not hold CLIP"):
        ClipTextEncoder.load(str(path))
    with pytest.raises(UserError, match="neither a file nor one of open_clip's tags"):
        ClipTextEncoder.load("no-such-tag")


@pytest.mark.slow
def test_text_weights_from_openais_own_archive(tmp_path: Path) -> None:
    """ViT-B-32.pt as OpenAI publishes it: TorchScript, half precision, with three numbers beside the weights."""
    import open_clip

    built = open_clip.create_model("ViT-B-32", force_quick_gelu=True).half()
    torch.save(built.state_dict(), tmp_path / "plain.pt")
    bare = _Bare(built)
    for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
        bare.register_buffer(name, torch.tensor(value))
    archive = tmp_path / "ViT-B-32.pt"
    torch.jit.script(bare).save(archive)
    loaded, plain = (ClipTextEncoder.load(str(path)) for path in (archive, tmp_path / "plain.pt"))
    assert loaded.identity["sha256"] == plain.identity["sha256"]

    torch.jit.script(torch.nn.Linear(2, 2)).save(archive)
    with pytest.raises(UserError, match="does not hold CLIP") as refused:
        ClipTextEncoder.load(str(archive))
    assert "\n" not in str(refused.value)


class _Bare(torch.nn.Module):
    """A module's weights under their own names, without what TorchScript cannot compile."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        for name, child in module.named_children():
            self.add_module(name, _Bare(child))
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(self) -> int:
        """Do nothing: only the weights are read."""
        return 0


def test_checkpoint_is_whole_or_absent_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(path)
    with pytest.raises(AttributeError):
        save_checkpoint(path, {"unpicklable": lambda: 0})
    assert list(tmp_path.iterdir()) == []
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="format version None"):
        load_checkpoint(path)
    names = ("model_config", "model", "text_identity", "vision_identity", "env_args", "training")
    languages: list[object] = [
        {},
        [],
        {"texts": ["lift"], "embeddings": torch.zeros(2, 512)},
        {"texts": [], "embeddings": 1},
    ]
    for language in languages:
        save_checkpoint(path, {**{name: {} for name in names}, "language": language})
        with pytest.raises(UserError, match="lacks an embedding for each of its instructions"):
            load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_checkpoint(path)
