"""Read what people write as a condition or as an order, with DuckDB's own parser: expressions and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import duckdb

from nvcatalog.errors import QueryError

Tree: TypeAlias = dict[str, Any]
Clause = Literal["where", "order_by"]

# What stands around the text when it is read alone, and when it is read where it will stand.
_ALONE = {
    "where": ("SELECT 1 FROM stat_maps WHERE ", "\n"),
    "order_by": ("SELECT 1 FROM stat_maps ORDER BY ", "\n"),
}
_IN_PLACE = {
    "where": ("SELECT 1 FROM stat_maps WHERE (\n", "\n)"),
    "order_by": ("SELECT 1 FROM stat_maps ORDER BY\n", "\n, image_id"),
}
_NOUNS = {"where": "one expression that is true or false", "order_by": "expressions to order by"}
_EXAMPLES = {"where": "n_subjects >= 20", "order_by": "n_subjects DESC"}

# The clauses that can follow a condition or an order, by their name in the tree.
_MORE = {
    "group_expressions": "GROUP BY",
    "group_sets": "GROUP BY",
    "having": "HAVING",
    "qualify": "QUALIFY",
    "sample": "USING SAMPLE",
}
_MODIFIERS = {"LIMIT_MODIFIER": "LIMIT", "LIMIT_PERCENT_MODIFIER": "LIMIT", "ORDER_MODIFIER": "ORDER BY"}
# The functions in a FROM that make rows of their arguments alone.
_TABLE_FUNCTIONS = ("unnest", "range", "generate_series", "json_each", "json_tree")
# Python's own recursion ends at 1,000 calls, and comparing trees takes up to three a level.
_DEEPEST = 200
#: How many AND-ed parts a condition may have: a program wrote it, and DuckDB plans each of them.
MOST_PARTS = 2_000
_MEANT = {"&&": "AND", "||": "OR", "!": "NOT", "===": "=", "=>": ">=", "=<": "<="}
_SLIP = re.compile(r"&&|\|\||!(?!=)|===|=>|=<")
_TYPOGRAPHIC = ("\u201c", "\u201d", "\u201e")  # double ones, to which SQL gives no meaning
_TOO_DEEP = "is nested too deep; write it flatter, with IN in place of many ORs, or as a query"


@dataclass(frozen=True)
class Expressions:
    """A text that is nothing but expressions: one condition, or a list to order by.

    Attributes
    ----------
    text : str
        As it was given. It may hold comments, so a line break must follow it.
    trees : tuple of dict
        What DuckDB's parser makes of it: the AND-ed parts of a condition, the keys of an order.
    parameters : frozenset of str
        The names of its ``$name`` parameters, in lower case.
    """

    text: str
    trees: tuple[Tree, ...]
    parameters: frozenset[str]

    def fields_of(self, table: str) -> set[str]:
        """Return the columns that are asked of a table by name, in lower case; '*' for all of them."""
        fields = set()
        for tree in _walk(self.trees):
            if tree.get("class") == "COLUMN_REF":
                names = [name.lower() for name in tree["column_names"]]
                if table in names:
                    fields.add("".join(names[names.index(table) + 1 :][:1]) or "*")
        return fields


def read(connection: duckdb.DuckDBPyConnection, clause: Clause, text: str) -> Expressions:
    """Read a condition (``where``) or a list to order by (``order_by``).

    Safety rests on the fence of the connection; this makes sure that the text stays in its place, and that
    what is wrong is told in terms of the text.

    Raises
    ------
    QueryError
        When it is not what it claims: bad SQL, more than expressions, or something asked that is no table.
    """
    if not isinstance(text, str):
        raise QueryError(f"{clause} is {text!r}; give SQL as text, such as {_EXAMPLES[clause]!r}")
    statement = _parse(connection, clause, text, _ALONE[clause])
    trees = _trees(clause, statement["node"])
    if len(trees) > MOST_PARTS:
        raise QueryError(
            f"{clause} has {len(trees):,} parts and may have {MOST_PARTS:,}; "
            "write it with IN, as a query, or with a table of your own"
        )
    _check_reach(clause, trees)
    _parse(connection, clause, text, _IN_PLACE[clause])
    names = frozenset(parameter["key"].lower() for parameter in statement["named_param_map"])
    if any(name.isdigit() for name in names):
        raise QueryError(f"{clause}: its parameters have names; write $name instead of ? and $1")
    return Expressions(text, trees, names)


def split(connection: duckdb.DuckDBPyConnection, condition: Expressions) -> list[str]:
    """Return the AND-ed parts of a condition as texts, in its own words where it can be cut there."""
    if len(condition.trees) == 1:
        return [condition.text.strip()]
    parts = _Cutter(condition.text).parts()
    # What is cut in a wrong place does not parse, or not to the same.
    if len(parts) == len(condition.trees) and _same(_conjuncts_of(connection, all_of(parts)), condition.trees):
        return parts
    return [_written_out(connection, tree) for tree in condition.trees]


def all_of(parts: Iterable[str]) -> str:
    """Return the condition that holds where each of some conditions does."""
    return " AND ".join(f"(\n{part}\n)" for part in parts)


def slips(text: str) -> dict[str, str]:
    """Return the signs of other languages in a text, each with what SQL has for it.

    Examples
    --------
    >>> slips("stat = 't' && !not_mni")
    {'&&': 'AND', '!': 'NOT'}
    """
    signs = [token.text for token in _tokens(text) if token.kind == duckdb.token_type.operator]
    found = (sign for each in signs for sign in _SLIP.findall(each))
    return {sign: _MEANT[sign] for sign in found}


def quoted_names(text: str) -> dict[str, str]:
    """Return what a text has in quotes that make a name of it, to SQL, each with what is between them.

    Examples
    --------
    >>> quoted_names('task = "stop signal task"')
    {'stop signal task': 'stop signal task'}
    """
    names = (token.text for token in _tokens(text) if token.kind == duckdb.token_type.identifier)
    quoted = (name for name in names if name.startswith(('"', "`", *_TYPOGRAPHIC)))
    return {name.strip('"`'): name.strip("".join(('"', "`", *_TYPOGRAPHIC))) for name in quoted}


def caret_under(text: str, offset: int) -> str:
    """Return the line of a text that an offset is in, with a caret under that place."""
    start = text.rfind("\n", 0, offset) + 1
    line = text[start:].split("\n", 1)[0]
    return f"  {line}\n  {' ' * (offset - start)}^"


# Parsing


def _parse(connection: duckdb.DuckDBPyConnection, clause: Clause, text: str, around: tuple[str, str]) -> Tree:
    """Return the one statement that the text is a clause of."""
    before, after = around
    answer = _serialized(connection, before + text + after, clause)
    if not answer["error"]:
        _check_is_one_clause(clause, answer["statements"])
        statement: Tree = answer["statements"][0]
        return statement
    if "position" not in answer:
        said = str(answer["error_message"])
        if "depth" in said:
            raise QueryError(f"{clause} {_TOO_DEEP}")
        # A statement that is no SELECT, or named and unnamed parameters together.
        said = said.replace("Only SELECT statements can be serialized to json!", "this is a statement")
        raise QueryError(f"{clause}: give {_NOUNS[clause]} and nothing else ({said})")
    place = int(answer["position"]) - len(before.encode())
    if place < 0:
        raise QueryError(f"{clause} is empty; give {_NOUNS[clause]}, such as {_EXAMPLES[clause]!r}")
    offset = len(text.encode()[:place].decode(errors="ignore"))  # DuckDB counts bytes
    raise QueryError(f"{clause}: {answer['error_message'].rstrip()}\n{caret_under(text, offset)}")


def _serialized(connection: duckdb.DuckDBPyConnection, query: str, clause: Clause = "where") -> Tree:
    try:
        rows = connection.execute("SELECT json_serialize_sql($query)", {"query": query}).fetchall()
        tree: Tree = json.loads(rows[0][0])
    except RecursionError as error:
        raise QueryError(f"{clause} {_TOO_DEEP}") from error
    except (duckdb.Error, UnicodeError) as error:  # half a character
        raise QueryError(f"{clause} cannot be read as SQL: {error}") from error
    if _depth(tree) > _DEEPEST:
        raise QueryError(f"{clause} {_TOO_DEEP}")
    return tree


def _depth(tree: Tree) -> int:
    deepest = 0
    waiting: list[tuple[int, Any]] = [(1, tree)]
    while waiting:
        depth, one = waiting.pop()
        deepest = max(deepest, depth)
        inner = one.values() if isinstance(one, dict) else one
        waiting += [(depth + 1, each) for each in inner if isinstance(each, dict | list)]
    return deepest


def _check_is_one_clause(clause: Clause, statements: list[Tree]) -> None:
    node = statements[0]["node"]
    modifiers = [modifier["type"] for modifier in node["modifiers"]]
    if clause == "order_by" and modifiers[:1] == ["ORDER_MODIFIER"]:
        modifiers = modifiers[1:]
    found = [words for key, words in _MORE.items() if node.get(key)]
    found += [_MODIFIERS.get(modifier, modifier) for modifier in modifiers]
    if node["type"] != "SELECT_NODE":
        found.append(str(node.get("setop_type", node["type"])))
    if len(statements) > 1:
        found.append("a second statement")
    if found:
        raise QueryError(
            f"{clause}: give {_NOUNS[clause]} and nothing else; found {', '.join(dict.fromkeys(found))}"
        )


def _trees(clause: Clause, node: Tree) -> tuple[Tree, ...]:
    if clause == "where":
        return tuple(_conjuncts(node["where_clause"]))
    return tuple(order["expression"] for order in node["modifiers"][0]["orders"])


def _conjuncts(tree: Tree) -> list[Tree]:
    return list(tree["children"]) if tree["type"] == "CONJUNCTION_AND" else [tree]


def _check_reach(clause: Clause, trees: tuple[Tree, ...]) -> None:
    """Refuse what is no expression over the catalog's tables, before DuckDB or the fence does it less clearly."""
    for tree in _walk(trees):
        if tree.get("type") == "TABLE_FUNCTION":
            name = tree["function"].get("function_name", "")
            if name.lower() not in _TABLE_FUNCTIONS:
                raise QueryError(
                    f"{clause}: {name}() is not for conditions; they read the catalog's tables and yours"
                )
        if tree.get("type") == "BASE_TABLE" and tree["table_name"].lower() == "access":
            # What cannot be asked cannot show up in an error, a report or a list of what was selected.
            raise QueryError(
                f"{clause}: the table access holds the tokens of private collections; it cannot be asked"
            )
    for tree in _walk(trees, into_subqueries=False):
        if tree.get("class") == "STAR":
            raise QueryError(f"{clause}: name the columns; *, ALL and COLUMNS() stand for several")
    if clause == "order_by" and any(tree.get("class") == "CONSTANT" for tree in trees):
        raise QueryError("order_by: a number or text orders nothing; name a column, such as 'n_subjects DESC'")


def _walk(tree: Any, *, into_subqueries: bool = True) -> Iterator[Tree]:
    """Yield every node of a tree; those of subqueries too, unless told otherwise."""
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += [value for key, value in one.items() if into_subqueries or key != "subquery"]
        elif isinstance(one, list | tuple):
            waiting += one


# Reading a text token by token, as DuckDB does


class _Token(NamedTuple):
    start: int  # in bytes, as DuckDB counts
    kind: Any
    text: str


def _tokens(text: str) -> list[_Token]:
    data, found = text.encode(), duckdb.tokenize(text)
    ends = [*(start for start, _ in found), len(data)][1:]
    return [
        _Token(start, kind, data[start:end].decode().strip())
        for (start, kind), end in zip(found, ends, strict=False)
    ]


# Cutting a condition where its ANDs are

_OPENING, _CLOSING = ("(", "[", "{", "CASE"), (")", "]", "}", "END")


class _Span(NamedTuple):
    """A stretch of a condition: its tokens, and its bytes with the comments around them."""

    first: int
    last: int
    begin: int
    end: int


class _Cutter:
    """Cuts a text at the ANDs of its outermost level, in one walk over its tokens however many there are."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        tokens = [token for token in _tokens(text) if token.kind != duckdb.token_type.comment]
        of_sql = (duckdb.token_type.keyword, duckdb.token_type.operator)
        self._starts = [token.start for token in tokens]
        self._words = [token.text.upper() if token.kind in of_sql else "" for token in tokens]
        self._closing = self._brackets()

    def _brackets(self) -> dict[int, int]:
        """Return, for each token that opens something, the one that closes it."""
        closing, open_ones = {}, []
        for number, word in enumerate(self._words):
            if word in _OPENING:
                open_ones.append(number)
            elif word in _CLOSING and open_ones:
                closing[open_ones.pop()] = number
        return closing

    def parts(self) -> list[str]:
        parts = []
        waiting = [_Span(0, len(self._words), 0, len(self._text))]
        while waiting:
            span = waiting.pop()
            inner = span
            while not (ands := self._ands(inner)) and (inside := self._inside(inner)):
                inner = inside
            if ands:
                waiting += reversed(self._between(inner, ands))
            else:
                parts.append(self._text[span.begin : span.end].decode().strip())
        return parts

    def _ands(self, span: _Span) -> list[int]:
        """Return the ANDs of a stretch that stand in no brackets and belong to no BETWEEN; none beside an OR."""
        ands, betweens, number = [], 0, span.first
        while number < span.last:
            word = self._words[number]
            if word == "OR":
                return []
            if word == "AND" and not betweens:
                ands.append(number)
            betweens += (word == "BETWEEN") - (word == "AND" and betweens > 0)
            number = self._closing.get(number, number) + 1
        return ands

    def _inside(self, span: _Span) -> _Span | None:
        """Return what is in the parentheses around a whole stretch; None where there are none."""
        last = span.last - 1
        if last <= span.first or self._words[span.first] != "(" or self._closing.get(span.first) != last:
            return None
        return _Span(span.first + 1, last, self._starts[span.first] + 1, self._starts[last])

    def _between(self, span: _Span, ands: list[int]) -> list[_Span]:
        places = [(number, self._starts[number]) for number in ands]
        begins = [(span.first, span.begin), *((number + 1, start + len("AND")) for number, start in places)]
        ends = [*places, (span.last, span.end)]
        return [_Span(a[0], b[0], a[1], b[1]) for a, b in zip(begins, ends, strict=True)]


def _conjuncts_of(connection: duckdb.DuckDBPyConnection, text: str) -> list[Tree]:
    """Return the AND-ed parts of a text, none when it is no condition."""
    before, after = _ALONE["where"]
    answer = _serialized(connection, before + text + after)
    if answer["error"] or len(answer["statements"]) != 1:
        return []
    tree = answer["statements"][0]["node"].get("where_clause")
    return _conjuncts(tree) if tree else []


def _same(trees: Iterable[Tree], others: Iterable[Tree]) -> bool:
    return [_without_places(tree) for tree in trees] == [_without_places(tree) for tree in others]


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_places(value) for key, value in tree.items() if not key.startswith("query_location")}
    return [_without_places(value) for value in tree] if isinstance(tree, list) else tree


def _written_out(connection: duckdb.DuckDBPyConnection, tree: Tree) -> str:
    """Return an expression as DuckDB would write it."""
    select = _serialized(connection, "SELECT 1")
    select["statements"][0]["node"]["select_list"] = [tree]
    rows = connection.execute("SELECT json_deserialize_sql($tree)", {"tree": json.dumps(select)}).fetchall()
    return str(rows[0][0]).removeprefix("SELECT ")
