"""An echo server with aiohttp."""

import asyncio

from aiohttp import WSMsgType, web


async def echo(request):
    socket = web.WebSocketResponse(max_msg_size=0, protocols=["chat.v2"])
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.data.startswith("please close "):
            _, _, code, reason = message.data.split(" ", 3)
            await socket.close(code=int(code), message=reason.encode())
        else:
            await socket.send_str(message.data)
    print("closed with", socket.close_code, flush=True)
    return socket


async def main():
    app = web.Application()
    app.router.add_get("/ws", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("listening on", runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
