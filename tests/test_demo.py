"""The demo server counts what it is asked, and fails in just the ways it is told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import requests
from waiting import PATIENCE_S, wait_until

from nvcatalog.demo import DemoServer, World, faults

if TYPE_CHECKING:
    from collections.abc import Callable

    Get = Callable[..., requests.Response]
    Decode = Callable[[int], requests.Response]


# What the server notes


def test_log_has_every_request_of_both_services_in_order(server: DemoServer, get: Get, decode: Decode) -> None:
    get("/api/images/9034/?a=1&b=", headers={"X-Some-Header": "here"})
    decode(9034)
    get("/media/nothing")
    first, second, third = server.log
    assert server.requests == 3
    assert (first.method, first.path, first.query, first.status) == (
        "GET", "/api/images/9034/", {"a": "1", "b": ""}, 200,
    )  # fmt: skip
    assert first.headers["x-some-header"] == "here"
    assert (second.service, second.query) == ("neurosynth", {"neurovault": "9034"})
    assert third.status == 404
    assert server.hits("/media/*") == [third]
    assert server.hits("/api/decode*") == [second]
    assert first.time <= second.time <= third.time
    server.reset_log()
    assert server.requests == 0


def test_connections_are_kept_alive_and_counted(server: DemoServer, client: requests.Session) -> None:
    for _ in range(5):
        client.get(f"{server.neurovault_url}/api/images/9034/", timeout=PATIENCE_S)
    assert server.connections_opened == 1
    closing = {"Connection": "close"}
    for _ in range(2):
        requests.get(f"{server.neurovault_url}/api/images/9034/", headers=closing, timeout=PATIENCE_S)
    assert server.connections_opened == 3


def test_peak_is_how_many_answers_were_under_way_at_once(world: World) -> None:
    with DemoServer(world, latency_s=3600) as server:  # so all are under way until the server closes
        urls = [server.neurovault_url + world.file_path(i) for i in world.image_ids(555)[:5]]
        urls.append(f"{server.neurovault_url}/api/images/9034/")
        threads = [threading.Thread(target=get_unless_closed, args=(url,)) for url in urls]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.requests == len(urls))
        peaks = dict(server.peak_connections)
    for thread in threads:
        thread.join()
    assert peaks == {"media": 5, "api": 1, "neurovault": 6}


def get_unless_closed(url: str) -> None:
    with contextlib.suppress(requests.ConnectionError):
        requests.get(url, timeout=2 * PATIENCE_S)


def test_one_connection_never_counts_as_two(world: World, server: DemoServer, client: requests.Session) -> None:
    made = world.add_synthetic(7, 20)
    for image_id in made:
        client.get(server.neurovault_url + world.file_path(image_id), timeout=PATIENCE_S)
    assert server.peak_connections["media"] == 1


def test_environment_names_both_services(server: DemoServer) -> None:
    assert server.environment == {
        "NVCATALOG_NEUROVAULT_URL": server.neurovault_url,
        "NVCATALOG_NEUROSYNTH_URL": server.neurosynth_url,
    }
    assert os.environ["NVCATALOG_NEUROVAULT_URL"] == server.neurovault_url


def test_closed_server_refuses_and_hangs_up_on_the_idle(client: requests.Session) -> None:
    with DemoServer(World.empty()) as server:
        url = f"{server.neurovault_url}/api/"
        assert client.get(url, timeout=PATIENCE_S).status_code == 200
    with pytest.raises(requests.ConnectionError):
        client.get(url, timeout=PATIENCE_S)


def break_the_server() -> None:
    with DemoServer(World.empty()) as server:
        server.fail("/api/", faults.rewrite(lambda body: body[1 // 0 :]))
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{server.neurovault_url}/api/", timeout=PATIENCE_S)


def test_error_of_its_own_is_raised_when_the_server_closes() -> None:
    with pytest.raises(ZeroDivisionError):
        break_the_server()


# Faults


def raw_get(server: DemoServer, path: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    """Get without a client that helps: no gzip, no retries, no redirects."""
    connection = http.client.HTTPConnection(urlsplit(server.neurovault_url).netloc, timeout=PATIENCE_S)
    connection.request("GET", path)
    return connection.getresponse(), connection


def test_fault_strikes_its_requests_only_and_is_logged(server: DemoServer, get: Get) -> None:
    server.fail("/api/images/*", faults.status(503))
    assert get("/api/images/9034/").status_code == 503
    assert get("/api/collections/555/").status_code == 200
    assert [hit.status for hit in server.log] == [503, 200]
    server.heal()
    assert get("/api/images/9034/").status_code == 200


def test_fault_strikes_so_often_after_so_many_and_where_the_query_says(server: DemoServer, get: Get) -> None:
    server.fail("/api/images/*", faults.status(500), times=2, after=1)
    assert [get("/api/images/9034/").status_code for _ in range(5)] == [200, 500, 500, 200, 200]
    server.fail("/api/collections/*", faults.status(500), query={"limit": 7})
    assert get("/api/collections/555/images/?limit=7").status_code == 500
    assert get("/api/collections/555/images/?limit=8").status_code == 200


def test_faults_follow_each_other_and_can_be_removed(server: DemoServer, get: Get) -> None:
    server.fail("/api/*", faults.status(500), times=1)
    second = server.fail("/api/*", faults.status(502))
    assert [get("/api/").status_code for _ in range(3)] == [500, 502, 502]
    second.remove()
    second.remove()
    assert get("/api/").status_code == 200


def test_neurosynth_can_fail_too(server: DemoServer, decode: Decode) -> None:
    server.fail("/api/decode/", faults.status(502), query={"neurovault": 9034})
    assert decode(9034).status_code == 502
    assert decode(9035).status_code == 200


def test_status_fault_takes_body_headers_and_type(server: DemoServer, get: Get) -> None:
    server.fail("/api/", faults.status(418, b"tea", {"X-Pot": "brown"}, "text/plain"))
    answer = get("/api/")
    assert (answer.status_code, answer.content) == (418, b"tea")
    assert (answer.headers["X-Pot"], answer.headers["Content-Type"]) == ("brown", "text/plain")


def test_api_error_speaks_the_apis_own_json(server: DemoServer, get: Get) -> None:
    server.fail("/api/", faults.api_error(403, "No."))
    assert (get("/api/").status_code, get("/api/").json()) == (403, {"detail": "No."})


def test_refusals_say_when_to_come_back_or_where_to_go(server: DemoServer, get: Get) -> None:
    server.fail("/api/", faults.retry_after(30), times=1)
    server.fail("/api/", faults.retry_after("Mon, 01 Jan 2035 00:00:00 GMT", code=503), times=1)
    server.fail("/api/", faults.redirect("http://127.0.0.1:1/elsewhere"))
    first, second, third = (get("/api/", allow_redirects=False) for _ in range(3))
    assert (first.status_code, first.headers["Retry-After"]) == (429, "30")
    assert (second.status_code, second.headers["Retry-After"]) == (503, "Mon, 01 Jan 2035 00:00:00 GMT")
    assert (third.status_code, third.headers["Location"]) == (302, "http://127.0.0.1:1/elsewhere")


def test_page_and_challenge_faults_are_web_pages(server: DemoServer, get: Get) -> None:
    server.fail("/api/", faults.html(), times=1)
    server.fail("/api/", faults.challenge())
    page, challenge = get("/api/"), get("/api/")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (challenge.status_code, challenge.headers["cf-mitigated"]) == (403, "challenge")
    assert "Just a moment" in challenge.text


def test_reset_tears_the_connection_down_without_an_answer(server: DemoServer) -> None:
    server.fail("/api/", faults.reset())
    with pytest.raises(ConnectionResetError):
        raw_get(server, "/api/")
    assert server.log[0].status == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_cut_announces_all_and_sends_a_share(world: World, server: DemoServer, share: float) -> None:
    image_id = world.add_synthetic(7, 1)[0]
    path, data = world.file_path(image_id), world.image_bytes(image_id)
    server.fail("/media/*", faults.cut(share))
    answer, connection = raw_get(server, path)
    assert answer.getheader("Content-Length") == str(len(data))
    with pytest.raises(http.client.IncompleteRead) as error:
        answer.read()
    assert error.value.partial == data[: int(len(data) * share)]
    connection.close()


def test_cut_strikes_gzipped_lists_too(server: DemoServer, get: Get) -> None:
    server.fail("/api/*", faults.cut())
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get("/api/collections/555/images/")


def test_wrong_bytes_are_properly_announced(world: World, server: DemoServer, get: Get) -> None:
    server.fail("/media/*", faults.wrong_bytes(b"garbage"))
    answer = get(world.file_path(9034), headers={"Range": "bytes=0-5"})
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"garbage", "7")


def test_wrong_length_is_announced_and_the_connection_closed(world: World, server: DemoServer) -> None:
    path, data = world.file_path(9034), world.image_bytes(9034)
    server.fail("/media/*", faults.wrong_length(-10), times=1)
    server.fail("/media/*", faults.wrong_length(10))
    short, first = raw_get(server, path)
    assert short.read() == data[:-10]
    long, second = raw_get(server, path)
    with pytest.raises(http.client.IncompleteRead) as error:
        long.read()
    assert error.value.partial == data
    first.close()
    second.close()


def test_empty_page_keeps_the_count(server: DemoServer, get: Get) -> None:
    server.fail("/api/collections/555/images/", faults.empty_page())
    page = get("/api/collections/555/images/").json()
    assert (page["count"], page["results"]) == (20, [])


def test_broken_json_is_complete_http(server: DemoServer, get: Get, decode: Decode) -> None:
    server.fail("/api/collections/*", faults.cut_json())
    server.fail("/api/decode/", faults.nan_json())
    cut = get("/api/collections/555/images/")
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(cut.text)
    values = json.loads(decode(9034).text)["data"]["values"]
    assert [term for term, value in values.items() if math.isnan(value)] == ["zone"]


def test_rewrite_edits_any_body(server: DemoServer, get: Get) -> None:
    server.fail("/api/images/*", faults.rewrite(lambda body: body.replace(b'"P map', b'"Q map')))
    assert get("/api/images/9034/").json()["map_type"] == "Q map (given null hypothesis)"


def test_slow_answers_come_late_and_whole(server: DemoServer, client: requests.Session) -> None:
    server.fail("/api/", faults.slow(3600), times=1)
    server.fail("/api/", faults.slow(0.1))
    with pytest.raises(requests.ReadTimeout):
        client.get(f"{server.neurovault_url}/api/", timeout=0.1)
    wait_until(lambda: server.requests)  # the fault has struck, however late
    before = time.monotonic()
    assert client.get(f"{server.neurovault_url}/api/", timeout=PATIENCE_S).status_code == 200
    assert time.monotonic() - before >= 0.1


def test_stalled_answers_pause_in_the_middle(world: World, server: DemoServer) -> None:
    path, data = world.file_path(9034), world.image_bytes(9034)
    server.fail("/media/*", faults.stall(0.5, 3600), times=1)
    server.fail("/media/*", faults.stall(0.5, 0.1))
    stalled, impatient = raw_get(server, path)
    assert stalled.read(len(data) // 2) == data[: len(data) // 2]
    impatient.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        stalled.read()
    impatient.close()
    whole, patient = raw_get(server, path)
    assert whole.read() == data
    patient.close()


def test_faults_can_be_put_together(server: DemoServer, client: requests.Session) -> None:
    server.fail("/api/", faults.together(faults.status(503), faults.slow(3600)), times=1)
    server.fail("/api/", faults.together(faults.status(503), faults.slow(0.1)))
    with pytest.raises(requests.ReadTimeout):
        client.get(f"{server.neurovault_url}/api/", timeout=0.1)
    wait_until(lambda: server.requests)  # the fault has struck, however late
    assert client.get(f"{server.neurovault_url}/api/", timeout=PATIENCE_S).status_code == 503


def test_closing_does_not_wait_for_slow_answers() -> None:
    with DemoServer(World.empty()) as server:
        server.fail("/api/", faults.slow(3600))
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{server.neurovault_url}/api/", timeout=0.1)


# A process of its own


def test_server_runs_in_a_process_of_its_own_until_its_input_ends() -> None:
    command = [sys.executable, "-m", "nvcatalog.demo", "--empty", "--synthetic", "5:3", "--file-bytes", "2000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        page = requests.get(f"{addresses['neurovault']}/api/collections/5/images/", timeout=PATIENCE_S)
        words = requests.get(f"{addresses['neurosynth']}/api/decode/?neurovault=1", timeout=PATIENCE_S)
        process.communicate(timeout=PATIENCE_S)
    assert page.json()["count"] == 3
    assert len(words.json()["data"]["values"]) == 3228
    assert process.returncode == 0


def test_server_process_serves_a_crowd_with_the_real_sites_quirks() -> None:
    command = [sys.executable, "-m", "nvcatalog.demo", "--empty", "--many", "12:90", "--quirks"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        root = json.loads(process.stdout.readline())["neurovault"]
        pages = [
            requests.get(f"{root}/api/collections/?limit=1&offset={n}", timeout=PATIENCE_S) for n in range(12)
        ]
        broken = requests.get(f"{root}/api/collections/5/", timeout=PATIENCE_S)
        image = requests.get(f"{root}/api/images/46/", timeout=PATIENCE_S)
        process.communicate(timeout=PATIENCE_S)
    assert pages[0].json()["count"] == 12
    assert pages[2].json()["results"] == []
    assert sorted(page.status_code for page in pages)[-1] == broken.status_code == image.status_code == 500
    seen = [page.json()["results"][0]["id"] for page in pages if page.ok and page.json()["results"]]
    assert seen != sorted(seen)


def test_server_process_can_be_terminated() -> None:
    command = [sys.executable, "-m", "nvcatalog.demo", "--empty"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=PATIENCE_S) == 0


# The guard around all tests


@pytest.mark.parametrize("address", ["http://neurovault.org/", "http://192.0.2.1/"])
def test_no_test_reaches_the_internet(address: str) -> None:
    with pytest.raises(AssertionError, match="a test tried to"):
        requests.get(address, timeout=5)
