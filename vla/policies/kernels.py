"""Convolutions and linear layers that only compute forward, with weights as the kernels read them.

For a single picture a processor waits for its weights as long as it multiplies, and torch puts the weights of every
layer into oneDNN's order anew at every call. Here they are put into that order once. The packed operators are those
that `torch.compile` generates; nothing is compiled here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vla.errors import UserError
from vla.policies.execution import Precision


@dataclass(frozen=True)
class Kernels:
    """Which kernels compute."""

    dtype: torch.dtype
    """Type of the weights; results of linear layers are float32 all the same."""
    packed: bool
    """Whether the weights are in oneDNN's order; it computes on CPUs only."""

    @classmethod
    def choose(cls, device: torch.device, precision: Precision) -> Kernels:
        """The fastest kernels of this precision on `device`.

        Raises:
            UserError: there is no such precision.
        """
        if precision not in get_args(Precision):
            raise UserError(f"precision {precision!r}: give one of {', '.join(get_args(Precision))}")
        packed = device.type == "cpu" and torch.backends.mkldnn.is_available()
        if precision == "float32":
            return cls(torch.float32, packed)
        return cls(torch.bfloat16, packed and torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def convolution(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool = True) -> Convolution:
        """A convolution and the batch normalisation behind it as one."""
        return (PackedConvolution if self.packed else Convolution)(convolution, norm, self.dtype, relu)

    def linear(self, weight: Tensor, bias: Tensor, rows: int) -> Linear:
        """A linear layer, (out, in) and (out,), for inputs of about `rows` rows."""
        if self.packed:
            return PackedLinear(weight, bias, self.dtype, rows)
        return Linear(weight, bias, self.dtype)


class Convolution(nn.Module):
    """A convolution with its batch normalisation folded in; a shortcut is added and a ReLU applied behind it."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool) -> None:
        super().__init__()
        folded: Any = fuse_conv_bn_eval(convolution, norm)
        self._stride, self._padding, self._relu = list(folded.stride), list(folded.padding), relu
        self._weight: Tensor = folded.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        self._bias: Tensor = folded.bias.detach().to(dtype)

    def forward(self, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """(N, C, h, w), and (N, C', h', w') to add -> (N, C', h', w') of the weights' type."""
        result = F.conv2d(maps.to(self._bias.dtype), self._weight, self._bias, self._stride, self._padding)
        if shortcut is not None:
            result = result + shortcut
        return result.relu() if self._relu else result


class PackedConvolution(Convolution):
    """The same with oneDNN's weights, and what follows the convolution within its kernel."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool) -> None:
        super().__init__(convolution, norm, dtype, relu)
        self._geometry = self._padding, self._stride, [1, 1], 1  # ResNet18 has no dilation and no groups
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *self._geometry)

    def forward(self, maps: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """As `Convolution.forward`."""
        operands, activation = (self._weight, self._bias, *self._geometry), "relu" if self._relu else "none"
        maps, operator = maps.to(self._bias.dtype), torch.ops.mkldnn._convolution_pointwise
        if shortcut is None:
            return operator(maps, *operands, activation, [None], "")
        return operator.binary(maps, shortcut.to(maps.dtype), *operands, "add", 1.0, activation, [None], "")


class Linear(nn.Module):
    """A linear layer: (..., in) -> (..., out) float32."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self._weight, self._bias = weight.detach().to(dtype), bias.detach().to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs.to(self._bias.dtype), self._weight, self._bias).float()


class PackedLinear(Linear):
    """The same with oneDNN's weights."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, rows: int) -> None:
        super().__init__(weight, bias, dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, rows)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self._bias.dtype)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, "none", [], "")
        return result.float()


class Remembered(nn.Module):
    """A layer that computes again only for another input, such as another instruction."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._layer = layer
        self._latest: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        latest = self._latest  # read once: other threads may replace it
        if latest is None or not torch.equal(latest[0], inputs):
            self._latest = latest = (inputs, self._layer(inputs))
        return latest[1]
