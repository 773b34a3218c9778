"""What a feature group promises: its keys, event time, columns, rules and time to live, as the catalog keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal

import pyarrow as pa

from featurestore import on_demand
from featurestore.errors import SchemaMismatch
from featurestore.on_demand import OnDemandFunction
from featurestore.query import GroupRef
from featurestore.schema import TIMESTAMP, Feature, arrow_schema, check_column_names

Policy = Literal["STRICT", "ALWAYS"]


@dataclass(frozen=True)
class GroupDefinition:
    """The contract of a feature group, as the catalog keeps it."""

    ref: GroupRef
    primary_key: tuple[str, ...]
    event_time: str | None = None
    features: tuple[Feature, ...] = ()
    description: str = ""
    online_enabled: bool = False
    partition_key: tuple[str, ...] = ()
    foreign_key: tuple[str, ...] = ()
    expectation_suite: dict[str, Any] | None = None
    validation_ingestion_policy: Policy = "STRICT"
    statistics_config: bool = True
    ttl: timedelta | None = None
    tags: Mapping[str, Any] | None = None
    transformation_functions: tuple[OnDemandFunction, ...] = ()

    def __post_init__(self) -> None:
        if not self.primary_key:
            raise SchemaMismatch(f"Feature group {self.ref} needs a primary key: primary_key=['...'].")
        if self.event_time in self.primary_key:
            raise SchemaMismatch(
                f"{self.ref}: {self.event_time!r} is the event time already; take it out of the primary key."
            )
        if self.ttl is not None and not isinstance(self.ttl, timedelta):
            raise SchemaMismatch(f"{self.ref}: ttl is {self.ttl!r}: expected a timedelta, such as timedelta(days=7).")
        if self.ttl is not None and (self.event_time is None or self.ttl <= timedelta(0)):
            raise SchemaMismatch(f"{self.ref}: ttl {self.ttl} needs an event time and a positive length.")
        if self.validation_ingestion_policy not in ("STRICT", "ALWAYS"):
            raise SchemaMismatch(
                f"{self.ref}: validation_ingestion_policy {self.validation_ingestion_policy!r}: "
                "expected 'STRICT' or 'ALWAYS'."
            )
        if self.features:
            self._check_features()

    def _check_features(self) -> None:
        check_column_names([f.name for f in self.features])
        types = {f.name: f.type for f in self.features}
        for name in [*self.identity, *self.partition_key, *self.foreign_key]:
            if name not in types:
                raise SchemaMismatch(f"{self.ref}: key or time column {name!r} is not among the columns {list(types)}.")
        for name in [*self.primary_key, *self.partition_key]:
            if pa.types.is_nested(types[name]) or pa.types.is_floating(types[name]):
                raise SchemaMismatch(
                    f"{self.ref}: {name!r} is {types[name]}; a key is a whole number, text, time, date or decimal."
                )
        if self.event_time and not pa.types.is_timestamp(types[self.event_time]):
            raise SchemaMismatch(
                f"{self.ref}: the event time {self.event_time!r} is {types[self.event_time]}, expected a timestamp. "
                "Convert it, for example with pandas.to_datetime(..., utc=True)."
            )

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns that tell rows apart: primary key and event time."""
        return (*self.primary_key, self.event_time) if self.event_time else self.primary_key

    @property
    def order(self) -> str:
        """The column whose range prunes files."""
        return self.event_time or self.primary_key[0]

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of a batch."""
        return arrow_schema(self.features, self.identity)

    def with_features(self, features: Sequence[Feature]) -> GroupDefinition:
        """The definition with its columns, those of its functions included; a date as event time is midnight UTC."""
        features = on_demand.declared(features, self.transformation_functions, str(self.ref))
        timed = [
            replace(f, dtype=TIMESTAMP) if f.name == self.event_time and pa.types.is_date(f.type) else f
            for f in features
        ]
        return replace(self, features=tuple(timed))

    def column_notes(self) -> dict[str, dict[str, str]]:
        """What the Delta table says of each column: comment and unit, and whether it is a key or the event time."""
        roles = {**dict.fromkeys(self.foreign_key, "foreign key"), **dict.fromkeys(self.primary_key, "primary key")}
        if self.event_time is not None:
            roles[self.event_time] = "event time"
        notes = {
            f.name: {"comment": f.description, "unit": f.unit or "", "triptych.role": roles.get(f.name, "")}
            for f in self.features
        }
        return {name: {key: text for key, text in texts.items() if text} for name, texts in notes.items()}

    def to_json(self) -> dict[str, Any]:
        """The definition as JSON-ready data."""
        return {
            "primary_key": list(self.primary_key), "event_time": self.event_time,
            "features": [f.to_json() for f in self.features], "description": self.description,
            "online_enabled": self.online_enabled, "partition_key": list(self.partition_key),
            "foreign_key": list(self.foreign_key), "expectation_suite": self.expectation_suite,
            "validation_ingestion_policy": self.validation_ingestion_policy,
            "statistics_config": self.statistics_config,
            "ttl_seconds": None if self.ttl is None else self.ttl.total_seconds(), "tags": dict(self.tags or {}),
            "transformation_functions": [f.to_json() for f in self.transformation_functions],
        }  # fmt: skip

    @classmethod
    def from_json(cls, ref: GroupRef, data: dict[str, Any]) -> GroupDefinition:
        """The definition that `to_json` described."""
        ttl = data["ttl_seconds"]
        return cls(
            ref, tuple(data["primary_key"]), data["event_time"], tuple(Feature.from_json(f) for f in data["features"]),
            data["description"], data["online_enabled"], tuple(data["partition_key"]), tuple(data["foreign_key"]),
            data["expectation_suite"], data["validation_ingestion_policy"], data["statistics_config"],
            None if ttl is None else timedelta(seconds=ttl), data["tags"],
            tuple(OnDemandFunction.from_json(f) for f in data.get("transformation_functions", ())),
        )  # fmt: skip
