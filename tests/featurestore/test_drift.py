from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore import drift
from featurestore.errors import InvalidData, SchemaMismatch
from featurestore.statistics import summarise

METRICS = [drift.jensen_shannon, drift.hellinger, drift.kolmogorov_smirnov]


def compare(reference: list[object], current: list[object], dtype: pa.DataType | None = None) -> dict:
    sides = [summarise(pa.table({"x": pa.array(values, dtype)})) for values in (reference, current)]
    found = drift.compare(*sides)
    json.dumps(found, allow_nan=False)
    return found["x"]


# Vectors


def test_distances_worked_by_hand():
    p, q = [0.8, 0.2], [0.4, 0.6]
    # PSI: 0.4 ln 2 + 0.4 ln 3; KL: 0.8 ln 2 - 0.2 ln 3
    assert drift.psi(p, q, epsilon=1e-6) == pytest.approx(0.7167, abs=5e-5)
    assert drift.psi(p, q) == pytest.approx(0.4 * math.log(2) + 0.4 * math.log(3))
    assert drift.kullback_leibler(p, q) == pytest.approx(0.3348, abs=5e-5)
    assert drift.kolmogorov_smirnov(p, q) == pytest.approx(0.4)
    assert drift.wasserstein(p, q) == pytest.approx(0.4)
    assert drift.wasserstein(p, q, positions=[10, 30]) == pytest.approx(8)
    assert drift.hellinger(p, q) == pytest.approx(math.sqrt(1 - math.sqrt(0.32) - math.sqrt(0.12)))


def test_shares_as_small_as_floats_can_be_are_no_trouble():
    assert drift.jensen_shannon([1, 5e-324], [1, 0]) == 0


def test_an_empty_category_is_far_but_not_infinitely_far():
    assert drift.psi([1, 0], [0, 1], epsilon=1e-6) == pytest.approx(2 * math.log(1e6), rel=1e-4)
    assert drift.kullback_leibler([1, 0], [0, 1]) == pytest.approx(math.log(1e6), rel=1e-4)


@pytest.mark.parametrize(
    ("p", "q"), [([1.0], [0.5, 0.5]), ([], []), ([0.5, 0.6], [0.5, 0.5]), ([-1, 2], [1, 0]), ([math.nan], [1])]
)
def test_what_is_no_distribution_is_refused(p, q):
    with pytest.raises(InvalidData):
        drift.psi(p, q)


def test_positions_and_counts_are_checked():
    with pytest.raises(InvalidData, match="ascending"):
        drift.wasserstein([0.5, 0.5], [1, 0], positions=[2, 1])
    with pytest.raises(InvalidData, match="not negative"):
        drift.chi_squared([1, -1], [1, 1])


@st.composite
def distributions(draw: st.DrawFn, n: int = 2) -> list[np.ndarray]:
    size = draw(st.integers(1, 8))
    weights = st.lists(st.floats(0, 1), min_size=size, max_size=size).filter(lambda ws: sum(ws) > 1e-3)
    return [np.array(ws) / sum(ws) for ws in (draw(weights) for _ in range(n))]


@settings(deadline=None)
@given(distributions(n=3))
def test_laws_of_distances(vectors):
    p, q, r = vectors
    for distance in (*METRICS, drift.psi, drift.kullback_leibler, drift.wasserstein):
        assert distance(p, p) == pytest.approx(0, abs=1e-7)
        assert distance(p, q) >= 0
    for metric in (*METRICS, drift.wasserstein):
        assert metric(p, q) == pytest.approx(metric(q, p), abs=1e-9)
        assert metric(p, r) <= metric(p, q) + metric(q, r) + 1e-7
    for metric in METRICS:
        assert metric(p, q) <= 1
    assert drift.psi(p, q) == pytest.approx(drift.psi(q, p))
    if min(p[p > 0].min(), q[q > 0].min()) > 1e-300:  # SciPy gives infinity below, and NaN for some equal ones
        expected = np.nan_to_num(scipy.spatial.distance.jensenshannon(p, q, base=2))
        assert drift.jensen_shannon(p, q) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=2, max_size=6))
def test_chi_squared_agrees_with_scipy(pairs):
    reference, current = zip(*pairs, strict=True)
    expected = scipy.stats.chi2_contingency([reference, current], correction=False)
    assert drift.chi_squared(reference, current) == pytest.approx(
        (expected.statistic, expected.pvalue), rel=1e-6, abs=1e-9
    )


def test_chi_squared_of_nothing_is_no_evidence():
    assert drift.chi_squared([5, 0], [7, 0]) == (0.0, 1.0)
    assert drift.chi_squared([0, 0], [7, 3]) == (0.0, 1.0)


# Columns


def test_text_categories_are_compared_by_name():
    found = compare(["a"] * 8 + ["b"] * 2, ["b"] * 6 + ["a"] * 4)
    assert (found["psi"], found["kl"]) == (pytest.approx(0.7167, abs=5e-5), pytest.approx(0.3348, abs=5e-5))
    assert (found["ks"], found["wasserstein"]) == (None, None)
    # chi-squared of two by two: n (ad - bc)^2 over the product of the four sums
    assert found["chi_squared"] == pytest.approx(20 * (8 * 6 - 2 * 4) ** 2 / (10 * 10 * 12 * 8))


def test_new_and_gone_categories_drift():
    assert compare(["a"] * 10, ["b"] * 10)["js"] == pytest.approx(1)
    assert compare(["a", "b"], ["a", "b"])["js"] == 0


def test_ids_that_never_repeat_do_not_drift():
    found = compare([f"a{i}" for i in range(100)], [f"b{i}" for i in range(100)])
    assert found["psi"] == pytest.approx(0, abs=1e-12)


def test_a_value_cut_from_one_list_is_not_taken_for_absent():
    rare = [f"v{i:03d}" for i in range(60) for _ in range(2)]
    # "v059" is on the second list only: the first ends at "v049" by the alphabet, but has it just as often
    found = compare(rare, [v for v in rare if v != "v000"])
    assert found["hellinger"] < 0.15


def test_nulls_are_a_category():
    found = compare([1.0] * 8 + [None] * 2, [1.0] * 4 + [None] * 6)
    assert found["psi"] == pytest.approx(0.7167, abs=5e-5)
    assert found["ks"] == pytest.approx(0.4)
    assert found["wasserstein"] == 0
    assert (found["reference_null_share"], found["current_null_share"]) == (pytest.approx(0.2), pytest.approx(0.6))
    assert compare([None, None], [1.0, 2.0], pa.float64())["js"] == pytest.approx(1)
    assert compare([None, None], [None], pa.float64())["psi"] == 0


def test_infinities_are_a_category():
    assert compare([1.0, math.inf], [1.0, 1.0])["hellinger"] == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))
    assert compare([math.inf], [1.0])["wasserstein"] is None


def test_few_numbers_are_compared_exactly():
    found = compare([0] * 8 + [10] * 2, [0] * 4 + [10] * 6)
    assert (found["ks"], found["wasserstein"]) == (pytest.approx(0.4), pytest.approx(4))
    assert compare([True] * 2 + [False] * 8, [True] * 6 + [False] * 4)["psi"] == pytest.approx(0.7167, abs=5e-5)


def test_a_constant_that_moves_down_is_seen():
    assert compare([5.0] * 10, [4.0] * 10)["js"] == pytest.approx(1)


def test_a_shift_of_many_numbers_is_measured_to_a_percent():
    rng = np.random.default_rng(7)
    reference, current = rng.normal(size=20_000), rng.normal(0.5, 1, size=20_000)
    found = compare(reference, current)
    assert found["wasserstein"] == pytest.approx(scipy.stats.wasserstein_distance(reference, current), rel=0.05)
    assert found["ks"] == pytest.approx(scipy.stats.ks_2samp(reference, current).statistic, abs=0.01)
    assert found["psi"] == pytest.approx(0.25, abs=0.03)  # of two normals, shift 0.5: 0.5 ** 2 before binning
    assert found["ks_p_value"] < 1e-6
    assert found["chi_squared_p_value"] < 1e-6


def test_two_samples_of_one_distribution_hardly_differ():
    rng = np.random.default_rng(7)
    found = compare(rng.exponential(size=5_000), rng.exponential(size=5_000))
    assert found["psi"] < 0.02
    assert found["ks_p_value"] > 0.01
    assert found["chi_squared_p_value"] > 0.01


def test_many_zeros_among_many_numbers_are_one_bin():
    rng = np.random.default_rng(7)
    reference = np.where(rng.random(10_000) < 0.6, 0.0, rng.random(10_000))
    current = np.where(rng.random(10_000) < 0.3, 0.0, rng.random(10_000))
    found = compare(reference, current)
    assert found["ks"] == pytest.approx(0.3, abs=0.03)
    assert found["psi"] == pytest.approx(0.3 * math.log(2) + 0.3 * math.log(0.7 / 0.4), abs=0.05)


def test_times_and_lists_are_compared_by_their_nulls():
    assert compare([[1], None], [[2], [3]])["hellinger"] == pytest.approx(math.sqrt(1 - math.sqrt(0.5)))


def test_without_rows_there_is_no_distance():
    found = compare([], [1.0], pa.float64())
    assert {found[name] for name in drift.DISTANCES} == {None}


def test_new_times_are_no_drift():
    january, february = (
        pa.array([f"2021-{m}-01", f"2021-{m}-02", None]).cast(pa.timestamp("us")) for m in ("01", "02")
    )
    found = compare(january.to_pylist(), february.to_pylist(), pa.timestamp("us"))
    assert (found["psi"], found["js"]) == (pytest.approx(0), pytest.approx(0))


def test_other_columns_or_kinds_are_refused():
    numbers, texts = summarise(pa.table({"x": [1]})), summarise(pa.table({"x": ["1"]}))
    with pytest.raises(SchemaMismatch, match="'x' is number in the reference and text now"):
        drift.compare(numbers, texts)
    with pytest.raises(SchemaMismatch, match=r"\['y'\]"):
        drift.compare(numbers, {**numbers, "y": numbers["x"]})


SAMPLES = st.lists(
    st.one_of(st.none(), st.floats(allow_nan=False), st.integers(0, 3).map(float)), min_size=1, max_size=150
)


@settings(deadline=None, max_examples=150)
@given(SAMPLES, SAMPLES)
def test_laws_for_any_two_columns(reference, current):
    same = compare(reference, reference, pa.float64())
    for name in ("psi", "kl", "js", "hellinger", "ks", "chi_squared"):
        assert same[name] == pytest.approx(0, abs=1e-7)
    assert same["wasserstein"] in (0, None)
    there, back = compare(reference, current, pa.float64()), compare(current, reference, pa.float64())
    assert there["ks"] == pytest.approx(back["ks"])
    assert there["wasserstein"] == pytest.approx(back["wasserstein"])
    for name in ("js", "hellinger", "ks", "ks_p_value", "chi_squared_p_value"):
        assert 0 <= there[name] <= 1


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning:scipy")
@settings(deadline=None)
@given(*[st.lists(st.integers(-20, 20), min_size=1, max_size=60)] * 2)
def test_few_integers_agree_with_scipy(reference, current):
    found = compare(reference, current)
    assert found["ks"] == pytest.approx(scipy.stats.ks_2samp(reference, current, method="asymp").statistic)
    assert found["wasserstein"] == pytest.approx(scipy.stats.wasserstein_distance(reference, current), abs=1e-9)
