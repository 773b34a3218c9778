"""What a system answers on request: the fields of a question, as a server describes and checks them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from featurestore.schema import Feature


@dataclass(frozen=True)
class Request:
    """The fields of one question to a system's `Predictor`; a system that answers has one as `schema.REQUEST`.

    Args:
        models: the registered models whose champions answer; one without a champion is left out of the answer.
        fields: name, type, unit and meaning of each.
        required: the names that no question goes without; the others may be null or absent.
        example: a question that can be asked, as JSON has it.

    >>> Request(["prices"], [Feature("amount", "double")], required=["price"], example={})
    Traceback (most recent call last):
        ...
    ValueError: Required are ['price'], which are no fields; there are ['amount'].
    """

    models: Sequence[str]
    fields: Sequence[Feature]
    required: Sequence[str]
    example: Mapping[str, Any]

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        for what, these in (("Required", self.required), ("In the example", self.example)):
            if unknown := [name for name in these if name not in names]:
                raise ValueError(f"{what} are {unknown}, which are no fields; there are {names}.")
