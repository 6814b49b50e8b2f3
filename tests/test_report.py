"""A report has an outcome for every id, and says at a glance what is missing."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import get_args

import pandas as pd
import pytest

from nvcatalog import Outcome, Report
from nvcatalog.errors import HostGivenUpError, RefusedError, TransientError
from nvcatalog.report import Status, missing_text, outcome_of

OUTCOMES = [
    Outcome("collection", 7, "private", "HTTP 403"),
    Outcome("image", 1, "cached"),
    Outcome("image", 2, "downloaded"),
    Outcome("image", 3, "downloaded"),
    Outcome("image", None, "broken_on_server", "record 38 of collection 7"),
    Outcome("words", 1, "not_found", "Neurosynth has no such image"),
]


def test_a_report_is_the_sequence_of_its_outcomes() -> None:
    report = Report(OUTCOMES)

    assert isinstance(report, Sequence)
    assert list(report) == OUTCOMES
    assert (len(report), report[0], report[-1]) == (6, OUTCOMES[0], OUTCOMES[-1])
    assert OUTCOMES[1] in report
    kind, id_, status, reason = report[0]
    assert (kind, id_, status, reason) == ("collection", 7, "private", "HTTP 403")


def test_a_slice_of_a_report_is_a_report() -> None:
    part = Report(OUTCOMES)[1:4]

    assert isinstance(part, Report)
    assert part.counts == {"downloaded": 2, "cached": 1}


def test_equal_outcomes_make_equal_reports() -> None:
    assert Report(OUTCOMES) == Report(iter(OUTCOMES))
    assert Report(OUTCOMES) != Report(OUTCOMES[::-1])
    assert Report(OUTCOMES) != OUTCOMES
    assert len({Report(OUTCOMES), Report(OUTCOMES), Report()}) == 2


def test_counts_go_by_status_most_frequent_first() -> None:
    counts = Report(OUTCOMES[::-1]).counts

    assert counts == {"downloaded": 2, "cached": 1, "private": 1, "broken_on_server": 1, "not_found": 1}
    assert next(iter(counts)) == "downloaded"
    assert Report().counts == {}


def test_a_report_shows_its_counts_and_not_its_ten_thousand_ids() -> None:
    assert repr(Report([Outcome("image", n, "cached") for n in range(1, 10_001)])) == "<Report: 10000 cached>"
    assert repr(Report()) == "<Report: no outcomes>"


@pytest.mark.parametrize("status", get_args(Status))
def test_an_image_is_missing_unless_it_is_here_as_the_server_has_it(status: Status) -> None:
    outcome = Outcome("image", 1, status)

    assert outcome.here == (status in {"cached", "downloaded", "adopted", "kept_old"})
    # A kept old file is here, and yet not what was asked for.
    assert outcome.missing == (status not in {"cached", "downloaded", "adopted"})
    assert Report([outcome]).missing == ((outcome,) if outcome.missing else ())


def test_terms_that_neurosynth_has_not_leave_no_gap_but_ones_that_failed_do() -> None:
    assert not Outcome("words", 1, "not_found").missing
    assert Outcome("words", 1, "failed").missing
    assert Outcome("words", 1, "missing_offline").missing


def test_the_dataframe_has_a_row_an_outcome() -> None:
    frame = Report(OUTCOMES).df()

    assert list(frame.columns) == ["kind", "id", "status", "reason"]
    assert frame["id"].dtype == pd.Int64Dtype()
    assert frame["id"].tolist()[:4] == [7, 1, 2, 3]
    assert frame["id"].isna().tolist() == [False, False, False, False, True, False]
    assert frame.loc[frame["status"] == "broken_on_server", "reason"].tolist() == ["record 38 of collection 7"]
    assert frame["reason"].isna().tolist() == [False, True, True, True, False, False]


def test_the_dataframe_of_an_empty_report_has_its_columns_too() -> None:
    frame = Report().df()

    assert list(frame.columns) == ["kind", "id", "status", "reason"]
    assert frame["id"].dtype == pd.Int64Dtype()
    assert frame.empty


def test_a_report_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Report(OUTCOMES))) == Report(OUTCOMES)


def test_a_refusal_keeps_its_status_and_every_other_trouble_is_a_failure() -> None:
    refused = RefusedError("HTTP 403 for api/collections/7/", status="private")

    assert outcome_of("collection", 7, refused) == Outcome("collection", 7, "private", str(refused))
    for error in (TransientError("HTTP 503", status=503), HostGivenUpError("no connection in 3 tries")):
        assert outcome_of("image", 1, error) == Outcome("image", 1, "failed", str(error))


def test_a_reason_that_many_have_is_said_once() -> None:
    down = "Neurosynth: no connection"
    missing = [Outcome("words", id_, "failed", down) for id_ in range(1, 21)]
    missing += [
        Outcome("image", 7, "not_found", "HTTP 404"),
        Outcome("image", None, "broken_on_server", "record 3"),
    ]

    assert missing_text(missing, given_up=[None, down]) == (
        "Not all that was asked for is here: 20 failed, 1 not_found, 1 broken_on_server. words 1, 2, 3, … failed "
        "(Neurosynth: no connection); image 7 not_found (HTTP 404); image broken_on_server (record 3); .report "
        "has them all. Stopped early."
    )
    missing.append(Outcome("collection", 9, "private", "HTTP 403"))
    text = missing_text(missing, "Not all", ["NeuroVault: blocked"])
    assert text.startswith("Not all: 20 failed")
    assert text.endswith("(record 3); …; .report has them all. Stopped early: NeuroVault: blocked.")
