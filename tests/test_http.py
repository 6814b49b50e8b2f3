"""Requests are pooled, paced and bounded; a server is given up when it should be, and only then."""

from __future__ import annotations

import gc
import gzip
import json
import logging
import random
import socket
import socketserver
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import requests
from raw_server import always, raw_server
from waiting import PATIENCE_S, hold_until_together, then_patient

from nvcatalog import __version__, _http
from nvcatalog._http import (
    Health,
    Limits,
    Service,
    UnfitAnswerError,
    pause_s,
    root_from_environment,
    same_host,
)
from nvcatalog.demo import DemoServer, World, faults
from nvcatalog.errors import (
    HostGivenUpError,
    InvalidOptionError,
    NotTheAPIError,
    RefusedError,
    ServerError,
    TransientError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raw_server import Script

    from nvcatalog.demo.wire import Request

COLLECTION = "api/collections/555/"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.001)


@pytest.fixture
def service(server: DemoServer) -> Iterator[Service]:
    with closing(Service("NeuroVault", server.neurovault_url, connections=6, timeout_s=PATIENCE_S)) as service:
        yield service


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the pauses and take none."""
    noted: list[float] = []

    def note(self: Health, seconds: float) -> None:
        if seconds > 0:
            noted.append(seconds)
        if self.given_up:
            raise HostGivenUpError(self.given_up)

    monkeypatch.setattr(Health, "pause", note)
    return noted


def ask(service: Service, path: str = COLLECTION, *, tries: int | None = None) -> Any:
    for attempt in service.attempts(tries):
        with attempt, service.get(path) as response:
            body = service.json_body(response)
            if response.status_code == 404:
                raise RefusedError("HTTP 404", status="not_found")
            try:
                return json.loads(body)
            except ValueError as error:
                raise TransientError(f"no JSON: {error}") from error
    raise AssertionError


def service_for(root: str, *, timeout_s: float = PATIENCE_S, health: Health | None = None) -> closing[Service]:
    return closing(Service("NeuroVault", root, connections=2, timeout_s=timeout_s, health=health))


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


JSON_HEAD = "Content-Type: application/json"


# Connections


def test_one_connection_serves_many_requests(server: DemoServer, service: Service) -> None:
    for _ in range(10):
        assert ask(service)["id"] == 555
    assert server.connections_opened == 1


@pytest.mark.parametrize(
    "trouble",
    [
        faults.status(404),
        faults.status(503, "x" * 5000),
        faults.html(),
        faults.challenge(),
        faults.api_error(404, "Not found."),
        faults.redirect("/api/collections/3/"),
        faults.redirect("https://elsewhere.example/"),
    ],
    ids=lambda fault: fault.name,
)
def test_an_answer_nobody_wanted_does_not_cost_the_connection(
    server: DemoServer, service: Service, trouble: faults.Fault
) -> None:
    ask(service)
    for _ in range(2):  # the challenge would end it the second time, hence a health of its own
        server.fail("/api/collections/555/", trouble, times=1)
        service.health = Health("NeuroVault")
        with suppress(ServerError):
            ask(service, tries=1)
    service.health = Health("NeuroVault")
    ask(service)
    assert server.connections_opened == 1


def test_no_more_connections_than_asked_for(server: DemoServer) -> None:
    hold_until_together(server, "/api/*", 3)
    with (
        closing(Service("NeuroVault", server.neurovault_url, connections=3, timeout_s=PATIENCE_S)) as service,
        ThreadPoolExecutor(10) as pool,
    ):
        list(pool.map(lambda _: ask(service), range(30)))
    assert server.peak_connections["api"] == 3
    assert server.connections_opened == 3


def test_answers_are_asked_for_gzipped(server: DemoServer, service: Service) -> None:
    ask(service)
    assert "gzip" in server.log[-1].headers["accept-encoding"]


@pytest.mark.parametrize("log_requests", [False, True])
def test_requests_are_logged_when_asked_for(
    server: DemoServer, caplog: pytest.LogCaptureFixture, log_requests: bool
) -> None:
    service = Service(
        "NeuroVault", server.neurovault_url, connections=1, timeout_s=PATIENCE_S, log_requests=log_requests
    )
    with closing(service), caplog.at_level(logging.INFO, logger="nvcatalog"):
        ask(service)
    assert (f"GET {server.neurovault_url}/{COLLECTION}: 200" in caplog.text) is log_requests


# Who asks


def test_a_token_at_the_end_of_what_is_shown_of_a_long_message_is_hidden_too(service: Service) -> None:
    service.keep_secret("QWERTYUI")

    with pytest.raises(TransientError, match=r"^x+\{tok.*\.\.\.$") as caught, service.get("/api/"):
        raise TransientError(996 * "x" + "QWERTYUI, and so on", status=500)

    assert len(str(caught.value)) == 1003
    assert caught.value.status == 500


def test_the_user_agent_names_project_and_version(server: DemoServer, service: Service) -> None:
    ask(service)
    assert server.log[-1].headers["user-agent"] == f"nvcatalog/{__version__} (NeuroVault client; no contact given)"


@pytest.mark.parametrize(
    ("contact", "shown"),
    [
        ("me@lab.example", "me@lab.example"),
        (" Zoë, Lab 3 ", "Zo?, Lab 3"),
        ("me\r\nX-Injected: yes", "me X-Injected: yes"),
    ],
)
def test_the_user_agent_names_the_contact_given(
    server: DemoServer, monkeypatch: pytest.MonkeyPatch, contact: str, shown: str
) -> None:
    monkeypatch.setenv("NVCATALOG_CONTACT", contact)
    with service_for(server.neurovault_url) as service:
        ask(service)
    headers = server.log[-1].headers
    assert headers["user-agent"] == f"nvcatalog/{__version__} (NeuroVault client; {shown})"
    assert "x-injected" not in headers


# Whom to ask


@pytest.mark.parametrize(
    "root",
    ["neurovault.org", "ftp://neurovault.org", "http://", "http://[", "https://h:99999", "https://h/?q", "/"],
)
def test_a_root_that_is_none_is_a_value_error(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", root)
    with pytest.raises(InvalidOptionError, match="NVCATALOG_NEUROVAULT_URL"):
        root_from_environment("NVCATALOG_NEUROVAULT_URL", "https://neurovault.org")


@pytest.mark.parametrize(
    "root", ["http://me:s3cret@host", "me:s3cret@host", "ftp://me:s3cret@host", "http://me:s3cret/x@host/?q"]
)
def test_credentials_in_a_root_are_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", root)
    with pytest.raises(InvalidOptionError, match=r"NVCATALOG_NEUROVAULT_URL.*~/\.netrc") as caught:
        root_from_environment("NVCATALOG_NEUROVAULT_URL", "https://neurovault.org")
    assert "s3cret" not in str(caught.value)


def test_a_root_may_end_in_a_slash_and_have_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCATALOG_NEUROVAULT_URL", " https://mirror.example/nv/ ")
    assert root_from_environment("NVCATALOG_NEUROVAULT_URL", "") == "https://mirror.example/nv"


@pytest.mark.parametrize(
    ("link", "same"),
    [
        ("http://neurovault.org/x", True),
        ("HTTP://NEUROVAULT.ORG/x", True),
        ("https://neurovault.org./x", False),
        ("http://[::1]/x", False),
        ("http://[::ffff:169.254.169.254]/x", False),
        ("http://2852039166/x", False),
        ("http://neuro\u2024vault.org/x", False),
        ("http://neurovault.org\uff03@evil.example/x", False),
        ("javascript:alert(1)", False),
        ("data:application/gzip;base64,H4sI", False),
        ("https://NeuroVault.org/x", True),
        ("https://neurovault.org:443/x", True),
        ("http://neurovault.org:80/x", True),
        ("http://neurovault.org:443/x", False),
        ("https://neurovault.org:8000/x", False),
        ("https://www.neurovault.org/x", False),
        ("https://neurovault.org.evil.example/x", False),
        ("https://neurovault.org@evil.example/x", False),
        ("https://user@neurovault.org/x", False),
        ("https://neurovault.org\\@evil.example/x", False),
        ("file://neurovault.org/etc/passwd", False),
        ("ftp://neurovault.org/x", False),
        ("//neurovault.org/x", False),
        ("/media/x", False),
        ("http://[", False),
        ("https://neurovault.org:port/x", False),
        ("", False),
    ],
)
def test_a_link_leads_to_the_host_or_it_does_not(link: str, same: bool) -> None:
    assert same_host(link, "https://neurovault.org") is same


# Redirects


@pytest.mark.parametrize("location", ["/api/collections/3/", "{root}/api/collections/3/", "../3/"])
def test_a_redirect_on_the_same_host_is_followed(server: DemoServer, service: Service, location: str) -> None:
    server.fail("/api/collections/555/", faults.redirect(location.format(root=server.neurovault_url)))
    assert ask(service)["id"] == 3


def test_a_missing_slash_is_redirected_with_its_query(server: DemoServer, service: Service) -> None:
    with service.get("api/collections/555/images", params={"limit": 2}) as response:
        assert len(response.json()["results"]) == 2
    assert [hit.status for hit in server.log] == [301, 200]


@pytest.mark.parametrize(
    "location",
    ["{other}/api/collections/555/", "//{host}/x", "file:///etc/passwd", "http://[", "ftp://127.0.0.1/x"],
)
def test_a_redirect_to_anywhere_else_is_refused(server: DemoServer, service: Service, location: str) -> None:
    with DemoServer(World.empty()) as other:
        target = location.format(other=other.neurovault_url, host=other.neurovault_url.removeprefix("http://"))
        server.fail("/api/collections/555/", faults.redirect(target))
        with pytest.raises(RefusedError, match="another host") as caught:
            ask(service)
        assert (caught.value.status, caught.value.lasting) == ("failed", False)
        assert other.requests == 0
    assert server.requests == 1


def test_redirects_without_end_are_refused(server: DemoServer, service: Service) -> None:
    server.fail("/api/collections/555/", faults.redirect("/api/collections/555/"))
    with pytest.raises(RefusedError, match="without end"):
        ask(service)
    assert server.requests == 6


@pytest.mark.parametrize(
    ("here", "location", "target"),
    [
        ("http://nv.example/a", "https://nv.example/a", "https://nv.example/a"),
        ("https://nv.example/a", "http://nv.example/b", "https://nv.example/b"),
        ("https://nv.example/a", "http://nv.example:80/b", "https://nv.example/b"),
    ],
)
def test_a_redirect_may_lead_to_tls_and_never_away_from_it(here: str, location: str, target: str) -> None:
    response = requests.Response()
    response.url = here
    response.headers["Location"] = location
    with service_for(here.removesuffix("/a")) as service:
        assert service._target(response) == target


def test_no_path_leads_to_another_host(server: DemoServer, service: Service) -> None:
    with DemoServer(World.empty()) as other:
        for path in (other.neurovault_url + "/x", other.neurovault_url.removeprefix("http:"), "\\\\elsewhere\\x"):
            with service.get(path) as response:
                assert response.status_code == 404
        assert other.requests == 0
    assert server.requests == 3


# Trying again


@pytest.mark.parametrize(
    "trouble",
    [
        *(faults.status(code) for code in (408, 425, 429, 500, 502, 503, 504, 522)),
        faults.reset(),
        faults.cut(),
        faults.html(),
        faults.status(404),
        faults.wrong_length(50),
    ],
    ids=lambda fault: fault.name,
)
def test_what_may_pass_is_tried_again(server: DemoServer, service: Service, trouble: faults.Fault) -> None:
    server.fail("/api/collections/555/", trouble, times=3)
    assert ask(service)["id"] == 555
    assert server.requests == 4


def test_a_failure_that_stays_is_reported_after_four_tries(server: DemoServer, service: Service) -> None:
    server.fail("/api/*", faults.status(503))
    with pytest.raises(TransientError, match="HTTP 503") as caught:
        ask(service)
    assert caught.value.status == 503
    assert server.requests == 4


def test_pauses_grow_and_are_jittered(
    server: DemoServer, service: Service, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr("nvcatalog._http.BACKOFF_S", 0.5)
    server.fail("/api/*", faults.status(503))
    for _ in range(5):
        with pytest.raises(TransientError):
            ask(service)
    by_number = [pauses[number::3] for number in range(3)]
    for usual, seen in zip((0.5, 1, 2), by_number, strict=True):
        assert all(usual / 2 <= pause <= usual * 1.5 for pause in seen)
        assert len(set(seen)) == 5
    assert pause_s(50, TransientError("")) <= 45


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"\x1f\x8b broken"], ids=["nothing", "a page", "broken gzip"]
)
def test_a_body_that_cannot_be_unpacked_is_transient(body: bytes) -> None:
    answer = head(JSON_HEAD, "Content-Encoding: gzip", f"Content-Length: {len(body) or 9}") + body
    with raw_server(always(answer)) as server, service_for(server.url) as service, pytest.raises(TransientError):
        ask(service)


# Retry-After


def test_a_pause_asked_for_in_seconds_is_taken(server: DemoServer, service: Service, pauses: list[float]) -> None:
    server.fail("/api/*", faults.retry_after(7), times=1)
    ask(service)
    assert 3 < max(pauses) <= 7.5  # what is left of the pause, and some chance


def test_a_pause_asked_for_by_date_is_taken(server: DemoServer, service: Service, pauses: list[float]) -> None:
    server.fail("/api/*", faults.retry_after(formatdate(time() + 60, usegmt=True), code=503), times=1)
    ask(service)
    assert 55 < max(pauses) <= 60


@pytest.mark.parametrize(
    "nonsense",
    [
        "soon", "-3", "\xb2", "Thu, 99 Jan 2026 99:00:00 GMT", "", "nan", "inf", "1e9", "0x10", "-9" + "9" * 400,
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "Mon, 99999999999999999999 Jan 2030 00:00:00 GMT",
        "Mon, 01 Jan 2030 00:00:00 +99999999999", "Mon, 01 Jan 2030 00:00:00 -0000",
    ],
)  # fmt: skip
def test_a_pause_that_cannot_be_read_is_none(
    server: DemoServer, service: Service, pauses: list[float], nonsense: str
) -> None:
    server.fail("/api/*", faults.retry_after(nonsense), times=1)
    assert ask(service)["id"] == 555
    assert max(pauses) < 1


def test_a_date_that_is_over_asks_for_no_pause(server: DemoServer, service: Service, pauses: list[float]) -> None:
    server.fail("/api/*", faults.retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), times=1)
    ask(service)
    assert max(pauses) < 1


def test_a_server_that_asks_for_a_pause_gets_it_from_every_worker(server: DemoServer) -> None:
    health = Health("NeuroVault")
    server.fail("/api/collections/555/", faults.retry_after(1), times=1)
    with (
        service_for(server.neurovault_url, health=health) as lists,
        service_for(server.neurovault_url, health=health) as files,
    ):
        with pytest.raises(TransientError):
            ask(lists, tries=1)
        ask(files, "api/collections/3/")
    refused, other = server.log
    assert other.time - refused.time >= 1  # it may take longer, never less


@pytest.mark.parametrize(
    "pause", ["121", "9" * 400, formatdate(time() + 3600, usegmt=True)], ids=["seconds", "for-ever", "date"]
)
def test_a_server_that_asks_for_more_than_two_minutes_is_given_up(
    server: DemoServer, service: Service, pause: str
) -> None:
    server.fail("/api/*", faults.retry_after(pause))
    with pytest.raises(HostGivenUpError, match="it asked for a pause of"):
        ask(service)
    with pytest.raises(HostGivenUpError):
        ask(service)
    assert server.requests == 1
    assert not service.health.blocked


def test_a_server_that_asks_for_one_pause_after_the_other_is_given_up(
    server: DemoServer, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "_LONGEST_PAUSES_S", 1.5)
    for _ in range(2):  # an answer in between is all that it takes
        server.fail("/api/*", faults.retry_after(1), times=1)
        ask(service)
    server.fail("/api/*", faults.retry_after(1))
    with pytest.raises(HostGivenUpError, match="it asked for pauses of 2 s and gave nothing"):
        ask(service)
    assert not service.health.blocked


def test_two_minutes_are_waited_for(server: DemoServer, service: Service, pauses: list[float]) -> None:
    server.fail("/api/*", faults.retry_after(120), times=1)
    assert ask(service)["id"] == 555
    assert max(pauses) == pytest.approx(120, abs=1)


# Giving up


def dead_url() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_dead_host_is_given_up_after_three_connects() -> None:
    root = dead_url()
    with service_for(root) as service:
        message = rf"no connection in 3 tries \({urlsplit(root).netloc}: .*refused\)"
        with pytest.raises(HostGivenUpError, match=message):
            ask(service)
        with pytest.raises(HostGivenUpError):
            ask(service)


def test_a_host_whose_name_nobody_knows_is_given_up_after_three_look_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def unknown(host: object, *args: object, **kwargs: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    why = r"no connection in 3 tries \(nowhere\.example: .*Name or service not known"
    with service_for("https://nowhere.example") as service, pytest.raises(HostGivenUpError, match=why):
        ask(service)
    assert len(asked) == 3


class _NoTls(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        self.request.recv(10_000)


def test_a_host_without_the_tls_it_promises_is_given_up_after_three_connects() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _NoTls) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        root = f"https://127.0.0.1:{server.server_address[1]}"
        with service_for(root) as service, pytest.raises(HostGivenUpError, match="no connection"):
            ask(service)
        server.shutdown()


def test_a_dead_proxy_is_a_dead_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", dead_url())
    with service_for("http://nv.example") as service, pytest.raises(HostGivenUpError, match=r"nv\.example: Proxy"):
        ask(service)


def test_a_host_that_has_answered_is_not_given_up_for_three_failed_connects(server: DemoServer) -> None:
    with service_for(server.neurovault_url) as service:
        ask(service)
        server.close()
        for _ in range(2):
            with pytest.raises(TransientError, match="refused"):
                ask(service)
        assert service.health.given_up is None


def test_a_hundred_failures_in_a_row_are_enough(server: DemoServer, service: Service) -> None:
    server.fail("/api/*", faults.status(503))
    for _ in range(24):
        with pytest.raises(TransientError):
            ask(service)
    with pytest.raises(TransientError):
        ask(service)
    with pytest.raises(HostGivenUpError, match=r"100 failures in a row, the last one: .*503"):
        ask(service)
    assert server.requests == 100


def test_one_success_starts_the_count_again(server: DemoServer, service: Service) -> None:
    trouble = server.fail("/api/collections/555/", faults.status(503))
    for _ in range(60):
        with pytest.raises(TransientError):
            ask(service, tries=2)
        ask(service, "api/collections/3/")
    trouble.remove()
    assert ask(service)["id"] == 555


def test_answers_about_one_id_never_count(server: DemoServer, service: Service) -> None:
    for _ in range(101):
        with pytest.raises(RefusedError):
            ask(service, "api/images/999999/")
    assert service.health.given_up is None
    assert server.requests == 101


def test_misfits_are_tried_again_and_do_not_count(service: Service) -> None:
    tries = 0

    def ask_for_what_does_not_fit() -> None:
        nonlocal tries
        for attempt in service.attempts():
            with attempt:
                tries += 1
                raise UnfitAnswerError("another size")

    for _ in range(30):
        with pytest.raises(UnfitAnswerError):
            ask_for_what_does_not_fit()
    assert tries == 120
    assert service.health.given_up is None


def test_a_page_that_forbids_three_times_in_a_row_ends_the_host(server: DemoServer, service: Service) -> None:
    server.fail("/api/*", faults.status(403))
    with pytest.raises(HostGivenUpError, match="something else answers in its place"):
        ask(service)
    assert server.requests == 3
    assert service.health.blocked
    assert "403" in (service.health.given_up or "")


def test_an_answer_of_the_api_starts_the_count_of_forbidding_pages_again(
    server: DemoServer, service: Service
) -> None:
    for _ in range(3):
        server.fail("/api/*", faults.status(403), times=2)
        assert ask(service)["id"] == 555
        with pytest.raises(RefusedError):
            ask(service, "api/images/999999/")
    assert not service.health.blocked


def test_files_that_arrive_do_not_hide_that_the_api_is_blocked(
    server: DemoServer, world: World, service: Service
) -> None:
    server.fail("/api/*", faults.status(403))
    for _ in range(2):
        with pytest.raises(NotTheAPIError):
            ask(service, tries=1)
        for attempt in service.attempts():
            with attempt, service.get(world.file_path(9034)) as response:
                assert response.content
    with pytest.raises(NotTheAPIError):
        ask(service, tries=1)
    assert service.health.blocked


def test_a_challenge_page_ends_the_host_at_once(server: DemoServer, service: Service) -> None:
    server.fail("/api/*", faults.challenge())
    with pytest.raises(HostGivenUpError, match="challenge page"):
        ask(service)
    assert server.requests == 1
    assert service.health.blocked


def test_giving_up_wakes_those_who_wait(server: DemoServer) -> None:
    health = Health("NeuroVault", Limits(transient_in_a_row=1))
    health.failed(TransientError("", retry_after_s=100))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(health.check)
        health.failed(TransientError("the last straw"))
        with pytest.raises(HostGivenUpError):
            waiting.result(timeout=PATIENCE_S)


# Time and size


def test_silence_before_an_answer_ends_with_the_timeout(server: DemoServer) -> None:
    with service_for(server.neurovault_url, timeout_s=0.2) as service:
        server.fail("/api/*", then_patient(service, faults.slow(3600)), times=1)
        assert ask(service)["id"] == 555


def test_silence_in_a_body_ends_with_the_timeout(server: DemoServer) -> None:
    with service_for(server.neurovault_url, timeout_s=0.2) as service:
        server.fail("/api/*", then_patient(service, faults.stall(0.5, 3600)), times=1)
        assert ask(service)["id"] == 555


def test_a_body_that_drips_for_ever_ends_too() -> None:
    hung_up = threading.Event()

    def drip(connection: socket.socket, request: Request) -> None:
        connection.sendall(head(JSON_HEAD, "Content-Length: 1000000"))
        try:
            while not hung_up.wait(0.01):
                connection.sendall(b" ")
        except OSError:
            hung_up.set()

    with raw_server(drip) as server, service_for(server.url, timeout_s=1) as service:
        with pytest.raises(TransientError, match=r"only [0-9]+ bytes came"):
            ask(service, tries=1)
        assert hung_up.wait(PATIENCE_S)  # the connection is not kept


@pytest.mark.parametrize("through_a_proxy", [False, True])
def test_a_head_that_drips_for_ever_ends_too(monkeypatch: pytest.MonkeyPatch, through_a_proxy: bool) -> None:
    hung_up = threading.Event()

    def drip(connection: socket.socket, request: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        try:
            while not hung_up.wait(0.01):
                connection.sendall(b"x")
        except OSError:
            hung_up.set()

    with raw_server(drip) as server:
        if through_a_proxy:
            monkeypatch.setenv("HTTP_PROXY", server.url)
        root = "http://nv.example" if through_a_proxy else server.url
        with service_for(root, timeout_s=1) as service, pytest.raises(TransientError, match=r"head .* drips"):
            ask(service, tries=1)
        assert hung_up.wait(PATIENCE_S)  # the connection is not kept


def test_a_slow_body_is_waited_for() -> None:
    body = json.dumps({"text": "x" * 20_000}).encode()

    def trickle(connection: socket.socket, request: Request) -> None:
        connection.sendall(head(JSON_HEAD, f"Content-Length: {len(body)}"))
        for start in range(0, len(body), 1000):
            connection.sendall(body[start : start + 1000])
            threading.Event().wait(0.06)

    with raw_server(trickle) as server, service_for(server.url, timeout_s=1) as service:
        assert ask(service, tries=1) == json.loads(body)


def test_json_without_end_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LARGEST_JSON", 1_000_000)
    sent = 0

    def pour(connection: socket.socket, request: Request) -> None:
        nonlocal sent
        connection.sendall(head(JSON_HEAD, "Transfer-Encoding: chunked"))
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (100_000, b" " * 100_000))
            sent += 100_000

    with (
        raw_server(pour) as server,
        service_for(server.url) as service,
        pytest.raises(TransientError, match="more than 1,000,000 bytes"),
    ):
        ask(service, tries=1)
    assert sent < 100_000_000


def test_json_that_announces_two_gigabytes_is_not_read(server: DemoServer, service: Service) -> None:
    huge = faults.Fault("huge", lambda answer: replace(answer, content_length=2_000_000_000))
    server.fail("/api/*", huge)
    with pytest.raises(TransientError, match=r"answered with more than 33,554,432 bytes"):
        ask(service)
    assert server.requests == 4


def pouring(headers: str, piece: bytes, *, pause_s: float = 0.0) -> Script:
    """Return a script that sends a piece of a body again and again, until the client hangs up."""

    def pour(connection: socket.socket, request: Request) -> None:
        connection.sendall(head(JSON_HEAD, headers))
        while True:
            connection.sendall(piece)
            threading.Event().wait(pause_s)

    return pour


# A gzip stream's head, and a block of it that is empty and not the last.
GZIP_HEAD, EMPTY_BLOCK = b"\x1f\x8b\x08\0\0\0\0\0\0\x03", b"\0\0\0\xff\xff"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("pour", "why"),
    [
        (pouring(CHUNKED, b"0", pause_s=0.01), "body of the answer only drips"),
        (pouring(CHUNKED, b"0" * 50 + b"1;" + b"x" * 50), "."),
        (pouring(CHUNKED, b"0\r\nX-Trailer: x\r\n"), "body of the answer only drips"),
        (pouring(CHUNKED, b"0\r\nX: x\r\n", pause_s=0.01), "body of the answer only drips"),
        (pouring("Connection: close", b" " * 4000, pause_s=0.01), r"only [0-9,]+ bytes in 1 s"),
        (pouring(CHUNKED, b"fa0\r\n" + b" " * 4000 + b"\r\n", pause_s=0.01), r"only [0-9,]+ bytes in 1 s"),
    ],
    ids=["a length", "a long length", "trailers", "slow trailers", "slow for ever", "slow chunks for ever"],
)
def test_a_body_that_never_comes_to_its_end_ends_too(
    pour: Script, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_http, "_JSON_TIMEOUTS", 1)
    with (
        raw_server(pour) as server,
        service_for(server.url, timeout_s=1) as service,
        pytest.raises(TransientError, match=why),
    ):
        ask(service, tries=1)


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "302 Found"])
def test_gzip_that_unpacks_to_nothing_for_ever_ends_too(monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    monkeypatch.setattr(_http, "LARGEST_JSON", 1_000_000)

    def pour(connection: socket.socket, request: Request) -> None:
        connection.sendall(head(JSON_HEAD, "Location: /", "Content-Encoding: gzip", status=status) + GZIP_HEAD)
        while True:
            connection.sendall(EMPTY_BLOCK * 1000)

    with raw_server(pour) as server, service_for(server.url) as service, pytest.raises(ServerError):
        ask(service, tries=1)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "deflate", "br", "zstd", "compress", "gzip;q=1"])
def test_what_is_packed_in_a_way_that_was_not_asked_for_is_not_unpacked(encoding: str) -> None:
    body = gzip.compress(gzip.compress(b"{}"))
    answer = head(JSON_HEAD, f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}") + body
    with (
        raw_server(always(answer)) as server,
        service_for(server.url) as service,
        pytest.raises(TransientError, match="packed in a way that was not asked for"),
    ):
        ask(service, tries=1)


@pytest.mark.parametrize("encoding", ["utf-8", "identity", "GZip", "x-gzip"])
def test_djangos_slip_and_other_spellings_are_understood(encoding: str) -> None:
    body = gzip.compress(b'{"id": 555}') if "gzip" in encoding.lower() else b'{"id": 555}'
    answer = head(JSON_HEAD, f"Content-Encoding: {encoding}", f"Content-Length: {len(body)}") + body
    with raw_server(always(answer)) as server, service_for(server.url) as service:
        assert ask(service, tries=1) == {"id": 555}


def test_gzip_that_is_cut_off_is_no_answer() -> None:
    body = gzip.compress(b'{"id": 555}')[:-4]
    answer = head(JSON_HEAD, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body
    with (
        raw_server(always(answer)) as server,
        service_for(server.url) as service,
        pytest.raises(TransientError, match="gzip that is cut off"),
    ):
        ask(service, tries=1)


def test_cookies_are_not_kept(server: DemoServer, service: Service) -> None:
    cookie = faults.Fault("cookie", lambda answer: replace(answer, headers=(("Set-Cookie", f"a={'x' * 4000}"),)))
    server.fail("/api/*", cookie)
    for _ in range(2):
        ask(service)
    assert "cookie" not in server.log[-1].headers


def test_json_that_unpacks_without_end_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "LARGEST_JSON", 1_000_000)
    body = gzip.compress(b" " * 50_000_000)
    answer = head(JSON_HEAD, "Content-Encoding: gzip", f"Content-Length: {len(body)}") + body
    with (
        raw_server(always(answer)) as server,
        service_for(server.url) as service,
        pytest.raises(TransientError, match="more than 1,000,000 bytes"),
    ):
        ask(service, tries=1)


def test_an_interrupted_call_ends_the_body_under_way() -> None:
    def pour(connection: socket.socket, request: Request) -> None:
        connection.sendall(head("Transfer-Encoding: chunked"))
        while True:
            connection.sendall(b"%x\r\n%b\r\n" % (5000, b"x" * 5000))
            threading.Event().wait(0.005)

    with raw_server(pour) as server, service_for(server.url) as service, service.get("x") as response:
        chunks = service.chunks(response)
        next(chunks)
        service.health.interrupt()
        with pytest.raises(HostGivenUpError, match="interrupted"):
            for _ in chunks:
                pass
    with pytest.raises(HostGivenUpError), service.get("x"):
        pass


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", head(JSON_HEAD, "Content-Length: 100") + b"{"])
def test_an_interrupted_call_waits_for_no_silent_server(sent: bytes) -> None:
    is_silent = threading.Event()

    def fall_silent(connection: socket.socket, request: Request) -> None:
        connection.sendall(sent)
        is_silent.set()

    with raw_server(fall_silent) as server, service_for(server.url, timeout_s=10 * PATIENCE_S) as service:
        with ThreadPoolExecutor(1) as threads:
            asking = threads.submit(ask, service, tries=4)
            assert is_silent.wait(PATIENCE_S)
            service.interrupt()
            with pytest.raises(HostGivenUpError, match="interrupted"):
                asking.result(PATIENCE_S)
        assert len(server.paths) == 1


# Answers that are no HTTP, or only nearly

HEALTHY = [
    head(JSON_HEAD, "Content-Length: 11") + b'{"id": 555}',
    head(JSON_HEAD, "Content-Encoding: gzip", CHUNKED)
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed := gzip.compress(b'{"id": 555}', mtime=0)), packed),
    head("Location: http://127.0.0.1/x/", "Content-Length: 0", status="302 Found"),
    head("Retry-After: 1", "Content-Type: text/html", "Content-Length: 4", status="503 Busy") + b"busy",
]
PIECES = [
    b"\r\n", b"\n", b"\0", b"\xff", b"-", b"9" * 40, b";", b" ", b"\x1b[2J", b"chunked", b"gzip", b": ",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Location: //x\r\n", b"Connection: close\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"Set-Cookie: a=b; Domain=\xff; expires=\0\r\n", b"Retry-After: 0\r\n",
]  # fmt: skip


def damaged(answer: bytes, chance: random.Random) -> bytes:
    """Return an answer with some bytes changed, left out, repeated or put in, most of them in its head."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(answer) if chance.random() < 0.3 else answer.find(b"\r\n\r\n") + 8)
        new = chance.choice([b"", bytes([chance.randrange(256)]), chance.choice(PIECES), answer[place:][:60]])
        answer = answer[:place] + new + answer[place + chance.choice([0, 1, 20]) :] or b"x"
    return answer


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_answer_is_an_answer_or_a_failure_like_any_other(pauses: list[float]) -> None:
    answers, ended = [b""], 0

    def script(connection: socket.socket, request: Request) -> None:
        always(answers[-1])(connection, request)

    with raw_server(script) as server:
        for number in range(150):
            answers.append(damaged(HEALTHY[number % len(HEALTHY)], random.Random(number)))
            with service_for(server.url, timeout_s=1) as service, suppress(ServerError):
                ask(service, tries=2)
            ended += 1
    assert ended == 150
    gc.collect()  # as below


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        head(JSON_HEAD, "Content-Length: 5, 7") + b"{}   ",
        head(JSON_HEAD, "Content-Length: -5") + b"{",
        head(JSON_HEAD, "Content-Length: many") + b"{",
        head(JSON_HEAD, "Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n",
        head(JSON_HEAD, "Transfer-Encoding: chunked") + b"2\r\n{}",
        head(JSON_HEAD, "Transfer-Encoding: chunked") + b"fffffffffffffff\r\n{}",
        head(*(f"X-{n}: {n}" for n in range(500))) + b"{}",
        head("X-Long: " + "x" * 100_000) + b"{}",
        head("Content-Type: \xff", "\x00: \x01", "Location: \xfe", status="302 Found"),
        head(status="302 Found"),
        head("Location: http://127.0.0.1:notaport/", status="302 Found"),
        head(status="204 No Content"),
        head("Retry-After: \xb2", "Content-Length: 0", status="503 Busy"),
        head("Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip, gzip", JSON_HEAD) + b"{}",
    ],
    ids=repr,
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_answer_that_is_hardly_http_is_a_failure_like_any_other(answer: bytes) -> None:
    with raw_server(always(answer)) as server, service_for(server.url) as service, pytest.raises(ServerError):
        ask(service, tries=2)
    gc.collect()  # urllib3 leaves the connection open after two lengths: complain of it here, not later
