"""The guides are sessions: what they show runs from top to bottom, in a folder of its own, and prints what they say."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from featurestore import FeatureGroup, FeatureStore, FeatureView, Query
from featurestore.cli import app
from tests.flows.stub_server import data_folder

DOCS = Path(__file__).parents[1] / "docs"
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
GUIDES = ["featurestore.md", "coming-from.md", "tutorial.md"]


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a guide's console blocks, each with what it shows below."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    shown = [part for block in blocks for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in shown]


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_prints_what_it_shows(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First its Python from top to bottom, then its commands, on the store that the Python left behind."""
    monkeypatch.chdir(tmp_path)
    results = doctest.testfile(str(DOCS / guide), module_relative=False, optionflags=OPTIONS)
    assert results.attempted > 0
    assert results.failed == 0
    for command, expected in commands((DOCS / guide).read_text()):
        program, *arguments = shlex.split(command)
        assert program == "featurestore"
        shown = CliRunner().invoke(app, arguments).output
        assert doctest.OutputChecker().check_output(expected, shown, OPTIONS), f"$ {command}\n{shown}"


def test_the_tutorial_gives_the_numbers_of_the_real_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own code, with the line that it names replaced by the block that it names; the table is what comes out."""
    text = (DOCS / "tutorial.md").read_text()
    simulated = "transactions, loans = simulate()\n"
    (real,) = re.findall(r"```python\n(transactions, loans = \(\n.*?)```", text, re.DOTALL)
    sources = [example.source for example in doctest.DocTestParser().get_examples(text)]
    assert sources.count(simulated) == 1
    known = {"folder": data_folder("customers")}
    monkeypatch.chdir(tmp_path)
    for source in sources:
        exec(compile(real if source == simulated else source, "tutorial.md", "exec"), known)
    found: Any = known
    truth, auc = found["truth"], found["auc"]
    baseline, model = (truth == found["majority"]).mean(), (truth == found["model"].predict(found["X_test"])).mean()
    assert (len(found["loans"]), len(found["transactions"])) == (354, 30_200)
    assert f"| always `{found['majority']}` | {baseline:.2f} | 0.50 | - | {len(truth)} |" in text
    interval = f"{auc.low:.2f} to {auc.high:.2f}"
    assert f"| logistic regression | {model:.2f} | {auc.value:.2f} | {interval} | {auc.n} |" in text


@pytest.mark.parametrize("guide", GUIDES)
def test_every_link_of_a_guide_leads_somewhere(guide: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", (DOCS / guide).read_text()):
        assert (DOCS / link).exists(), link


CLASSES = {"fs": FeatureStore, "fg": FeatureGroup, "view": FeatureView, "query": Query}


def test_every_call_that_is_said_to_be_here_is_here() -> None:
    """What the right column names, and the left one where the right says "the same"."""
    rows = [line.split(" | ") for line in (DOCS / "coming-from.md").read_text().splitlines() if line.startswith("| `")]
    ours = [" ".join(cells if cells[1].startswith("the same") else cells[1:]) for cells in rows]
    calls = [call for cell in ours for call in re.findall(r"\b(fs|fg|view|query)\.(\w+)\(", cell)]
    assert len(calls) > 30
    assert [call for call in calls if not hasattr(CLASSES[call[0]], call[1])] == []


def contract_lines(text: str) -> set[str]:
    """The lines of the contract that a test file cites: "J5", "J1-J8", or `def test_j5_...`."""
    cited = set()
    for kind, first, last in re.findall(r"(?:\b|(?<=def test_))([CGJVcgjv])(\d+)(?:-[CGJV]?(\d+))?(?:\b|_)", text):
        cited |= {f"{kind.upper()}{number}" for number in range(int(first), int(last or first) + 1)}
    return cited


def test_every_contract_line_that_a_guide_cites_is_cited_by_a_test() -> None:
    cited = set(re.findall(r"\| ([CGJV]\d+) \|", (DOCS / "coming-from.md").read_text()))
    assert len(cited) > 20
    proven = set().union(
        *(contract_lines(p.read_text()) for p in Path(__file__).parent.rglob("test_*.py") if p != Path(__file__))
    )
    assert cited - proven == set()
