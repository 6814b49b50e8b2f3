"""What can go wrong with a server, as values: hand one to `DemoServer.fail` and the demo misbehaves that way.

Every fault is a change to the answer the healthy server would have given, so one set of faults serves lists,
records, files and decode answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nvcatalog.demo.wire import HTML_TYPE, JSON_TYPE, Answer

if TYPE_CHECKING:
    from collections.abc import Callable

_CHALLENGE_PAGE = """<!DOCTYPE html><html lang="en-US"><head><title>Just a moment...</title></head><body>
<noscript>Enable JavaScript and cookies to continue</noscript>
<script>window._cf_chl_opt = {cType: 'managed'};</script></body></html>"""
_VALUE = re.compile(rb":(?:null|-?\d+(?:\.\d+)?)(?=[,}\]])")


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Parameters
    ----------
    name
        What it is, for messages.
    change
        Makes the bad answer from the good one.
    """

    name: str
    change: Callable[[Answer], Answer]


def together(*faults: Fault) -> Fault:
    """Put several faults into one answer, such as a slow 503."""

    def change(answer: Answer) -> Answer:
        for fault in faults:
            answer = fault.change(answer)
        return answer

    return Fault(" and ".join(fault.name for fault in faults), change)


def status(
    code: int,
    body: bytes | str | None = None,
    headers: dict[str, str] | None = None,
    content_type: str = "text/html",
) -> Fault:
    """Answer with any status, and with a short HTML page unless `body` says otherwise."""
    content = f"<html><body><h1>{code}</h1></body></html>" if body is None else body
    data = content.encode() if isinstance(content, str) else content
    answer = Answer(code, data, tuple((headers or {}).items()), content_type)
    return Fault(f"status {code}", lambda _: answer)


def api_error(code: int, detail: str) -> Fault:
    """Answer with an error in the API's own words: JSON with a ``detail``."""
    return status(code, json.dumps({"detail": detail}), content_type=JSON_TYPE)


def retry_after(seconds: float | str, code: int = 429) -> Fault:
    """Refuse and say when to come back: in seconds, or an HTTP date as text."""
    return status(code, headers={"Retry-After": str(seconds)})


def redirect(location: str, code: int = 302) -> Fault:
    """Redirect to anywhere."""
    return status(code, "", {"Location": location})


def html(text: str = "<html><body>Down for maintenance</body></html>") -> Fault:
    """Send a web page where data was asked for, with status 200."""
    return status(200, text, content_type=HTML_TYPE)


def challenge() -> Fault:
    """Send the page with which a content delivery network asks whether the client is human."""
    return status(403, _CHALLENGE_PAGE, {"cf-mitigated": "challenge", "CF-RAY": "0-DEMO"}, HTML_TYPE)


def wrong_bytes(data: bytes) -> Fault:
    """Send other bytes than promised, properly announced: status 200 and their own length."""
    return Fault("wrong bytes", lambda answer: replace(answer, status=200, body=data, compress=False))


def rewrite(edit: Callable[[bytes], bytes], name: str = "rewritten body") -> Fault:
    """Edit the body; the length announced is that of the edited one."""
    return Fault(name, lambda answer: replace(answer, body=edit(answer.body)))


def empty_page() -> Fault:
    """Send a page without results that still claims the full count; an error stays what it is."""

    def change(answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        return replace(answer, body=json.dumps({**json.loads(answer.body), "results": []}).encode())

    return Fault("empty page", change)


def cut_json(at: float = 0.5) -> Fault:
    """Send JSON that ends half-way, properly announced."""
    return rewrite(lambda body: body[: int(len(body) * at)], "cut-off JSON")


def nan_json() -> Fault:
    """Put a literal NaN for the last number or null, as Python servers do; it is not JSON."""

    def edit(body: bytes) -> bytes:
        *_, last = _VALUE.finditer(body)
        return body[: last.start()] + b":NaN" + body[last.end() :]

    return rewrite(edit, "NaN in JSON")


def wrong_length(delta: int) -> Fault:
    """Announce a length that is `delta` bytes off; the connection closes behind the real body."""

    def change(answer: Answer) -> Answer:
        return replace(answer, content_length=max(0, len(answer.body) + delta))

    return Fault(f"length off by {delta}", change)


def cut(at: float = 0.5) -> Fault:
    """Announce the right length and close the connection after that share of the body."""
    return Fault(f"cut off at {at:.0%}", lambda answer: replace(answer, stop_at=at))


def reset() -> Fault:
    """Reset the connection in place of an answer."""
    return Fault("connection reset", lambda answer: replace(answer, reset=True))


def slow(seconds: float) -> Fault:
    """Send the right answer, after some silence."""
    return Fault(f"{seconds} s late", lambda answer: replace(answer, wait_s=answer.wait_s + seconds))


def stall(at: float = 0.5, seconds: float = 1.0) -> Fault:
    """Send the right answer, with silence in the middle of its body."""
    return Fault(f"stalls {seconds} s", lambda answer: replace(answer, stall_at=at, stall_s=seconds))
