"""What carries changes, digests and answers between the two sides of one process, under the test's control."""

from __future__ import annotations

import json
from typing import Any

from django_cqrs_celery import healing, repairs
from django_cqrs_celery.constants import TASK_ANSWER, TASK_VERIFY, SignalType
from django_cqrs_celery.dataclasses import decode_message, encode_note
from tests import network


class Wire(network.Network):
    """Takes the place of every publisher; notes travel as JSON, like changes."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.bytes = 0

    def send(self, task: str, note: dict[str, Any], key: str) -> int:
        body = encode_note(note)
        self.bytes += len(body)
        self.notes.append((task, json.loads(body)[1]))
        return len(body)

    def close(self) -> None:
        pass

    def step(self) -> None:
        """Take the oldest note to where it goes."""
        task, note = self.notes.pop(0)
        if task == TASK_VERIFY:
            for answer in healing.answers_to(note):
                self.send(TASK_ANSWER, answer, "")
        else:
            repairs.take(note, lambda listing: self.send(TASK_VERIFY, listing, "") and None, self.publish)

    def talk(self) -> None:
        """Let master and replica finish what they have to say to each other."""
        while self.notes:
            self.step()

    def settle(self) -> list[tuple[str, Any]]:
        """Finish, and apply what has been sent for it; returns what was sent, as (signal type, key)."""
        self.talk()
        self.pump()
        sent = [
            (str(SignalType(change["signal_type"])), change["instance_pk"])
            for message in self.messages
            for change in decode_message(message.body)
        ]
        self.deliver()
        self.messages.clear()
        return sent
