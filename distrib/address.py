"""How addresses are written: those of registered models, and those of tracking servers, which are shown and kept."""

import re

MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d{1,9})|@(?P<alias>[^/@]+))$")
"""models:/NAME/VERSION or models:/NAME@ALIAS; databases number versions in 32 bits."""
PASSWORD = re.compile(
    r"https?://([^/]*|[^/@:\[]*:(?!\d+/)[^?#]*)@|(?!https?:)[^:/]+://[^:/@]*:[^@?]*@"
    r"|.*([?&](password|passwd|pwd|(?!ssl[_-]key=)(\w+[_-])?(token|key|secret|signature))=|pwd%3d)",
    re.IGNORECASE | re.DOTALL,
)
"""How an address begins that has a password or a token in it, or the user of a web server: that may be a token.

ssl_key names a file."""
WITHOUT = (
    "everyone who sees the run would see its password; leave user and password out, and set MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD (a database has its own place for it, as PGPASSWORD)"
)
"""The cure."""


def sendable(name: str, text: str) -> str:
    """``text``, the value of the variable ``name``, where a header of HTTP can carry it; the error does not show it.

    Raises ValueError: what is raised later, by whoever sends it, prints the text.
    """
    if not re.fullmatch(r"[\x20-\x7e\xa0-\xff]*", text):
        raise ValueError(
            f"{name}: has a line break or a character that HTTP cannot send; set it to the token or password alone, in "
            "plain letters, digits and signs"
        )
    return text
