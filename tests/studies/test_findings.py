"""What a study leaves in files."""

from distrib.studies.findings import Expectation, Findings


def test_a_sheet_says_what_was_met():
    findings = Findings(
        [{"a": 1, "b": 0.5}],
        [Expectation(target=t, achieved="x", met=m) for t, m in (("one", True), ("two", False), ("three", None))],
        {},
    )
    files = findings.files("title")
    assert files["table.csv"] == b"a,b\n1,0.5\n"
    text = files["sheet.md"].decode()
    assert "| one | x | yes |" in text and "| two | x | **no** |" in text and "| three | x | cannot be told |" in text
