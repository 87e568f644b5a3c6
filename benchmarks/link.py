"""A way to the broker that can be cut: ``python -m benchmarks.link`` prints its port and obeys ``cut`` and ``mend``.

A process of its own, so that passing bytes on does not compete with the master's process for its interpreter.
"""

import asyncio
import sys
from urllib.parse import urlsplit

from benchmarks import environment as env


class Link:
    """Passes connections on to the broker; cut, it closes them and lets none in."""

    def __init__(self) -> None:
        address = urlsplit(env.AMQP_URL)
        self.broker = (address.hostname or "127.0.0.1", address.port or 5672)
        self.is_cut = False
        self.writers: set[asyncio.StreamWriter] = set()

    async def join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on, both ways."""
        if self.is_cut:
            writer.close()
            return
        there, back = await asyncio.open_connection(*self.broker)
        self.writers |= {writer, back}
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
        self.writers -= {writer, back}

    @staticmethod
    async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    def obey(self, word: str) -> None:
        """Cut the link or mend it."""
        self.is_cut = word == "cut"
        if self.is_cut:
            for writer in self.writers:
                writer.close()


async def main() -> None:
    """Serve until the input ends."""
    link = Link()
    server = await asyncio.start_server(link.join, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while word := await asyncio.to_thread(sys.stdin.readline):
        link.obey(word.strip())
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
