import django_cqrs_celery.mixins
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='CityFigures',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('geoname_id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('title', models.CharField(max_length=200)),
                ('country_iso', models.CharField(db_index=True, max_length=2)),
                ('inhabitants', models.BigIntegerField()),
            ],
            options={
                'verbose_name_plural': 'city figures',
            },
            bases=(django_cqrs_celery.mixins.RawReplicaMixin, models.Model),
        ),
        migrations.CreateModel(
            name='CountryFigures',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('iso', models.CharField(max_length=2, primary_key=True, serialize=False)),
                ('title', models.CharField(max_length=100)),
                ('inhabitants', models.BigIntegerField()),
                ('area', models.DecimalField(decimal_places=3, max_digits=12)),
            ],
            options={
                'verbose_name_plural': 'country figures',
            },
            bases=(django_cqrs_celery.mixins.RawReplicaMixin, models.Model),
        ),
    ]
