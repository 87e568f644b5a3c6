"""Copies of lone changes, sent past the replicas' queues.

A quorum queue hands out what is on its disk, and confirms it then, too. That wait is most of the way of a lone change.
So a copy goes ahead of it, transient and unconfirmed, to a queue that is there while workers are. A worker that has
nothing else to do applies it in the usual case (``lone``), and acknowledges the change itself when that comes. A copy
promises nothing: where it is lost or of no use, the change comes all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kombu import Producer
from kombu.transport import virtual

from django_cqrs_celery import conf, outbox, topology

#: Seconds without copies after publishing has failed: the broker may not take them from this user.
PAUSE = 60.0


class Copies:
    """The sender of copies that belongs to a publisher."""

    def __init__(self) -> None:
        self._producer: Any = None
        self._not_before = 0.0

    def send(
        self, connection: Any, message: outbox.Message, headers: Mapping[str, Any], properties: Mapping[str, Any]
    ) -> None:
        """Send a copy of a lone change over the publisher's connection; errors are those of publishing."""
        if not message.lone or not conf.express() or time.monotonic() < self._not_before:
            return
        if self._producer is None:
            channel = connection.channel()
            if isinstance(channel, virtual.Channel):
                self._not_before = float("inf")
                return
            # The connection's channels confirm what they publish; this one is not to wait for it.
            channel.basic_publish = channel._basic_publish
            self._producer = Producer(channel, auto_declare=False)
        self._producer.publish(
            message.body, exchange=topology.exchange(), routing_key=topology.express_key(message.cqrs_id),
            content_type="application/json", content_encoding="utf-8", headers=headers, delivery_mode=1, retry=False,
            timeout=conf.publish_timeout(), **properties,
        )  # fmt: skip

    def pause(self) -> None:
        """Send none for a while, because something is wrong: what was published itself comes first."""
        if self._producer is not None:
            self._not_before = time.monotonic() + PAUSE
        self._producer = None

    def forget(self) -> None:
        """The connection is gone."""
        self._producer = None
