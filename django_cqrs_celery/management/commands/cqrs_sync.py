"""``cqrs_sync``: send rows again, or compare with the replicas and repair what differs."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from django_cqrs_celery import snapshots, status, syncing
from django_cqrs_celery.constants import SyncMode
from django_cqrs_celery.exceptions import CQRSError, PublishError
from django_cqrs_celery.management.piping import filters_of
from django_cqrs_celery.management.progress import Progress
from django_cqrs_celery.registries import MasterRegistry


class Command(BaseCommand):
    """Send rows of master models again, or compare them by digest."""

    help = "Sends rows of master models to the replicas as the database has them now, all or only those that differ."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the options of django-cqrs, and those of digests, resuming and throttling."""
        parser.add_argument("-cid", "--cqrs-id", help="CQRS_ID of the model; without it every master model.")
        parser.add_argument("-f", "--filter", default=None, help='Django lookups as JSON, such as {"pk__in": [1, 2]}.')
        parser.add_argument("-q", "--queue", default=None, help="Queue of the one replica that gets them.")
        parser.add_argument("-b", "--batch", type=int, default=2000, help="Rows that are read at once (2000).")
        parser.add_argument("-p", "--progress", action="store_true", help="Show progress.")
        parser.add_argument(
            "--mode", choices=[SyncMode.FULL.value, SyncMode.DIGEST.value], default=SyncMode.FULL.value,
            help="Send every row (full, the default), or compare first and send what differs (digest).",
        )  # fmt: skip
        parser.add_argument(
            "--content", action="store_true", help="With digest: compare values too, and find changes by raw SQL."
        )
        parser.add_argument(
            "--force", action="store_true", help="Let the master's state win over newer revisions on the replicas."
        )
        parser.add_argument(
            "--max-deletes", type=float, default=None,
            help="With digest: share of a replica's rows that may be deleted, from 0 to 1.",
        )  # fmt: skip
        parser.add_argument(
            "--request", action="store_true", help="On a replica: ask the master for all rows of one model, or of all."
        )
        parser.add_argument("--rate", type=int, default=None, help="Most rows a second that are gone through.")
        parser.add_argument("--resume", action="store_true", help="Go on where a run of the same options was killed.")
        parser.add_argument("--dry-run", action="store_true", help="Say what would be gone through; send nothing.")
        parser.add_argument(
            "--wait", type=float, default=0, metavar="SECONDS",
            help="With digest or request: wait so long for the replicas to be found equal, and show the state.",
        )  # fmt: skip
        parser.add_argument("--format", choices=["text", "json"], default="text", help="Form of the output (text).")

    def handle(self, *args: Any, **options: Any) -> None:
        """Check the options, then sync model by model."""
        if options["batch"] < 1:
            raise CommandError("--batch is a whole number above 0.")
        if options["request"]:
            self._request(options)
            return
        wanted = syncing.Wanted(
            mode=SyncMode(options["mode"]), filters=filters_of(options["filter"]), queue=options["queue"],
            size=options["batch"], content=options["content"], force=options["force"],
            max_deletes=options["max_deletes"], rate=options["rate"], resume=options["resume"],
            dry_run=options["dry_run"],
        )  # fmt: skip
        ids = [options["cqrs_id"]] if options["cqrs_id"] else None
        self.shown: Progress | None = None
        self.waits = bool(options["wait"]) and wanted.mode is SyncMode.DIGEST and not wanted.dry_run
        reports: list[syncing.Report] = []
        try:
            on_rows = self._progress if options["progress"] else None
            syncing.run(ids, wanted, on_rows, lambda report: self._report(report, reports, wanted, options))
            replicas = self._wait(ids, wanted, options["wait"])
        except PublishError as error:
            raise CommandError(f"{error} Run the command with --resume when the broker takes messages.") from error
        except CQRSError as error:
            raise CommandError(str(error)) from error
        if options["format"] == "json":
            found = {"mode": options["mode"], "dry_run": options["dry_run"], "models": [vars(r) for r in reports]}
            self.stdout.write(json.dumps({**found, "replicas": replicas}, indent=2))
        else:
            for line in map(status.sync_line, replicas):
                self.stdout.write(line)
        if self.waits and not all(each["equal"] for each in replicas):
            raise CommandError("Not every replica was found equal in that time; the output says which, and why.")
        if self.waits and not replicas:
            raise CommandError("No replica has answered: its worker, or the master's own, does not run.")

    def _request(self, options: dict[str, Any]) -> None:
        """On a replica: ask, and wait for the snapshots to be complete where that is wanted."""
        if any(options[name] for name in ("filter", "queue", "content", "force", "resume", "dry_run", "rate")):
            raise CommandError("--request goes with --cqrs-id, --wait and --format alone: the master sends every row.")
        try:
            ids = [options["cqrs_id"]] if options["cqrs_id"] else snapshots.askable()
            for cqrs_id in ids:
                snapshots.check(cqrs_id)
            pause = snapshots.ask(ids, anew=True)
            end = time.monotonic() + options["wait"]
            while pause is not None and time.monotonic() < end:
                time.sleep(min(pause, 0.5, max(0.0, end - time.monotonic())))
                pause = snapshots.ask(ids)
        except CQRSError as error:
            raise CommandError(str(error)) from error
        found = snapshots.states(ids)
        if options["format"] == "json":
            self.stdout.write(json.dumps(found, indent=2))
        else:
            for state in found:
                end_of_line = "complete." if state["complete"] else "asked for, not complete yet."
                self.stdout.write(f"{state['cqrs_id']}: {state['rows']} rows, {end_of_line}")
        if options["wait"] and not all(state["complete"] for state in found):
            raise CommandError("Not all is here yet. The replica's worker goes on asking; cqrs_status shows the state.")

    def _progress(self, cqrs_id: str, rows: int) -> None:
        if self.shown is None or self.shown.label != cqrs_id:
            model = MasterRegistry.get_model_by_cqrs_id(cqrs_id)
            self.shown = Progress(self.stderr, model._base_manager.count(), cqrs_id)
        self.shown.show(rows)

    def _report(
        self, report: syncing.Report, reports: list[syncing.Report], wanted: syncing.Wanted, options: dict[str, Any]
    ) -> None:
        reports.append(report)
        if self.shown is not None:
            self.shown.show(report.rows, last=True)
        if options["format"] == "json":
            return
        refused = report.refused or {}
        for key, reason in list(refused.items())[:20]:
            self.stderr.write(f"{report.cqrs_id} {key} was not sent: {reason}")
        if wanted.dry_run:
            text = f"{report.rows} rows would be " + ("sent." if wanted.mode is SyncMode.FULL else "compared.")
        elif wanted.mode is SyncMode.FULL:
            text = f"{report.rows} rows sent." + (f" {len(refused)} not sent." if refused else "")
        elif report.unroutable:
            text = "no replica's queue is bound; nothing was sent."
        else:
            text = f"digest of {report.rows} rows sent, {report.bytes} bytes; the replicas' answers are repaired by"
            text += " the master's worker."
        self.stdout.write(f"{report.cqrs_id}: {text}")

    def _wait(self, ids: list[str] | None, wanted: syncing.Wanted, seconds: float) -> list[dict[str, Any]]:
        """Repeat the digest until every replica that is known was found equal in the last round."""
        if not self.waits:
            return []
        end, sent = time.monotonic() + seconds, time.monotonic()
        while True:
            found = [each for each in status.syncs() if each["queue"] and each["mode"] == SyncMode.DIGEST.value]
            found = [each for each in found if ids is None or each["cqrs_id"] in ids]
            if found and all(each["equal"] for each in found):
                return found
            if time.monotonic() > end:
                return found
            if time.monotonic() - sent > 2:
                syncing.run(ids, wanted)
                sent = time.monotonic()
            time.sleep(0.2)
