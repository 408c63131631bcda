"""Two habits of the Kaazing gateway, scripted.

A handshake is sent elsewhere with a 302 whose Location has the `ws` scheme; and where WebSocket is not to be had,
paths with `;` parameters emulate it: one endless answer carries the data down, many short POSTs carry it up.
"""

import asyncio


async def head_of(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.rstrip("\r\n").split("\r\n")
    return line.split(" ")[:2], {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}


sessions = {}


async def downstream(writer, session):
    """Chunk by chunk as data comes, until the client goes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        data = await session.get()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()


async def serve(reader, writer):
    try:
        while True:
            (method, target), fields = await head_of(reader)
            print("request", method, target, flush=True)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
            if fields.get("upgrade", "").lower() == "websocket":
                location = b"ws://127.0.0.1:%d/elsewhere" % port
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n")
            elif target.startswith("/service/;e/cb"):
                sessions["1"] = asyncio.Queue()
                created = b"/service/;e/dtb/1\n/service/;e/utb/1\n"
                writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(created), created))
            elif target.startswith("/service/;e/dtb/"):
                return await downstream(writer, sessions["1"])
            elif target.startswith("/service/;e/utb/"):
                await sessions["1"].put(body)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        print("hung up", flush=True)
    finally:
        writer.close()


async def main():
    global port
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print("listening on", port, flush=True)
    await server.serve_forever()


asyncio.run(main())
