"""The triggers run with the rights of who installed them: no name in them means what a writer's session says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.db import transaction

from django_cqrs_celery import triggers, triggers_postgresql
from django_cqrs_celery.models import OutboxMessage
from tests.master_app.models import Stock
from tests.triggers.stock import NOW, TABLE, connection, heard, run

postgresql = pytest.mark.parametrize("engine", ["postgresql"], indirect=True)

#: A schema whose operators and functions, of the types that the triggers meet, all raise.
HOSTILE = """
CREATE SCHEMA hostile;
CREATE TABLE hostile.django_cqrs_celery_outboxmessage (LIKE public.django_cqrs_celery_outboxmessage INCLUDING ALL);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (VALUE LIKE 'never');
CREATE DOMAIN hostile.int8 AS pg_catalog.int8 CHECK (VALUE < 0);
DO $$
DECLARE
    made record;
    body text := 'LANGUAGE plpgsql AS $f$ BEGIN RAISE ''run by the triggers''; END $f$';
BEGIN
    FOR made IN
        SELECT DISTINCT format('hostile.f%s', o.oid) AS function, o.oprname AS name, format_type(o.oprleft, NULL) AS a,
            format_type(o.oprright, NULL) AS b, format_type(o.oprresult, NULL) AS result
        FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
        AND o.oprname IN ('=', '<>', '<', '>', '<=', '>=', '+', '-', '||', '|', '<<', '>>', '*<>')
        AND o.oprleft = ANY('{int4,int8,text,varchar,bool,timestamptz,record,numeric,xid}'::regtype[])
        AND o.oprright = ANY('{int4,int8,text,varchar,bool,timestamptz,record,numeric,xid}'::regtype[])
    LOOP
        EXECUTE format('CREATE FUNCTION %s(%s, %s) RETURNS %s %s', made.function, made.a, made.b, made.result, body);
        EXECUTE format('CREATE OPERATOR hostile.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = %s)',
            made.name, made.a, made.b, made.function);
    END LOOP;
    FOR made IN
        SELECT DISTINCT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments, p.prorettype
        FROM pg_proc p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.proname IN (
            'age', 'current_setting', 'record_image_ne', 'pg_current_xact_id_if_assigned', 'pg_xact_status',
            'set_config', 'statement_timestamp')
    LOOP
        EXECUTE format('CREATE FUNCTION hostile.%I(%s) RETURNS %s %s',
            made.name, made.arguments, made.prorettype::regtype, body);
    END LOOP;
END $$
"""


def install(plan):
    for statement in triggers_postgresql.install(plan):
        run(statement)


@postgresql
def test_temporary_outbox_of_a_writer_takes_no_change(stocks, net):
    outbox = OutboxMessage._meta.db_table
    run(f"CREATE TEMPORARY TABLE {outbox} (LIKE public.{outbox} INCLUDING ALL)")
    try:
        run(f"INSERT INTO {TABLE} (id, name, cqrs_updated) VALUES (4, 'd', {NOW})")
        run(f"UPDATE {TABLE} SET amount = 5 WHERE id = 1")
        run(f"DELETE FROM {TABLE} WHERE id = 2")
    finally:
        run(f"DROP TABLE pg_temp.{outbox}")
    assert heard(net) == [("DELETE", 2, 1), ("SAVE", 1, 1), ("SAVE", 4, 0)]


@postgresql
@pytest.mark.parametrize("tracks", [False, True])
def test_names_of_a_writer_mean_nothing_to_the_triggers(stocks, net, tracks):
    """The functions run with the rights of their owner; who writes must not have them run what he likes."""
    declared = triggers.declared_by(Stock)[0].plan(Stock, connection())
    if not tracks:
        install(replace(declared, tracked=()))
    run(HOSTILE)
    try:
        with connection().cursor() as cursor:
            cursor.execute("SET search_path = hostile, pg_catalog, public")
            with transaction.atomic(using=connection().alias):
                run("INSERT INTO master_app_stock (id, name, cqrs_updated) VALUES (4, 'd', now())")
                run("UPDATE master_app_stock SET amount = 5")
                run("UPDATE master_app_stock SET amount = 6, cqrs_revision = 1")
            run("UPDATE master_app_stock SET amount = 7, cqrs_revision = 2, cqrs_updated = now()")
            run("DELETE FROM master_app_stock")
            run("INSERT INTO master_app_stock (id, name, cqrs_updated) VALUES (4, 'd', now())")
            cursor.execute("RESET search_path")
    finally:
        run("RESET search_path")
        run("DROP SCHEMA hostile CASCADE")
        install(declared)
    assert heard(net) == [("DELETE", 1, 3), ("DELETE", 2, 3), ("DELETE", 3, 3), ("DELETE", 4, 3), ("SAVE", 4, 4)]
