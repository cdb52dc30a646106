"""The promises of `tasks/engine`, each with worker processes on a real SQS protocol."""
