"""Say in SQL what terms mean, so that a catalog of 600,000 records need not be parsed to find a hundred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nvcatalog import records
from nvcatalog.filters import (
    Contains,
    GreaterOrEqual,
    GreaterThan,
    IsIn,
    IsNull,
    LessOrEqual,
    LessThan,
    NotContains,
    NotEqual,
    NotIn,
    NotNull,
    Pattern,
)


class TermsInSQL(NamedTuple):
    """What SQL can say about terms, over a table whose rows were made from the records.

    Attributes
    ----------
    where : str
        An expression that is true for the row of every record that the terms keep, and of some others.
    params : dict
        The parameters of `where` and `certain`.
    leftover : dict
        The terms about which `where` says nothing.
    certain : str
        An expression that is true only for rows of records that the terms keep. Where it is not, the
        record must be asked.
    """

    where: str
    params: dict[str, Any]
    leftover: dict[str, Any]
    certain: str


def to_sql(
    terms: Mapping[str, Any], columns: Mapping[str, str], *, prefix: str = "p", extra: str | None = None
) -> TermsInSQL:
    """Say in SQL what terms mean, as far as a table's typed columns can tell.

    SQL narrows, and Python judges what SQL cannot tell. A column lacks what does not fit its type, whereas
    terms see any value: ``False`` is equal to a 0, which a BOOLEAN column cannot hold. So each term becomes
    an expression of SQL's three-valued logic: true or false where the column decides as the record would,
    else NULL. A term that no such expression can say is left over. ::

        SELECT image_id, {certain} FROM images WHERE {where}

    gives the rows of all records that the terms keep. Those whose second value is true are kept; of the
    others, those for which ``keeps(ResultFilter(terms), record)``.

    Parameters
    ----------
    terms : mapping
        Field of the server's record -> value or special value, as for
        :class:`~nvcatalog.filters.ResultFilter`.
    columns : mapping
        Column -> kind: :data:`nvcatalog.records.IMAGE_FIELDS` or ``COLLECTION_FIELDS``.
    prefix : str
        How the parameters' names begin, to tell the terms of two tables apart in one query.
    extra : str or None
        The JSON column with the fields that have no column of their own. A term on one of these that nothing
        but a value can meet narrows to the rows that have the field.

    Returns
    -------
    TermsInSQL
        ``where``, ``params``, ``leftover`` and ``certain``.

    Examples
    --------
    >>> from nvcatalog.filters import IsIn, Pattern
    >>> columns = {"not_mni": "bool", "modality": "text", "name": "text"}
    >>> narrowed = to_sql({"not_mni": False, "name": Pattern("face")}, columns)
    >>> narrowed.where, narrowed.params
    ('("not_mni" = $p0) IS NOT FALSE', {'p0': False})
    >>> narrowed.leftover, narrowed.certain
    ({'name': Pattern('face', 0)}, 'FALSE')
    """
    parameters = _Parameters(prefix)
    expressions, leftover = [], {}
    for name, value in terms.items():
        expression = _translate(name, value, columns, parameters)
        if expression is None and extra and _is_free_form(name, columns) and _needs_a_value(value):
            has_field = f"list_contains(json_keys({extra}), {parameters.add(name)})"
            expression = f"CASE WHEN coalesce({has_field}, FALSE) THEN NULL ELSE FALSE END"
        if expression is None:
            leftover[name] = value
        else:
            expressions.append(f"({expression})")
    where = " AND ".join(f"{expression} IS NOT FALSE" for expression in expressions) or "TRUE"
    certain = " AND ".join(f"{expression} IS TRUE" for expression in expressions) or "TRUE"
    return TermsInSQL(where, parameters.values, leftover, "FALSE" if leftover else certain)


# Columns that are made of more than the field of their name, and fields whose column has another one.
_MADE_UP = {"doi", "doi_raw", "preprint_doi", "preprint_doi_raw", "sex"}
_COLUMN_OF = {"DOI": "doi_raw", "preprint_DOI": "preprint_doi_raw"}

# Terms see placeholders as None. A text with any of these characters is none: they have letters of
# "none / other", "null" and "n/a", slashes, and what Unicode holds to be blank.
_IN_NO_PLACEHOLDER = "[0-9B-DFGI-KMPQSV-Zb-dfgi-kmpqsv-z]"

# Below this every whole number has a float of its own.
_EXACT = 2**53

_PLAIN = (str, bool, int, float, list, dict)

_LISTS = {"text": "VARCHAR[]", "bool": "BOOLEAN[]"}


@dataclass
class _Parameters:
    prefix: str
    values: dict[str, Any] = field(default_factory=dict)

    def add(self, value: object) -> str:
        name = f"{self.prefix}{len(self.values)}"
        self.values[name] = value
        return f"${name}"


@dataclass(frozen=True)
class _Column:
    """A column that holds a field.

    Attributes
    ----------
    sql : str
        Its quoted name.
    kind : str
        The kind of its values, as in ``records``.
    is_id : bool
        Whether it holds an id, which in the record may be a string of digits, or only part of a link.
    """

    sql: str
    kind: str
    is_id: bool

    @property
    def is_number(self) -> bool:
        return self.kind in ("int", "bigint", "float") and not self.is_id

    @property
    def is_no_placeholder(self) -> str:
        return f"regexp_matches({self.sql}, '{_IN_NO_PLACEHOLDER}')"

    def can_equal(self, value: object) -> bool:
        """Say whether comparing the column with the value can stand for comparing the record with it."""
        if self.kind == "text":
            return _is_storable(value) and records.null_placeholders({"": value})[""] is not None
        if self.kind == "bool":
            return type(value) is bool
        # True is equal to 1, and what can be no id may stand beside a link that tells another one.
        return (self.is_number and _is_exact(value)) or (self.is_id and type(value) is int and 1 < value < 2**31)


def _translate(name: str, value: object, columns: Mapping[str, str], parameters: _Parameters) -> str | None:
    """Write a term so that it is true or false only where the record, too, would say so."""
    column = _column(name, columns)
    # By the very type: a class derived from one of ours may mean anything.
    translate = _TRANSLATIONS.get(type(value))
    return None if column is None or translate is None else translate(column, value, parameters)


def _column(name: str, columns: Mapping[str, str]) -> _Column | None:
    """Find the column that holds a field of the record, if one does."""
    own_id = "image_id" if "image_id" in columns else "collection_id"
    column = own_id if name == "id" else _COLUMN_OF.get(name, name)
    if name in _MADE_UP or name == own_id or column not in columns:
        return None
    return _Column(f'"{column}"', columns[column], is_id=column in ("image_id", "collection_id"))


def _is_free_form(name: str, columns: Mapping[str, str]) -> bool:
    """Whether a record that has the field must have it among those without a column."""
    is_documented = name in columns or name in _COLUMN_OF or name in ("id", "gender")
    return not is_documented and _is_storable(name) and name.isprintable()


def _needs_a_value(value: object) -> bool:
    """Whether no record without the field can meet a term: to terms a field that is not there is None."""
    if isinstance(value, GreaterOrEqual | GreaterThan | LessOrEqual | LessThan) and type(value) in _TRANSLATIONS:
        return type(value.bound_) in (int, float)
    if type(value) is IsIn:
        return all(type(each) in _PLAIN for each in value.values_)
    return type(value) in (*_PLAIN, NotNull, Contains, NotContains, Pattern)


def _one_of(column: _Column, values: tuple[object, ...], parameters: _Parameters) -> str | None:
    if not values or not all(map(column.can_equal, values)):
        return None
    if len(values) == 1:
        sql = f"{column.sql} = {parameters.add(values[0])}"
    else:
        type_ = _LISTS.get(column.kind, "DOUBLE[]")
        sql = f"{column.sql} IN (SELECT unnest({parameters.add(list(values))}::{type_}))"
    if column.kind == "text":
        return f"coalesce({sql}, FALSE)"  # what is not in a text column is no text, and so equal to none
    return f"nullif({sql}, TRUE)" if column.is_id else sql  # of equal ids, one may have been a string


def _null(column: _Column) -> str | None:
    if column.kind == "text":
        return f"CASE WHEN {column.is_no_placeholder} THEN FALSE END"
    if column.kind == "bool":
        return f"NOT {column.sql}"
    return f"{column.sql} = 0" if column.is_number else None


def _compared(column: _Column, sign: str, bound: object, parameters: _Parameters) -> str | None:
    if not column.is_number or not _is_exact(bound):
        return None
    # A whole bound makes the values whole before they are compared.
    value = f"trunc({column.sql})" if column.kind == "float" and type(bound) is int else column.sql
    return f"{value} {sign} {parameters.add(bound)}"


def _containing(column: _Column, items: tuple[object, ...], sign: str, parameters: _Parameters) -> str | None:
    if column.kind != "text" or not items or not all(map(_is_storable, items)):
        return None
    parts = " AND ".join(f"{sign}contains({column.sql}, {parameters.add(item)})" for item in items)
    return f"CASE WHEN {column.is_no_placeholder} THEN {parts} END"


def _not(sql: str | None) -> str | None:
    return None if sql is None else f"NOT ({sql})"


def _is_storable(value: object) -> bool:
    return type(value) is str and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_exact(value: object) -> bool:
    return isinstance(value, int | float) and type(value) in (int, float) and -_EXACT < value < _EXACT


_TRANSLATIONS: dict[type, Callable[[_Column, Any, _Parameters], str | None]] = {
    **dict.fromkeys((str, bool, int, float), lambda column, value, new: _one_of(column, (value,), new)),
    IsIn: lambda column, value, new: _one_of(column, value.values_, new),
    NotIn: lambda column, value, new: _not(_one_of(column, value.values_, new)),
    NotEqual: lambda column, value, new: _not(_one_of(column, (value.negated_,), new)),
    IsNull: lambda column, value, new: _null(column),
    NotNull: lambda column, value, new: _not(_null(column)),
    GreaterOrEqual: lambda column, value, new: _compared(column, ">=", value.bound_, new),
    GreaterThan: lambda column, value, new: _compared(column, ">", value.bound_, new),
    LessOrEqual: lambda column, value, new: _compared(column, "<=", value.bound_, new),
    LessThan: lambda column, value, new: _compared(column, "<", value.bound_, new),
    Contains: lambda column, value, new: _containing(column, value.values_, "", new),
    NotContains: lambda column, value, new: _containing(column, value.values_, "NOT ", new),
}
