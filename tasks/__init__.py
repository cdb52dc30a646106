"""The workers. `celery -A tasks …` finds the app in `tasks/celery.py`.

Nothing is imported here: `tasks.engine` can be used where no worker is configured.
"""
