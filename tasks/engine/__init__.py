"""Celery on SQS, done right. Knows no domain and no database: see README.md in this folder."""
