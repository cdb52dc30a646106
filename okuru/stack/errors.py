"""What can go wrong with the local stack in a way that its user can put right."""

import click


class StackError(click.ClickException):
    """An expected failure. Its message is all that the user of a command sees, with exit code 1."""
