"""The functions that views apply: built-ins found by name, and one's own, found by module, name and hash of source.

What all built-ins share:
- Nulls stay null, unless imputed; one-hot gives false. A NaN is a null, and no function returns one.
- Numbers are learned from finite values only. An infinity stays infinite, is clipped or falls into the last bin.
- Learned means and deviations are exact sums rounded once: the order of the training rows changes nothing.
- A column without a value to learn from (all null in the training split) gives null from scalers and binners, -1 from
  `label_encoder`, no column from `one_hot_encoder`, and passes through `winsorize` and the imputers unchanged.
- A constant column gives 0 (`quantile_transformer`: 0.5) for every value, also for values never seen.
- Scalers give double, encoders and binners bigint, imputers and `winsorize` as they say.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from featurestore import built_in_arithmetic as arithmetic
from featurestore.custom_functions import CustomFunction, Mode, custom_function
from featurestore.errors import NotFound, NotReproducible, SchemaMismatch
from featurestore.kernels import BIGINT, DOUBLE, Kernel, Method, Parameters, State, is_finite_number
from featurestore.schema import spell_dtype

Accepted = Literal["number", "category", "text", "any"]

_ACCEPTED_HELP = {
    "number": "a number; encode text with label_encoder or one_hot_encoder first",
    "category": "text, a number, a boolean, a date or a time; lists and structs have no order",
    "text": "text; for numbers use impute_mean, impute_median, impute_constant, or a binner",
}


@dataclass(frozen=True)
class TransformationFunction:
    """A function that a feature view applies, with its parameters and, if bound, the columns it reads.

    Calling it gives a copy: column names bind it, keywords set parameters.

    >>> winsorize("amount", p_high=95)
    winsorize("amount", p_low=1, p_high=95)
    >>> winsorize(high=95)
    Traceback (most recent call last):
        ...
    featurestore.errors.SchemaMismatch: winsorize has no parameter 'high' (parameters: p_low, p_high).
    """

    name: str
    description: str
    method: Method = field(repr=False)
    parameters: Parameters = field(default_factory=dict, hash=False)
    columns: tuple[str, ...] = ()

    def __call__(self, *columns: str, **parameters: Any) -> TransformationFunction:
        for column in columns:
            if not isinstance(column, str):
                raise SchemaMismatch(
                    f"{self.name}({column!r}): expected a column name. A transformation is declared on columns, as in "
                    f"{self.name}('amount'), and applied by the feature view; parameters go by keyword."
                )
        known = self.method.defaults
        for name in parameters:
            if name not in known:
                listed = f"parameters: {', '.join(known)}" if known else "it takes none"
                raise SchemaMismatch(f"{self.name} has no parameter {name!r} ({listed}).")
        inputs = self.method.inputs
        expected = 1 if inputs is None else len(inputs)
        if columns and len(columns) != expected:
            names = "one column" if inputs is None else f"{expected} columns ({', '.join(inputs)})"
            raise SchemaMismatch(f"{self.name} reads {names}, and {len(columns)} were given: {', '.join(columns)}.")
        merged = {**self.parameters, **parameters}
        if problem := self.method.problem(merged):
            raise SchemaMismatch(f"{self.name}: {problem}")
        return replace(self, parameters=merged, columns=columns or self.columns)

    def __repr__(self) -> str:
        arguments = [f'"{column}"' for column in self.columns]
        arguments += [f"{name}={value!r}" for name, value in self.parameters.items()]
        return f"{self.name}({', '.join(arguments)})" if arguments else self.name

    def to_json(self) -> dict[str, Any]:
        """How to find the function again: its name, or for a user's own its module, name and hash of its source."""
        found = {"parameters": dict(self.parameters)}
        if isinstance(self.method, CustomFunction):
            return {"reference": self.method.reference, "source_hash": self.method.source_hash, **found}
        return {"name": self.name, **found}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TransformationFunction:
        """The function that `to_json` described.

        Raises:
            NotFound: the function is no longer where it was defined.
            NotReproducible: its source has changed since.
        """
        found = get(data["name"]) if "name" in data else _load(data["reference"], data["source_hash"])
        return found(**data["parameters"])


# --- The built-ins ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _BuiltIn:
    accepts: Accepted
    gives: pa.DataType | Literal["same", "several"]
    learn: Callable[..., State]
    apply: Callable[[State, pa.DataType], Kernel]
    defaults: Parameters
    check: Callable[[Any], str | None] | None
    inputs: None = None
    drop: tuple[str, ...] = ()

    @property
    def suffixes(self) -> tuple[str, ...] | None:
        return () if self.gives == "several" else None

    def problem(self, parameters: Parameters) -> str | None:
        return self.check(parameters) if self.check else None

    def output_types(self, types: Sequence[pa.DataType], parameters: Parameters) -> tuple[pa.DataType, ...] | None:
        if not _is(self.accepts, types[0]):
            raise SchemaMismatch(f"is {spell_dtype(types[0])}, expected {_ACCEPTED_HELP[self.accepts]}")
        if self.learn is arithmetic.fit_constant:
            arithmetic.exact_scalar(parameters["value"], types[0])
        if self.gives == "several":
            return None
        return (types[0] if self.gives == "same" else self.gives,)

    def fit(self, columns: Sequence[pa.Array], parameters: Parameters) -> State:
        return self.learn(columns[0], **parameters)

    def kernel(self, state: State, types: Sequence[pa.DataType]) -> Kernel:
        return self.apply(state, types[0])


def _is(accepted: Accepted, dtype: pa.DataType) -> bool:
    number = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)
    if accepted == "number":
        return number or pa.types.is_boolean(dtype)
    if accepted == "text":
        return pa.types.is_string(dtype)
    return accepted == "any" or not pa.types.is_nested(dtype)


def _check_winsorize(p: Parameters) -> str | None:
    low, high = p["p_low"], p["p_high"]
    if is_finite_number(low) and is_finite_number(high) and 0 <= low < high <= 100:
        return None
    return f"p_low={low!r}, p_high={high!r}: expected percentiles with 0 <= p_low < p_high <= 100, such as 1 and 99."


def _check_bins(p: Parameters) -> str | None:
    if type(p["n_bins"]) is int and 2 <= p["n_bins"] <= 10_000:
        return None
    return f"n_bins={p['n_bins']!r}: expected a whole number from 2 to 10000."


def _check_quantiles(p: Parameters) -> str | None:
    given = p["quantiles"]
    shares = isinstance(given, list | tuple) and given and all(is_finite_number(q) and 0 < q < 1 for q in given)
    if shares and all(a < b for a, b in itertools.pairwise(given)):
        return None
    return f"quantiles={given!r}: expected ascending numbers between 0 and 1, such as [0.25, 0.5, 0.75]."


def _check_top_k(p: Parameters) -> str | None:
    if type(p["top_n"]) is not int or p["top_n"] < 1:
        return f"top_n={p['top_n']!r}: expected a whole number of at least 1."
    return None if isinstance(p["other_label"], str) else f"other_label={p['other_label']!r}: expected text."


def _check_offset(p: Parameters) -> str | None:
    return None if is_finite_number(p["offset"]) else f"offset={p['offset']!r}: expected a finite number, such as 1."


def _check_constant(p: Parameters) -> str | None:
    value = p["value"]
    return None if isinstance(value, str | bool) or is_finite_number(value) else f"value={value!r}: expected a value."


def _check_category(p: Parameters) -> str | None:
    return None if isinstance(p["value"], str) else f"value={p['value']!r}: expected text."


def _built_in(
    name: str, description: str, accepts: Accepted, gives: pa.DataType | Literal["same", "several"],
    learn: Callable[..., State], apply: Callable[[State, pa.DataType], Kernel],
    check: Callable[[Any], str | None] | None = None, **defaults: Any,
) -> TransformationFunction:  # fmt: skip
    method = _BuiltIn(accepts, gives, learn, apply, defaults, check)
    return TransformationFunction(name, description, method, parameters=defaults)


min_max_scaler = _built_in(
    "min_max_scaler", "(x - min) / (max - min): the training split lies in [0, 1].",
    "number", DOUBLE, arithmetic.fit_min_max, arithmetic.min_max_kernel,
)  # fmt: skip
standard_scaler = _built_in(
    "standard_scaler", "(x - mean) / population standard deviation.",
    "number", DOUBLE, arithmetic.fit_standard, arithmetic.standard_kernel,
)  # fmt: skip
robust_scaler = _built_in(
    "robust_scaler", "(x - median) / (q3 - q1); only centred where the quartiles are equal.",
    "number", DOUBLE, arithmetic.fit_robust, arithmetic.robust_kernel,
)  # fmt: skip
log_transform = _built_in(
    "log_transform", "Natural logarithm of x + offset; null where that is not positive.",
    "number", DOUBLE, arithmetic.fit_log, arithmetic.log_kernel, _check_offset, offset=0.0,
)  # fmt: skip
winsorize = _built_in(
    "winsorize", "Clipped to two percentiles, as double.",
    "number", DOUBLE, arithmetic.fit_winsorize, arithmetic.winsorize_kernel, _check_winsorize, p_low=1, p_high=99,
)  # fmt: skip
quantile_transformer = _built_in(
    "quantile_transformer", "Place among the percentiles 0..100, interpolated, in [0, 1]; of equal ones the middle.",
    "number", DOUBLE, arithmetic.fit_percentiles, arithmetic.quantile_kernel,
)  # fmt: skip
rank_normalizer = _built_in(
    "rank_normalizer", "Share of the percentiles 1..100 that are at most x: 0 below the minimum, 1 from the maximum.",
    "number", DOUBLE, arithmetic.fit_percentiles, arithmetic.rank_kernel,
)  # fmt: skip
equal_width_binner = _built_in(
    "equal_width_binner", "Number (from 0) of one of n_bins bins of equal width; an edge belongs to the lower bin.",
    "number", BIGINT, arithmetic.fit_equal_width, arithmetic.bin_kernel, _check_bins, n_bins=10,
)  # fmt: skip
equal_frequency_binner = _built_in(
    "equal_frequency_binner", "Number (from 0) of one of n_bins bins of equal count; equal edges merge.",
    "number", BIGINT, arithmetic.fit_equal_frequency, arithmetic.bin_kernel, _check_bins, n_bins=4,
)  # fmt: skip
quantile_binner = _built_in(
    "quantile_binner", "Number (from 0) of the bin between given quantiles; equal edges merge.",
    "number", BIGINT, arithmetic.fit_quantiles, arithmetic.bin_kernel, _check_quantiles, quantiles=(0.25, 0.5, 0.75),
)  # fmt: skip
label_encoder = _built_in(
    "label_encoder", "Position among the sorted values of the training split; -1 for an unseen one.",
    "category", BIGINT, arithmetic.fit_categories, arithmetic.label_kernel,
)  # fmt: skip
one_hot_encoder = _built_in(
    "one_hot_encoder", "A boolean column <column>_<value> for each value of the training split, sorted.",
    "category", "several", arithmetic.fit_one_hot, arithmetic.one_hot_kernel,
)  # fmt: skip
top_k_categorical_binner = _built_in(
    "top_k_categorical_binner", "The top_n most frequent values as text, other_label for all others and unseen ones.",
    "category", pa.string(), arithmetic.fit_top_k, arithmetic.top_k_kernel, _check_top_k, top_n=10, other_label="Other",
)  # fmt: skip
impute_mean = _built_in(
    "impute_mean", "Nulls become the mean, as double.",
    "number", DOUBLE, arithmetic.fit_mean, arithmetic.fill_number_kernel,
)  # fmt: skip
impute_median = _built_in(
    "impute_median", "Nulls become the median, as double.",
    "number", DOUBLE, arithmetic.fit_median, arithmetic.fill_number_kernel,
)  # fmt: skip
impute_constant = _built_in(
    "impute_constant", "Nulls become the value given; the column keeps its type.",
    "any", "same", arithmetic.fit_constant, arithmetic.fill_constant_kernel, _check_constant, value=0.0,
)  # fmt: skip
impute_category = _built_in(
    "impute_category", "Null text becomes a category of its own.",
    "text", "same", arithmetic.fit_constant, arithmetic.fill_constant_kernel, _check_category, value="__MISSING__",
)  # fmt: skip
impute_mode = _built_in(
    "impute_mode", "Nulls become the most frequent value, the smallest of equally frequent ones.",
    "category", "same", arithmetic.fit_mode, arithmetic.fill_mode_kernel,
)  # fmt: skip

BUILT_INS: dict[str, TransformationFunction] = {
    function.name: function
    for function in (
        min_max_scaler, standard_scaler, robust_scaler, label_encoder, one_hot_encoder, log_transform,
        equal_width_binner, equal_frequency_binner, quantile_binner, quantile_transformer, rank_normalizer, winsorize,
        top_k_categorical_binner, impute_mean, impute_median, impute_constant, impute_category, impute_mode,
    )
}  # fmt: skip


def get(name: str) -> TransformationFunction:
    """The built-in function of a name.

    >>> get("standard_scaler").description
    '(x - mean) / population standard deviation.'
    >>> get("z_score")
    Traceback (most recent call last):
        ...
    featurestore.errors.NotFound: There is no transformation function 'z_score' (there are: equal_frequency_binner, ...
    """
    if name not in BUILT_INS:
        raise NotFound(
            f"There is no transformation function {name!r} (there are: {', '.join(sorted(BUILT_INS))}). "
            "Write your own with @udf."
        )
    return BUILT_INS[name]


# --- A user's own functions -------------------------------------------------------------------------------------------

# What @udf has seen in this process, so that a function defined in a notebook or inside another function can be found
# for as long as the process lives.
_DEFINED: dict[tuple[str, str], TransformationFunction] = {}


def udf(
    return_type: str | type | pa.DataType | Sequence[str | type | pa.DataType],
    *,
    drop: str | Sequence[str] = (),
    mode: Mode | Literal["python"] | None = None,
    nulls: bool = False,
) -> Callable[[Callable[..., Any]], TransformationFunction]:
    """Make a transformation of a function; parameters without a default are columns, the others are parameters.

    Args:
        return_type: dtype of the result ("double", "string", ..., or float, int, str, bool); a list for several
            results, which become the columns `<column>_0`, `<column>_1`, ...
        drop: parameters whose columns the model does not get.
        mode: "scalar" ("python" is the same): called for each row with plain values, by batch and online alike.
            "pandas": called with Series, online with one row; integers arrive as Int64, text as str.
            It must not look at other rows, which is checked when it is fitted. Without a mode the annotations
            decide: "pandas" if a parameter is a Series.
        nulls: of a scalar function. Nulls stay null: a row in which a column it reads is null gives null, or as many
            nulls as it has results, and the function is not called. With nulls=True it is called with None.
            A pandas function is always called, with nulls as pandas has them.
    Returns:
        A function to declare on a view, by name of its parameters or bound to other columns: `ratio("amount", "mean")`.
        It is stored by module, name and a hash of its source, never pickled: whoever loads the view must be able to
        import it. What it calls is not part of the hash.

    >>> @udf("double", drop=["mean"])
    ... def ratio(amount, mean, smoothing=1.0):
    ...     return amount / (mean + smoothing)
    >>> ratio("price", "price_mean", smoothing=0.5)
    ratio("price", "price_mean", smoothing=0.5)
    """

    def decorate(function: Callable[..., Any]) -> TransformationFunction:
        method = custom_function(function, return_type, drop, mode, nulls)
        description = (inspect.getdoc(function) or "").partition("\n")[0]
        made = TransformationFunction(function.__name__, description, method, parameters=method.defaults)
        _DEFINED[method.reference, method.source_hash] = made
        return made

    return decorate


def _load(reference: str, source_hash: str) -> TransformationFunction:
    if (found := _DEFINED.get((reference, source_hash))) is not None:
        return found
    module, _, path = reference.partition(":")
    if "<locals>" in path or module == "__main__":
        raise NotFound(
            f"The transformation function {reference!r} was defined in a script, a notebook or another function, "
            "in a process that has ended. Move it to the top of a module that can be imported and create the view's "
            "next version with it."
        )
    try:
        loaded: Any = importlib.import_module(module)
        for part in path.split("."):
            loaded = getattr(loaded, part)
    except (ImportError, AttributeError) as error:
        raise NotFound(
            f"The transformation function {reference!r} cannot be imported: {error}. Make the module importable here, "
            "or put the function back."
        ) from error
    if not isinstance(loaded, TransformationFunction) or not isinstance(loaded.method, CustomFunction):
        raise NotFound(f"{reference!r} is no longer a transformation function. Put @udf back on it.")
    if loaded.method.source_hash != source_hash:
        raise NotReproducible(
            f"The source of the transformation function {reference!r} has changed since the view was made, so vectors "
            "would differ from the training data. Restore the old source under this name, or create the view's next "
            "version with the new one."
        )
    return loaded
