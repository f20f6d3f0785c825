"""Who waits for the simulator, who may join them, and whose visitor has gone: what Gradio's queue knows of it."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.server_messages import ProcessCompletedMessage
from gradio.utils import error_payload

from vla.web.checks import page_error

SIMULATOR = "simulator"
"""The name under which Gradio lines up what needs the simulator."""
WAITING_MAX = 24
"""Episodes that wait at most, of all visitors."""
WAITING_OF_ONE = 12
"""Of these, from one network address: nobody fills the line for all others."""
UNREAD_MAX = 100
"""Messages of a running episode that its visitor has not fetched: 5 seconds and more of a film that nobody watches."""


class Line:
    """The waiting episodes of a page."""

    def __init__(self, page: gr.Blocks) -> None:
        self._page = page

    def admit(self, request: gr.Request) -> None:
        """Raise an error where an episode more of this visitor cannot wait."""
        waiting = self._waiting()
        own = [event for event in waiting if _address(event.request) == _address(request)]
        if len(waiting) >= WAITING_MAX:
            raise page_error(f"the line is full: {WAITING_MAX} episodes wait; try again in a minute")
        if len(own) >= WAITING_OF_ONE:
            raise page_error(f"{WAITING_OF_ONE} episodes wait that were asked for from your address; try again later")

    async def leave(self, session: str | None) -> bool:
        """Take this visitor's waiting episodes out of the line; False where there are none."""
        mine = [event for event in self._waiting() if event.session_hash == session]
        told = error_payload(page_error("stopped while it waited: this episode was not run"), show_error=True)
        for event in mine:
            await self._queue.remove_from_queue(event._id)
            self._queue.send_message(event, ProcessCompletedMessage(output=told, title="Stopped", success=False))
        return bool(mine)

    def has_gone(self, session: str | None) -> bool:
        """Whether a running episode's visitor fetches nothing any more; what lies there unread is thrown away.

        (Of a visitor who closes the connection, Gradio hears by itself, and closes the episode's generator.)
        """
        messages = self._queue.pending_messages_per_session.get(session)
        if messages is None or messages.qsize() <= UNREAD_MAX:
            return False
        while not messages.empty():
            messages.get_nowait()
        return True

    @property
    def _queue(self) -> Any:
        return self._page._queue  # there is no public way to it

    def _waiting(self) -> list[Any]:
        line = self._queue.event_queue_per_concurrency_id.get(SIMULATOR)
        return [] if line is None else list(line.queue)


def _address(request: Any) -> str | None:
    return request.client.host if request is not None and request.client else None
