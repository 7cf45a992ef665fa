"""What a study leaves in files."""

from distrib.studies.findings import Expectation, Findings


def test_a_sheet_says_what_was_met():
    findings = Findings(
        [{"a": 1, "b": 0.5}],
        [Expectation(target=t, achieved="x", met=m) for t, m in (("one", True), ("two", False), ("three", None))],
        {"final_losses.svg": b"<svg/>"},
        "500 test images",
    )
    files = findings.files("title")
    assert files["table.csv"] == b"a,b\n1,0.5\n"
    text = files["sheet.md"].decode()
    assert "| one | x | yes |" in text and "| two | x | **no** |" in text and "| three | x | cannot be told |" in text


def test_a_page_holds_the_sheet_the_plots_and_the_table():
    findings = Findings(
        [{"model": "<m>", "robust": 0.123456}], [Expectation(target="one", achieved="x", met=False)],
        {"final_losses.svg": b"<svg/>"}, "500 test images",
    )  # fmt: skip
    text = findings.files("landscape: l")["report.html"].decode()
    assert "<h1>landscape: l</h1>" in text and "500 test images" in text and '<td class="no">no</td>' in text
    assert "<h2>Final losses</h2>" in text and "data:image/svg+xml;base64,PHN2Zy8+" in text
    assert "<td>&lt;m&gt;</td><td>0.1235</td>" in text
    assert "http" not in text.replace("http-equiv", "")
