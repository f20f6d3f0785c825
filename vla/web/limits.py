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


class BodyLimit:
    """ASGI middleware: answers 413 to a request whose body is too long, whether or not it says so beforehand.

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
            await _refuse(send)
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
        except Exception:  # whatever reading half a request raises
            if came <= limit:
                raise
        if came > limit and not started:
            await _refuse(send)


def _announced(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _refuse(send: Send) -> None:
    start = {"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]}
    await send(start)
    await send({"type": "http.response.body", "body": b"this request is too long"})
