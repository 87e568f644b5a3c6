# What django-cqrs makes of the models.

import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Country',
            fields=[
                ('cqrs_revision', models.IntegerField(default=0)),
                ('cqrs_updated', models.DateTimeField(auto_now=True)),
                ('iso', models.CharField(max_length=8, primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=100)),
                ('population', models.BigIntegerField(default=0)),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='City',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cqrs_revision', models.IntegerField(default=0)),
                ('cqrs_updated', models.DateTimeField(auto_now=True)),
                ('name', models.CharField(max_length=100)),
                ('code', models.UUIDField(default=uuid.uuid4)),
                ('latitude', models.DecimalField(decimal_places=6, max_digits=9, null=True)),
                ('founded', models.DateField(null=True)),
                ('visited', models.DateTimeField(null=True)),
                ('is_capital', models.BooleanField(default=False)),
                ('details', models.JSONField(default=dict)),
                ('country', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='shop.country')),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='Offer',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cqrs_revision', models.IntegerField(default=0)),
                ('cqrs_updated', models.DateTimeField(auto_now=True)),
                ('title', models.CharField(max_length=100)),
                ('price', models.DecimalField(decimal_places=2, max_digits=8)),
                ('city', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to='shop.city')),
            ],
            options={
                'abstract': False,
            },
        ),
    ]
