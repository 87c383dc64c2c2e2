"""Modules that stand beside tests: pytest's importlib mode leaves sys.path alone."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def beside(name: str, path: Path) -> ModuleType:
    """The module in that file, under that name: made once, then the same for whoever asks or imports it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
