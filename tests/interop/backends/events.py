"""A source of server-sent events: the next event leaves only when `GET /go` asks for it."""

import asyncio

from aiohttp import web

wanted = asyncio.Queue()


async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    number = 1
    await response.write(b"id: 1\ndata: first\n\n")
    while await wanted.get():
        number += 1
        await response.write(f"id: {number}\ndata: next\n\n".encode())
    await response.write_eof(b"event: end\ndata: end\n\n")
    return response


async def go(request):
    await wanted.put(True)
    return web.Response(text="asked\n")


async def stop(request):
    await wanted.put(False)
    return web.Response(text="stopping\n")


async def main():
    app = web.Application()
    app.add_routes([web.get("/events", events), web.get("/go", go), web.get("/stop", stop)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print("listening on", runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
