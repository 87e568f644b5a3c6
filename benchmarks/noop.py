"""A Celery app with a task that does nothing: what Celery alone can do."""

from celery import Celery

from benchmarks import environment as env

QUEUE = f"{env.PREFIX}_noop"
app = Celery("noop", broker=env.AMQP_URL)
app.conf.update(
    task_ignore_result=True, task_default_queue=QUEUE, task_acks_late=True, worker_prefetch_multiplier=64,
    worker_hijack_root_logger=False, worker_send_task_events=False, broker_connection_retry_on_startup=True,
)  # fmt: skip


@app.task(name="noop")
def noop(payload: object) -> None:
    """Do nothing."""
