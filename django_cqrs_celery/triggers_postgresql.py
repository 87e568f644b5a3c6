"""The triggers on PostgreSQL.

An UPDATE is captured row by row before it is written, so that the row is written once with the revision it gets. What
was inserted or deleted is captured once for each statement, from its transition table.
"""

from __future__ import annotations

from typing import Any

from django_cqrs_celery.triggers_plan import MARK, Column, Plan, no_previous_values, previous_values, sealed

#: Each trigger of a set by the end of its name.
SUFFIXES = ("mark", "insert", "update", "delete", "truncate")
#: PostgreSQL fires triggers in the order of their names; those of the project come first.
_LAST = "zz_"
#: Holds, within a transaction, the table whose new rows Django promises itself.
_PROMISED = "cqrs.promised"


def install(plan: Plan) -> list[str]:
    """Statements that create the triggers; those that exist are replaced."""
    return sealed(plan, _statements)


def uninstall(plan: Plan) -> list[str]:
    """Statements that take the triggers away, wherever they are."""
    return [f"DROP FUNCTION IF EXISTS {plan.quote(plan.trigger(suffix))}() CASCADE" for suffix in SUFFIXES]


def found(connection: Any, plan: Plan) -> dict[str, tuple[str, bool]]:
    """What is installed: body and whether it is enabled, by suffix."""
    names = {plan.trigger(suffix): suffix for suffix in SUFFIXES}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT p.proname, p.prosrc, t.tgenabled IN ('O', 'A') FROM pg_trigger t"
            " JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid"
            " WHERE c.relname = %s AND pg_table_is_visible(c.oid) AND p.proname = ANY(%s)",
            [plan.table, list(names)],
        )
        return {names[name]: (body, enabled) for name, body, enabled in cursor.fetchall()}


def _text(column: Column, value: str) -> str:
    """Text of the wire value of a column."""
    if column.kind == "date":
        return f"to_char({value}, 'YYYY-MM-DD')"
    if column.kind == "datetime":
        moment = f"timezone('UTC', {value})"
        fraction = f"CASE to_char({moment}, 'US') WHEN '000000' THEN '' ELSE to_char({moment}, '.US') END"
        return f"to_char({moment}, 'YYYY-MM-DD\"T\"HH24:MI:SS') || {fraction} || '+00:00'"
    return f"{value}::text"


def _json(column: Column, value: str) -> str:
    """JSON text of the wire value of a column."""
    if column.kind in ("integer", "boolean", "float", "text"):
        return f"coalesce(to_jsonb({value})::text, 'null')"
    return f"coalesce(to_jsonb({_text(column, value)})::text, 'null')"


def _statements(plan: Plan, print_: str) -> list[str]:
    quote = plan.quote
    table, outbox = quote(plan.table), quote(plan.outbox)
    key, revision, updated = quote(plan.key.column), quote(plan.revision), quote(plan.updated)
    cqrs_id = plan.literal(plan.cqrs_id)
    save = f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk"
    delete = f"INSERT INTO {outbox} (signal_type, cqrs_id, instance_pk, revision, instance_data)"
    gone = "json_build_object('cqrs_updated', statement_timestamp())::text"
    last_delete = (
        f"SELECT max(d.revision) FROM {outbox} d WHERE d.signal_type = 'DELETE' AND d.cqrs_id = {cqrs_id}"
        " AND d.instance_pk = "
    )
    before, after = (f"ROW({', '.join(f'{row}.{quote(c)}' for c in plan.compared)})" for row in ("OLD", "NEW"))
    # The operator *<> of two rows, by its name: pg_dump writes that one so that it cannot be restored.
    changed = f"record_image_ne({before}, {after})"
    new_pk, old_pk = _text(plan.key, f"NEW.{key}"), _text(plan.key, f"OLD.{key}")

    def function(suffix: str, body: str) -> str:
        tag = "$cqrs$"
        while tag in body:  # a CQRS_ID may hold anything
            tag = f"{tag[:-1]}_$"
        return (
            f"CREATE OR REPLACE FUNCTION {quote(plan.trigger(suffix))}() RETURNS trigger LANGUAGE plpgsql"
            f" SECURITY DEFINER SET search_path FROM CURRENT AS {tag}\n-- {MARK} {print_}\n{body}\n{tag}"
        )

    def trigger(suffix: str, event: str, each: str) -> str:
        name = quote(_LAST + plan.trigger(suffix))
        return (
            f"DROP TRIGGER IF EXISTS {name} ON {table};"
            f" CREATE TRIGGER {name} {event} ON {table} {each}"
            f" EXECUTE FUNCTION {quote(plan.trigger(suffix))}()"
        )

    previous = previous_values(
        plan, lambda c: f"OLD.{quote(c)} IS DISTINCT FROM NEW.{quote(c)}",
        lambda column: _json(column, f"OLD.{quote(column.column)}"), "||",
    )  # fmt: skip
    inserted_pk = _text(plan.key, f"n.{key}")
    created = f", previous_data) SELECT 'SAVE', {cqrs_id}, {inserted_pk}, {no_previous_values(plan)}"
    if not plan.tracked:
        created = f") SELECT 'SAVE', {cqrs_id}, {inserted_pk}"

    mark = f"""BEGIN
    PERFORM set_config('{_PROMISED}', TG_RELID::text, true);
    NEW.{revision} := -NEW.{revision} - 1;
    RETURN NEW;
END"""
    inserted = f"""DECLARE
    lifted record;
BEGIN
    IF current_setting('{_PROMISED}', true) = TG_RELID::text THEN
        PERFORM set_config('{_PROMISED}', '', true);
        RETURN NULL;
    END IF;
    {save}{created} FROM cqrs_new n;
    FOR lifted IN
        SELECT n.{key} AS key, d.revision + 1 AS revision FROM cqrs_new n
        CROSS JOIN LATERAL ({last_delete}{inserted_pk}) d (revision)
        WHERE d.revision >= n.{revision}
    LOOP
        EXECUTE 'UPDATE ' || TG_RELID::regclass || {plan.literal(f" SET {revision} = $1 WHERE {key} = $2")}
            USING -lifted.revision - 1, lifted.key;
    END LOOP;
    RETURN NULL;
END"""
    updated_body = f"""DECLARE
    promised boolean := false;
    transaction_id text := pg_current_xact_id_if_assigned()::text;
    previous text;
BEGIN
    IF NEW.{revision} < 0 THEN
        NEW.{revision} := -NEW.{revision} - 1;
        RETURN NEW;
    END IF;
    IF NEW.{revision} < OLD.{revision} AND NOT ({changed}) THEN
        NEW.{revision} := OLD.{revision};
        RETURN NEW;
    END IF;
    IF transaction_id IS NOT NULL AND age(OLD.xmin) <= 0 THEN
        promised := EXISTS (
            SELECT FROM {outbox} o WHERE o.cqrs_id = {cqrs_id} AND o.instance_pk = {new_pk}
            AND o.signal_type = 'SAVE' AND age(o.xmin) <= 0
            AND pg_xact_status((((transaction_id::bigint >> 32) << 32) | o.xmin::text::bigint)::text::xid8)
                = 'in progress'
        ) AND NEW.{key} = OLD.{key};
    END IF;
    IF NEW.{revision} <= OLD.{revision} + 1 THEN
        NEW.{revision} := CASE WHEN promised THEN OLD.{revision} ELSE OLD.{revision} + 1 END;
    END IF;
    IF NEW.{updated} IS NOT DISTINCT FROM OLD.{updated} THEN
        NEW.{updated} := statement_timestamp();
    END IF;
    IF NEW.{key} <> OLD.{key} THEN
        {delete} VALUES ('DELETE', {cqrs_id}, {old_pk}, OLD.{revision} + 1, {gone});
        NEW.{revision} := greatest(NEW.{revision}, ({last_delete}{new_pk}) + 1);
    END IF;
    __RECORD__
    RETURN NEW;
END"""
    record = (
        f"previous := '{{' || substr({previous}, 2) || '}}';\n"
        "    IF NOT promised OR previous <> '{}' THEN\n"
        f"        {save}, previous_data) VALUES ('SAVE', {cqrs_id}, {new_pk}, nullif(previous, '{{}}'));\n"
        "    END IF;"
        if plan.tracked
        else f"IF NOT promised THEN\n        {save}) VALUES ('SAVE', {cqrs_id}, {new_pk});\n    END IF;"
    )
    deleted = f"""BEGIN
    {delete}
        SELECT 'DELETE', {cqrs_id}, {_text(plan.key, f"o.{key}")}, o.{revision} + 1, {gone} FROM cqrs_old o;
    RETURN NULL;
END"""
    every = f"{delete} SELECT 'DELETE', {cqrs_id}, {_text(plan.key, f'o.{key}')}, o.{revision} + 1, {gone} FROM "
    truncated = f"""BEGIN
    EXECUTE {plan.literal(every)} || TG_RELID::regclass || ' o';
    RETURN NULL;
END"""
    return [
        function("mark", mark),
        trigger("mark", "BEFORE INSERT", f"FOR EACH ROW WHEN (NEW.{revision} < 0)"),
        function("insert", inserted),
        trigger("insert", "AFTER INSERT", "REFERENCING NEW TABLE AS cqrs_new FOR EACH STATEMENT"),
        function("update", updated_body.replace("__RECORD__", record)),
        trigger(
            "update", "BEFORE UPDATE",
            f"FOR EACH ROW WHEN ({changed} OR NEW.{revision} <> OLD.{revision})",
        ),
        function("delete", deleted),
        trigger("delete", "AFTER DELETE", "REFERENCING OLD TABLE AS cqrs_old FOR EACH STATEMENT"),
        function("truncate", truncated),
        trigger("truncate", "BEFORE TRUNCATE", "FOR EACH STATEMENT"),
    ]  # fmt: skip
