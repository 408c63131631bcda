"""An ASGI application under hypercorn, which speaks HTTP/2 with prior knowledge and WebSockets over it (RFC 8441): an
echo of messages, and of plain requests with what they came as."""

import asyncio
import socket

from hypercorn.asyncio import serve
from hypercorn.config import Config


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
    elif scope["type"] == "http":
        await answer(scope, receive, send)


async def echo(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"].endswith("/denied"):
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"because")]})
        await send({"type": "websocket.http.response.body", "body": b"no entry"})
        return
    offered = scope["subprotocols"]
    headers = [(b"x-http-version", scope["http_version"].encode())]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None, "headers": headers})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is not None and text.startswith("please close "):
            _, _, code, reason = text.split(" ", 3)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
            return
        await send({"type": "websocket.send", **({"bytes": event["bytes"]} if text is None else {"text": text})})


async def answer(scope, receive, send):
    headers = [(b"x-http-version", scope["http_version"].encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    more = True
    while more:
        event = await receive()
        more = event.get("more_body", False)
        await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": more})


async def main():
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.websocket_max_message_size = 2**24
    config.h2_max_concurrent_streams = 50
    print("listening on", listener.getsockname()[1], flush=True)
    await serve(app, config)


asyncio.run(main())
