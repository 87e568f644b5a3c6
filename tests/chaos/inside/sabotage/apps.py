from __future__ import annotations

import os

from django.apps import AppConfig


class SabotageConfig(AppConfig):
    name = "sabotage"

    def ready(self) -> None:
        from sabotage import cheats, traps

        if traps.FOLDER:
            traps.lay()
        if os.environ.get("SABOTAGE_ACK_EARLY"):
            cheats.acknowledge_at_receipt()
