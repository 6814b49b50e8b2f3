"""An atlas's label file is read as it was written, and one that is none is said to be none."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvcatalog.demo.extras import THALAMUS, label_file
from nvcatalog.errors import LabelsError
from nvcatalog.labels import read_labels

if TYPE_CHECKING:
    from pathlib import Path

# What XML 1.0 can hold; a carriage return is read as a newline, so it is none of them.
_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"))
_INDICES = st.integers(-(2**40), 2**40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image_1_labels.xml"


def atlas(labels: str) -> bytes:
    return f"<atlas version='1.0'><header><name>A</name></header><data>{labels}</data></atlas>".encode()


def test_names_come_with_their_indices_in_the_order_of_the_file(path: Path) -> None:
    path.write_bytes(
        b'<?xml version="1.0" encoding="ISO-8859-1"?>\n<atlas version="1.0">\n'
        b"<header><name>Caf\xe9</name></header>\n<data>\n"
        b'<label index="2" x="5" y="5" z="5">Lobule Crus I (caf\xe9)</label>\n'
        b'<label index="0" x="48" y="94" z="35">Gyrus &amp; &lt;pole&gt; &#xe9;</label>\n</data></atlas>\n'
    )
    assert read_labels(path) == [(2, "Lobule Crus I (café)"), (0, "Gyrus & <pole> é")]


def test_the_form_of_spm_is_read_too(path: Path) -> None:
    label = "<label>\n  <index>{}</index>\n  <name>{}</name>\n  <RGB>1</RGB>\n</label>"
    path.write_bytes(atlas(label.format(2001, "Precentral_L") + label.format(2002, "Precentral &amp; R")))
    assert read_labels(str(path)) == [(2001, "Precentral_L"), (2002, "Precentral & R")]


def test_a_region_without_a_name_has_an_empty_one(path: Path) -> None:
    path.write_bytes(atlas('<label index="1"/><label><index>2</index><name/></label>'))
    assert read_labels(path) == [(1, ""), (2, "")]


def test_what_the_demo_serves_is_such_a_file(path: Path) -> None:
    path.write_bytes(label_file("Thalamus", THALAMUS))
    assert read_labels(path) == list(enumerate(THALAMUS))


@given(st.lists(st.tuples(_INDICES, _NAMES), min_size=1, max_size=5), st.sampled_from(["utf-8", "utf-16"]))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_every_name_that_xml_can_hold_comes_back(path: Path, labels: list[tuple[int, str]], encoding: str) -> None:
    text = "".join(f"<label index={quoteattr(str(index))}>{escape(name)}</label>" for index, name in labels)
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><a><data>{text}</data></a>'.encode(encoding))
    assert read_labels(path) == labels


BILLION_LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE atlas [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<atlas><data><label index="0">&b;</label></data></atlas>"""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no element found"),
        (b"Frontal pole\nInsula\n", "syntax error|not well-formed"),
        (b'{"labels": []}', "not well-formed|syntax error"),
        (b"\x1f\x8b\x08\x00", "not well-formed|syntax error"),
        (atlas('<label index="1">a</label>')[:-3], "unclosed token"),
        (atlas('<label index="1">a</label>')[:-8], "no element found"),
        (atlas('<label index="1">a</data>'), "mismatched tag"),
        (b"<html><body><p>Down for maintenance</p></body></html>", "its <html> holds no <label>"),
        (atlas(""), "its <atlas> holds no <label>"),
        (atlas("<label>a</label>"), "line 1: a label with the index '', which is no whole number"),
        (atlas('<label index="x">a</label>'), "the index 'x'"),
        (atlas('<label index="1.5">a</label>'), r"the index '1\.5'"),
        (atlas('<label index="1_000">a</label>'), "the index '1_000'"),
        (atlas('<label index="%s">a</label>' % ("9" * 5000)), "the index '9999"),
        (atlas('<label index="1">&nbsp;</label>'), "undefined entity"),
        (BILLION_LAUGHS, "it defines entities"),
        (b'<!DOCTYPE atlas SYSTEM "file:///etc/passwd"><atlas><label index="1">&x;</label></atlas>', "entity 'x'"),
    ],
)
def test_what_is_no_label_file_is_said_with_its_name(path: Path, data: bytes, why: str) -> None:
    path.write_bytes(data)
    with pytest.raises(LabelsError, match=rf"image_1_labels\.xml is no label file: .*({why})"):
        read_labels(path)


def test_a_file_that_is_not_there_is_not_found(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="image_1_labels"):
        read_labels(path)
