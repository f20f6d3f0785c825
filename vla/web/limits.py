"""A limit on what a request may bring, before anything of it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BYTES = 200_000
UPLOAD_PATH = "/gradio_api/upload"
MARGIN_BYTES = 100_000
"""Of an upload, for what stands around the file."""


DISCARDED_BYTES = 50_000_000
"""Of a request that is refused, read and thrown away; beyond them the connection is closed."""


class BodyLimit:
    """ASGI middleware: answers 413 to a request whose body is too long, whether or not it says so beforehand.

    And 400 to one at which Gradio's routes fail; what a handler raises is told in the answer's stream, not here.
    Gradio's own limit (`max_file_size`) is for each file of an upload, and for nothing else that comes with it.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], upload_bytes: int) -> None:
        """`upload_bytes` may come with one request to `UPLOAD_PATH`, in all."""
        self._app = app
        self._upload_bytes = upload_bytes + MARGIN_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, and break it off where it grows too long."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._upload_bytes if scope["path"] == UPLOAD_PATH else MAX_BYTES
        if _announced(scope) > limit:
            await _discard(receive)
            await _answer(send, 413, "this request is too long")
            return
        came, started = 0, False

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            return message if came <= limit else {"type": "http.disconnect"}

        async def noted(message: Message) -> None:
            nonlocal started
            if came <= limit:  # what the page says of half a request is of no use
                started = True
                await send(message)

        try:
            await self._app(scope, counted, noted)
        except Exception as error:  # whatever Gradio's routes raise for what they cannot read
            if started:
                raise
            if came <= limit:
                print(f"refused {scope['method']} {scope['path']}: {type(error).__name__}")
                await _answer(send, 400, "this request cannot be read")
        if came > limit and not started:
            await _discard(receive)
            await _answer(send, 413, "this request is too long")


def _announced(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _discard(receive: Receive) -> None:
    """Let the rest of a request come and go: a browser that still sends does not read the answer."""
    came, more = 0, True
    while more and came < DISCARDED_BYTES:
        message = await receive()
        came += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _answer(send: Send, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
