"""Shape what the API says about a collection or an image into a row of the catalog."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pyarrow as pa

#: In bytes: larger than any image's file, whatever its record says, and none beyond it is taken for one.
LARGEST_FILE = 1 << 34

Record = dict[str, Any]
Row = dict[str, Any]


def _fields(**columns_by_kind: str) -> dict[str, str]:
    """Turn ``int="a b", text="c"`` into ``{"a": "int", "b": "int", "c": "text"}``."""
    return {column: kind for kind, columns in columns_by_kind.items() for column in columns.split()}


# Column -> kind of its values, for every documented field. The kinds are those of `_FIT` and `_arrow_type`.
COLLECTION_FIELDS = _fields(
    int="""
        collection_id owner number_of_images number_of_imaging_runs number_of_experimental_units
        number_of_rejected_subjects matrix_size
    """,
    float="""
        length_of_runs length_of_blocks subject_age_mean subject_age_min subject_age_max
        proportion_male_subjects field_strength field_of_view slice_thickness skip_distance repetition_time
        echo_time flip_angle target_resolution smoothing_fwhm resampled_voxel_size
    """,
    bool="""
        private optimization group_comparison used_b0_unwarping used_slice_timing_correction
        used_motion_correction used_motion_susceptibiity_correction used_intersubject_registration
        functional_coregistered_to_structural used_smoothing used_temporal_derivatives
        used_dispersion_derivatives used_motion_regressors used_reaction_time_regressor used_orthogonalization
        used_high_pass_filter group_repeated_measures
    """,
    text="""
        name url download_url contributors owner_name publication_status doi doi_raw preprint_doi
        preprint_doi_raw authors paper_url journal_name description full_dataset_url type_of_design
        length_of_trials optimization_method handedness inclusion_exclusion_criteria group_description
        scanner_make scanner_model pulse_sequence parallel_imaging acquisition_orientation
        order_of_acquisition software_package software_version order_of_preprocessing_operations
        quality_control b0_unwarping_software slice_timing_correction_software motion_correction_software
        motion_correction_reference motion_correction_metric motion_correction_interpolation
        intersubject_registration_software intersubject_transformation_type nonlinear_transform_type
        transform_similarity_metric interpolation_method object_image_type functional_coregistration_method
        coordinate_space target_template_image smoothing_type intrasubject_model_type
        intrasubject_estimation_type intrasubject_modeling_software hemodynamic_response_function
        orthogonalization_description high_pass_filter_method autocorrelation_model group_model_type
        group_estimation_type group_modeling_software group_inference_type group_model_multilevel
        group_repeated_measures_method nutbrain_hunger_state nutbrain_food_viewing_conditions
        nutbrain_food_choice_type nutbrain_taste_conditions nutbrain_odor_conditions
    """,
    time="add_date modify_date doi_add_date",
    json="communities",
)
IMAGE_FIELDS = _fields(
    int="image_id collection_id number_of_subjects",
    bigint="file_size",
    float="""
        age BMI fat_percentage waist_hip_ratio mean_PDS_score days_since_menstruation hours_since_last_meal
        bis_bas_score spsrq_score bis11_score perc_bad_voxels brain_coverage perc_voxels_outside
        statistic_parameters smoothness_fwhm
    """,
    bool="is_valid is_thresholded not_mni",
    text="""
        name url file collection cognitive_paradigm_cogatlas cognitive_paradigm_cogatlas_id
        cognitive_contrast_cogatlas cognitive_contrast_cogatlas_id map_type analysis_level description
        surface_left_file surface_right_file data_origin target_template_image subject_species figure
        handedness sex race ethnicity tanner_stage thumbnail reduced_representation modality
        contrast_definition contrast_definition_cogatlas cognitive_paradigm_description_url
        cognitive_paradigm_short_description cognitive_paradigm_name image_type label_description_file
        nidm_results nidm_results_ttl
    """,
    time="add_date modify_date",
    json="data",
)

# Table -> column -> kind, so that rows of any table can be landed by its name.
TABLES: dict[str, dict[str, str]] = {
    "collections": COLLECTION_FIELDS
    | _fields(
        json="extra", time="fetched_at listed_at listed_modify_date gone_at", int="listed_count", bool="complete"
    ),
    "images": IMAGE_FIELDS | _fields(json="extra", time="fetched_at gone_at"),
    "files": {
        **_fields(int="image_id", bigint="size", time="downloaded_at"),
        **_fields(text="kind path sha256 etag last_modified origin dtype state"),
        "shape": "int[]",
        "voxel_size_mm": "float[]",
    },
    "refusals": _fields(text="kind status reason", int="id position", time="modify_date seen_at"),
    "access": _fields(int="collection_id", text="token"),
    "nidm_packs": _fields(int="pack_id collection_id image_id"),
    "terms": _fields(int="term_id", text="term"),
    "words": _fields(int="image_id term_id", float="weight"),
    "words_status": _fields(int="image_id", text="status reference", time="fetched_at"),
    "raw_records": _fields(text="kind source", int="id", json="raw", time="fetched_at"),
    "record_history": _fields(text="kind", int="id", json="raw", time="fetched_at replaced_at"),
    "fetches": _fields(
        text="fetch_id function mode server version",
        time="started_at finished_at",
        json="parameters",
        int="requested returned downloaded missing",
        bigint="bytes",
    ),
    "outcomes": _fields(text="fetch_id kind status reason", int="id"),
    "catalog_info": _fields(text="key value"),
}

# Column -> field of the API, where they differ.
_COLLECTION_SOURCES = {
    "collection_id": "id",
    "doi": "DOI",
    "doi_raw": "DOI",
    "preprint_doi": "preprint_DOI",
    "preprint_doi_raw": "preprint_DOI",
}
_IMAGE_SOURCES = {"image_id": "id"}
# `sex` was called `gender` until 2024.
_IMAGE_SOURCES_UNTIL_2024 = {"image_id": "id", "sex": "gender"}


def parse_json(text: bytes | str) -> Any:
    """Parse JSON strictly, into values that every later step can store.

    Lone surrogates become U+FFFD, in keys too: neither Arrow nor a file can hold them.

    Raises
    ------
    ValueError
        If the text is not UTF-8 or not JSON, or holds NaN, Infinity or a number too large for a float.
    """
    # Looked for as bytes, in which only an escape can be one: that is some 100 times faster than in text.
    suspect = _ESCAPED_SURROGATE.search(text) if isinstance(text, bytes) else _SURROGATE.search(text)
    text = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        return _without_surrogates(value) if suspect else value
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def null_placeholders(record: Mapping[str, Any]) -> Record:
    """Return the record with ``None`` for values that only say there is none, as nilearn gives it.

    nilearn looks at how a value begins, and so loses "Nonemotional > emotional faces"; here the whole
    value counts.

    Examples
    --------
    >>> null_placeholders({"modality": "None / Other", "contrast_definition": "None > all"})
    {'modality': None, 'contrast_definition': 'None > all'}
    """
    says_nothing = _PLACEHOLDER.fullmatch  # looked up once: this runs for every value of every answer
    empty = [key for key, value in record.items() if isinstance(value, str) and says_nothing(value)]
    return {**record, **dict.fromkeys(empty)}


def collection_row(record: Mapping[str, Any]) -> Row:
    """Shape a collection's record into the columns of ``collections`` that come from the server.

    Raises
    ------
    ValueError
        If the record has no usable id.
    """
    row = _row(record, _COLLECTION_SHAPE)
    row["collection_id"] = record_id(record)
    row["doi"] = normal_doi(row["doi_raw"])
    row["preprint_doi"] = normal_doi(row["preprint_doi_raw"])
    return row


def image_row(record: Mapping[str, Any]) -> Row:
    """Shape an image's record into the columns of ``images`` that come from the server.

    ``collection_id`` is ``None`` where the record does not tell.

    Raises
    ------
    ValueError
        If the record has no usable id.
    """
    until_2024 = "gender" in record and "sex" not in record
    row = _row(record, _IMAGE_SHAPE_UNTIL_2024 if until_2024 else _IMAGE_SHAPE)
    row["image_id"] = record_id(record)
    row["collection_id"] = _collection_id(record)
    return row


def record_id(record: Mapping[str, Any]) -> int:
    """Return the id of a collection's or image's record; a string of digits is as good as a number."""
    number = _id(record.get("id"))
    if number is None:
        raise ValueError(f"record without a usable id: {record.get('id')!r}")
    return number


def collection_id_of(image_record: Mapping[str, Any]) -> int:
    """Return the id of the collection an image belongs to, from its field or else its link."""
    number = _collection_id(image_record)
    if number is None:
        raise ValueError(f"record of image {image_record.get('id')!r} names no collection")
    return number


def pack_rows(pack: Mapping[str, Any], collection_id: int) -> list[Row]:
    """Shape the record of a NIDM pack into the rows of ``nidm_packs``: one for each image it holds.

    Raises
    ------
    ValueError
        If the pack has no usable id.
    """
    pack_id = record_id(pack)
    listed = pack.get("statmaps")
    images = (
        [_id(image.get("id")) for image in listed if isinstance(image, dict)] if isinstance(listed, list) else []
    )
    return [
        {"pack_id": pack_id, "collection_id": collection_id, "image_id": image_id}
        for image_id in dict.fromkeys(images)
        if image_id is not None
    ]


def modify_date_of(record: Mapping[str, Any]) -> datetime | None:
    """Return when the record last changed on the server, in UTC; ``None`` where it does not tell."""
    return _time(record.get("modify_date"))


def file_size_of(record: Mapping[str, Any]) -> int | None:
    """Return the size of an image's file in bytes; ``None`` where the record does not tell, or nothing to believe.

    Examples
    --------
    >>> file_size_of({"file_size": 1024}), file_size_of({"file_size": 0}), file_size_of({"file_size": 10**15})
    (1024, None, None)
    """
    size = _int64(record.get("file_size"))
    return size if size is not None and 0 < size <= LARGEST_FILE else None


def has_absurd_size(record: Mapping[str, Any]) -> bool:
    """Whether the record gives a size that no image's file has."""
    size = record.get("file_size")
    return isinstance(size, int | float) and size > LARGEST_FILE


def raw_text(record: Mapping[str, Any]) -> str:
    """Write a record as JSON, its keys in the order they came."""
    return _write_json(record)


def normal_doi(doi: str | None) -> str | None:
    """Return a DOI so that equal ones compare equal: lower case, trimmed, without a prefix.

    Examples
    --------
    >>> normal_doi("https://doi.org/10.1234/NV.Test ")
    '10.1234/nv.test'
    """
    if doi is None or _is_placeholder(doi):
        return None
    return _DOI_PREFIX.sub("", doi.strip().lower()) or None


def to_arrow(rows: Iterable[Mapping[str, Any]], fields: Mapping[str, str]) -> pa.Table:
    """Build the Arrow table from which rows are landed; keys that a row lacks are null.

    Parameters
    ----------
    rows
        Rows by column name.
    fields
        Column -> kind, an entry of `TABLES`.

    Raises
    ------
    ValueError
        If a row has a key that is no column: it would be lost in silence.
    """
    import pyarrow as pa

    rows = list(rows)
    unknown = set().union(*rows) - fields.keys()
    if unknown:
        raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
    return pa.table(
        {
            column: pa.array([row.get(column) for row in rows], type=_arrow_type(kind))
            for column, kind in fields.items()
        }
    )


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# Possessive where white space may be long: to share it out in every way would take hours for a megabyte of it.
_PLACEHOLDER = re.compile(r"\s*+(?:|n/?a|null|none(?:\s*/\s*other)?)\s*+", re.IGNORECASE)
_DOI_PREFIX = re.compile(r"^(?:(?:https?://)?(?:www\.|dx\.)?doi\.org/\s*|doi:\s*)+")
_COLLECTION_LINK = re.compile(r"/collections/([0-9]+)(?:/|$)")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal:.50} is too large for a float")
    return number


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None


class _Shape:
    """How a kind of record becomes a row: which field goes into which column, and how it is made to fit."""

    def __init__(self, fields: Mapping[str, str], sources: Mapping[str, str]) -> None:
        self.columns = [(column, sources.get(column, column), _FIT[kind]) for column, kind in fields.items()]
        self.documented = frozenset(name for _, name, _ in self.columns)


def _row(record: Mapping[str, Any], shape: _Shape) -> Row:
    get = record.get
    # This runs for every field of every record of a sync, and most fields of most records are empty.
    row = {column: None if (value := get(name)) is None else fit(value) for column, name, fit in shape.columns}
    row["extra"] = None
    if not record.keys() <= shape.documented:
        row["extra"] = _write_json({key: value for key, value in record.items() if key not in shape.documented})
    return row


def _collection_id(image_record: Mapping[str, Any]) -> int | None:
    number = _id(image_record.get("collection_id"))
    link = image_record.get("collection")
    if number is None and isinstance(link, str) and (found := _COLLECTION_LINK.search(link)):
        return _id(found[1])
    return number


def _id(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= len(str(2**31)):
        value = int(value)
    number = _int32(value)
    return number if number is not None and number > 0 else None


# What fits a column's kind, else None: the value itself is kept in raw_records.


def _int32(value: Any) -> int | None:
    return _whole(value, bits=32)


def _int64(value: Any) -> int | None:
    return _whole(value, bits=64)


def _whole(value: Any, *, bits: int) -> int | None:
    # NaN and infinity leave here: their remainder is NaN, which is true.
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
        return None
    return int(value) if -(2 ** (bits - 1)) <= value < 2 ** (bits - 1) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: Any) -> datetime | None:
    """Read an ISO 8601 time. One without an offset is no moment: nobody knows which zone was meant."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None


def _json(value: Any) -> str | None:
    return None if value is None else _write_json(value)


_write_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

_FIT: dict[str, Callable[[Any], Any]] = {
    "int": _int32,
    "bigint": _int64,
    "float": _float,
    "bool": _bool,
    "text": _text,
    "time": _time,
    "json": _json,
}


_COLLECTION_SHAPE = _Shape(COLLECTION_FIELDS, _COLLECTION_SOURCES)
_IMAGE_SHAPE = _Shape(IMAGE_FIELDS, _IMAGE_SOURCES)
_IMAGE_SHAPE_UNTIL_2024 = _Shape(IMAGE_FIELDS, _IMAGE_SOURCES_UNTIL_2024)


def _arrow_type(kind: str) -> pa.DataType:
    import pyarrow as pa

    if kind.endswith("[]"):
        return pa.list_(_arrow_type(kind.removesuffix("[]")))
    types = {
        "int": pa.int32(),
        "bigint": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "text": pa.string(),
        "time": pa.timestamp("us", tz="UTC"),
        "json": pa.string(),
    }
    return types[kind]
