import django.db.models.deletion
import django_cqrs_celery.mixins
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
                ('code', models.CharField(max_length=2, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('capital', models.CharField(blank=True, max_length=100)),
                ('continent', models.CharField(max_length=2)),
                ('area_km2', models.DecimalField(decimal_places=3, max_digits=12)),
                ('population', models.BigIntegerField()),
                ('currency', models.CharField(blank=True, max_length=3)),
                ('languages', models.JSONField(default=list)),
                ('neighbours', models.JSONField(default=list)),
            ],
            options={
                'verbose_name_plural': 'countries',
            },
            bases=(django_cqrs_celery.mixins.RawReplicaMixin, models.Model),
        ),
        migrations.CreateModel(
            name='City',
            fields=[
                ('cqrs_revision', models.IntegerField()),
                ('cqrs_updated', models.DateTimeField()),
                ('id', models.BigIntegerField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=200)),
                ('latitude', models.DecimalField(decimal_places=5, max_digits=8)),
                ('longitude', models.DecimalField(decimal_places=5, max_digits=8)),
                ('population', models.BigIntegerField()),
                ('timezone', models.CharField(max_length=64)),
                ('alternate_names', models.JSONField(default=list)),
                ('country', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='places.country')),
            ],
            options={
                'verbose_name_plural': 'cities',
            },
            bases=(django_cqrs_celery.mixins.RawReplicaMixin, models.Model),
        ),
    ]
