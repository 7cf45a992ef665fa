"""How addresses are written: those of registered models, and those of tracking servers, which are shown and kept."""

import re

MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[^/@]+))$")
"""models:/NAME/VERSION or models:/NAME@ALIAS."""
PASSWORD = re.compile(
    r"https?://[^/]*@|(?!https?:)[^:/]+://[^:/@]*:[^@?]*@|.*([?&](password|passwd|pwd)=|pwd%3d)", re.IGNORECASE
)
"""How an address begins that has a password in it, or the user of a web server: that may be a token."""
WITHOUT = (
    "everyone who sees the run would see its password; leave user and password out, and set MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD (a database has its own place for it, as PGPASSWORD)"
)
"""The cure."""
