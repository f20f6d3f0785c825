"""What a network computes on its part of a batch, as if it had the whole.

Two things in the network look beyond a single window: batch normalisation, whose statistics are those of the batch, and
dropout, whose random numbers follow one another through the batch. torch's own `SyncBatchNorm` runs on GPUs only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor
from torch.autograd.function import once_differentiable

_batch_norm, _dropout, _attention = F.batch_norm, F.dropout, F.scaled_dot_product_attention


@contextlib.contextmanager
def one_batch(rows: slice, of: int) -> Iterator[None]:
    """Let a network see its windows as these `rows` of a batch `of` so many.

    All processes run the same network at the same time, each its own rows: batch normalisation waits for the others.
    torch's layers find three of their functions replaced meanwhile.
    """

    def among_all(windows: Tensor) -> Tensor:
        """The windows at their place in the batch, whose other rows are zeros, in the same order in memory.

        torch then draws as many random numbers as for the whole batch, and these rows get the same ones. Dropout is a
        small part of the work, so that the rows in vain cost little.
        """
        # With a single window, two strides may be equal: its own dimension is then the inner one.
        strides = windows.stride()
        order = sorted(range(windows.dim()), key=lambda dim: (-strides[dim], dim == 0))
        around = [(rows.start, of - rows.stop) if dim == 0 else (0, 0) for dim in reversed(order)]
        padded = F.pad(windows.permute(order), [size for pair in around for size in pair])
        return padded.permute([order.index(dim) for dim in range(windows.dim())])

    def dropout(windows: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        if not training:
            return windows
        return _dropout(among_all(windows), p, training)[rows]

    def attention(
        queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout_p: float, is_causal: bool
    ) -> Tensor:
        if dropout_p == 0:
            return _attention(queries, keys, values, mask, dropout_p, is_causal)
        assert mask is None, "it would have to be cut like the windows"
        queries, keys, values = among_all(queries), among_all(keys), among_all(values)
        return _attention(queries, keys, values, None, dropout_p, is_causal)[rows]

    replaced = {"batch_norm": _joint_batch_norm, "dropout": dropout, "scaled_dot_product_attention": attention}
    originals = {name: getattr(F, name) for name in replaced}
    try:
        for name, function in replaced.items():
            setattr(F, name, function)
        yield
    finally:
        for name, function in originals.items():
            setattr(F, name, function)


def _joint_batch_norm(
    inputs: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """`F.batch_norm` in training, with the statistics of all processes' inputs, (N, C, h, w) each of its own N."""
    assert training, "validation is the first process's own affair"
    mean, variance, count = _statistics(inputs.detach(), running_mean, running_var)
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * (count / (count - 1)), momentum)
    normalised: Tensor = _Normalise.apply(inputs, weight, bias, mean, variance, count, eps)  # type: ignore[no-untyped-call]
    return normalised


def _statistics(inputs: Tensor, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance of each channel, (C,) float32, over all processes, and how many numbers a channel has, ()."""
    # The running statistics stay as they are, for a momentum of 0; they make torch compute in float32.
    own_mean, own_variance = torch.batch_norm_update_stats(inputs, running_mean, running_var, 0.0)
    mean, variance = own_mean.double(), own_variance.double()
    count = mean.new_full((1,), inputs.numel() // inputs.shape[1])
    sums = torch.cat([count, count * mean, count * (variance + mean.square())])
    dist.all_reduce(sums)
    count = sums[0]
    mean, square = (sums[1:] / count).chunk(2)
    return mean.float(), (square - mean.square()).clamp_min(0).float(), count.float()


class _Normalise(torch.autograd.Function):
    """Subtract the mean, divide by the root of the variance, scale and shift.

    The statistics depend on the inputs of every process, and so does the gradient: it needs two more sums over all.
    The gradients of weight and bias are those of this process's inputs, as for every other parameter.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(inputs, weight, mean, (variance + eps).rsqrt(), count)
        return _batch_norm(inputs, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse_std, count = ctx.saved_tensors
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight, None, None, mean, inverse_std, True, ctx.eps, [False, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        scale = weight * inverse_std
        # scale * (gradient - sums[1] / count - (inputs - mean) * inverse_std * sums[0] / count), in two passes
        per_input = -scale * inverse_std * sums[0] / count
        constant = -scale * sums[1] / count - per_input * mean
        of_inputs = torch.addcmul(_of_channels(constant), inputs, _of_channels(per_input))  # float32
        of_inputs.addcmul_(gradient, _of_channels(scale))
        return of_inputs.to(inputs.dtype), of_weight, of_bias, None, None, None, None


def _of_channels(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)
