"""Rows from files: typed by the group, nothing guessed that the group declares, nothing lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from featurestore import Feature, InvalidData, NotFound, files

FEATURES = [
    Feature("card", "string"), Feature("time", "timestamp"), Feature("amount", "double"), Feature("count", "int"),
    Feature("day", "date"), Feature("flag", "boolean"),
]  # fmt: skip


def read(path: Path, text: str) -> list[dict[str, object]]:
    path = path / "rows.csv"
    path.write_text(text)
    return pa.table(files.read(path, FEATURES)).to_pylist()


def test_a_csv_gets_the_types_that_the_group_declares(tmp_path: Path) -> None:
    """G6: "007" stays text, an empty cell is null, quoted nothing is empty text."""
    rows = read(
        tmp_path, 'card,time,amount,count,day,flag\n007,2021-01-01,1,3,2021-01-01,true\n"",2021-01-02T03:00:00,,,,\n'
    )
    assert rows == [
        {
            "card": "007", "time": datetime(2021, 1, 1, tzinfo=UTC), "amount": 1.0, "count": 3,
            "day": date(2021, 1, 1), "flag": True,
        },
        {
            "card": "", "time": datetime(2021, 1, 2, 3, tzinfo=UTC), "amount": None, "count": None, "day": None,
            "flag": None,
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["2021-01-01 02:00:00+02:00", "2021-01-01", "2021/01/01", "20210101", "2021-01-01T00:00:00Z"]
)
def test_a_csv_may_spell_times_in_every_form_the_store_takes(tmp_path: Path, text: str) -> None:
    """G7, G12: alone, and beside a form of another kind in the same column."""
    moment = datetime(2021, 1, 1, tzinfo=UTC)
    assert [row["time"] for row in read(tmp_path, f"time\n{text}\n")] == [moment]
    assert [row["time"] for row in read(tmp_path, f"time\n{text}\n20210102\n")] == [moment, moment.replace(day=2)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time\ntomorrow\n", "'tomorrow' is not a time"),
        ("time\n2021-01-01 00:00:00.123456789\n", "nanoseconds"),
        ("card,amount\n1,x\n", "invalid value 'x'"),
        ("card,amount\n1\n", "Expected 2 columns, got 1"),
        ("count\n1.5\n", "invalid value '1.5'"),
        ("", "Empty CSV"),
    ],
)
def test_what_a_csv_cannot_mean_is_refused_with_the_value(tmp_path: Path, text: str, said: str) -> None:
    """G6, G7: no value is cut, rounded or guessed."""
    with pytest.raises(InvalidData, match=said):
        read(tmp_path, text)


def test_parquet_comes_as_a_stream_with_its_own_types(tmp_path: Path) -> None:
    """G2: in batches, so that a file may be larger than memory."""
    rows = pa.table({"card": ["a", "b"], "amount": [1.0, None]})
    pyarrow.parquet.write_table(rows, tmp_path / "rows.parquet")
    stream = files.read(tmp_path / "rows.parquet")
    assert isinstance(stream, pa.RecordBatchReader)
    assert stream.read_all() == rows


def test_a_file_that_is_missing_damaged_or_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "rows.xlsx").write_bytes(b"")
    (tmp_path / "bytes.csv").write_bytes(b"card\n\xff\xfe\n")
    with pytest.raises(InvalidData, match=r"rows\.parquet' cannot be read"):
        files.read(tmp_path / "rows.parquet")
    with pytest.raises(InvalidData, match=r"neither \.csv nor \.parquet"):
        files.read(tmp_path / "rows.xlsx")
    with pytest.raises(InvalidData, match="UTF8"):
        files.read(tmp_path / "bytes.csv", FEATURES)
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(NotFound, match="There is no file"):
            files.read(path)


def test_parquet_that_is_damaged_inside_is_named_when_its_batches_are_read(tmp_path: Path) -> None:
    """G10: so that a stream breaks off with an error, not with fewer rows."""
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pa.table({"x": list(range(10_000))}), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4:2_000] = b"U" * 1_996
    path.write_bytes(content)
    with pytest.raises(InvalidData, match=r"rows\.parquet' cannot be read"):
        list(files.read(path))
    with pytest.raises(InvalidData, match=r"rows\.parquet' cannot be read"):
        files.read_table(path)


def test_a_value_of_a_command_line_gets_the_type_of_its_feature() -> None:
    """G6: "7" is the number 7 for a number and the text "7" for text."""
    assert [files.parse_value("7", f) for f in FEATURES[:1] + FEATURES[2:4]] == ["7", 7.0, 7]
    assert files.parse_value("2021/01/01", FEATURES[1]) == datetime(2021, 1, 1, tzinfo=UTC)
    for feature in FEATURES[1:]:
        with pytest.raises(InvalidData, match=f"{feature.name}='x y' is not a {feature.dtype}"):
            files.parse_value("x y", feature)
