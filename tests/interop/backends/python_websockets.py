"""An echo server with the `websockets` package."""

import asyncio

from websockets.asyncio.server import serve


async def echo(connection):
    async for message in connection:
        if isinstance(message, str) and message.startswith("please close "):
            _, _, code, reason = message.split(" ", 3)
            await connection.close(int(code), reason)
            return
        await connection.send(message)


def first(_, offered):
    return offered[0] if offered else None


async def main():
    async with serve(echo, "127.0.0.1", 0, max_size=None, select_subprotocol=first) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
