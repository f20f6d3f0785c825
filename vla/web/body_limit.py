"""A limit on the size of requests, enforced before anything of them is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BYTES = 200_000
"""Size of a request at most; uploads have a limit of their own."""
UPLOAD_PATH = "/gradio_api/upload"
MARGIN_BYTES = 100_000
"""Bytes of an upload's request besides the file."""
DISCARDED_BYTES = 50_000_000
"""Bytes of a refused request that are read and thrown away; beyond them the connection is closed."""


class BodyLimit:
    """ASGI middleware that answers 413 to a request whose body is too long, whether or not it announces its length.

    It answers 400 where Gradio's routes fail; errors of a handler reach the visitor in the answer's stream instead.
    Gradio's own limit (`max_file_size`) holds for each file of an upload, and for nothing else in its request.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], upload_bytes: int) -> None:
        """`upload_bytes` is the size of all files in one request to `UPLOAD_PATH` at most."""
        self._app = app
        self._upload_bytes = upload_bytes + MARGIN_BYTES

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, and break it off when it grows too long."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._upload_bytes if scope["path"] == UPLOAD_PATH else MAX_BYTES
        if _announced_bytes(scope) > limit:
            await _discard(receive)
            await _answer(send, 413, "this request is too long")
            return
        received_bytes = 0
        answering = False

        async def limited_receive() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            return message if received_bytes <= limit else {"type": "http.disconnect"}

        async def limited_send(message: Message) -> None:
            nonlocal answering
            if received_bytes <= limit:  # the answer to half a request is useless
                answering = True
                await send(message)

        try:
            await self._app(scope, limited_receive, limited_send)
        except Exception as error:  # Gradio's routes raise various errors for requests that they cannot read
            if answering:
                raise
            if received_bytes <= limit:
                print(f"refused {scope['method']} {scope['path']}: {type(error).__name__}")
                await _answer(send, 400, "this request cannot be read")
        if received_bytes > limit and not answering:
            await _discard(receive)
            await _answer(send, 413, "this request is too long")


def _announced_bytes(scope: Message) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


async def _discard(receive: Receive) -> None:
    """Read the rest of a request and throw it away, because a browser that still sends does not read the answer."""
    discarded_bytes = 0
    more = True
    while more and discarded_bytes < DISCARDED_BYTES:
        message = await receive()
        discarded_bytes += len(message.get("body", b""))
        more = message.get("more_body", False)


async def _answer(send: Send, status: int, text: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
