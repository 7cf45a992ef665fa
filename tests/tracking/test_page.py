"""A page that a run leaves."""

from distrib.studies.findings import Expectation
from distrib.tracking.page import page


def test_a_page_holds_what_it_is_given_as_text():
    one = Expectation(target="<i>x</i>", achieved="a & b", met=False)
    text = page(
        "studies", title="<b>t", about="a < b", expectations=[one], words={False: "no"}, rows=[{"<u>": "<s>"}], plots={}
    ).decode()
    for told in ("<h1>&lt;b&gt;t</h1>", "a &lt; b", "&lt;i&gt;x&lt;/i&gt;", "a &amp; b", "&lt;u&gt;", "&lt;s&gt;"):
        assert told in text
    assert (
        "<title>&lt;b&gt;t</title>" in text
        and "default-src 'none'" in text
        and "http" not in text.replace("http-equiv", "")
    )
