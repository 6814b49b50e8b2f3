"""The terms of any images come as scikit-learn would vectorise them, from the catalog or a snapshot of it."""

from __future__ import annotations

import shutil
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction import DictVectorizer
from waiting import PATIENCE_S

from nvcatalog import matrix, snapshot
from nvcatalog._batch import Batch, Words
from nvcatalog._store import LOCK_NAME, Store
from nvcatalog.errors import (
    InvalidOptionError,
    MixedSetsError,
    QueryError,
    RefusedStatus,
    SelectionWarning,
    SnapshotError,
    WordsWarning,
)
from nvcatalog.known import Refusal
from nvcatalog.wish import Wish, parse_wish

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nvcatalog.words import WordMatrix

# Images that a decoder gave all terms for, few, one, zeros, none at all; and two that were never asked about.
ANSWERS: dict[int, dict[str, float]] = {
    11: {"pain": 0.5, "motor": -0.25, "reward": 0.0, "01": 0.125},
    12: {"reward": -0.5, "01": 0.3, "pain": 0.1, "motor": 0.2},
    13: {"pain": -0.75},
    14: {"zebra": 0.2, "01": -0.2},
    15: {},
    16: {"motor": -0.001, "pain": 0.0},
}
NEVER_ASKED = (21, 22)
TERMS = ("01", "motor", "pain", "reward", "zebra")


def records(*image_ids: int, collection_id: int = 7, **fields: Any) -> Batch:
    batch = Batch()
    batch.add_record("collection", {"id": collection_id, "name": "a collection"} | fields)
    for id_ in image_ids:
        batch.add_record(
            "image", {"id": id_, "collection_id": collection_id, "name": f"image {id_}", "map_type": "Z map"}
        )
    return batch


def words_of(answers: dict[int, dict[str, float]], reference: str | None = "terms_20k") -> Batch:
    return Batch(words={id_: Words(weights, reference) for id_, weights in answers.items()})


def refusal(kind: str, id_: int, status: RefusedStatus) -> Batch:
    batch = Batch()
    batch.add_refusal(Refusal(kind, id_, status, "why", None, datetime.now(UTC)))
    return batch


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, new_catalog: Path) -> Store:
    """Return a catalog of the images above, whose terms landed one image after the other; nobody changes it."""
    store = Store(tmp_path_factory.mktemp("filled"))
    shutil.copy(new_catalog, store.path)
    store.land(records(*ANSWERS, *NEVER_ASKED))
    for id_ in (13, 11, 16, 12, 15, 14):
        store.land(words_of({id_: ANSWERS[id_]}))
    snapshot.take(store)
    return store


@pytest.fixture
def store(filled: Store, tmp_path: Path) -> Store:
    """Return a copy of it to change, without snapshots."""
    (tmp_path / LOCK_NAME).touch()
    shutil.copy(filled.path, tmp_path)
    return Store(tmp_path)


@pytest.fixture
def long_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every read count as a long one."""
    monkeypatch.setattr(matrix, "_MOST_AT_ONCE", -1)


def words(store: Store, image_ids: Any = None, **options: Any) -> WordMatrix:
    defaults: dict[str, Any] = dict.fromkeys(("where", "params", "terms", "min_abs_weight", "reference"))
    defaults |= {"missing": "zero", "dtype": float, "private": False, "gone": False}
    return matrix.chosen_words(store, parse_wish(image_ids, **defaults | options))


def rows(found: WordMatrix) -> list[list[float]]:
    values: list[list[float]] = found.frequencies.toarray().tolist()
    return values


# What it gives

wishes = st.builds(
    Wish,
    image_ids=st.lists(st.sampled_from([*ANSWERS, *NEVER_ASKED]), max_size=10).map(tuple),
    terms=st.none() | st.lists(st.sampled_from(TERMS), unique=True).map(tuple),
    min_abs_weight=st.sampled_from([0.0, 0.001, 0.2, 0.21, 5.0]),
    missing=st.sampled_from(["zero", "nan", "drop"]),
    dtype=st.sampled_from([np.float64, np.float32]),
)


def as_scikit_learn_does(wish: Wish, ids: list[int]) -> tuple[np.ndarray, list[str]]:
    """Vectorise the same answers, then do in a dense matrix what is wished for."""
    vectorizer = DictVectorizer(sparse=False)
    dense = vectorizer.fit_transform([ANSWERS.get(id_, {}) for id_ in ids] + [{}])[:-1]
    vocabulary = list(vectorizer.feature_names_)
    if wish.terms is not None:
        columns = [dense[:, vocabulary.index(t)] if t in vocabulary else np.zeros(len(ids)) for t in wish.terms]
        dense, vocabulary = np.array(columns).T.reshape(len(ids), len(columns)), list(wish.terms)
    dense[np.abs(dense) < wish.min_abs_weight] = 0
    if wish.missing == "nan":
        dense[[id_ in NEVER_ASKED for id_ in ids]] = np.nan
    return dense.astype(wish.dtype), vocabulary


@pytest.mark.parametrize("most_at_once", [100, -1], ids=["catalog", "snapshot"])
@settings(max_examples=25)
@given(wish=wishes)
def test_it_gives_what_scikit_learn_makes_of_the_same_answers(
    filled: Store, most_at_once: int, wish: Wish
) -> None:
    assert wish.image_ids is not None
    ids = [id_ for id_ in wish.image_ids if wish.missing != "drop" or id_ in ANSWERS]
    expected, vocabulary = as_scikit_learn_does(wish, ids)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "_MOST_AT_ONCE", most_at_once)
        found = matrix.find_words(filled, wish).words

    np.testing.assert_array_equal(found.frequencies.toarray(), expected)
    assert found.vocabulary.tolist() == vocabulary
    assert found.image_ids.tolist() == ids
    assert found.missing == tuple(dict.fromkeys(id_ for id_ in wish.image_ids if id_ in NEVER_ASKED))
    assert found.frequencies.dtype == wish.dtype
    assert found.frequencies.has_canonical_format
    stored = [
        sum(term in vocabulary and abs(weight) >= wish.min_abs_weight for term, weight in ANSWERS[id_].items())
        if id_ in ANSWERS
        else len(vocabulary) * (wish.missing == "nan")
        for id_ in ids
    ]
    assert np.diff(found.frequencies.indptr).tolist() == stored, "zeros that a decoder gave are stored, others not"


@pytest.mark.usefixtures("long_reads")
def test_words_that_come_a_few_at_a_time_make_the_same_matrix(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = words(filled)
    monkeypatch.setattr(matrix, "_WORDS_AT_ONCE", 2)

    assert rows(words(filled)) == rows(whole)


def test_without_any_choice_all_images_with_terms_are_meant(filled: Store) -> None:
    found = words(filled)

    assert found.image_ids.tolist() == sorted(ANSWERS)
    assert found.missing == ()
    assert found.reference == "terms_20k"


def test_terms_asked_for_are_the_columns_in_their_order(filled: Store) -> None:
    found = words(filled, [12, 11], terms=["reward", "pain"])

    assert found.vocabulary.tolist() == ["reward", "pain"]
    assert rows(found) == [[-0.5, 0.1], [0.0, 0.5]]
    assert rows(words(filled, 11, terms="pain")) == [[0.5]]


def test_a_threshold_leaves_out_weights_and_no_column(filled: Store) -> None:
    found = words(filled, [11, 12], min_abs_weight=0.5)

    assert found.vocabulary.tolist() == ["01", "motor", "pain", "reward"]
    assert rows(found) == [[0, 0, 0.5, 0], [0, 0, 0, -0.5]]
    assert found.frequencies.nnz == 2


# Images chosen by a condition


def test_a_condition_chooses_the_images(filled: Store) -> None:
    found = words(filled, where="image_id IN ($a, $b)", params={"a": 13, "b": 11}, terms="pain")

    assert found.image_ids.tolist() == [11, 13]
    assert rows(found) == [[0.5], [-0.75]]


def test_a_condition_that_nothing_matches_says_which_part_keeps_nothing(filled: Store) -> None:
    with pytest.warns(
        SelectionWarning, match=r"No image matches the condition\n.*\n +8  stat = 'z'\n +0  image_id = 1"
    ):
        found = words(filled, where="stat = 'z' AND image_id = 1")

    assert found.frequencies.shape == (0, 0)


def test_a_condition_that_cannot_be_asked_is_refused(filled: Store) -> None:
    with pytest.raises(QueryError, match="no column image"):
        words(filled, where="image = 1")


# What is not here


def test_rows_without_terms_are_warned_of_where_they_are_zeros(filled: Store) -> None:
    with pytest.warns(WordsWarning, match=r"Of 3 images no terms are here, .*: 22, 99, 21; 1 of them unknown"):
        found = words(filled, [22, 11, 99, 21])

    assert found.missing == (22, 99, 21)
    assert found.frequencies.toarray().any(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize("missing", ["nan", "drop"])
def test_who_says_what_becomes_of_missing_rows_hears_of_unknown_images_alone(filled: Store, missing: str) -> None:
    assert words(filled, [11, 21], missing=missing).missing == (21,)  # any warning would be an error

    with pytest.warns(WordsWarning, match="1 images asked for are unknown to the catalog: 99"):
        assert words(filled, [11, 99], missing=missing).missing == (99,)


def test_an_image_that_neurosynth_has_nothing_for_counts_as_missing(store: Store) -> None:
    store.land(refusal("words", 21, "not_found"))

    assert words(store, [21, 11], missing="drop").image_ids.tolist() == [11]


def test_a_misspelt_term_is_refused_with_the_nearest(filled: Store) -> None:
    with pytest.raises(InvalidOptionError, match=r"no image here has 'pian' \(did you mean 'pain'\?\), 'xyz'"):
        words(filled, [11], terms=["pain", "pian", "xyz"])


def test_a_term_that_none_of_the_images_has_is_a_column_of_zeros_with_a_warning(filled: Store) -> None:
    with pytest.warns(WordsWarning, match="No image asked for has 'zebra': those columns are zeros"):
        assert rows(words(filled, [11], terms=["zebra", "pain"])) == [[0.0, 0.5]]


def test_a_catalog_without_any_terms_gives_the_columns_asked_for(tmp_path: Path) -> None:
    found = words(Store(tmp_path), [1], terms=["pain"])

    assert rows(found) == [[0.0]]
    assert found.vocabulary.tolist() == ["pain"]


# Private images, and those that are gone


@pytest.fixture
def with_private(store: Store) -> Store:
    """Return the catalog with a private collection, a public image refused as private, and one that is gone."""
    store.land(records(31, 32, collection_id=8, private=True))
    store.land(words_of({31: {"pain": 0.31}, 32: {"pain": 0.32}}))
    store.land(refusal("image", 13, "private"))
    with store.writing() as connection:
        connection.execute("UPDATE images SET gone_at = now() WHERE image_id IN (14, 16)")
        connection.execute("INSERT INTO files (image_id, kind, state) VALUES (16, 'original', 'present')")
    return store


@pytest.mark.parametrize("choice", [{}, {"where": "true", "missing": "drop"}], ids=["all", "where"])
def test_private_and_gone_images_are_left_out_unless_asked_for(
    with_private: Store, choice: dict[str, Any]
) -> None:
    with (
        pytest.warns(SelectionWarning, match=r"[23] images of private collections are left out; private=True"),
        pytest.warns(
            SelectionWarning, match=r"gone from the server, and left out: .*16\. gone=True takes them too"
        ),
    ):
        assert words(with_private, **choice).image_ids.tolist() == [11, 12, 15]

    found = words(with_private, private=True, gone=True, **choice).image_ids.tolist()  # nothing is left to warn of
    assert [id_ for id_ in found if id_ != 14] == [11, 12, 13, 15, 16, 31, 32]
    assert (14 in found) == (not choice), "of a condition, those come whose files are here"


@pytest.mark.usefixtures("long_reads")
def test_private_and_gone_images_come_when_they_are_named_though_no_snapshot_has_them(with_private: Store) -> None:
    with pytest.warns(
        SelectionWarning, match="1 images are gone from the server, and taken as they are here: 14$"
    ):
        found = words(with_private, [32, 14, 11, 31, 13], terms=["pain"])

    assert rows(found) == [[0.32], [0.0], [0.5], [0.31], [-0.75]]


# Several reference sets


@pytest.mark.parametrize("most_at_once", [100, -1], ids=["catalog", "snapshot"])
def test_two_reference_sets_in_one_matrix_are_an_error_that_names_them(
    store: Store, monkeypatch: pytest.MonkeyPatch, most_at_once: int
) -> None:
    monkeypatch.setattr(matrix, "_MOST_AT_ONCE", most_at_once)
    store.land(words_of({21: {"pain": 0.9}}, "mine"))

    expected = r"2 reference sets.*'terms_20k' \(2 images\), 'mine' \(1 images\).*reference='terms_20k'"
    with pytest.raises(MixedSetsError, match=expected) as caught:
        words(store, [11, 21, 12])

    assert caught.value.sets == {"terms_20k": 2, "mine": 1}
    assert rows(words(store, [21, 21])) == [[0.9], [0.9]], "one set alone is no mixture"
    found = words(store, [11, 21, 12], reference="mine", missing="drop")
    assert (found.image_ids.tolist(), found.missing, found.reference) == ([21], (11, 12), "mine")
    with pytest.warns(WordsWarning, match="no terms of the reference set 'terms_20k' are here"):
        assert words(store, [11, 21], reference="terms_20k").frequencies.toarray()[1].tolist() == [0, 0, 0, 0]
    with pytest.warns(WordsWarning, match="no terms of the reference set 'mine' are here.* add_words adds them"):
        words(store, [11, 21], reference="mine")
    with pytest.warns(WordsWarning, match="no terms are here.* add_words adds them"):
        words(store, [21, 22])


def test_a_reference_set_that_is_not_here_is_refused_with_those_that_are(filled: Store) -> None:
    with pytest.raises(InvalidOptionError, match="no image here has terms of 'terms'; there are 'terms_20k'"):
        words(filled, [11], reference="terms")


@pytest.mark.parametrize("most_at_once", [100, -1], ids=["catalog", "snapshot"])
def test_answers_that_name_no_set_go_with_the_one_that_has_the_same_terms(
    store: Store, monkeypatch: pytest.MonkeyPatch, most_at_once: int
) -> None:
    monkeypatch.setattr(matrix, "_MOST_AT_ONCE", most_at_once)
    store.land(words_of({21: dict.fromkeys(ANSWERS[11], 0.1), 22: {"pain": 0.2}}, None))

    assert words(store, [11, 21], terms="pain").reference == "terms_20k"
    assert words(store, [22]).reference is None
    with pytest.raises(MixedSetsError, match=r"one without a name \(1 images\)"):
        words(store, [11, 22], terms="pain")
    assert words(store, [11, 21, 22], reference="", missing="drop").image_ids.tolist() == [21, 22]


def test_terms_that_wait_to_land_are_told_apart_too(store: Store) -> None:
    wish = Wish((11, 12))

    same = {12: Words(dict.fromkeys(ANSWERS[11], 0.9), None)}
    assert matrix.find_words(store, wish, same).words.frequencies.toarray()[1].tolist() == [0.9] * 4
    for other in (Words({"pain": 0.9}, None), Words({"pain": 0.9}, "mine")):
        with pytest.raises(MixedSetsError):
            matrix.find_words(store, wish, {12: other})


# Long reads


@pytest.fixture
def landing_meanwhile(monkeypatch: pytest.MonkeyPatch, store: Store) -> list[int]:
    """Land a word while others are read, and return a list of how often that was done."""
    done: list[int] = []
    read = matrix._Landed.parts

    def parts(source: Any) -> Iterator[Any]:
        for part in read(source):
            store.land(words_of({22: {"pain": 0.5}}), timeout_s=PATIENCE_S)
            done.append(len(part.rows))
            yield part

    monkeypatch.setattr(matrix._Landed, "parts", parts)
    return done


@pytest.mark.usefixtures("long_reads")
def test_a_long_read_holds_up_nobody_who_writes(store: Store, landing_meanwhile: list[int]) -> None:
    found = words(store, [11, 12])

    assert landing_meanwhile, "nothing was read"
    assert found.frequencies.nnz == 8


@pytest.mark.usefixtures("long_reads")
def test_a_long_read_has_what_landed_last(store: Store) -> None:
    words(store)
    store.land(words_of({11: {"pain": 0.75}, 21: {"pain": 0.25}}))

    assert rows(words(store, [11, 21], terms="pain")) == [[0.75], [0.25]]


@pytest.mark.usefixtures("long_reads")
@pytest.mark.parametrize("how_often", [1, 9])
@pytest.mark.parametrize("damaged", [False, True])
def test_terms_of_another_set_that_land_meanwhile_are_never_mixed_in(
    store: Store, monkeypatch: pytest.MonkeyPatch, how_often: int, *, damaged: bool
) -> None:
    moments = iter(range(how_often))

    def replaced_meanwhile(store: Store) -> str:
        for moment in moments:
            store.land(words_of({11: {"pain": 0.1}, 12: {"pain": moment}}, f"mine {moment}"))
            if damaged:
                raise duckdb.IOException("a damaged snapshot")
            break
        return "nothing is published"

    monkeypatch.setattr(snapshot, "catch_up", replaced_meanwhile)

    with pytest.raises(MixedSetsError, match=r"'mine \d' \(2 images\), 'terms_20k' \(1 images\)"):
        words(store, [11, 12, 13])
    assert words(store, [11, 12]).frequencies.toarray()[0].tolist() == [0.1]


@pytest.mark.usefixtures("long_reads")
def test_what_cannot_be_published_is_read_from_the_catalog(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.take(store)
    monkeypatch.setattr(snapshot, "catch_up", lambda store: "the disk is full")
    store.land(words_of({11: {"pain": 0.75}, 21: {"pain": 0.25}}))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows(words(store, [11, 12, 21], terms="pain")) == [[0.75], [0.1], [0.25]]


@pytest.mark.usefixtures("long_reads")
@pytest.mark.parametrize("any_there", [True, False])
def test_where_no_snapshot_can_be_read_the_catalog_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, any_there: bool
) -> None:
    def refuse(*_: Any) -> Any:
        raise SnapshotError("damaged")

    monkeypatch.setattr(matrix, "connected", refuse)
    if not any_there:
        monkeypatch.setattr(snapshot, "catch_up", lambda store: "the disk is full")

    assert rows(words(store, [11, 12], terms="pain")) == [[0.5], [0.1]]


@pytest.mark.usefixtures("long_reads")
def test_a_damaged_snapshot_costs_no_answer(store: Store) -> None:
    for file in snapshot.take(store).glob("words/*.parquet"):
        file.write_bytes(file.read_bytes()[:-100])

    assert rows(words(store, [11, 12], terms="pain")) == [[0.5], [0.1]]
