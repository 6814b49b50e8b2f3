"""Filters keep what nilearn's keep, on real records, except where nilearn is wrong."""

from __future__ import annotations

import copy
import doctest
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.datasets import neurovault as theirs

from nvcatalog import filters as ours
from nvcatalog.errors import InvalidOptionError
from nvcatalog.filters import IsIn, IsNull, NotContains, NotEqual, NotIn, NotNull, Pattern, ResultFilter, keeps
from nvcatalog.records import Record, null_placeholders, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DATA = Path(__file__).parent / "data"


def records_in(name: str) -> list[Record]:
    content = (DATA / name).read_bytes()
    if name.endswith(".jsonl"):
        return [parse_json(line) for line in content.splitlines()]
    body: Record = parse_json(content)
    results: list[Record] = body.get("results", [body])
    return results


FILES = ["images.jsonl", "collections.jsonl", "images_oddities.json", "images_of_nidm_collection.json"]
RECORDS = {(name, record["id"]): record for name in FILES for record in records_in(name)}
SEEN = [null_placeholders(record) for record in RECORDS.values()]

# What the records hold, and what they could hold.
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 20, 20.0, 20.9, -20.9, 2**53 + 1, 0.0, 1e300),
    *("", "a", "0", "20", "20.9", "None", "null", "N/A", "None / Other", "é", "face > house"),
    *([], ["a"], [1, "face"], {}, {"a": 1}),
]
VALUES = ODD_VALUES + list({repr(v): v for record in SEEN for v in record.values()}.values())
FIELDS = [*sorted({field for record in SEEN for field in record}), "no_such_field"]
SOURCES = [
    *("", "a", ".*face", "n-?back", "[A-Z]{2}", r"\d+$", r"20\d\d-", "(?i)none", ".*(motor|reward)"),
]


@dataclass(frozen=True)
class Pair:
    """The same thing, made of our classes and of nilearn's."""

    ours: Any
    theirs: Any


def both(name: str, *arguments: Any, **keywords: Any) -> Pair:
    return Pair(getattr(ours, name)(*arguments, **keywords), getattr(theirs, name)(*arguments, **keywords))


def several(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=4)


def one_of_many(many: list[Any]) -> st.SearchStrategy[Any]:
    """Draw as ``sampled_from`` does, without its attempts to show thousands of values."""
    return st.integers(0, len(many) - 1).map(lambda index: many[index])


values = one_of_many(VALUES)
texts = one_of_many([v for v in VALUES if isinstance(v, str)]) | st.sampled_from(["a", "face", "n", "None", ""])
special_values = st.one_of(
    st.sampled_from(["IsNull", "NotNull"]).map(both),
    st.builds(
        both,
        st.sampled_from(["NotEqual", "GreaterOrEqual", "GreaterThan", "LessOrEqual", "LessThan"]),
        values,
    ),
    st.builds(lambda name, args: both(name, *args), st.sampled_from(["IsIn", "NotIn"]), several(values)),
    st.builds(lambda name, args: both(name, *args), st.sampled_from(["Contains", "NotContains"]), several(texts)),
    st.builds(both, st.just("Pattern"), st.sampled_from(SOURCES), st.sampled_from([0, re.IGNORECASE, re.DOTALL])),
)
plain_values = values.map(lambda value: Pair(value, value))


# Special values


@settings(max_examples=120)
@given(pair=special_values)
def test_a_special_value_equals_what_nilearns_does(pair: Pair) -> None:
    for value in VALUES:
        assert (pair.ours == value) is bool(pair.theirs == value), (pair, value)
        assert (value == pair.ours) is bool(value == pair.theirs), (value, pair)
        assert (pair.ours != value) is bool(pair.theirs != value), (pair, value)


@pytest.mark.parametrize(
    ("name", "item", "value", "ours_says"),
    [
        ("Contains", 5, "face", False),
        ("NotContains", 5, "face", True),
        ("Contains", None, "face", False),
        ("NotContains", ["a"], {"a": 1}, True),
    ],
)
def test_what_cannot_be_inside_is_not_inside_where_nilearn_fails(
    name: str, item: object, value: object, ours_says: bool
) -> None:
    pair = both(name, item)
    with pytest.raises(TypeError):
        _ = pair.theirs == value
    assert (pair.ours == value) is ours_says


def test_a_number_too_large_for_the_bounds_type_does_not_compare_where_nilearn_fails() -> None:
    pair = both("GreaterThan", 20.0)
    with pytest.raises(OverflowError):
        _ = pair.theirs == 10**400
    assert pair.ours != 10**400


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[a-",
        "*",
        "a{2,1}",
        r"\1",
        "(?P<n>a)(?P<n>b)",
        "(?z)",
        "a{99999999999999999999}",
        pytest.param("(" * 3000 + ")" * 3000, id="3000 groups"),
        b"face",
        5,
        None,
        ["a"],
    ],
)
def test_an_invalid_expression_is_named_when_the_pattern_is_made(pattern: Any) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(repr(pattern))) as caught:
        Pattern(pattern)
    assert isinstance(caught.value, ValueError)


def test_flags_that_cannot_be_are_refused_when_the_pattern_is_made() -> None:
    with pytest.raises(InvalidOptionError, match="'face'"):
        Pattern("face", re.ASCII | re.UNICODE)


def test_a_compiled_expression_is_a_pattern_too() -> None:
    assert Pattern(re.compile("FACE", re.IGNORECASE)) == "face > house"


@pytest.mark.parametrize("name", ["IsNull", "NotNull", "NotEqual", "GreaterThan", "LessThan", "IsIn", "Contains"])
def test_special_values_of_ours_and_nilearns_take_the_same_arguments(name: str) -> None:
    nothing, one = (), ("a",)
    for arguments in (nothing, one):
        made = []
        for module in (ours, theirs):
            try:
                getattr(module, name)(*arguments)
                made.append(True)
            except TypeError:
                made.append(False)
        assert made[0] == made[1], (name, arguments)


def test_arguments_can_be_given_by_nilearns_names() -> None:
    assert NotEqual(negated="atlas") != "atlas"
    assert ours.LessOrEqual(bound=3) == 3
    assert Pattern(pattern="FACE", flags=re.IGNORECASE) == "face"


def test_a_special_value_shows_how_it_was_made() -> None:
    made = [IsNull(), NotEqual("a"), ours.GreaterThan(2.5), NotIn("a", 3), IsIn(), Pattern("a", re.IGNORECASE)]
    assert list(map(repr, made)) == [
        "IsNull()",
        "NotEqual('a')",
        "GreaterThan(2.5)",
        "NotIn('a', 3)",
        "IsIn()",
        "Pattern('a', re.IGNORECASE)",
    ]


def test_a_special_value_of_ones_own_filters_too() -> None:
    class Even(ours.SpecialValue):
        def accepts(self, value: object) -> bool:
            return isinstance(value, int) and value % 2 == 0

    assert ResultFilter(id=Even())({"id": 4})
    assert not ResultFilter(id=Even())({"id": 5})


def test_nilearns_special_values_work_in_our_filters() -> None:
    wanted = ResultFilter(map_type=theirs.IsIn("T map", "Z map"))
    assert wanted({"map_type": "Z map"})
    assert not wanted({"map_type": "F map"})


# Filters

FUNCTIONS: list[Callable[[Mapping[str, Any]], bool]] = [
    lambda record: record.get("id", 0) % 2 == 0,
    lambda record: "face" in str(record.get("name")),
    lambda record: record.get("modality") == "fMRI-BOLD",
    lambda record: len(record) > 40,
]

terms = st.dictionaries(one_of_many(FIELDS), special_values | plain_values, max_size=3)


def of_terms(pairs: dict[str, Pair]) -> Pair:
    return Pair(
        ours.ResultFilter({name: pair.ours for name, pair in pairs.items()}),
        theirs.ResultFilter({name: pair.theirs for name, pair in pairs.items()}),
    )


def combined(one: Pair, word: str, other: Pair) -> Pair:
    return Pair(getattr(one.ours, word)(other.ours), getattr(one.theirs, word)(other.theirs))


def added(one: Pair, other: Pair) -> Pair:
    made = copy.deepcopy(one)
    made.ours.add_filter(other.ours)
    made.theirs.add_filter(other.theirs)
    return made


result_filters = st.recursive(
    terms.map(of_terms) | st.sampled_from(FUNCTIONS).map(lambda f: both("ResultFilter", callable_filter=f)),
    lambda inner: (
        st.builds(combined, inner, st.sampled_from(["AND", "OR", "XOR"]), inner)
        | st.builds(added, inner, inner)
        | inner.map(lambda pair: Pair(pair.ours.NOT(), pair.theirs.NOT()))
    ),
    max_leaves=6,
)


@settings(max_examples=400)
@given(pair=result_filters)
def test_a_filter_keeps_what_nilearns_does(pair: Pair) -> None:
    for record in SEEN:
        assert pair.ours(record) is bool(pair.theirs(record)), record["id"]


@settings(max_examples=200)
@given(field=one_of_many(FIELDS), data=st.data())
def test_a_term_keeps_what_nilearns_does_by_the_values_its_field_has(field: str, data: st.DataObject) -> None:
    values = st.sampled_from(sorted({repr(record.get(field)) for record in SEEN}))
    by_repr = {repr(record.get(field)): record.get(field) for record in SEEN}
    constant = by_repr[data.draw(values)]
    for pair in (
        Pair(constant, constant),
        *(both(name, constant) for name in ("NotEqual", "IsIn", "NotIn", "LessThan", "GreaterOrEqual")),
    ):
        result_filter = of_terms({field: pair})
        for record in SEEN:
            assert result_filter.ours(record) is bool(result_filter.theirs(record)), record["id"]


def test_the_default_terms_are_nilearns() -> None:
    for name in ("basic_collection_terms", "basic_image_terms"):
        mine, nilearns = getattr(ours, name)(), getattr(theirs, name)()
        assert list(mine) == list(nilearns)
        kept = [ResultFilter(mine)(record) for record in SEEN]
        assert kept == [theirs.ResultFilter(nilearns)(record) for record in SEEN]
        assert 0 < sum(kept) < len(kept)


def test_the_default_terms_equal_themselves_and_not_others() -> None:
    assert ours.basic_image_terms() == ours.basic_image_terms()
    assert ours.basic_image_terms() is not ours.basic_image_terms()
    assert ours.basic_image_terms() != ours.basic_image_terms() | {"not_mni": True}
    assert ours.basic_collection_terms() == ours.basic_collection_terms() != {}


def test_filters_take_terms_as_a_mapping_as_pairs_and_as_keywords() -> None:
    for wanted in (ResultFilter({"a": 1}, b=2), ResultFilter([("a", 1), ("b", 2)]), ResultFilter(a=1, b=2)):
        assert wanted.query_terms_ == {"a": 1, "b": 2}
        assert wanted({"a": 1, "b": 2})
        assert not wanted({"a": 1})


def test_a_filter_can_be_changed_as_a_dict_can() -> None:
    wanted = ResultFilter(a=0)
    wanted["b"] = NotNull()
    assert (wanted["a"], wanted({"a": 0}), wanted({"a": 0, "b": 1})) == (0, False, True)
    del wanted["b"]
    del wanted["b"]
    assert wanted({"a": 0})


def test_a_field_that_is_missing_counts_as_none() -> None:
    assert ResultFilter(a=None)({})
    assert ResultFilter(a=IsNull())({})
    assert ResultFilter(a=NotEqual(1))({})
    assert not ResultFilter(a=NotContains("x"))({})


@pytest.mark.parametrize("word", ["AND", "OR", "XOR"])
def test_a_combination_keeps_the_meaning_it_was_made_with(word: str) -> None:
    one, other = ResultFilter(a=0), ResultFilter(b=0)
    made = getattr(one, word)(other)
    cases = [{"a": a, "b": b} for a in (0, 1) for b in (0, 1)]
    before = [made(case) for case in cases]
    one["a"], other["b"] = 5, 6
    other.add_filter(lambda _record: False)
    assert [made(case) for case in cases] == before
    assert len(set(before)) == 2


def test_a_filter_combines_with_any_function() -> None:
    wanted = ResultFilter(a=0).AND(lambda record: record["b"] > 3)
    assert wanted({"a": 0, "b": 4})
    assert not wanted({"a": 0, "b": 2})


def test_xor_means_truth_and_not_equality_where_nilearn_compares_what_functions_return() -> None:
    def truthy(record: Mapping[str, Any]) -> str:
        return "yes"

    assert theirs.ResultFilter(a=0).XOR(truthy)({"a": 0})
    assert not ResultFilter(a=0).XOR(truthy)({"a": 0})


def test_what_a_function_returns_counts_by_its_truth() -> None:
    for returned, kept in (("yes", True), (1, True), ("", False), (None, False), ([], False)):
        assert ResultFilter(callable_filter=lambda _, value=returned: value)({}) is kept  # type: ignore[misc]  # a lambda with a default
        assert keeps(lambda _, value=returned: value, {}) is kept  # type: ignore[misc]  # likewise


def test_a_function_is_not_asked_about_records_that_miss_a_term() -> None:
    asked: list[int] = []
    wanted = ResultFilter({"a": 1}, lambda record: not asked.append(record["id"]))  # type: ignore[func-returns-value]  # None, on purpose
    assert [wanted({"id": 1, "a": 1}), wanted({"id": 2, "a": 2})] == [True, False]
    assert asked == [1]


@pytest.mark.parametrize("value", [IsNull, NotNull, IsIn, Pattern])
def test_a_class_in_place_of_a_special_value_is_refused_and_named(value: type) -> None:
    with pytest.raises(InvalidOptionError, match=rf"map_type .*{value.__name__}\(…\)"):
        ResultFilter(map_type=value)
    with pytest.raises(InvalidOptionError, match="map_type"):
        ResultFilter()["map_type"] = value


@pytest.mark.parametrize("value", [None, "face", 5, {"a": 1}])
def test_a_filter_that_cannot_be_called_is_refused_and_named(value: Any) -> None:
    with pytest.raises(InvalidOptionError, match=re.escape(repr(value))):
        ResultFilter(callable_filter=value)


def test_filters_survive_pickling_and_copying() -> None:
    inner = ResultFilter(name=Pattern("face")).OR(ResultFilter(id=ours.GreaterThan(3)).NOT())
    wanted = ResultFilter(ours.basic_image_terms()).XOR(inner)
    kept = [wanted(record) for record in SEEN]
    for other in (pickle.loads(pickle.dumps(wanted)), copy.deepcopy(wanted)):
        assert [other(record) for record in SEEN] == kept
    assert len(set(kept)) == 2


def test_a_filter_shows_its_terms_and_functions() -> None:
    assert repr(ResultFilter(a=IsIn("x", "y"))) == "ResultFilter({'a': IsIn('x', 'y')})"
    assert repr(ResultFilter(callable_filter=len)) == "ResultFilter(<built-in function len>)"


# Records as the server gave them

# A value that only begins like a placeholder, which nilearn loses.
BEGINS_LIKE_A_PLACEHOLDER = {("collections.jsonl", 321): {"inclusion_exclusion_criteria"}}


def test_filters_see_the_placeholders_nilearn_sees_except_for_its_prefix_match() -> None:
    differing = {}
    for key, record in RECORDS.items():
        mine, nilearns = null_placeholders(record), theirs._remove_none_strings(record)
        if fields := {field for field in record if mine[field] != nilearns[field]}:
            differing[key] = fields
            assert all(nilearns[field] is None and len(mine[field]) > 12 for field in fields)
    assert differing == BEGINS_LIKE_A_PLACEHOLDER


@settings(max_examples=60)
@given(pair=result_filters)
def test_records_of_the_server_are_kept_as_nilearn_would(pair: Pair) -> None:
    for key, record in RECORDS.items():
        if key not in BEGINS_LIKE_A_PLACEHOLDER:
            assert keeps(pair.ours, record) is bool(pair.theirs(theirs._remove_none_strings(record))), key


@pytest.mark.parametrize("field", ["contrast_definition", "cognitive_paradigm_cogatlas"])
def test_a_contrast_that_begins_with_none_is_one_where_nilearn_loses_it(field: str) -> None:
    record = {field: "Nonemotional > emotional faces"}
    assert keeps(ResultFilter({field: NotNull()}), record)
    assert not theirs.ResultFilter({field: theirs.NotNull()})(theirs._remove_none_strings(record))


@pytest.mark.parametrize("value", ["", "None", "none / other", "None / Other", "NULL", "n/a", "NA", " None "])
def test_a_whole_placeholder_is_null(value: str) -> None:
    assert keeps(ResultFilter(modality=IsNull()), {"modality": value})
    assert not keeps(ResultFilter(modality=value), {"modality": value})


def test_a_function_sees_no_placeholder_and_cannot_change_the_record() -> None:
    record = {"modality": "None / Other"}

    def spoil(seen: Any) -> bool:
        return seen.pop("modality") is None

    assert keeps(spoil, record)
    assert record == {"modality": "None / Other"}


def test_what_a_function_raises_goes_through() -> None:
    with pytest.raises(KeyError, match="no_such_field"):
        keeps(lambda record: record["no_such_field"], {"id": 1})


def test_the_examples_in_the_docstrings_run() -> None:
    failed, attempted = doctest.testmod(ours)
    assert not failed
    assert attempted > 20
