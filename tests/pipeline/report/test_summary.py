"""The report of a batch in summary.json and summary.csv."""

from kits_unet3d.pipeline.report.summary import Report


def test_records_of_a_killed_run_are_read_to_the_last_whole_line(tmp_path):
    report = Report(tmp_path)
    report._due = float("inf")  # as if rewriting the summary took long
    for name in ("a", "b"):
        report.add(name, {"outcome": "done", "scan": name, "files": {}})
    part = tmp_path / ".report-0.jsonl"
    part.write_text(part.read_text() + '{"c": {"outcome": "do')
    report.add("d", {"outcome": "done", "scan": "d", "files": {}})  # after a disk that was full for a moment
    assert not (tmp_path / "summary.json").exists()
    again = Report(tmp_path)
    again.take_over({})
    assert list(again.cases) == ["a", "b", "d"] and not part.exists() and (tmp_path / "summary.json").is_file()


def test_names_are_no_formulas_in_the_table(tmp_path):
    Report(tmp_path).add("=1+1", {"outcome": "failed", "scan": "@cmd", "files": {}, "error": "-x"})
    assert (tmp_path / "summary.csv").read_text().splitlines()[1] == "'=1+1,failed,,,'-x,,'@cmd,"
