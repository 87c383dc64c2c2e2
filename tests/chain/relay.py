"""Relays on loopback: `python relay.py PORT…` prints a port for each that it listens on, and serves until killed.

Frozen with SIGSTOP it is a cut cable: nothing passes, nothing is closed, and what was sent arrives late.
"""

import asyncio
import contextlib
import json
import sys


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def lay(target: int) -> int:
    async def through(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(through, "127.0.0.1", 0)
    return int(server.sockets[0].getsockname()[1])


async def serve(targets: list[int]) -> None:
    sys.stdout.write(json.dumps([await lay(target) for target in targets]) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


asyncio.run(serve([int(port) for port in sys.argv[1:]]))
