"""Feature vectors: one key's features from the online store, as the training data has them.

Everything that can be known when a view is made ready is: which entry names become which parameters of the one
statement, where in its row each feature stands, which values must be decoded. A vector is then a handful of steps, and
whatever is wrong with the request is said before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from featurestore.errors import InvalidData, NotFound, SchemaMismatch
from featurestore.on_demand import RequestFunctions
from featurestore.point_in_time import Plan
from featurestore.scalars import acceptor
from featurestore.schema import as_arrow, frame_type, to_frame
from featurestore.transformation_plan import FittedTransformations

if TYPE_CHECKING:
    from featurestore.feature_group import FeatureGroup
    from featurestore.online_reader import Part
    from featurestore.online_table import OnlineTable, Row
    from featurestore.store import FeatureStore

ReturnType = Literal["list", "dict", "numpy", "pandas", "polars", "arrow"]
Vector = list[Any]
_LARGEST_EXACT = 2**53
_Given = tuple[Mapping[int, Any], Mapping[str, Any]]
_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Lookup:
    """One table that vectors are read from: which entry names make its key, which slots its values fill.

    `time` is where its event time stands in the wide row: null there means that there is no row.
    """

    group: FeatureGroup
    table: OnlineTable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    slots: tuple[int, ...]
    ttl: int | None
    time: int = 0


class Serving:
    """A view made ready for single vectors by `FeatureView.init_serving`.

    Args:
        view: the view's name, for messages.
        plan: the view's plan without labels; its outputs are the slots of a vector.
        hidden: outputs that on-demand functions may read, and that vectors leave out.
        fitted: the transformations of a training dataset; None gives vectors as they are stored.
        now: the present, in microseconds since 1970, if it is to stand still.
        catch_up: False leaves online tables as they are, also where they lag behind Delta.
    Raises:
        SchemaMismatch: a group that gives features is not online, or is joined in a way its online rows are not.
    """

    def __init__(
        self, store: FeatureStore, view: str, plan: Plan, fitted: FittedTransformations | None = None, *,
        hidden: Sequence[str] = (), now: int | None = None, catch_up: bool = True,
    ) -> None:  # fmt: skip
        self.view = view
        self._functions = request_functions(store, view, plan)
        read = {plan.outputs[slot].name for slot in self._functions.reads}
        plan = replace(plan, outputs=tuple(o for o in plan.outputs if o.name not in hidden or o.name in read))
        # Hidden ones go last, so that a vector is the beginning of its slots.
        plan = replace(plan, outputs=tuple(sorted(plan.outputs, key=lambda o: o.name in hidden)))
        self._functions = request_functions(store, view, plan)
        slots = [o.name for o in plan.outputs]
        self.names = [n for n in slots if n not in hidden]
        self.request_parameters = self._functions.parameters
        self._has_functions = bool(self._functions.slots)
        features = {o.name: replace(o.feature, name=o.name) for o in plan.outputs}
        self.on_demand = tuple(
            o.name for slot, o in enumerate(plan.outputs) if o.feature.on_demand and slot not in self._functions.slots
        )
        lookups = [found for place in range(len(plan.sources)) if (found := _lookup(store, plan, place, slots))]
        for lookup in lookups if catch_up else ():
            lookup.group.sync_online()
        self.keys = tuple(dict.fromkeys(k for lookup in lookups for k in lookup.keys))
        self.transform = fitted.compile(self.names) if fitted is not None else list
        self._now = store.now_micros if now is None else lambda: now
        self._reader = store.online.reader([(found.table, found.columns) for found in lookups]) if lookups else None
        parts = self._reader.parts if self._reader else []
        self.lookups = [replace(found, time=part.start) for found, part in zip(lookups, parts, strict=True)]
        self._expires = any(found.ttl is not None for found in lookups)
        self._key_names = frozenset(self.keys)
        self._parameters = [
            (name, encode, found)
            for found, encoders in zip(lookups, self._reader.encoders if self._reader else [], strict=True)
            for name, encode in zip(found.keys, encoders, strict=True)
        ]
        self._pick, self._blank, self._decoders = _places(self.lookups, parts, len(slots))
        self._accept = {name: acceptor(feature, "passed_features") for name, feature in features.items()}
        self._slots = {name: slot for slot, name in enumerate(slots)}
        self._width = len(self.names) if len(self.names) < len(slots) else None
        raw = pa.schema([(name, features[name].type) for name in self.names])
        self._schemas = {False: raw, True: raw if fitted is None else fitted.transform(raw.empty_table()).schema}

    def vector(
        self, entry: Mapping[str, Any], passed: Mapping[str, Any] | None, request: Mapping[str, Any] | None, *,
        transform: bool, allow_missing: bool,
    ) -> Vector:  # fmt: skip
        """One vector; raises as `FeatureView.get_feature_vector`."""
        parameters = self._encoded(entry, allow_missing=allow_missing)
        given, asked = self._given(passed or _NOTHING, request or _NOTHING, allow_missing)
        row = self._reader.row(parameters) if self._reader is not None else (0,)
        vector = self._vector(row, entry, given, asked, allow_missing, self._now() if self._expires else 0)
        return self.transform(vector) if transform else vector

    def vectors(
        self, entries: Sequence[Mapping[str, Any]], passed: Sequence[Mapping[str, Any]] | None,
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, *, transform: bool, allow_missing: bool,
    ) -> list[Vector]:  # fmt: skip
        """As many vectors as entries, in their order, all at one moment."""
        entries = self._entries(entries)
        parameters = [value for entry in entries for value in self._encoded(entry, allow_missing=allow_missing)]
        given = self._given_each(len(entries), passed, request, allow_missing)
        rows = self._reader.rows(parameters) if self._reader is not None else [(0,)] * len(entries)
        now = self._now() if self._expires else 0
        vectors = [
            self._vector(row, entry, *one, allow_missing, now)
            for row, entry, one in zip(rows, entries, given, strict=True)
        ]
        return [self.transform(vector) for vector in vectors] if transform else vectors

    def _given_each(
        self, count: int, passed: Sequence[Mapping[str, Any]] | None,
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, allow_missing: bool,
    ) -> list[_Given]:  # fmt: skip
        """`_given` of each entry; one mapping of request parameters counts for all of them."""
        requests = [request] * count if isinstance(request, Mapping) else request
        for what, those in (("passed_features", passed), ("request_parameters", requests)):
            if those is not None and len(those) != count:
                raise InvalidData(f"{count} entries but {len(those)} {what}; give one for each entry.")
        if count and not passed and not requests:
            return [self._given(_NOTHING, _NOTHING, allow_missing)] * count
        nothing = [_NOTHING] * count
        return [
            self._given(p or _NOTHING, r or _NOTHING, allow_missing)
            for p, r in zip(passed or nothing, requests or nothing, strict=True)
        ]

    def _entries(self, entries: Any) -> Sequence[Mapping[str, Any]]:
        """Entries as mappings, also those that a frame holds as rows."""
        if frame_type(entries) is not None:
            listed: list[dict[str, Any]] = as_arrow(entries).to_pylist()
            return listed
        if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
            raise SchemaMismatch(
                f"{self.view} is looked up by a list of mappings of {list(self.keys)}, or a frame of these columns; "
                f"got {entries!r} ({type(entries).__name__})."
            )
        return entries

    def _encoded(self, entry: Mapping[str, Any], *, allow_missing: bool) -> list[Any]:
        """The parameters of the statement for an entry, every name and type checked; a null key matches no row."""
        try:
            if entry.keys() != self._key_names:
                raise self._wrong_names(entry)
            encoded = [encode(entry[name]) for name, encode, _ in self._parameters]
            if not allow_missing and None in encoded:
                raise SchemaMismatch(
                    f"{self.view} is looked up by {list(self.keys)}; {[k for k in self.keys if entry[k] is None]} of "
                    f"the entry {dict(entry)} is missing (null), and a null key matches no row. "
                    "Give it a value, or use allow_missing=True for nulls."
                )
            return encoded
        except AttributeError:
            raise SchemaMismatch(
                f"{self.view} is looked up by a mapping of {list(self.keys)}, got {entry!r} ({type(entry).__name__})."
            ) from None
        except InvalidData as error:
            raise self._wrong_value(entry, error) from error

    def _wrong_names(self, entry: Mapping[str, Any]) -> SchemaMismatch:
        missing = [k for k in self.keys if k not in entry]
        unknown = [k for k in entry if k not in self.keys]
        wrong = [f"lacks {missing}"] if missing else []
        wrong += [f"has the unknown {unknown}"] if unknown else []
        return SchemaMismatch(f"{self.view} is looked up by {list(self.keys)}; the entry {' and '.join(wrong)}.")

    def _wrong_value(self, entry: Mapping[str, Any], error: InvalidData) -> InvalidData:
        for name, encode, lookup in self._parameters:
            try:
                encode(entry[name])
            except InvalidData:
                key = lookup.table.primary_key[lookup.keys.index(name)]
                dtype = next(f.dtype for f in lookup.table.features if f.name == key)
                return InvalidData(
                    f"{self.view}: the serving key {name!r} is {entry[name]!r} ({type(entry[name]).__name__}), "
                    f"expected {dtype}."
                )
        return error

    def _given(self, passed: Mapping[str, Any], request: Mapping[str, Any], allow_missing: bool) -> _Given:
        """What comes with the request, checked: values by slot, and parameters of on-demand functions by name."""
        given = {}
        if passed or (self.on_demand and not allow_missing):
            if unknown := [n for n in passed if n not in self._slots]:
                raise SchemaMismatch(f"passed_features {unknown} are no features of {self.view}; it has {self.names}.")
            if not allow_missing and (missing := [n for n in self.on_demand if n not in passed]):
                raise SchemaMismatch(
                    f"The features {missing} of {self.view} come with each request: put them in passed_features."
                )
            given = {self._slots[name]: self._accept[name](value) for name, value in passed.items()}
        if request or self._has_functions:
            return given, self._functions.accepted(request, given, allow_missing=allow_missing)
        return given, _NOTHING

    def _vector(
        self, row: Row, entry: Mapping[str, Any], given: Mapping[int, Any], asked: Mapping[str, Any],
        allow_missing: bool, now: int,
    ) -> Vector:  # fmt: skip
        vector = list(self._pick(row))
        for lookup in self.lookups:
            time = row[lookup.time]
            is_expired = lookup.ttl is not None and time is not None and now - time > lookup.ttl
            if time is None or is_expired:
                if not allow_missing and not given.keys() >= set(lookup.slots):
                    raise self._not_found(lookup, entry, is_expired)
                for slot in lookup.slots:
                    vector[slot] = None
        for slot in self._blank:
            vector[slot] = None
        for slot, decode in self._decoders:
            if (value := vector[slot]) is not None:
                vector[slot] = decode(value)
        for slot, value in given.items():
            vector[slot] = value
        if self._has_functions:
            self._functions.fill(vector, asked, given)
        return vector if self._width is None else vector[: self._width]

    def _not_found(self, lookup: Lookup, entry: Mapping[str, Any], is_expired: bool) -> NotFound:
        shown = {k: entry[k] for k in lookup.keys}
        ttl = timedelta(microseconds=lookup.ttl or 0)
        why = f"only a row older than its ttl {ttl}" if is_expired else "no row"
        return NotFound(
            f"{lookup.group.ref} has {why} online for {shown}. "
            "Use allow_missing=True for nulls, or pass its features with the request."
        )

    def absent(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Lookup, Mapping[str, Any], int | None]]:
        """The tables that give an entry nothing, with the time of the row that is too old; None where there is none."""
        parameters = [value for entry in entries for value in self._encoded(entry, allow_missing=True)]
        rows = self._reader.rows(parameters) if self._reader else []
        now = self._now()
        for entry, row in zip(entries, rows, strict=False):
            for lookup in self.lookups:
                if (time := row[lookup.time]) is None or (lookup.ttl is not None and now - time > lookup.ttl):
                    yield lookup, entry, time

    def as_type(self, vectors: list[Vector], return_type: ReturnType, *, transformed: bool) -> Any:
        """Vectors as rows of what was asked for: lists, dicts, a numpy array, or a frame with the training dtypes.

        A numpy array is float64 where every feature is a number or a boolean, null being NaN; else of objects.

        Raises:
            SchemaMismatch: another return type.
            InvalidData: a whole number that float64 cannot hold.
        """
        schema = self._schemas[transformed]
        if return_type == "list":
            return vectors
        if return_type == "dict":
            return [dict(zip(schema.names, vector, strict=True)) for vector in vectors]
        if return_type == "numpy":
            return _as_numpy(vectors, schema)
        if return_type not in ("pandas", "polars", "arrow"):
            raise SchemaMismatch(
                f"return_type {return_type!r} is unknown. Use 'list', 'dict', 'numpy', 'pandas', 'polars' or 'arrow'."
            )
        columns = zip(*vectors, strict=True) if vectors else [()] * len(schema)
        arrays = [pa.array(list(values), field.type) for values, field in zip(columns, schema, strict=True)]
        return to_frame(pa.Table.from_arrays(arrays, schema=schema), return_type, nullable=True)


def request_functions(store: FeatureStore, view: str, plan: Plan) -> RequestFunctions:
    """The on-demand functions behind the outputs of a plan."""
    places = dict.fromkeys(o.source for o in plan.outputs if o.feature.on_demand)
    groups = {place: store.group(plan.sources[place].definition.ref) for place in places}
    functions = {place: group.definition.transformation_functions for place, group in groups.items()}
    return RequestFunctions(plan, functions, view)


def _lookup(store: FeatureStore, plan: Plan, place: int, names: list[str]) -> Lookup | None:
    source = plan.sources[place]
    outputs = [o for o in plan.outputs if o.source == place and not o.feature.on_demand]
    if not outputs:
        return None
    group = store.group(source.definition.ref)
    if not group.online_enabled:
        raise SchemaMismatch(
            f"{group.ref} gives the features {[o.name for o in outputs]} but is not online. Create it with "
            "online_enabled=True, or declare them Feature(..., on_demand=True) and pass them with each request."
        )
    if source.parent > 0:
        raise SchemaMismatch(
            f"{group.ref} is joined to {plan.sources[source.parent].definition.ref}, whose row gives its "
            "key; serving looks up groups joined to the left-most group only."
        )
    if place and (source.row_filter is not None or source.version is not None or plan.chooses(place)):
        raise SchemaMismatch(
            f"{group.ref} is joined with a filter or as of a version, which its online rows do not have, so "
            "vectors would differ from the training data. Filter in the feature pipeline, into a group of its own."
        )
    ttl = source.definition.ttl  # the plan's, which may be stricter than the group's
    return Lookup(
        group, group.online_table(), _entry_names(plan, place),
        tuple(o.column for o in outputs), tuple(names.index(o.name) for o in outputs),
        None if ttl is None else ttl // timedelta(microseconds=1),
    )  # fmt: skip


def key_names(plan: Plan) -> list[str]:
    """The entry names that vectors of a plan are looked up by, as the left-most group calls them."""
    looked_up = sorted(
        {o.source for o in plan.outputs if not o.feature.on_demand and plan.sources[o.source].parent < 1}
    )
    return list(dict.fromkeys(name for place in looked_up for name in _entry_names(plan, place)))


def _entry_names(plan: Plan, place: int) -> tuple[str, ...]:
    source = plan.sources[place]
    names_by_key = {right: left for left, right in source.keys}
    return tuple(names_by_key[k] if place else k for k in source.definition.primary_key)


def _places(
    lookups: Sequence[Lookup], parts: Sequence[Part], width: int
) -> tuple[Callable[[Row], Sequence[Any]], list[int], list[tuple[int, Callable[[Any], Any]]]]:
    """How a vector comes out of a wide row: what picks it, the slots no table fills, and the slots to decode."""
    place_of, decoders = {}, []
    for lookup, part in zip(lookups, parts, strict=True):
        for offset, (slot, decode) in enumerate(zip(lookup.slots, part.decoders, strict=True), start=1):
            place_of[slot] = part.start + offset
            if decode is not None:
                decoders.append((slot, decode))
    places = [place_of.get(slot, 0) for slot in range(width)]
    pick: Callable[[Row], Sequence[Any]] = itemgetter(*places) if width > 1 else lambda row: [row[p] for p in places]
    return pick, [slot for slot in range(width) if slot not in place_of], decoders


def _as_numpy(vectors: list[Vector], schema: pa.Schema) -> np.ndarray:
    numbers = [t for t in schema.types if pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_boolean(t)]
    array = np.empty((len(vectors), len(schema)), object)
    for position, vector in enumerate(vectors):
        for place, value in enumerate(vector):  # one by one: numpy would take a list among them for a row
            array[position, place] = value
    if len(numbers) < len(schema):
        return array
    for name, dtype, column in zip(schema.names, schema.types, array.T, strict=True):
        inexact = [v for v in column if v is not None and abs(v) > _LARGEST_EXACT and int(float(v)) != v]
        if pa.types.is_integer(dtype) and inexact:
            raise InvalidData(f"{name!r} is {inexact[0]}, which float64 cannot hold. Use return_type='list'.")
    return array.astype(np.float64)
