"""The `websockets` client through the gateway: PORT CA. Prints a line per fact; any surprise is an exception."""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

port, ca = int(sys.argv[1]), sys.argv[2]
url = f"wss://gate.test:{port}/ws"
tls = ssl.create_default_context(cafile=ca)


def dial(origin, **more):
    return connect(url, origin=origin, ssl=tls, host="127.0.0.1", port=port, max_size=None, proxy=None, **more)


async def main():
    async with dial("https://app.test") as socket:
        big = os.urandom(3 * 1024 * 1024)
        for sent in ("", "Grüße", b"\x00\xff", big, "x" * 1_500_000):
            await socket.send(sent)
            assert await socket.recv() == sent
        print("echo ok")
        # A message of many fragments stays one message.
        await socket.send(iter(["one ", "two ", "three"]))
        assert await socket.recv() == "one two three"
        print("fragments ok")
        await asyncio.wait_for(await socket.ping(b"still there"), 10)
        print("ping ok")
        await socket.close(4003, "that was it")
        assert (socket.close_code, socket.close_reason) == (4003, "that was it"), (socket.close_code, socket.close_reason)
        print("close ok")
    async with dial("https://app.test") as socket:
        await socket.send("please close 4002 that is all")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4002, "that is all"), closed
        print("server close ok")
    try:
        async with dial("https://evil.test"):
            raise AssertionError("a foreign origin opened a tunnel")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused
        print("foreign origin", refused.response.status_code, refused.response.headers["X-Portcullis-Reason"])


asyncio.run(main())
