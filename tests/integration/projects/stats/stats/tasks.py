from celery import shared_task


@shared_task(name="stats.touch")
def touch(path):
    """An ordinary task of the project: leaves a file behind."""
    with open(path, "w") as file:
        file.write("done")
