"""Tables without a contract, the quarantine and the logs of views: rows are appended as they come."""

from __future__ import annotations

import random
import time

import pyarrow as pa

from featurestore import delta_table
from featurestore.engines import duckdb as engine
from featurestore.errors import Conflict

_ATTEMPTS = 30


def append(location: str, rows: pa.Table) -> None:
    """Append rows to a table; it is made, and gains columns, as needed."""
    from deltalake import write_deltalake

    with delta_table.translated(location):
        write_deltalake(location, rows, mode="append", schema_mode="merge")


def delete(location: str, keys: pa.Table) -> int:
    """Delete the rows that have one of the keys; return how many.

    Raises:
        Conflict: other writers were faster many times in a row.
    """
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError

    same = " AND ".join(f"t.{engine.quote(c)} = k.{engine.quote(c)}" for c in keys.column_names)
    for _ in range(_ATTEMPTS):
        with delta_table.translated(location):
            try:
                merge = delta_table.open_table(location).merge(
                    keys, same, source_alias="k", target_alias="t",
                    commit_properties=CommitProperties(max_commit_retries=0),
                )  # fmt: skip
                return merge.when_matched_delete().execute()["num_target_rows_deleted"]
            except CommitFailedError:
                time.sleep(random.uniform(0, 0.1))
    raise Conflict(f"{location}: other writers committed first {_ATTEMPTS} times in a row. Try again.")
