"""The journal of answers: whatever happens to the store or to a process, each record arrives, and the same one once."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.request_journal import Journal


class Store:
    """Where records go; out of order while `is_down`."""

    def __init__(self) -> None:
        self.rows: dict[str, Mapping[str, Any]] = {}
        self.is_down = False

    def move(self, records: Sequence[Mapping[str, Any]]) -> None:
        if self.is_down:
            raise ConnectionError("the store is away")
        self.rows |= {record["request_id"]: record for record in records}


def test_close_moves_what_every_thread_has_written(tmp_path: Path) -> None:
    store = Store()
    journal = Journal(tmp_path, store.move, every_seconds=0.01)

    def write(thread: int) -> None:
        for number in range(200):
            journal.append({"request_id": f"{thread}-{number}", "text": "żółć\n" * 5})

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert len(store.rows) == 800
    assert journal.pending == 0
    assert list(tmp_path.iterdir()) == []


def test_store_that_is_away_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    store.is_down = True
    journal = Journal(tmp_path, store.move, every_seconds=600)
    journal.append({"request_id": "1"})
    with pytest.raises(ConnectionError):
        journal.flush()
    journal.append({"request_id": "2"})
    assert (journal.pending, store.rows) == (2, {})
    store.is_down = False
    journal.close()
    assert set(store.rows) == {"1", "2"}


def test_next_process_moves_what_a_killed_one_has_left_but_for_a_line_never_finished(tmp_path: Path) -> None:
    (tmp_path / "0000001-gone.jsonl").write_bytes(b'{"request_id":"1"}\n{"request_id":"2"}\n{"request_id":"3')
    store = Store()
    journal = Journal(tmp_path, store.move, every_seconds=600)
    journal.flush()
    assert set(store.rows) == {"1", "2"}
    journal.close()


def test_what_another_process_still_writes_is_left_to_it(tmp_path: Path) -> None:
    theirs, ours = Store(), Store()
    living = Journal(tmp_path, theirs.move, every_seconds=600)
    living.append({"request_id": "theirs"})
    other = Journal(tmp_path, ours.move, every_seconds=600)
    other.append({"request_id": "ours"})
    other.close()
    assert set(ours.rows) == {"ours"}
    living.close()
    assert set(theirs.rows) == {"theirs"}


def test_record_that_cannot_be_kept_is_said_and_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    journal = Journal(tmp_path, store.move, every_seconds=600)
    journal.append({"request_id": "before"})
    write = os.write

    def full(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        return write(file, data[: len(data) // 2])  # as a full disk does it

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="bytes could be written"):
        journal.append({"request_id": "lost"})
    journal.append({"request_id": "after"})
    journal.close()
    assert set(store.rows) == {"before", "after"}
    with pytest.raises(OSError, match="is stopping"):
        journal.append({"request_id": "too late"})


def test_file_that_the_store_refuses_holds_up_no_other_and_is_kept(tmp_path: Path) -> None:
    store = Store()
    (tmp_path / "0000001-gone.jsonl").write_bytes(b'{"no":"request id"}\n')
    journal = Journal(tmp_path, store.move, every_seconds=600)
    journal.append({"request_id": "ours"})
    with pytest.raises(KeyError):
        journal.flush()
    assert (set(store.rows), journal.pending) == ({"ours"}, 0)
    assert (tmp_path / "0000001-gone.jsonl").exists()
    (tmp_path / "0000001-gone.jsonl").unlink()
    journal.close()
