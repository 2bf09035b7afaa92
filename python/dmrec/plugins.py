"""Models, metrics and recipes of one's own, known to every command, to worker processes and to the Python interface.

A plugin is a module that registers them when it is imported (``@register`` for a model's options, ``@register_metric``
for a metric). It is found where its package has an entry point in the group ``dmrec.plugins``, or where it is named:
``dmrec --plugin MODULE``, or the environment variable ``DMREC_PLUGINS``, with commas between several. MODULE is the
name of a module or a ``.py`` file.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from .errors import DmrecError

VARIABLE, GROUP = "DMREC_PLUGINS", "dmrec.plugins"


def name_plugins(sources: list[str]) -> None:
    """Adds plugins to those of the environment, for this process and those that it starts."""
    here = [str(Path(source).resolve()) if source.endswith(".py") else source for source in sources]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_named(), *here]))


def load_plugins() -> None:
    """Imports all plugins; those that are imported already are left as they are.

    Raises:
        DmrecError: one cannot be imported.
    """
    for source in [*(point.value for point in importlib.metadata.entry_points(group=GROUP)), *_named()]:
        try:
            import_source(source)
        except DmrecError:
            raise
        except Exception as error:
            raise DmrecError(f"plugin '{source}' cannot be imported: {type(error).__name__}: {error}") from error


def import_source(source: str) -> ModuleType:
    """Imports a module by name, or a Python file without running it as a program."""
    if not source.endswith(".py"):
        return importlib.import_module(source)
    name = f"dmrec_plugin_{Path(source).stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None, "a .py file has a spec"
    assert spec.loader is not None, "and a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _named() -> list[str]:
    return [source for part in os.environ.get(VARIABLE, "").split(",") if (source := part.strip())]
