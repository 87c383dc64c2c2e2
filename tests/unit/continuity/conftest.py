import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def _beside(name: str, path: Path) -> ModuleType:
    """A module beside tests: importlib mode leaves sys.path alone."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_beside("continuity_services", Path(__file__).parents[2] / "contract" / "notify_services.py")
_beside("continuity_world", Path(__file__).parent / "world.py")
