"""The operator's command and the local stack: the one place that imports both app and tasks."""
