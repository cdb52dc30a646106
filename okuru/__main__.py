"""`python -m okuru`, where the package is not installed."""

from okuru.cli import main

main(prog_name="okuru")
