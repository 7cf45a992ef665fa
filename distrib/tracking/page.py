"""A page that a run leaves: HTML that needs no other file, loads nothing from anywhere, and is read on any screen."""

from jinja2 import Environment, PackageLoader


def page(room: str, **values: object) -> bytes:
    """The page of that room's template, which extends ``tracking/page.html.j2``: of ``title``, ``about`` and more.

    Whatever a name or a setting has in it is text.
    """
    environment = Environment(
        loader=PackageLoader("distrib", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return (environment.get_template(f"{room}/page.html.j2").render(**values) + "\n").encode()
