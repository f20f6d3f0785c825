"""One copy of the network for all simulator workers: requests that arrive together are computed as one batch.

This is for a GPU, where a copy in each worker would cost memory, and small batches waste it. Server and clients talk
through what multiprocessing chooses: a local socket on Linux and macOS, a named pipe on Windows (untested there).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.process import current_process
from typing import cast

import numpy as np
import torch
from torch import Tensor

from vla.errors import MachineError, describe_error
from vla.policies.faults import is_machine_fault
from vla.policies.network import PolicyNetwork, Prediction, model_architecture

BATCH = 16
"""Rows of every batch; missing ones are filled up, so that a row's result does not depend on the other requests."""
_POLL_S = 0.02
_Request = tuple[Connection, tuple["np.ndarray | None", ...]]
_Answer = tuple[np.ndarray, ...]


class InferenceError(Exception):
    """The network failed at a request; the message is the network's own."""


class InferenceServer:
    """Answers `RemoteModel`s from a thread of this process, until it is closed."""

    def __init__(self, model: PolicyNetwork, device: torch.device, batch: int = BATCH) -> None:
        self._model, self._device, self._batch = model, device, batch
        self._listener = Listener(authkey=current_process().authkey)
        self.address = str(self._listener.address)
        """Address for `RemoteModel`, in a process that this one started."""
        self._connections: list[Connection] = []
        self._closing = threading.Event()
        self.batches: list[int] = []
        """Number of rows that each batch answered."""
        threading.Thread(target=self._accept, daemon=True).start()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering; a `RemoteModel` that waits for an answer raises a MachineError."""
        self._closing.set()
        self._thread.join()

    def _accept(self) -> None:
        # A thread that waits in `accept` cannot be woken on every platform: this one ends with the process.
        while not self._closing.is_set():
            try:
                self._connections.append(self._listener.accept())
            except (OSError, EOFError, AuthenticationError):  # closed, or a client that left or does not know the key
                self._closing.wait(_POLL_S)

    def _serve(self) -> None:
        try:
            while not self._closing.is_set():
                for kind, requests in self._receive().items():
                    for first in range(0, len(requests), self._batch):
                        self._answer(kind, requests[first : first + self._batch])
        finally:  # also when this thread fails: clients must not wait for ever
            self._closing.set()
            self._listener.close()
            for connection in list(self._connections):
                connection.close()

    def _receive(self) -> dict[str, list[_Request]]:
        """Wait a moment for requests; return those that have arrived, by the method that they ask for."""
        asked: dict[str, list[_Request]] = {}
        connections = list(self._connections)  # the other thread appends to it
        if not connections:
            self._closing.wait(_POLL_S)
        for ready in wait(connections, _POLL_S):
            connection = cast(Connection, ready)  # on Windows a PipeConnection, which has the same methods
            try:
                kind, *inputs = connection.recv()
            except (EOFError, OSError):  # the worker has ended
                self._connections.remove(connection)
                continue
            asked.setdefault(kind, []).append((connection, tuple(inputs)))
        return asked

    def _answer(self, kind: str, requests: list[_Request]) -> None:
        answers: Sequence[_Answer | Exception]
        try:
            answers = self._compute(kind, requests)
        except Exception as error:  # a network may raise anything
            if is_machine_fault(error):
                failure = MachineError(f"the inference server failed: {describe_error(error)}")
                answers = [failure] * len(requests)
            elif len(requests) > 1:  # each alone, so that only the request that failed gets the error
                for request in requests:
                    self._answer(kind, [request])
                return
            else:
                answers = [InferenceError(describe_error(error))]
        for (connection, _), answer in zip(requests, answers, strict=True):
            with contextlib.suppress(OSError):  # the worker has ended meanwhile
                connection.send(answer)
        self.batches.append(len(requests))

    @torch.inference_mode()
    def _compute(self, kind: str, requests: list[_Request]) -> list[_Answer]:
        columns = zip(*(inputs for _, inputs in requests), strict=True)
        outputs = getattr(self._model, kind)(*(self._join(column) for column in columns))
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        rows = [part.float().cpu().numpy() for part in parts if part is not None]
        return [tuple(part[row : row + 1] for part in rows) for row in range(len(requests))]

    def _join(self, column: tuple[np.ndarray | None, ...]) -> Tensor | None:
        """One row from each request, filled up to the batch; None for an input that the network does not use."""
        given = [row for row in column if row is not None]
        if not given:
            return None
        joined = np.concatenate([*given, *[given[-1]] * (self._batch - len(given))])
        return torch.from_numpy(joined).to(self._device)


class RemoteModel:
    """A `PolicyNetwork` for an actor in a worker process: it asks an `InferenceServer`, one row at a time.

    Raises:
        MachineError: the server has ended, or its machine failed (a full GPU, say).
        InferenceError: the network failed at this input.
    """

    def __init__(self, address: str, model_config: dict[str, object]) -> None:
        self.config = model_architecture().ModelConfig.from_dict(model_config)
        try:
            self._connection = Client(address, authkey=current_process().authkey)
        except (EOFError, OSError) as error:
            raise MachineError(f"the inference server cannot be reached ({describe_error(error)})") from error

    def encode(self, images: Tensor, proprioception: Tensor | None = None, language: Tensor | None = None) -> Tensor:
        """(1, 3, S, S), (1, 4) and (1, text_dim) -> (1, 512)."""
        (features,) = self._ask("encode", images, proprioception, language)
        return features

    def decode(self, features: Tensor, language: Tensor) -> Prediction:
        """(1, T, 512), (1, text_dim) -> a chunk of K actions."""
        motion, gripper_logit = self._ask("decode", features, language)
        return Prediction(motion, gripper_logit)

    def _ask(self, kind: str, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        try:
            self._connection.send((kind, *(None if row is None else row.numpy() for row in inputs)))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise MachineError(f"the inference server has ended ({describe_error(error)})") from error
        if isinstance(answer, Exception):
            raise answer
        return tuple(torch.from_numpy(part) for part in answer)
