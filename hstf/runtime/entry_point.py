"""Call a Python function in a process of its own: ``python -m hstf.runtime.entry_point``.

The arguments are ``package.module:function`` and a JSON list of its arguments, in which paths are
text. Without the list, the file of the module is printed.
"""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def function_of(name: str) -> Callable[..., Any]:
    """Return the function called ``package.module:function``."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def main(words: list[str]) -> None:
    """Call the function, or print where it is."""
    function = function_of(words[0])
    if len(words) == 1:
        print(sys.modules[function.__module__].__file__)
        return
    images, output, label = json.loads(words[1])
    paths = {name: Path(path) for name, path in images.items()}
    function(paths, Path(output), Path(label) if label else None)


if __name__ == "__main__":
    main(sys.argv[1:])
