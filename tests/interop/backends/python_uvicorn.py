"""An ASGI echo application under uvicorn."""

import asyncio

import uvicorn


async def app(scope, receive, send):
    if scope["type"] != "websocket":
        return
    assert (await receive())["type"] == "websocket.connect"
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is not None and text.startswith("please close "):
            _, _, code, reason = text.split(" ", 3)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
            return
        await send({"type": "websocket.send", **({"bytes": event["bytes"]} if text is None else {"text": text})})


class Announcing(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("listening on", self.servers[0].sockets[0].getsockname()[1], flush=True)


config = uvicorn.Config(app, host="127.0.0.1", port=0, ws_max_size=2**24, lifespan="off", log_level="info")
asyncio.run(Announcing(config).serve())
