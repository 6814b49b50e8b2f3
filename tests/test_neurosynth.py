"""A decode answer is believed only when it is one; what Neurosynth lastingly has not is told from trouble."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fetching import no_waiting as no_waiting
from waiting import PATIENCE_S, hold_until_together

from nvcatalog import fetch_neurovault_ids
from nvcatalog._http import Health, Service
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.demo.decoding import vocabulary
from nvcatalog.errors import HostGivenUpError, IncompleteWarning, RefusedError, TransientError, WordsWarning
from nvcatalog.neurosynth import (
    CONNECTIONS,
    LARGEST_FILE,
    LIMITS,
    Decoded,
    Neurosynth,
    read_answer,
    root,
    why_not_asked,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_waiting")

DECODE = "/api/decode/"


@pytest.fixture
def service(server: DemoServer) -> Iterator[Service]:
    health = Health("Neurosynth", LIMITS)
    with closing(
        Service("Neurosynth", server.neurosynth_url, connections=CONNECTIONS, timeout_s=PATIENCE_S, health=health)
    ) as service:
        yield service


@pytest.fixture
def neurosynth(service: Service) -> Neurosynth:
    return Neurosynth(service)


def answer(data: object) -> faults.Fault:
    return faults.wrong_bytes(json.dumps(data).encode())


# What an answer says


def test_every_term_comes_with_its_signed_weight(world: World, neurosynth: Neurosynth) -> None:
    decoded = neurosynth.decode(10426)
    assert decoded.weights == world.words(10426)
    assert list(decoded.weights) == list(vocabulary())
    assert min(decoded.weights.values()) < 0 < max(decoded.weights.values())
    assert {"001", "05", "true", "false"} & set(vocabulary()) <= set(decoded.weights)
    assert decoded.reference == "terms_20k"


def test_the_text_is_kept_as_it_came(server: DemoServer, neurosynth: Neurosynth) -> None:
    text = b'{"data": {"values": {"pain":  0.125,"reward":-1}}}'
    server.fail(DECODE, faults.wrong_bytes(text))
    assert neurosynth.decode(1) == Decoded({"pain": 0.125, "reward": -1.0}, None, text)


@pytest.mark.parametrize(
    ("data", "weights", "reference"),
    [
        ({"values": {"pain": 0.5}, "reference": "terms_20k"}, {"pain": 0.5}, "terms_20k"),
        ({"values": {"pain": 0.5}}, {"pain": 0.5}, None),
        ({"values": {"pain": 0.5}, "reference": 7}, {"pain": 0.5}, None),
        ({"values": {"pain": 0, "001": 1, "true": -0.5}}, {"pain": 0.0, "001": 1.0, "true": -0.5}, None),
    ],
)
def test_the_older_form_is_read_too(data: object, weights: dict[str, float], reference: str | None) -> None:
    decoded = read_answer(json.dumps({"data": data}).encode())
    assert (decoded.weights, decoded.reference) == (weights, reference)
    assert all(type(weight) is float for weight in decoded.weights.values())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"data": null}',
        b'{"data": []}',
        b'{"data": {}}',
        b'{"data": {"values": null}}',
        b'{"data": {"values": {}}}',
        b'{"data": {"values": [["pain", 0.5]]}}',
        b'{"data": {"values": {"pain": "0.5"}}}',
        b'{"data": {"values": {"pain": null, "reward": 0.5}}}',
        b'{"data": {"values": {"pain": true}}}',
        b'{"data": {"values": {"pain": NaN}}}',
        b'{"data": {"values": {"pain": -Infinity}}}',
        b'{"data": {"values": {"pain": 1e999}}}',
        b'{"data": {"values": {"pain": 1' + b"0" * 400 + b"}}}",
        b'{"data": {"values": {"pain": 1' + b"0" * 5000 + b"}}}",
        b'{"data": {"values": {"pain": 0.5}',
        b'\xff{"data": {"values": {"pain": 0.5}}}',
    ],
    ids=lambda text: repr(text[:60]),
)
def test_what_holds_no_terms_is_no_answer(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|terms|number|correlation|too large|utf-8|digit|Expecting"):
        read_answer(text)


# What it says when it has none


@pytest.mark.parametrize("code", [404, 413, 415])
def test_a_lasting_refusal_is_asked_once(
    server: DemoServer, world: World, neurosynth: Neurosynth, code: int
) -> None:
    world.set_words(9034, code)
    with pytest.raises(RefusedError, match=f"HTTP {code}") as caught:
        neurosynth.decode(9034)
    assert (caught.value.status, caught.value.lasting) == ("not_found", True)
    assert server.requests == 1


@pytest.mark.parametrize("data", [{}, {"values": {}}, {"values": None}, {"id": "x", "values": {}}])
def test_whole_json_without_values_is_a_lasting_refusal(
    server: DemoServer, neurosynth: Neurosynth, data: object
) -> None:
    server.fail(DECODE, answer({"data": data}))
    with pytest.raises(RefusedError, match="no terms") as caught:
        neurosynth.decode(9034)
    assert (caught.value.status, caught.value.lasting) == ("not_found", True)
    assert server.requests == 1


def test_an_unknown_image_is_not_a_success(neurosynth: Neurosynth) -> None:
    with pytest.raises(RefusedError, match="no terms"):
        neurosynth.decode(999_999)


@pytest.mark.parametrize(
    "trouble",
    [
        *(faults.status(code) for code in (400, 403, 404, 413, 415, 429, 500, 502, 503, 504)),
        faults.api_error(500, "x"),
        faults.api_error(400, "x"),
        faults.html(),
        faults.cut_json(),
        faults.cut(),
        faults.reset(),
        faults.nan_json(),
        faults.wrong_length(10),
        answer([]),
        answer({"data": []}),
        answer({"data": {"error": "worker died"}}),
        answer({"data": {"values": {"pain": "high"}}}),
        answer({"message": "try later"}),
    ],
    ids=lambda fault: fault.name,
)
def test_trouble_is_tried_again(server: DemoServer, neurosynth: Neurosynth, trouble: faults.Fault) -> None:
    server.fail(DECODE, trouble, times=2)
    assert neurosynth.decode(9034).weights
    server.fail(DECODE, trouble)
    with pytest.raises((TransientError, HostGivenUpError)):
        neurosynth.decode(9034)


def test_five_failures_in_a_row_are_enough(server: DemoServer, service: Service, neurosynth: Neurosynth) -> None:
    server.fail(DECODE, faults.status(502))
    with pytest.raises(TransientError):
        neurosynth.decode(9034)
    with pytest.raises(HostGivenUpError, match="5 failures in a row"):
        neurosynth.decode(9035)
    assert server.requests == 5
    assert not service.health.blocked


def test_refusals_are_no_failures(world: World, service: Service, neurosynth: Neurosynth) -> None:
    for code in (404, 413, 415):
        world.set_words(9034, code)
        for _ in range(3):
            with pytest.raises(RefusedError):
                neurosynth.decode(9034)
    assert service.health.given_up is None


def test_pages_that_forbid_mean_that_it_is_blocked(
    server: DemoServer, service: Service, neurosynth: Neurosynth
) -> None:
    server.fail(DECODE, faults.status(403))
    with pytest.raises(HostGivenUpError):
        neurosynth.decode(9034)
    assert service.health.blocked
    assert server.requests == 3


# Whom not to ask


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"image_type": "statistic_map", "file_size": LARGEST_FILE, "data_origin": "volume"}, None),
        ({"image_type": "statistic_map", "file_size": LARGEST_FILE + 1}, "over 4,000,000 bytes"),
        ({"image_type": "NIDM results statistic map", "file_size": 0}, None),
        ({"image_type": "atlas"}, "no atlases"),
        ({"image_type": "statistic_map", "data_origin": "surface"}, "no surface maps"),
        ({"file_size": None}, None),
        ({"file_size": "large"}, None),
        ({}, None),
    ],
)
def test_each_first_decode_costs_neurosynth_a_download(record: dict[str, Any], why: str | None) -> None:
    said = why_not_asked(record)
    assert said is None if why is None else why in (said or "")


def test_the_root_is_neurosynths_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert root() == "https://neurosynth.org"
    monkeypatch.setenv("NVCATALOG_NEUROSYNTH_URL", "http://127.0.0.1:8000/")
    assert root() == "http://127.0.0.1:8000"


# In a fetch


def fetch(data_dir: Path, image_ids: list[int], **options: Any) -> Any:
    return fetch_neurovault_ids(
        image_ids=image_ids, data_dir=data_dir, fetch_neurosynth_words=True, verbose=0, **options
    )


def outcomes(maps: Any, kind: str) -> dict[int, str]:
    return {outcome.id: outcome.status for outcome in maps.report if outcome.kind == kind}


def test_what_it_would_refuse_is_not_asked_for(server: DemoServer, world: World, data_dir: Path) -> None:
    large = world.add_image(555, {"file_size": LARGEST_FILE + 1})
    world.edit_image(large, file_size=LARGEST_FILE + 1)
    atlas = world.add_image(555, {"image_type": "atlas"})
    surface = world.add_image(555, {"data_origin": "surface"})
    with pytest.warns() as caught:
        maps = fetch(data_dir, [9034, large, atlas, surface])
    assert {warning.category for warning in caught} == {WordsWarning, IncompleteWarning}
    assert [hit.query["neurovault"] for hit in server.hits(DECODE)] == ["9034"]
    assert outcomes(maps, "words") == {9034: "downloaded", atlas: "not_found", surface: "not_found"}


def test_it_is_asked_over_two_connections_only(server: DemoServer, data_dir: Path) -> None:
    hold_until_together(server, DECODE, 2)
    fetch(data_dir, list(range(9034, 9054)))
    assert server.peak_connections["neurosynth"] == 2
    assert len(server.hits(DECODE)) == 20


def test_it_is_waited_for_longer_than_files_are(
    server: DemoServer, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_neurovault_ids(image_ids=[9034], data_dir=data_dir, verbose=0)
    server.fail(DECODE, faults.slow(0.4))
    maps = fetch(data_dir, [9034], timeout=0.2)
    assert outcomes(maps, "words") == {9034: "downloaded"}
    server.fail("/media/*", faults.slow(3600))
    with pytest.warns(IncompleteWarning, match="timed out|time-out"):
        fetch(data_dir, [9035], timeout=0.2, vectorize_words=False)


def test_its_being_given_up_costs_no_file_and_is_said(server: DemoServer, data_dir: Path) -> None:
    server.fail(DECODE, faults.status(503))
    with pytest.warns(IncompleteWarning, match=r"Neurosynth: 5 failures in a row.* Stopped early\."):
        maps = fetch(data_dir, list(range(9034, 9054)), vectorize_words=False)
    assert set(outcomes(maps, "image").values()) == {"downloaded"}
    assert set(outcomes(maps, "words").values()) == {"failed"}
    assert len(server.hits(DECODE)) <= 6  # one may be under way when the fifth fails
    server.heal()
    assert set(outcomes(fetch(data_dir, list(range(9034, 9054))), "words").values()) == {"downloaded"}


@pytest.mark.parametrize(
    "trouble",
    [
        faults.html(),
        faults.nan_json(),
        faults.cut_json(),
        faults.cut(),
        answer({"data": {"values": {"pain": None}}}),
    ],
    ids=lambda fault: fault.name,
)
def test_a_bad_answer_is_never_stored(server: DemoServer, data_dir: Path, trouble: faults.Fault) -> None:
    server.fail(DECODE, trouble)
    with pytest.warns(IncompleteWarning):
        fetch(data_dir, [9034], vectorize_words=False)
    assert not list(data_dir.rglob("neurosynth_words*"))
    server.heal()
    fetch(data_dir, [9034])
    (words,) = data_dir.rglob("neurosynth_words*")
    assert json.loads(words.read_bytes())["data"]["reference"] == "terms_20k"
