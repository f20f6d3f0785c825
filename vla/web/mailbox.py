"""What a visitor does to a running episode: messages wait in its mailbox until its next step."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class InstructionChange:
    """Another instruction is to be followed."""

    instruction: str
    embedding: np.ndarray | None
    """(text_dim,) raw embedding of the instruction; None for the expert, which is told the target instead."""


@dataclass(frozen=True)
class Push:
    """The cube is to be flicked."""


class Mailbox:
    """Messages to one running episode."""

    CAPACITY = 10
    """Largest number of messages between two steps."""

    def __init__(self, driver: str | None, listens: bool = False) -> None:
        """Make the mailbox of an episode.

        Args:
            driver: who drives; None for a comparison, which can only be stopped.
            listens: whether the driver follows another instruction.
        """
        self.driver = driver
        self.listens = listens
        self._messages: list[InstructionChange | Push] = []
        self._lock = threading.Lock()
        self._stop_requested = threading.Event()

    def put(self, message: InstructionChange | Push) -> bool:
        """Leave a message; returns False if the mailbox is full."""
        with self._lock:
            fits = len(self._messages) < self.CAPACITY
            if fits:
                self._messages.append(message)
            return fits

    def take(self) -> list[InstructionChange | Push]:
        """Remove and return all messages, oldest first."""
        with self._lock:
            messages = self._messages
            self._messages = []
            return messages

    def stop(self) -> None:
        """Ask the episode to end before its next step."""
        self._stop_requested.set()

    @property
    def stopped(self) -> bool:
        """Whether the visitor has stopped the episode."""
        return self._stop_requested.is_set()


class Mailboxes:
    """The mailboxes of the running episodes, by their visitor's session."""

    def __init__(self) -> None:
        self._running: dict[str | None, Mailbox] = {}

    def open(self, session: str | None, driver: str | None, listens: bool = False) -> Mailbox:
        """Make the mailbox of an episode that starts (see `Mailbox`)."""
        mailbox = Mailbox(driver, listens)
        self._running[session] = mailbox
        return mailbox

    def close(self, session: str | None, mailbox: Mailbox) -> None:
        """Remove the mailbox of an episode that has ended; a later episode of this visitor keeps its own."""
        if self._running.get(session) is mailbox:
            del self._running[session]

    def find(self, session: str | None) -> Mailbox | None:
        """Return the mailbox of this visitor's running episode."""
        return self._running.get(session)
