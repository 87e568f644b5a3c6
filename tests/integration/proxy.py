"""A TCP link that a test can spoil.

Cut, connections break without a farewell, and new ones are refused. Stalled, connections stay and new ones are taken,
but nothing passes. Half closed, the client is told that the server has finished, while the server still listens.
"""

from __future__ import annotations

import contextlib
import socket
import threading


class Proxy:
    """Listens on a port of its own and passes everything on to a server."""

    def __init__(self, host: str | None, port: int | None) -> None:
        self._server = (host or "127.0.0.1", port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._is_cut = False
        self._flows = threading.Event()
        self._flows.set()

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self.cut()
        self._flows.set()

    def cut(self) -> None:
        """Break all connections and take no new ones."""
        with self._lock:
            self._is_cut = True
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _break(*pair)

    def stall(self) -> None:
        """Let nothing pass, in either direction, without closing anything."""
        self._flows.clear()

    def half_close(self) -> None:
        """Tell all clients that no more will come; what they send still passes."""
        with self._lock:
            for client, _ in self._pairs:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_WR)

    def mend(self) -> None:
        """Take connections again, and let all pass."""
        with self._lock:
            self._is_cut = False
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    _break(client)
                    continue
                try:
                    server = socket.create_connection(self._server, timeout=10)
                except OSError:
                    _break(client)
                    continue
                server.settimeout(None)
                self._pairs.append((client, server))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                target.sendall(data)
        _break(source, target)


def _break(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
