"""What must be true after a fault, asked of the databases themselves.

The ledger on the master says which token each row must carry, or that it must be gone. On each replica, triggers record
every write of (primary key, revision, token), so that a row that went back is found even if it came forward again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg

#: The replicated tables: primary key, column that carries the token, columns that are compared.
TABLES = {
    "country": ("iso", "population", ["iso", "name", "population", "cqrs_revision"]),
    "city": ("id", "population", ["id", "name", "country_id", "population", "latitude", "founded", "cqrs_revision"]),
    "event": (
        "code", "number",
        ["code", "title", "number", "happened", "lasted", "details", "raw", "cqrs_revision"],
    ),
}  # fmt: skip

_LEDGER = """
CREATE TABLE chaos_ledger (
    seq bigserial PRIMARY KEY, tbl text NOT NULL, pk text NOT NULL, token bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
_HISTORY = """
CREATE TABLE chaos_history (
    seq bigserial PRIMARY KEY, tbl text NOT NULL, pk text NOT NULL, op text NOT NULL, revision bigint NOT NULL,
    token bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tx bigint NOT NULL DEFAULT txid_current()
);
CREATE TABLE chaos_refuse (on_purpose boolean);
"""
_TRIGGER = """
CREATE FUNCTION chaos_record_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE changed search_{table};
BEGIN
    changed := CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    IF TG_OP <> 'DELETE' AND '{table}' = 'event' AND changed.{token} % 7 = 0 THEN
        IF EXISTS (SELECT FROM chaos_refuse) THEN
            RAISE EXCEPTION 'refused on purpose' USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    INSERT INTO chaos_history (tbl, pk, op, revision, token)
    VALUES ('{table}', changed.{pk}::text, TG_OP, changed.cqrs_revision, changed.{token});
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON search_{table}
FOR EACH ROW EXECUTE FUNCTION chaos_record_{table}();
"""


def prepare_master(url: str) -> None:
    """Give the master its ledger."""
    execute(url, _LEDGER)


def prepare_replica(url: str) -> None:
    """Give a replica the history of its rows."""
    execute(url, _HISTORY, *(_TRIGGER.format(table=name, pk=of[0], token=of[1]) for name, of in TABLES.items()))


def execute(url: str, *statements: str) -> None:
    """Run statements in a database, each by itself."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def query(url: str, sql: str) -> list[Any]:
    """Rows of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(sql).fetchall()


def value(url: str, sql: str) -> Any:
    """First value of the first row."""
    return query(url, sql)[0][0]


# --- are two sides equal ---------------------------------------------------------------------------------------------


def _select(app: str, table: str) -> str:
    pk, _, columns = TABLES[table]
    return f"SELECT {pk}::text AS pk, ROW({', '.join(columns)})::text AS image FROM {app}_{table}"


def fingerprint(url: str, app: str) -> list[Any]:
    """One hash for all rows of each table, of every column that is replicated."""
    sums = [
        f"(SELECT md5(coalesce(string_agg(image, '|' ORDER BY pk), '')) FROM ({_select(app, name)}) each_row)"
        for name in TABLES
    ]
    return list(query(url, f"SELECT {', '.join(sums)}")[0])


def differences(master: str, replica: str) -> list[str]:
    """Rows that two sides do not have in common, as texts."""
    found = []
    for name in TABLES:
        ours, theirs = dict(query(master, _select("shop", name))), dict(query(replica, _select("search", name)))
        for pk in sorted(ours.keys() | theirs.keys()):
            if ours.get(pk) != theirs.get(pk):
                found.append(f"{name} {pk}: master {ours.get(pk)}, replica {theirs.get(pk)}")
    return found


# --- the verdict -----------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What the ledger and the histories say: rows that are not as the ledger has them, writes that went back."""

    committed: int = 0
    lost: int = 0
    stale: int = 0
    #: Writes with a token that was never committed.
    phantoms: int = 0
    examples: list[str] = field(default_factory=list)


#: Of the writes of one transaction to a row, the last counts: nobody has seen the others. An insert that turns out to
#: be older than a delete is taken back in its own transaction.
_WENT_BACK = """
SELECT tbl, pk, before, revision FROM (
    SELECT tbl, pk, op, revision,
           max(revision) OVER (PARTITION BY tbl, pk ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
           AS before
    FROM (SELECT DISTINCT ON (tbl, pk, tx) * FROM chaos_history ORDER BY tbl, pk, tx, seq DESC) seen
) each_write WHERE op <> 'DELETE' AND revision < before
"""


def examine(master: str, replicas: list[str], first_token: int) -> Findings:
    """Compare every replica with the ledger of the run that began with a token, and look for writes that went back."""
    found = Findings(committed=value(master, "SELECT count(*) FROM chaos_ledger"))
    last = query(master, "SELECT DISTINCT ON (tbl, pk) tbl, pk, token FROM chaos_ledger ORDER BY tbl, pk, seq DESC")
    tokens = {row[0] for row in query(master, "SELECT DISTINCT token FROM chaos_ledger WHERE token IS NOT NULL")}
    for number, url in enumerate(replicas, 1):
        rows = {
            (name, pk): token
            for name, of in TABLES.items()
            for pk, token in query(url, f"SELECT {of[0]}::text, {of[1]} FROM search_{name}")
        }
        wrong = [
            f"replica {number}: {table} {pk} has {rows.get((table, pk))}, must have {token}"
            for table, pk, token in last
            if rows.get((table, pk)) != token
        ]
        back = [
            f"replica {number}: {table} {pk} went from {before} to {after}: {_story(master, url, pk)}"
            for table, pk, before, after in query(url, _WENT_BACK)
        ]
        never = [
            f"replica {number}: {table} {pk} had token {token}, which was rolled back"
            for table, pk, token in query(url, "SELECT tbl, pk, token FROM chaos_history WHERE op <> 'DELETE'")
            if token >= first_token and token not in tokens
        ]
        found.lost += len(wrong)
        found.stale += len(back)
        found.phantoms += len(never)
        found.examples += wrong[:3] + back[:3] + never[:3]
    return found


def _story(master: str, replica: str, pk: str) -> str:
    """What the ledger and a replica's history know of a row."""
    written = query(replica, f"SELECT tx, op, revision, token FROM chaos_history WHERE pk = '{pk}' ORDER BY seq")
    wanted = query(master, f"SELECT token FROM chaos_ledger WHERE pk = '{pk}' ORDER BY seq")
    return f"written {[' '.join(map(str, row)) for row in written]}, ledger {[token for (token,) in wanted]}"


def forget(master: str, replicas: list[str]) -> None:
    """Begin a new run: the rows stay, what was written about them goes."""
    execute(master, "TRUNCATE chaos_ledger")
    for url in replicas:
        execute(url, "TRUNCATE chaos_history", "TRUNCATE chaos_refuse")
