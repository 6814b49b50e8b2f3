"""What the library says in Python, in the words of the command line: its commands and its flags."""

from __future__ import annotations

import re
from functools import partial

_COMMANDS = "adopt|cite|diff|doctor|export|freeze|prune|rebuild|repair|snapshot|sync|usage|verify"
_SWITCHES = "private|gone|overwrite|resample|dry_run|force|extras"
_OPTIONS = "max_age|max_images|max_workers|min_abs_weight|name|older_than|order_by|reference|terms|timeout"

# What is said, and what is said here; in this order.
_WORDINGS = tuple(
    (re.compile(said), here)
    for said, here in (
        # Where a message says both itself.
        (r"\b\w+=\S+ \((--[^)]+)\)", r"\1"),
        (r"\b(?:where, bunch and )?image_ids \((--[^)]+)\)", r"\1"),
        (r"\bmax_images=None \(or -1\)", "--max-images -1"),
        (r"[\w.()]+\(\) \((nvcatalog \w+)\)", r"\1"),
        (r", or Catalog\.\w+\(\) in Python", ""),
        # Commands.
        (r"\badopt\(\) what is there", "take over what is there: nvcatalog adopt"),
        (rf"\bCatalog(?:\(\))?\.({_COMMANDS})\b(?:\(\))?|\b({_COMMANDS})\(\)", r"nvcatalog \1\2"),
        (r"(?<![\w.])add_words\b", "Catalog.add_words (in Python)"),
        (
            r"(^Not all of NeuroVault's(?s:.*); )\.report has them all",
            r"\1nvcatalog sql 'FROM outcomes' has them all",
        ),
        (r"(?<= )\.(?:report|left) has them all", "stdout has a row for each"),
        (r"(?<= )\.report says what", "the rows on stdout say what"),
        # Flags.
        (r"\bmode='(\w+)'", r"--mode \1"),
        (r"\bfetch_neurosynth_words=True\b", "nvcatalog fetch --words"),
        (rf"\b({_SWITCHES})=True\b", r"--\1"),
        (r"\b(give|as in) (data_dir|reference)=", r"\1 --\2 "),
        (r"\b(another|the) data_dir\b", r"\1 --data-dir"),
        (r"\b(another|or no) base\b(?! folder)", r"\1 --base"),
        (r"\bfewer max_workers\b", "a smaller --max-workers"),
        (r"\bwithout resample\b", "without --resample"),
        (r", and their rows are zeros", ""),
        (r"; missing='drop' leaves such rows out", ""),
        # What was typed wrong.
        (r"\ba condition \(where\) or a query\b", "a condition or --query"),
        (r"^params are values for (.*); give where.*", r"--param gives a value for \1; give one"),
        (r"\bgive where, image_ids, collection_ids or ", "give a condition, --images, --collections or "),
        (r"\beither collection_ids or exclude_owners\b", "either --collections or --exclude-owner"),
        (r"\bone of image_ids and where\b", "one of --images and --where"),
        (r"^(image|collection)_ids: ", r"--\1s: "),
        (r"^exclude_owners: ", "--exclude-owner: "),
        (r"^(what|by)(?= (?:has|is) )", r"--\1"),
        (r"^target is ", "TARGET is "),
        (r"\band format is (.*); give a target\b", r"and --format is \1; give a TARGET"),
        (rf"^({_OPTIONS})(?=: | is | has | goes )", r"--\1"),
        (r"(?<= or )older_than$", "--older-than"),
        (r"\ba timedelta, or (.*), or None$", r"\1"),
        (r"(^--max-images .*), or None for all$", r"\1, or -1 for all"),
        (r"(^--.*), or None$", r"\1"),
    )
)


def in_commands(text: str) -> str:
    """Return a message of the library as it has to be typed on the command line.

    Examples
    --------
    >>> in_commands("give another path, or overwrite=True (--overwrite); gone=True takes those too")
    'give another path, or --overwrite; --gone takes those too'
    >>> in_commands("max_workers is 0; give a number of connections from 1 to 64, or None")
    '--max-workers is 0; give a number of connections from 1 to 64'
    """
    for said, here in _WORDINGS:
        text = said.sub(partial(_worded, here), text)
    return text


def _worded(here: str, found: re.Match[str]) -> str:
    return re.sub(r"--[a-z_]+", lambda flag: flag[0].replace("_", "-"), found.expand(here))
