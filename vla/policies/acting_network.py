"""A trained network rearranged for acting: the same actions, in little more than half the time on a CPU.

What only training needs is taken out, and what does not depend on the frame is computed once: the normalisation of the
instruction and what FiLM makes of it, and what the decoder's queries tell each other before they see anything.
`benchmarks/action_latency.py` measures what that saves.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn

from vla.policies.execution import Precision
from vla.policies.kernels import Kernels, Remembered
from vla.policies.network import PolicyNetwork, Prediction, TrainableNetwork


@torch.no_grad()
def arrange_for_acting(
    trained: TrainableNetwork, device: torch.device, precision: Precision = "float32"
) -> PolicyNetwork:
    """Rearrange a network in place; it can act from then on, and be neither trained nor saved.

    Args:
        trained: `3_model_architecture.VLA` in evaluation mode.
        device: the device that its weights are on.
    """
    kernels = Kernels.choose(device, precision)
    network = cast(Any, trained)  # only the module that defines them knows its parts
    vision = network.vision
    convolution, norm, _, pool = vision.stem
    vision.stem = nn.Sequential(kernels.convolution(convolution, norm), pool)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        setattr(vision, name, Stage(getattr(vision, name), kernels))
    if device.type == "cpu":  # to compare the instruction with the last one, a GPU's results would have to be awaited
        for film in vision.films:
            film.project = Remembered(film.project)
        network.text_projection = Remembered(network.text_projection)
    network.decoder = ActingDecoder(network.decoder, kernels)
    network.requires_grad_(False)
    acting: PolicyNetwork = network
    return acting


class Stage(nn.Module):
    """A stage of ResNet18: (N, C, h, w) -> (N, C', h', w') float32."""

    def __init__(self, blocks: nn.Sequential, kernels: Kernels) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(block, kernels) for block in blocks))

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.blocks(maps).float()
        return result


class Block(nn.Module):
    """A residual block of ResNet18, torchvision's `BasicBlock`."""

    def __init__(self, block: Any, kernels: Kernels) -> None:
        super().__init__()
        self.first = kernels.convolution(block.conv1, block.bn1)
        self.second = kernels.convolution(block.conv2, block.bn2)
        self.shortcut: nn.Module = nn.Identity()
        if block.downsample is not None:
            convolution, norm = block.downsample
            self.shortcut = kernels.convolution(convolution, norm, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(maps), self.shortcut(maps))
        return result


class ActingDecoder(nn.Module):
    """The action decoder without dropout: (B, T, D) -> a chunk of K actions.

    Until the first layer attends to the frames, the queries are the same in every decision; they are computed here.
    """

    def __init__(self, decoder: Any, kernels: Kernels) -> None:
        super().__init__()
        layers, horizon = decoder.layers.layers, len(decoder.positions)
        queries = decoder.queries[None]  # (1, K, d)
        normed = layers[0].norm1(queries)
        self._queries = queries + layers[0].self_attn(normed, normed, normed, need_weights=False)[0]  # (1, K, d)
        rows = queries.shape[1]
        self.frames = OneFrame(decoder) if horizon == 1 else SeveralFrames(decoder)
        self.self_attentions = nn.ModuleList(SelfAttention(layer, kernels, rows) for layer in layers[1:])
        self.feed_forwards = nn.ModuleList(FeedForward(layer, kernels, rows) for layer in layers)
        self.norm, self.motion, self.gripper = decoder.layers.norm, decoder.motion, decoder.gripper

    def forward(self, fused: Tensor) -> Prediction:
        decoded = self._queries.expand(len(fused), -1, -1)  # (B, K, d)
        memory = self.frames.memory(fused)
        for index, feed_forward in enumerate(self.feed_forwards):
            if index > 0:
                decoded = decoded + self.self_attentions[index - 1](decoded)
            decoded = decoded + self.frames(index, decoded, memory)
            decoded = decoded + feed_forward(decoded)
        decoded = self.norm(decoded)
        return Prediction(self.motion(decoded), self.gripper(decoded).squeeze(-1))


class OneFrame(nn.Module):
    """What the decoder's layers read from a single frame.

    A softmax over one frame is 1, whatever is asked. So what a layer reads is a linear function of the frame, and one
    matrix holds those of all layers.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        weight, bias = decoder.project.weight.double(), decoder.project.bias.double() + decoder.positions[0].double()
        weights, biases = [], []
        for layer in decoder.layers.layers:
            attention = layer.multihead_attn
            value = attention.in_proj_weight.chunk(3)[2].double()
            value_bias = attention.in_proj_bias.chunk(3)[2].double()
            output = attention.out_proj.weight.double()
            weights.append(output @ value @ weight)
            biases.append(output @ (value @ bias + value_bias) + attention.out_proj.bias.double())
        self._weight, self._bias = torch.cat(weights).float(), torch.cat(biases).float()  # (L d, D), (L d)
        self._layers = len(weights)

    def memory(self, fused: Tensor) -> tuple[Tensor, ...]:
        """(B, 1, D) -> what each layer reads, (B, 1, d)."""
        return F.linear(fused, self._weight, self._bias).chunk(self._layers, dim=-1)

    def forward(self, index: int, decoded: Tensor, memory: tuple[Tensor, ...]) -> Tensor:
        """What layer `index` adds to its queries."""
        return memory[index]


class SeveralFrames(nn.Module):
    """What the decoder's layers read from T frames: attention, as in training."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.project, self.positions = decoder.project, decoder.positions
        self.norms = nn.ModuleList(layer.norm2 for layer in decoder.layers.layers)
        self.attentions = nn.ModuleList(layer.multihead_attn for layer in decoder.layers.layers)

    def memory(self, fused: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, d)."""
        projected: Tensor = self.project(fused) + self.positions
        return projected

    def forward(self, index: int, decoded: Tensor, memory: Tensor) -> Tensor:
        """(B, K, d), (B, T, d) -> what layer `index` adds to its queries."""
        attended: Tensor = self.attentions[index](self.norms[index](decoded), memory, memory, need_weights=False)[0]
        return attended


class SelfAttention(nn.Module):
    """What the queries of a decoder layer tell each other: (B, K, d) -> (B, K, d)."""

    def __init__(self, layer: Any, kernels: Kernels, rows: int) -> None:
        super().__init__()
        attention = layer.self_attn
        self._heads, self.norm = attention.num_heads, layer.norm1
        self.inputs = kernels.linear(attention.in_proj_weight, attention.in_proj_bias, rows)
        self.output = kernels.linear(attention.out_proj.weight, attention.out_proj.bias, rows)

    def forward(self, decoded: Tensor) -> Tensor:
        parts = self.inputs(self.norm(decoded)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value)  # (B, heads, K, d / heads)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result


class FeedForward(nn.Module):
    """The feed-forward part of a decoder layer: (B, K, d) -> (B, K, d)."""

    def __init__(self, layer: Any, kernels: Kernels, rows: int) -> None:
        super().__init__()
        self.norm = layer.norm3
        self.hidden = kernels.linear(layer.linear1.weight, layer.linear1.bias, rows)
        self.output = kernels.linear(layer.linear2.weight, layer.linear2.bias, rows)

    def forward(self, decoded: Tensor) -> Tensor:
        result: Tensor = self.output(F.gelu(self.hidden(self.norm(decoded))))
        return result
