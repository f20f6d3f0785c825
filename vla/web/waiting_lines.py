"""The lines in which requests wait (Gradio's queues), how many may wait in each, and whose visitor has gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import error_payload

from vla.web.checks import PageError


@dataclass(frozen=True)
class Line:
    """Requests of one kind, which wait for the same thing."""

    name: str
    """What waits, in the plural; also Gradio's `concurrency_id`."""
    at_once: int
    """Requests that run at the same time."""
    max_waiting: int
    """Requests that wait at most, of all visitors."""
    max_of_one_address: int
    """Requests that wait at most from one network address, so that nobody fills the line for all others."""


EPISODES = Line("episodes", at_once=1, max_waiting=24, max_of_one_address=12)
"""Episodes and comparisons, which need the simulator."""
PREDICTIONS = Line("predictions", at_once=1, max_waiting=24, max_of_one_address=6)
"""Single images, whose heat map takes the network hundreds of images."""
REPLAYS = Line("recorded episodes", at_once=2, max_waiting=24, max_of_one_address=6)
"""Evaluated episodes and demonstrations, for which files are read and videos copied or written."""
FIRST_IMAGES = Line("first images", at_once=2, max_waiting=64, max_of_one_address=32)
"""Images of an episode's start, which need the second simulator."""
LOOKUPS = Line("look-ups", at_once=2, max_waiting=64, max_of_one_address=32)
"""Lists and tables of past evaluations."""
LINES = (EPISODES, PREDICTIONS, REPLAYS, FIRST_IMAGES, LOOKUPS)

MAX_WAITING = sum(line.max_waiting for line in LINES)
"""Requests that wait at most, of all kinds."""
UNREAD_MAX = 100
"""Messages of a running episode that its visitor has not fetched, at least 5 seconds of it. Beyond them the visitor
has gone."""


class WaitingLines:
    """The waiting requests of a page."""

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page

    def joined(self, line: Line) -> dict[str, Any]:
        """Return the options with which an event of Gradio waits in `line`, or is refused when that is full."""

        # A coroutine runs in the loop of Gradio's queue: no other request joins between the check and the joining.
        async def admit(request: gr.Request, *inputs: Any) -> Any:
            self._check_room(line, request)
            valid = [gr.validate(True, "") for _ in inputs]
            return valid[0] if len(valid) == 1 else valid

        return {"concurrency_id": line.name, "concurrency_limit": line.at_once, "validator": admit}

    async def leave(self, session: str | None) -> bool:
        """Take this visitor's waiting episodes out of their line; returns False if there are none."""
        own = [event for event in self._waiting(EPISODES) if event.session_hash == session]
        error = error_payload(PageError("stopped while it waited: this episode was not run"), show_error=True)
        for event in own:
            await self._queue.remove_from_queue(event._id)
            self._queue.send_message(event, ProcessCompletedMessage(output=error, title="Stopped", success=False))
        return bool(own)

    def has_gone(self, session: str | None) -> bool:
        """Return whether a running episode's visitor fetches nothing any more; if so, the unread messages are dropped.

        Gradio itself notices a visitor who closes the connection, and closes the episode's generator.
        """
        messages = self._queue.pending_messages_per_session.get(session)
        if messages is None or messages.qsize() <= UNREAD_MAX:
            return False
        while not messages.empty():
            messages.get_nowait()
        return True

    def _check_room(self, line: Line, request: gr.Request) -> None:
        """Raise an error if one more request of this visitor cannot wait."""
        waiting = self._waiting(line)
        own = [event for event in waiting if _address(event.request) == _address(request)]
        if len(waiting) >= line.max_waiting:
            raise PageError(f"the page is busy: {line.max_waiting} {line.name} are waiting; try again in a minute")
        if len(own) >= line.max_of_one_address:
            raise PageError(
                f"{line.max_of_one_address} {line.name} from your network address are waiting; try again later"
            )

    @property
    def _queue(self) -> Any:
        return self._page._queue  # Gradio has no public access to it

    def _waiting(self, line: Line) -> list[Any]:
        queue = self._queue.event_queue_per_concurrency_id.get(line.name)
        return [] if queue is None else list(queue.queue)


def _address(request: Any) -> str | None:
    return request.client.host if request is not None and request.client else None
