"""Get the one class of scikit-learn that answers are made of, without importing all the rest of it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sklearn.utils import Bunch

_MODULE = "sklearn.utils._bunch"


def bunch_class() -> type[Bunch]:
    """Return ``sklearn.utils.Bunch``, the class itself.

    The class is some lines of plain Python, but ``import sklearn.utils`` loads SciPy, pandas and joblib first:
    that takes ten times as long as a call whose images are all here. So its file is loaded alone, as the module
    that scikit-learn will then find loaded; wherever that cannot be, by a plain import.
    """
    spec = None if "sklearn" in sys.modules else _spec_of_file()
    if spec is not None and spec.loader is not None and _MODULE not in sys.modules:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules.setdefault(_MODULE, module)
    if _MODULE in sys.modules:
        return cast("type[Bunch]", sys.modules[_MODULE].Bunch)
    from sklearn.utils import Bunch

    return cast("type[Bunch]", Bunch)


def _spec_of_file() -> ModuleSpec | None:
    package = importlib.util.find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package else ():
        file = Path(folder) / "utils" / "_bunch.py"
        if file.is_file():
            return importlib.util.spec_from_file_location(_MODULE, file)
    return None
