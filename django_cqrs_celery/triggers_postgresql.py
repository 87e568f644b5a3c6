"""The triggers on PostgreSQL.

An UPDATE is captured row by row before it is written, so that the row is written once with the revision it gets. What
was inserted or deleted is captured once for each statement, from its transition table.

The functions run with the rights of who installed them, at the call of anybody: no name in them may mean what the
caller's ``search_path`` says. A path of the function's own sees to that, but setting it is a good part of what a
captured save costs; so the functions of INSERT and UPDATE spell out whose each name is, wherever they can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from django_cqrs_celery.triggers_plan import MARK, Column, Plan, no_previous_values, previous_values, sealed

#: Each trigger of a set by the end of its name.
SUFFIXES = ("mark", "insert", "update", "delete", "truncate")
#: What a delete says beside its revision.
GONE = "pg_catalog.json_build_object('cqrs_updated', pg_catalog.statement_timestamp())::pg_catalog.text"
#: PostgreSQL fires triggers in the order of their names; those of the project come first.
_LAST = "zz_"
#: Kinds of keys whose text is a mere cast, so that all that is done with them can be spelled out.
_CAST = ("integer", "decimal", "uuid", "text")


def install(plan: Plan) -> list[str]:
    """Statements that create the triggers; those that exist are replaced."""
    return sealed(plan, _statements)


def found(connection: Any, plan: Plan, suffixes: Sequence[str] = SUFFIXES) -> dict[str, tuple[str, bool]]:
    """What is installed: body and whether it is enabled, by suffix."""
    names = {plan.trigger(suffix): suffix for suffix in suffixes}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.proname, p.prosrc, t.tgenabled IN ('O', 'A') FROM pg_trigger t"
            " JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE c.relname = %s AND pg_table_is_visible(c.oid) AND p.proname = ANY(%s)",
            [plan.table, list(names)],
        )
        return {names[name]: (body, enabled) for name, body, enabled in cursor.fetchall()}


def text(column: Column, value: str) -> str:
    """Text of the wire value of a column."""
    if column.kind == "date":
        return f"to_char({value}, 'YYYY-MM-DD')"
    if column.kind == "datetime":
        moment = f"timezone('UTC', {value})"
        fraction = f"CASE to_char({moment}, 'US') WHEN '000000' THEN '' ELSE to_char({moment}, '.US') END"
        return f"to_char({moment}, 'YYYY-MM-DD\"T\"HH24:MI:SS') || {fraction} || '+00:00'"
    return f"{value}::pg_catalog.text"


def json(column: Column, value: str) -> str:
    """JSON text of the wire value of a column."""
    if column.kind in ("integer", "boolean", "float", "text"):
        return f"coalesce(to_jsonb({value})::text, 'null')"
    return f"coalesce(to_jsonb({text(column, value)})::text, 'null')"


# --- what the functions do -------------------------------------------------------------------------------------------
# What stands between @ is filled in afterwards: names and literals of the project are never spelled out.
# Spelled operators know no precedence: parentheses say what belongs together.

_OPERATOR = re.compile(r"(?<= )(<=|>=|<>|<<|>>|\|\||[-=<>+|])(?= )")
_FUNCTION = re.compile(
    r"\b(?:age|current_setting|max|pg_current_xact_id_if_assigned|pg_xact_status|record_image_ne|set_config"
    r"|statement_timestamp)\("
)
_TYPE = re.compile(r"(?<=::)(?=\w)|\b(?=(?:record|text);)")


def _spelled(body: str) -> str:
    """The operators, functions and types of a body as those of PostgreSQL itself."""
    body = _OPERATOR.sub(r"OPERATOR(pg_catalog.\1)", body)
    return _TYPE.sub("pg_catalog.", _FUNCTION.sub(r"pg_catalog.\g<0>", body))


# ``cqrs.promised`` holds, within a transaction, the table whose new rows Django promises itself.
_MARKED = """BEGIN
    IF NEW.@revision@ < 0 THEN
        PERFORM set_config('cqrs.promised', TG_RELID::text, true);
        NEW.@revision@ := -1 - NEW.@revision@;
    END IF;
    RETURN NEW;
END"""

# A session keeps the plans of a function. One that is made when the outbox is empty, as it mostly is, would read the
# whole of a full one for each row: the aggregate keeps PostgreSQL from joins, ``enable_seqscan`` from reading it all.
_LAST_DELETE = (
    "SELECT max(d.revision) FROM @outbox@ d"
    " WHERE d.signal_type = 'DELETE' AND d.cqrs_id = @cqrs_id@ AND d.instance_pk = "
)

_INSERTED = f"""DECLARE
    lifted record;
BEGIN
    IF current_setting('cqrs.promised', true) = TG_RELID::text THEN
        PERFORM set_config('cqrs.promised', '', true);
        RETURN NULL;
    END IF;
    @save_new@ FROM cqrs_new n;
    IF EXISTS (
        SELECT FROM cqrs_new n CROSS JOIN LATERAL ({_LAST_DELETE} @inserted_pk@) d (revision)
        WHERE d.revision >= n.@revision@
    ) THEN
        FOR lifted IN
            SELECT n.@key@ AS key, d.revision + 1 AS revision FROM cqrs_new n
            CROSS JOIN LATERAL ({_LAST_DELETE} @inserted_pk@) d (revision)
            WHERE d.revision >= n.@revision@
        LOOP
            EXECUTE 'UPDATE ' || TG_RELID::regclass::text || @lift@ USING -1 - lifted.revision, lifted.key;
        END LOOP;
    END IF;
    RETURN NULL;
END"""

# The UPDATE of a save has raised all by itself, and is done at the first IF.
_UPDATED = f"""DECLARE
    promised boolean := false;
    previous text;
    seqscan text;
BEGIN
    IF NEW.@revision@ > OLD.@revision@ AND NEW.@updated@ <> OLD.@updated@ AND NEW.@key@ = OLD.@key@
            AND age(OLD.xmin) > 0 THEN
        @record@
        RETURN NEW;
    END IF;
    IF NEW.@revision@ < 0 THEN
        NEW.@revision@ := -1 - NEW.@revision@;
        RETURN NEW;
    END IF;
    IF NEW.@revision@ <= OLD.@revision@ AND NOT record_image_ne(@before@, @after@) THEN
        NEW.@revision@ := OLD.@revision@;
        RETURN NEW;
    END IF;
    IF age(OLD.xmin) <= 0 OR NEW.@key@ <> OLD.@key@ THEN
        seqscan := current_setting('enable_seqscan');
        PERFORM set_config('enable_seqscan', 'off', true);
    END IF;
    IF age(OLD.xmin) <= 0 THEN
        promised := EXISTS (
            SELECT FROM @outbox@ o WHERE o.cqrs_id = @cqrs_id@ AND o.instance_pk = @new_pk@
            AND o.signal_type = 'SAVE' AND age(o.xmin) <= 0
            AND pg_xact_status((((
                pg_current_xact_id_if_assigned()::text::int8 >> 32) << 32) | o.xmin::text::int8)::text::xid8
            ) = 'in progress'
        ) AND NEW.@key@ = OLD.@key@;
    END IF;
    IF NEW.@revision@ <= (OLD.@revision@ + 1) THEN
        NEW.@revision@ := CASE WHEN promised THEN OLD.@revision@ ELSE OLD.@revision@ + 1 END;
    END IF;
    IF (NEW.@updated@ <> OLD.@updated@) IS NOT TRUE THEN
        NEW.@updated@ := statement_timestamp();
    END IF;
    IF NEW.@key@ <> OLD.@key@ THEN
        @delete@ VALUES ('DELETE', @cqrs_id@, @old_pk@, OLD.@revision@ + 1, @gone@);
        NEW.@revision@ := greatest(NEW.@revision@, ({_LAST_DELETE} @new_pk@) + 1);
    END IF;
    IF seqscan IS NOT NULL THEN
        PERFORM set_config('enable_seqscan', seqscan, true);
    END IF;
    @record_unless_promised@
    RETURN NEW;
END"""

_DELETED = """BEGIN
    @delete@ SELECT 'DELETE', @cqrs_id@, @deleted_pk@, o.@revision@ + 1, @gone@ FROM cqrs_old o;
    RETURN NULL;
END"""

_TRUNCATED = """BEGIN
    EXECUTE @delete_all@ || TG_RELID::regclass || ' o';
    RETURN NULL;
END"""


def _names(plan: Plan) -> dict[str, str]:
    """What stands for the names between @; the outbox's own is filled in where the functions are created."""
    quote = plan.quote
    key, revision, cqrs_id = quote(plan.key.column), quote(plan.revision), plan.literal(plan.cqrs_id)
    save = "INSERT INTO @outbox@ (signal_type, cqrs_id, instance_pk"
    delete = "INSERT INTO @outbox@ (signal_type, cqrs_id, instance_pk, revision, instance_data)"
    new_pk, inserted_pk, deleted_pk = (text(plan.key, f"{row}.{key}") for row in ("NEW", "n", "o"))
    before, after = (f"ROW({', '.join(f'{row}.{quote(c)}' for c in plan.compared)})" for row in ("OLD", "NEW"))
    nothing = no_previous_values(plan)
    new_names, new_values = (", previous_data", f", {nothing}") if nothing else ("", "")
    save_new = f"{save}{new_names}) SELECT 'SAVE', {cqrs_id}, {inserted_pk}{new_values}"
    if plan.tracked:
        previous = previous_values(
            plan, lambda c: f"OLD.{quote(c)} IS DISTINCT FROM NEW.{quote(c)}",
            lambda column: json(column, f"OLD.{quote(column.column)}"), "||",
        )  # fmt: skip
        record = record_unless_promised = (
            f"previous := '{{' || substr({previous}, 2) || '}}';\n"
            "    IF NOT promised OR previous <> '{}' THEN\n"
            f"        {save}, previous_data) VALUES ('SAVE', {cqrs_id}, {new_pk}, nullif(previous, '{{}}'));\n"
            "    END IF;"
        )
    else:
        record = f"{save}) VALUES ('SAVE', {cqrs_id}, {new_pk});"
        record_unless_promised = f"IF NOT promised THEN\n        {record}\n    END IF;"
    every = f"{delete} SELECT 'DELETE', {cqrs_id}, {deleted_pk}, o.{revision} + 1, {GONE} FROM "
    equal = "OPERATOR(pg_catalog.=)" if plan.key.kind in _CAST else "="
    return {
        "key": key, "revision": revision, "updated": quote(plan.updated), "cqrs_id": cqrs_id, "delete": delete,
        "gone": GONE, "new_pk": new_pk, "old_pk": text(plan.key, f"OLD.{key}"), "inserted_pk": inserted_pk,
        "deleted_pk": deleted_pk, "before": before, "after": after, "save_new": save_new, "record": record,
        "record_unless_promised": record_unless_promised,
        "delete_all": plan.literal(every), "lift": plan.literal(f" SET {revision} = $1 WHERE {key} {equal} $2"),
    }  # fmt: skip


_NAME = re.compile(r"@(\w+)@")


def _statements(plan: Plan, print_: str) -> list[str]:
    quote, names, table = plan.quote, _names(plan), plan.quote(plan.table)

    def function(suffix: str, body: str, rights: str) -> str:
        text = _NAME.sub(lambda found: names.get(found[1], found[0]), body)
        tag = dollars(text)
        return (
            f"CREATE OR REPLACE FUNCTION {quote(plan.trigger(suffix))}() RETURNS trigger LANGUAGE plpgsql"
            f" {rights} AS {tag}\n-- {MARK} {print_}\n{text}\n{tag}"
        )

    def trigger(suffix: str, event: str, each: str) -> str:
        name = quote(_LAST + plan.trigger(suffix))
        return (
            f"DROP TRIGGER IF EXISTS {name} ON {table};"
            f" CREATE TRIGGER {name} {event} ON {table} {each}"
            f" EXECUTE FUNCTION {quote(plan.trigger(suffix))}()"
        )

    with_path = "SECURITY DEFINER SET search_path = @path@"
    spells = plan.key.kind in _CAST
    insert, insert_path = (_spelled(_INSERTED), "SECURITY DEFINER") if spells else (_INSERTED, with_path)
    updates_spelled = spells and not plan.tracked
    functions = [
        function("mark", _spelled(_MARKED), "SECURITY INVOKER"),
        # For each statement this setting costs next to nothing; for each row it would count.
        function("insert", insert, f"{insert_path} SET enable_seqscan = off"),
        function("update", _spelled(_UPDATED), "SECURITY DEFINER") if updates_spelled
        else function("update", _UPDATED, with_path),
        function("delete", _DELETED, with_path),
        function("truncate", _TRUNCATED, with_path),
    ]  # fmt: skip
    return [
        created(functions, plan),
        # No WHEN: to prepare one for each statement costs more than a call of the function.
        trigger("mark", "BEFORE INSERT", "FOR EACH ROW"),
        trigger("insert", "AFTER INSERT", "REFERENCING NEW TABLE AS cqrs_new FOR EACH STATEMENT"),
        trigger("update", "BEFORE UPDATE", "FOR EACH ROW"),
        trigger("delete", "AFTER DELETE", "REFERENCING OLD TABLE AS cqrs_old FOR EACH STATEMENT"),
        trigger("truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT"),
    ]


def created(functions: list[str], plan: Plan) -> str:
    """The functions, with the outbox by its schema and name, and the path of who installs them."""
    tag = dollars("".join(functions))
    executed = "\n".join(
        f"    EXECUTE replace(replace({tag}{text}{tag}, '@outbox@', outbox), '@path@', path);" for text in functions
    )
    outer = dollars(executed)
    return f"""DO {outer}
DECLARE
    outbox text := (
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = {plan.literal(plan.quote(plan.outbox))}::regclass
    );
    -- temporary tables, which anybody may create, come last
    path text := concat_ws(', ', nullif(current_setting('search_path'), ''), 'pg_temp');
BEGIN
{executed}
END
{outer}"""


def dollars(text: str) -> str:
    """A dollar quote that is not in the text, whatever a CQRS_ID holds."""
    tag = "$cqrs$"
    while tag in text:
        tag = f"{tag[:-1]}_$"
    return tag
