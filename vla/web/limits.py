"""A limit on what a request may bring, before anything of it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class BodyLimit:
    """ASGI middleware: answers 413 to a request whose body is too long, whether or not it says so beforehand.

    Uploads have Gradio's own limit (`max_file_size`), which is larger.
    """

    MAX_BYTES = 200_000
    UPLOADS = "/upload"

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or scope["path"].endswith(self.UPLOADS):
            await self._app(scope, receive, send)
            return
        body, more = b"", scope["method"] not in ("GET", "HEAD")
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.MAX_BYTES:
                start = {"type": "http.response.start", "status": 413, "headers": [(b"content-type", b"text/plain")]}
                await send(start)
                await send({"type": "http.response.body", "body": b"this request is too long"})
                return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent or scope["method"] in ("GET", "HEAD"):
                return await receive()  # until the visitor leaves
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)
