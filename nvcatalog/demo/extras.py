"""Make the files that a collection holds beside its maps: label files, surfaces, NIDM packs."""

from __future__ import annotations

import hashlib
import html
import io
import zipfile
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Side = Literal["left", "right"]

#: The regions of the shipped atlases, FSL's Oxford Thalamic Connectivity Atlas.
THALAMUS = (
    "Primary motor cortex",
    "Sensory cortex",
    "Occipital cortex",
    "Pre-frontal cortex",
    "Pre-motor cortex",
    "Posterior parietal cortex",
    "Temporal cortex",
)
_VERTICES = 162
_ZIP_DATE = (2016, 1, 1, 0, 0, 0)


def label_file(atlas: str, names: Sequence[str]) -> bytes:
    """Return an atlas's label file as FSL writes it, its indices from 0."""
    lines = [
        f'<label index="{index}" x="0" y="0" z="0">{html.escape(name, quote=False)}</label>'
        for index, name in enumerate(names)
    ]
    header = f"<name>{html.escape(atlas, quote=False)}</name>\n<type>Label</type>"
    body = "\n".join(lines)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<atlas version="1.0">\n'
        f"<header>\n{header}\n</header>\n<data>\n{body}\n</data>\n</atlas>\n"
    ).encode()


def surface(image_id: int, side: Side) -> bytes:
    """Return values on one hemisphere, as the server makes them of a map: a GIfTI file, the same every time."""
    import numpy as np
    from nibabel import gifti as untyped

    gifti: Any = untyped
    seed = hashlib.blake2b(f"{image_id} {side}".encode(), digest_size=4).digest()
    values = np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(_VERTICES, dtype=np.float32)
    array = gifti.GiftiDataArray(values, intent="NIFTI_INTENT_NONE", datatype="NIFTI_TYPE_FLOAT32")
    data: bytes = gifti.GiftiImage(darrays=[array]).to_bytes()
    return data


def pack_turtle(name: str, maps: Sequence[str]) -> bytes:
    """Return what a NIDM pack says of its maps, in Turtle."""
    lines = [
        "@prefix prov: <http://www.w3.org/ns/prov#> .",
        "@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .",
        "@prefix nfo: <http://www.semanticdesktop.org/ontologies/2007/03/22/nfo#> .",
        "@prefix nidm: <http://purl.org/nidash/nidm#> .",
        "@prefix niiri: <http://iri.nidash.org/> .",
        "",
        f'niiri:pack a prov:Bundle, nidm:NIDM_0000027 ; rdfs:label "{name}" .',
    ]
    lines += [
        f'niiri:map_{number} a prov:Entity, nidm:NIDM_0000076 ; nfo:fileName "{file}" .'
        for number, file in enumerate(maps)
    ]
    return ("\n".join(lines) + "\n").encode()


def pack_archive(files: Mapping[str, bytes]) -> bytes:
    """Return an archive of some files, the same bytes every time."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), data)
    return stream.getvalue()
