#!/bin/sh
set -e
# What the replicas have lost during the day.
python manage.py cqrs_diff_master --cqrs-id=country | ssh search python manage.py cqrs_diff_replica |
    python manage.py cqrs_diff_sync
