# What django-cqrs makes of the models.

import dj_cqrs.mixins
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Country',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('iso', models.CharField(max_length=8, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('population', models.BigIntegerField(default=0)),
            ],
            options={
                'abstract': False,
            },
            bases=(dj_cqrs.mixins.RawReplicaMixin, models.Model),
        ),
        migrations.CreateModel(
            name='Offer',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('label', models.CharField(max_length=210)),
                ('cents', models.IntegerField()),
                ('source', models.CharField(max_length=20)),
            ],
            options={
                'abstract': False,
            },
            bases=(dj_cqrs.mixins.RawReplicaMixin, models.Model),
        ),
        migrations.CreateModel(
            name='Place',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('title', models.CharField(max_length=100)),
                ('country_iso', models.CharField(max_length=8)),
                ('code', models.UUIDField()),
                ('latitude', models.DecimalField(decimal_places=6, max_digits=9, null=True)),
                ('founded', models.DateField(null=True)),
                ('visited', models.DateTimeField(null=True)),
                ('is_capital', models.BooleanField(default=False)),
                ('details', models.JSONField(default=dict)),
            ],
            options={
                'abstract': False,
            },
            bases=(dj_cqrs.mixins.RawReplicaMixin, models.Model),
        ),
    ]
