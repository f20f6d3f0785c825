"""One copy of the network for all simulator workers: what they ask at the same time is computed as one batch.

For a GPU, where a copy in each worker would cost memory, and small batches waste it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.process import current_process
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla import stages

BATCH = 16
"""Rows of every batch; missing ones are filled up, so that a row's result does not depend on who else asked."""
_POLL_S = 0.02
_Request = tuple[Connection, tuple["np.ndarray | None", ...]]


class InferenceError(Exception):
    """The shared network failed at this request, in the server's words."""


class InferenceServer:
    """Answers `RemoteModel`s from a thread of this process, until it is closed."""

    def __init__(self, model: Any, device: torch.device, batch: int = BATCH) -> None:
        self._model, self._device, self._batch = model, device, batch
        self._listener = Listener(authkey=current_process().authkey)
        self._connections: list[Connection] = []
        self._closing = threading.Event()
        self.batches: list[int] = []
        """How many rows each batch answered."""
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._accept, self._serve)]
        for thread in self._threads:
            thread.start()

    @property
    def address(self) -> str:
        """For `RemoteModel`, in a process that this one started."""
        return str(self._listener.address)

    def close(self) -> None:
        """Stop answering; whoever waits for an answer gets an EOFError."""
        self._closing.set()
        self._listener.close()
        self._threads[1].join()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                self._connections.append(self._listener.accept())
            except (OSError, EOFError, AuthenticationError):  # closed, or a visitor who left or was not ours
                self._closing.wait(_POLL_S)

    def _serve(self) -> None:
        while not self._closing.is_set():
            asked: dict[str, list[_Request]] = {}
            for connection in wait(self._connections, _POLL_S) if self._connections else []:
                assert isinstance(connection, Connection)
                try:
                    kind, *inputs = connection.recv()
                except (EOFError, OSError):  # the worker has ended
                    self._connections.remove(connection)
                    continue
                asked.setdefault(kind, []).append((connection, tuple(inputs)))
            for kind, requests in asked.items():
                for first in range(0, len(requests), self._batch):
                    self._answer(kind, requests[first : first + self._batch])
            if not self._connections:
                self._closing.wait(_POLL_S)

    def _answer(self, kind: str, requests: list[_Request]) -> None:
        try:
            answers: Sequence[tuple[np.ndarray, ...] | str] = self._compute(kind, requests)
        except Exception as error:  # whatever a network may raise; the episodes have failed, the server has not
            if len(requests) > 1:  # each alone: only whoever caused it shall suffer
                for request in requests:
                    self._answer(kind, [request])
                return
            answers = [f"{type(error).__name__}: {error}"]
        for (connection, _), answer in zip(requests, answers, strict=True):
            with contextlib.suppress(OSError):  # the worker has ended meanwhile
                connection.send(answer)
        self.batches.append(len(requests))

    @torch.inference_mode()
    def _compute(self, kind: str, requests: list[_Request]) -> list[tuple[np.ndarray, ...]]:
        columns = zip(*(inputs for _, inputs in requests), strict=True)
        outputs = getattr(self._model, kind)(*(self._join(column) for column in columns))
        parts = outputs if isinstance(outputs, tuple) else (outputs,)
        rows = [part.float().cpu().numpy() for part in parts]
        return [tuple(part[row : row + 1] for part in rows) for row in range(len(requests))]

    def _join(self, column: tuple[np.ndarray | None, ...]) -> Tensor | None:
        """One row from each request, filled up to the batch; None where the network is not told this input."""
        given = [row for row in column if row is not None]
        if not given:
            return None
        joined = np.concatenate([*given, *[given[-1]] * (self._batch - len(given))])
        return torch.from_numpy(joined).to(self._device)


class RemoteModel:
    """A `PolicyNetwork` for an actor in a worker process: it asks an `InferenceServer`, one row at a time."""

    def __init__(self, address: str, model_config: dict[str, object]) -> None:
        architecture = stages.model_architecture()
        self.config = architecture.ModelConfig.from_dict(model_config)
        self._prediction = architecture.Prediction
        self._connection = Client(address, authkey=current_process().authkey)

    def encode(self, images: Tensor, proprioception: Tensor | None = None) -> Tensor:
        """(1, 3, S, S) and (1, 4) -> (1, 512)."""
        (features,) = self._ask("encode", images, proprioception)
        return features

    def decode(self, features: Tensor, language: Tensor) -> Any:
        """(1, T, 512), (1, 512) -> the `Prediction` of a chunk."""
        return self._prediction(*self._ask("decode", features, language))

    def _ask(self, kind: str, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        self._connection.send((kind, *(None if row is None else row.numpy() for row in inputs)))
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise InferenceError(answer)
        return tuple(torch.from_numpy(part) for part in answer)
