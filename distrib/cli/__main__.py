"""``python -m distrib.cli`` is ``distrib``."""

from distrib.cli.main import command

command()
