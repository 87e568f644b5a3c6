from django.db import migrations


def install(apps, schema_editor):
    from django_cqrs_celery import triggers_upkeep

    triggers_upkeep.install_waiting(apps, schema_editor)


def uninstall(apps, schema_editor):
    from django_cqrs_celery import triggers_upkeep

    triggers_upkeep.uninstall_all(apps, schema_editor)


class Migration(migrations.Migration):
    """Install the triggers of tables whose migrations ran before there was an outbox; take all away with it."""

    dependencies = [
        ("django_cqrs_celery", "0001_initial"),
    ]

    operations = [
        migrations.RunPython(install, uninstall, atomic=False),
    ]
