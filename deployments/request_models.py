"""Bodies of requests as pydantic models, made from what the systems declare: types, units, meanings, examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from typing import Annotated, Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, create_model

from featurestore.schema import Feature
from flows.requests import Request

MOST_SHOWN = 80
STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def _not_text(value: Any) -> Any:
    """Refuse "12.5" and true where a number is meant: they are mistakes more often than not."""
    if isinstance(value, bool | str):
        raise ValueError("expected a number")
    return value


Number = Annotated[float, BeforeValidator(_not_text)]
Whole = Annotated[int, BeforeValidator(_not_text)]


def model_of(system: str, request: Request) -> type[BaseModel]:
    """The body of one question to a system.

    >>> asked = Request(["fraud"], [Feature("amount", "double", unit="USD")], required=["amount"], example={})
    >>> model_of("fraud", asked)(amount=12)
    FraudRequest(amount=12.0)
    """
    fields: dict[str, Any] = {}
    for feature in request.fields:
        kind = _python_type(feature)
        required = feature.name in request.required
        description = feature.description + (f" [{feature.unit}]" if feature.unit else "")
        example = [request.example[feature.name]] if feature.name in request.example else None
        told = Field(... if required else None, description=description, examples=example)
        fields[feature.name] = (kind if required else kind | None, told)
    return create_model(f"{_title(system)}Request", __config__=STRICT, **fields)


def one_or_many(model: type[BaseModel], *, most: int) -> Any:
    """The type of a body that holds one question or a list of them; what is wrong is said of the one it is."""
    many = Annotated[list[model], Field(min_length=1, max_length=most), Tag("many")]  # type: ignore[valid-type]  # made at run time
    which = Discriminator(lambda body: "many" if isinstance(body, list) else "one")
    return Annotated[Annotated[model, Tag("one")] | many, which]


def sentence(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a person reads it: where, what was wrong, what came.

    >>> sentence({"loc": ("body", "many", 2, "amount"), "msg": "Value error, expected a number", "input": "12"})
    "2.amount: expected a number; got '12'."
    >>> sentence({"loc": ("body", "one", "card"), "type": "extra_forbidden", "msg": "...", "input": "12"})
    'card: there is no such field.'
    """
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "one", "many")) or "The body"
    if error.get("type") == "extra_forbidden":
        return f"{where}: there is no such field."
    what = error["msg"].removeprefix("Value error, ")
    came = repr(error.get("input"))
    shown = "" if error.get("type") == "missing" or len(came) > MOST_SHOWN else f"; got {came}"
    return f"{where}: {what}{shown}."


@lru_cache
def answer_model(system: str) -> Any:
    """What the server says to one question, or a list of it; for its description."""
    pipeline = import_module(f"flows.{system}.inference_pipeline")
    said = {
        field.name: Any for field in dataclasses.fields(pipeline.Prediction)
        if field.name not in ("degraded", "why", "features")
    }  # fmt: skip
    fields: Any = {name: (kind, ...) for name, kind in said.items()}
    prediction = create_model(f"{_title(system)}Prediction", **fields)
    answer = create_model(
        f"{_title(system)}Answer",
        request_id=(str, Field(description="The answer's own id, as in the group online_predictions.")),
        answered_at=(datetime, ...),
        system=(str, ...),
        prediction=(prediction, ...),
        models=(list[Version], Field(description="The versions that answered.")),
        degraded=(bool, Field(description="Something was not known.")),
        why=(list[str], Field(description="What was not known.")),
        milliseconds=(float, Field(description="How long the answer took to find.")),
        logged=(bool, Field(description="It is kept, and will be in the store in some seconds.")),
    )
    return answer | list[answer]  # type: ignore[valid-type]  # made at run time


class Version(BaseModel):
    """A model that answered."""

    name: str
    version: int
    feature_view: str
    training_dataset_version: int


class Vectors(BaseModel):
    """Keys whose feature vectors are wanted."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    entries: list[dict[str, Any]] = Field(min_length=1, max_length=1000, description="Serving keys of each vector.")
    passed_features: list[dict[str, Any]] | None = Field(None, description="Values that come with each request.")
    request_parameters: list[dict[str, Any]] | dict[str, Any] | None = Field(
        None, description="Inputs of on-demand functions: one mapping for each entry, or one for all."
    )
    version: int | None = Field(None, ge=1, description="Of the view; the newest when left out.")
    training_dataset_version: int | None = Field(None, ge=1, description="Whose transformations; the newest.")
    transform: bool = Field(True, description="False gives features as they are stored.")
    allow_missing: bool = Field(False, description="Nulls for a key without a row, instead of 404.")


@lru_cache
def models_of(system: str) -> tuple[str, ...]:
    """The names of the registered models of a system."""
    schema = import_module(f"flows.{system}.schema")
    named: list[str] = []
    for name in sorted(vars(schema)):
        value = getattr(schema, name)
        if name == "MODEL" or name.endswith("_MODEL"):
            named.append(value)
        elif name == "MODELS":
            named.extend(value.values() if isinstance(value, Mapping) else value)
    return tuple(dict.fromkeys(named))


@lru_cache
def prediction_groups(system: str) -> tuple[str, ...]:
    """The names of the groups that a system's batches write to, its main one first."""
    schema = import_module(f"flows.{system}.schema")
    names = [name for name in vars(schema) if name.endswith("PREDICTIONS_GROUP")]
    return tuple(getattr(schema, name) for name in sorted(names, key=len))


def _python_type(feature: Feature) -> Any:
    if pa.types.is_timestamp(feature.type):
        return AwareDatetime
    if pa.types.is_floating(feature.type):
        return Number
    if pa.types.is_integer(feature.type):
        return Whole
    return bool if pa.types.is_boolean(feature.type) else str


def _title(system: str) -> str:
    return "".join(part.title() for part in system.split("_"))
