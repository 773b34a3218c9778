"""The README is a session: what it shows runs, and prints what it says."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_session_prints_what_the_readme_shows() -> None:
    results = doctest.testfile(
        str(ROOT / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert results.attempted > 10
    assert results.failed == 0


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^make (\w+)", README, re.MULTILINE))))
def test_every_make_command_of_the_readme_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", "-C", str(ROOT), target], check=True, capture_output=True)


@pytest.mark.parametrize("module", re.findall(r"python -m ([\w.]+) --help", README))
def test_every_pipeline_says_how_it_is_run(module: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "--end" in answer.stdout


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
