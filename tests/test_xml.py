"""XML of strangers costs no more than its bytes, whatever it says."""

from __future__ import annotations

import pytest

from nvcatalog._xml import XmlError, XmlReader


def read(*chunks: bytes) -> XmlReader:
    reader = XmlReader()
    for chunk in chunks:
        reader.feed(chunk)
    reader.close()
    return reader


def laughs(levels: int, body: bytes) -> bytes:
    entities = b"".join(b'<!ENTITY e%d "%b">' % (n, b"&e%d;" % (n - 1) * 10) for n in range(1, levels))
    return b'<!DOCTYPE a [<!ENTITY e0 "ha">' + entities + b"]>" + body


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_it_does_not_matter_how_the_bytes_arrive(chunk: int) -> None:
    data = (
        '<?xml version="1.0"?><!DOCTYPE GIFTI SYSTEM "http://x/gifti.dtd"><GIFTI a="é">x &amp; y</GIFTI>'.encode()
    )
    reader = read(*(data[start : start + chunk] for start in range(0, len(data), chunk)))
    assert reader.root == "GIFTI"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (laughs(10, b"<a>&e9;</a>"), "defines entities"),
        (laughs(10, b"<a b='&e9;'/>"), "defines entities"),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>', "defines entities"),
        (b'<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;]><a/>', "defines entities"),
        (b'<!DOCTYPE a [<!ATTLIST a b CDATA "' + b"x" * 100_000 + b'">]><a/>', "defines entities"),
        (b"<!DOCTYPE a []><a/>", "defines entities"),
        (b'<!DOCTYPE a SYSTEM "x.dtd"><a>&quux;</a>', "the undefined entity 'quux'"),
        (b"<a>&quux;</a>", "undefined entity"),
        (b"<a>" * 101, "in one another"),
        (b"<a>" * 200_000, "in one another"),
        (b"<a b='" + b"x" * (1 << 21), "a single tag of more than"),
        (b"<a><!--" + b"x" * (1 << 21), "a single tag of more than"),
        (b'<?xml version="1.0" encoding="unicode_escape"?><a/>', "the encoding 'unicode_escape'"),
        (b'<?xml version="1.0" encoding="zip"?><a/>', "the encoding 'zip'"),
        (b'<?xml version="1.0" encoding="shift_jis"?><a/>', "the encoding 'shift_jis'"),
        (b'<?xml version="1.0" encoding="iso-8859-77"?><a/>', "unknown encoding"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"<a/><b/>", "junk after document element"),
        (b"<a>\0</a>", "not well-formed"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:30].decode(errors="replace"),
)
@pytest.mark.parametrize("chunk", [1000, 1 << 18])
def test_what_may_grow_or_lead_elsewhere_is_refused(data: bytes, why: str, chunk: int) -> None:
    with pytest.raises(XmlError, match=why):
        read(*(data[start : start + chunk] for start in range(0, len(data), chunk)))


def test_the_number_of_elements_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nvcatalog._xml._MOST_ELEMENTS", 1000)
    read(b"<a>" + b"<b/>" * 999 + b"</a>")
    with pytest.raises(XmlError, match="1,000"):
        read(b"<a>" + b"<b/>" * 1000 + b"</a>")


def test_long_texts_are_no_long_tags() -> None:
    for text in (b"x" * (1 << 21), b"<![CDATA[" + b"x" * (1 << 21) + b"]]>", b"&#120;" * (1 << 18)):
        data = b"<a>" + text + b"</a>"
        assert read(*(data[start : start + 10_000] for start in range(0, len(data), 10_000))).root == "a"
