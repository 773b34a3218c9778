"""`make bench` at its smallest: every row is measured, nothing is said about time."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.rows import FEAST, ROWS

ROOT = Path(__file__).parents[1]


def test_every_row_is_measured_and_the_page_can_be_written(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    command = [sys.executable, "-m", "tests.benchmarks", "--scale", "small", "--no-feast", "--json", "--write-docs"]
    done = subprocess.run(
        [*command, "--docs", str(page), "--folder", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {verdict["row"] for verdict in found["verdicts"]} == set(ROWS)
    failed = [figure for figure in found["figures"] if figure["run"]["failure"] and figure["by"] != FEAST]
    assert failed == []
    [same] = [verdict for verdict in found["verdicts"] if verdict["must"] == "all give the same answer"]
    assert same["reached"], same["measured"]
    text = page.read_text()
    assert [verdict["must"] for verdict in found["verdicts"] if verdict["must"] not in text] == []
