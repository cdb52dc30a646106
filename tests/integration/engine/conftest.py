from tests.integration.celery_app import worker_app, workers

__all__ = ["worker_app", "workers"]
