"""The plan decides from what is known and what is on disk: here, to fetch, or known to be unavailable."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvcatalog import Outcome, storage
from nvcatalog.errors import InvalidModeError, NVCatalogError
from nvcatalog.known import Known, KnownCollection, KnownImage, LocalFile, Refusal
from nvcatalog.plan import (
    MODES,
    Mode,
    Plan,
    Request,
    make_plan,
    parse_mode,
    refusal_holds,
    wanted_images,
    what_to_list,
)

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, tzinfo=UTC)
EDITED = "2026-01-01T00:00:00+01:00"
EDITED_AT = datetime.fromisoformat(EDITED)


def ask(
    collections: tuple[int, ...] = (),
    images: tuple[int, ...] = (),
    mode: Mode = "download_new",
    *,
    words: bool = False,
) -> Request:
    return Request(collections, images, mode, words)


def know(known: Known, collection_id: int, *image_ids: int, complete: bool = True) -> None:
    known.collections[collection_id] = KnownCollection(collection_id, {"id": collection_id}, complete)
    for id_ in image_ids:
        known.images[id_] = KnownImage(id_, collection_id, {"id": id_, "modify_date": EDITED, "file_size": 3})


def put_file(folder: Path, known: Known, image_id: int, content: bytes = b"map") -> None:
    path = storage.image_path(known.images[image_id].collection_id, image_id)
    storage.write_whole(folder / path, content)
    known.images[image_id].file = LocalFile(path, 3, "present")


def refusal(kind: str, id_: int, *, days_ago: float = 1, modify_date: datetime | None = EDITED_AT) -> Refusal:
    return Refusal(kind, id_, "not_found", "HTTP 404", modify_date, NOW - timedelta(days=days_ago))


@pytest.fixture
def known() -> Known:
    """Return what is known of collection 7 with the images 1 to 4."""
    known = Known()
    know(known, 7, 4, 2, 1, 3)
    return known


# Modes


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_is_known_in_any_case(mode: Mode) -> None:
    assert parse_mode(mode) == parse_mode(mode.upper()) == parse_mode(mode.title()) == mode


@pytest.mark.parametrize("mode", ["new", "", " offline", "download-new", None, 3, ["offline"]])
def test_an_unknown_mode_is_a_value_error_in_nilearns_words(mode: object) -> None:
    with pytest.raises(
        InvalidModeError, match="'mode' must be one of 'download_new', 'overwrite', 'offline'"
    ) as raised:
        parse_mode(mode)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, NVCatalogError)
    assert repr(mode) in str(raised.value)


# Refusals


def test_a_refusal_holds_for_seven_days() -> None:
    assert refusal_holds(refusal("image", 1, days_ago=6.99), EDITED_AT, mode="download_new", now=NOW)
    assert not refusal_holds(refusal("image", 1, days_ago=7), EDITED_AT, mode="download_new", now=NOW)


def test_a_refusal_ends_when_the_record_moves() -> None:
    later = EDITED_AT + timedelta(microseconds=1)
    assert not refusal_holds(refusal("image", 1), later, mode="download_new", now=NOW)
    assert refusal_holds(refusal("image", 1), EDITED_AT.astimezone(UTC), mode="download_new", now=NOW)


def test_a_refusal_of_the_record_itself_ends_when_there_is_a_record() -> None:
    refused = refusal("image", 1, modify_date=None)
    assert refusal_holds(refused, None, mode="download_new", now=NOW)
    assert not refusal_holds(refused, EDITED_AT, mode="download_new", now=NOW)


def test_overwrite_believes_no_refusal_and_offline_every_one() -> None:
    assert not refusal_holds(refusal("image", 1), EDITED_AT, mode="overwrite", now=NOW)
    assert refusal_holds(refusal("image", 1, days_ago=70), None, mode="offline", now=NOW)


def test_no_refusal_holds_in_no_mode() -> None:
    assert not any(refusal_holds(None, EDITED_AT, mode=mode, now=NOW) for mode in MODES)


# What to list


def test_offline_lists_nothing() -> None:
    assert not what_to_list(ask((7,), (1,), "offline"), Known(), now=NOW)


def test_what_the_catalog_does_not_know_is_listed() -> None:
    to_list = what_to_list(ask((7,), (1,)), Known(), now=NOW)
    assert (to_list.collection_ids, to_list.image_ids) == ((7,), (1,))


def test_a_collection_once_listed_to_the_end_is_not_listed_again(known: Known) -> None:
    assert not what_to_list(ask((7,), (1, 2)), known, now=NOW)
    known.collections[7].complete = False
    assert what_to_list(ask((7,)), known, now=NOW).collection_ids == (7,)


def test_an_image_alone_does_not_ask_for_its_unfinished_collection(known: Known) -> None:
    known.collections[7].complete = False
    assert not what_to_list(ask((), (1,)), known, now=NOW)


def test_an_image_whose_collections_record_is_unknown_is_listed(known: Known) -> None:
    known.collections[7].record = None
    assert what_to_list(ask((), (1,)), known, now=NOW).image_ids == (1,)
    del known.collections[7]
    assert what_to_list(ask((), (1,)), known, now=NOW).image_ids == (1,)


def test_an_image_whose_collections_record_was_refused_is_not_listed_while_the_refusal_holds(known: Known) -> None:
    known.collections[7].record = None
    known.refusals["collection", 7] = refusal("collection", 7, modify_date=None)
    assert not what_to_list(ask((), (1,)), known, now=NOW)
    assert what_to_list(ask((), (1,)), known, now=NOW + timedelta(days=7)).image_ids == (1,)


def test_overwrite_lists_everything_but_no_image_twice(known: Known) -> None:
    know(known, 8, 11)
    to_list = what_to_list(ask((7,), (1, 11, 12), "overwrite"), known, now=NOW)
    assert (to_list.collection_ids, to_list.image_ids) == ((7,), (11, 12))


def test_refused_ids_are_not_listed_while_the_refusal_holds() -> None:
    known = Known()
    known.refusals["collection", 7] = refusal("collection", 7, modify_date=None)
    known.refusals["image", 1] = refusal("image", 1, modify_date=None)
    assert not what_to_list(ask((7,), (1,)), known, now=NOW)
    assert what_to_list(ask((7,), (1,), "overwrite"), known, now=NOW)
    after_a_week = what_to_list(ask((7,), (1,)), known, now=NOW + timedelta(days=7))
    assert (after_a_week.collection_ids, after_a_week.image_ids) == ((7,), (1,))


def test_a_list_with_a_broken_record_is_read_again_after_a_week(known: Known) -> None:
    broken = replace(refusal("position", 7), status="broken_on_server", position=3)
    known.positions[7] = [broken]
    assert not what_to_list(ask((7,)), known, now=NOW)
    assert what_to_list(ask((7,)), known, now=NOW + timedelta(days=7)).collection_ids == (7,)


# The order of the answer


def test_collections_come_in_the_order_given_images_by_id_inside_then_single_images(known: Known) -> None:
    know(known, 8, 12, 11)
    assert wanted_images(ask((8, 7), (30, 2, 20)), known) == (11, 12, 1, 2, 3, 4, 30, 20)


def test_a_deleted_image_belongs_to_its_collection_only_while_its_file_is_here(
    known: Known, tmp_path: Path
) -> None:
    for id_ in (1, 2):
        known.images[id_].gone = True
    put_file(tmp_path, known, 2)
    assert wanted_images(ask((7,)), known) == (2, 3, 4)
    assert wanted_images(ask((7,), (1,)), known) == (2, 3, 4, 1)


@given(
    parents=st.dictionaries(st.integers(1, 40), st.integers(1, 5), max_size=20),
    collections=st.lists(st.integers(1, 6), unique=True),
    images=st.lists(st.integers(1, 50), unique=True),
)
def test_every_id_asked_for_is_in_the_answers_order_once(
    parents: dict[int, int], collections: list[int], images: list[int]
) -> None:
    known = Known(images={id_: KnownImage(id_, parent, {}) for id_, parent in parents.items()})
    wanted = wanted_images(ask(tuple(collections), tuple(images)), known)

    held = [id_ for collection in collections for id_ in known.images_of(collection)]
    assert len(set(wanted)) == len(wanted)
    assert list(wanted[: len(held)]) == held
    assert list(wanted[len(held) :]) == [id_ for id_ in images if id_ not in held]
    assert known.images_by_collection() == {c: known.images_of(c) for c in set(parents.values())}


# The plan


def plan_for(request: Request, known: Known, folder: Path) -> Plan:
    return make_plan(request, known, folder, now=NOW)


def test_download_new_fetches_exactly_what_is_missing(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 2)
    put_file(tmp_path, known, 3, b"cut")
    plan = plan_for(ask((7,)), known, tmp_path)

    assert plan.images == (1, 2, 3, 4)
    assert sorted(plan.here) == [2, 3]
    assert plan.to_fetch == (1, 4)
    assert not plan.settled


def test_a_file_that_is_gone_or_has_another_size_counts_as_missing(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 1, b"longer than recorded")
    put_file(tmp_path, known, 2, b"")
    put_file(tmp_path, known, 3)
    (tmp_path / storage.image_path(7, 3)).unlink()
    put_file(tmp_path, known, 4)

    assert plan_for(ask((7,)), known, tmp_path).to_fetch == (1, 2, 3)
    offline = plan_for(ask((7,), mode="offline"), known, tmp_path)
    assert offline.to_fetch == ()
    assert {o.status for o in offline.settled.values()} == {"missing_offline"}
    assert "has 20 bytes, 3 are recorded" in str(offline.settled["image", 1].reason)
    assert "is gone (No such file or directory)" in str(offline.settled["image", 3].reason)


def test_overwrite_fetches_what_is_here_too(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 2)
    plan = plan_for(ask((7,), mode="overwrite"), known, tmp_path)
    assert plan.to_fetch == (1, 2, 3, 4)
    assert list(plan.here) == [2]


def test_offline_says_what_is_missing_and_fetches_nothing(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 2)
    plan = plan_for(ask((7,), (99,), "offline", words=True), known, tmp_path)

    assert (plan.to_fetch, plan.words_to_fetch) == ((), frozenset())
    assert plan.settled["image", 99] == Outcome("image", 99, "missing_offline", "unknown here, never fetched")
    assert plan.settled["image", 1].status == "missing_offline"
    assert ("image", 2) not in plan.settled
    assert plan.settled["words", 2].status == "missing_offline"


def test_a_refused_file_is_not_fetched_and_keeps_its_reason(known: Known, tmp_path: Path) -> None:
    known.refusals["image", 1] = refusal("image", 1)
    known.refusals["image", 2] = refusal("image", 2, days_ago=8)
    known.refusals["image", 3] = refusal("image", 3, modify_date=EDITED_AT - timedelta(days=1))
    plan = plan_for(ask((7,)), known, tmp_path)

    assert plan.to_fetch == (2, 3, 4)
    assert plan.settled == {("image", 1): Outcome("image", 1, "not_found", "HTTP 404")}
    assert plan_for(ask((7,), mode="overwrite"), known, tmp_path).to_fetch == (1, 2, 3, 4)


def test_a_refused_file_that_is_here_is_here(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 1)
    known.refusals["image", 1] = refusal("image", 1)
    plan = plan_for(ask((), (1,)), known, tmp_path)
    assert list(plan.here) == [1]
    assert not plan.settled


def test_an_image_deleted_on_the_server_is_asked_for_only_by_its_own_id(known: Known, tmp_path: Path) -> None:
    known.images[1].gone = known.images[2].gone = True
    put_file(tmp_path, known, 2)

    assert plan_for(ask((7,)), known, tmp_path).to_fetch == (3, 4)
    plan = plan_for(ask((), (1, 2)), known, tmp_path)
    assert plan.to_fetch == (1,)
    assert list(plan.here) == [2]
    assert not plan.settled


def test_an_image_nobody_knows_is_left_to_the_lists_outcome(tmp_path: Path) -> None:
    plan = plan_for(ask((), (99,)), Known(), tmp_path)
    assert plan.images == (99,)
    assert (dict(plan.here), plan.to_fetch, dict(plan.settled)) == ({}, (), {})


# Words


def test_terms_are_asked_for_where_they_are_missing(known: Known, tmp_path: Path) -> None:
    put_file(tmp_path, known, 1)
    known.with_words = {1, 2}
    assert plan_for(ask((7,), words=True), known, tmp_path).words_to_fetch == {3, 4}
    assert plan_for(ask((7,), mode="overwrite", words=True), known, tmp_path).words_to_fetch == {1, 2, 3, 4}
    assert plan_for(ask((7,)), known, tmp_path).words_to_fetch == frozenset()


def test_terms_are_not_asked_for_where_the_file_cannot_be_had(known: Known, tmp_path: Path) -> None:
    known.refusals["image", 1] = refusal("image", 1)
    known.images[2].gone = True
    assert plan_for(ask((7,), words=True), known, tmp_path).words_to_fetch == {3, 4}


def test_refused_terms_are_not_asked_for_while_the_refusal_holds(known: Known, tmp_path: Path) -> None:
    known.refusals["words", 1] = refusal("words", 1)
    known.refusals["words", 2] = refusal("words", 2, days_ago=7)
    known.refusals["words", 3] = refusal("words", 3, modify_date=EDITED_AT - timedelta(days=1))
    plan = plan_for(ask((7,), words=True), known, tmp_path)

    assert plan.words_to_fetch == {2, 3, 4}
    assert plan.settled == {("words", 1): Outcome("words", 1, "not_found", "HTTP 404")}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image_type": "atlas"}, "no atlases"),
        ({"data_origin": "surface"}, "no surface maps"),
        ({"file_size": 4_000_001}, "no file over 4,000,000 bytes; this one has 4,000,001"),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_neurosynth_is_spared_what_it_cannot_decode(
    known: Known, tmp_path: Path, fields: dict[str, object], reason: str, mode: Mode
) -> None:
    known.images[1].record.update(fields)
    put_file(tmp_path, known, 1)
    plan = plan_for(ask((), (1,), mode, words=True), known, tmp_path)

    assert plan.words_to_fetch == frozenset()
    assert plan.settled["words", 1].status == "not_found"
    assert reason in str(plan.settled["words", 1].reason)


@given(
    present=st.sets(st.integers(1, 4)),
    refused=st.sets(st.integers(1, 5)),
    gone=st.sets(st.integers(1, 4)),
    asked=st.lists(st.integers(1, 6), unique=True),
    mode=st.sampled_from(MODES),
)
def test_an_image_has_one_fate_and_offline_none_is_fetched(
    present: set[int], refused: set[int], gone: set[int], asked: list[int], mode: Mode,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("data")
    known = Known()
    know(known, 7, 1, 2, 3, 4)
    for id_ in present:
        put_file(folder, known, id_)
    for id_ in refused:
        known.refusals["image", id_] = refusal("image", id_)
    for id_ in gone:
        known.images[id_].gone = True
    plan = plan_for(ask((), tuple(asked), mode), known, folder)

    assert set(plan.here) == present & set(asked)
    assert not {id_ for _, id_ in plan.settled} & {*plan.here, *plan.to_fetch}
    assert mode == "overwrite" or not set(plan.here) & set(plan.to_fetch)
    assert mode != "offline" or not plan.to_fetch
    fated = {*plan.here, *plan.to_fetch, *(id_ for _, id_ in plan.settled)}
    left_to_the_list = {5, 6} if mode != "offline" else set()
    assert set(asked) - fated <= left_to_the_list
