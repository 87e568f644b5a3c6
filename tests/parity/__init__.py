"""What a project that was written for django-cqrs relies on, one test for each line.

``masters`` and ``replicas`` are the applications of such a project: models, hooks and serializers as one writes them
for django-cqrs, with nothing changed but the imports. ``checklist`` holds the lines, a part for each module of tests,
and ``test_checklist`` sees to it that each line is quoted by a test. ``mixed`` is what the tests share.
"""
