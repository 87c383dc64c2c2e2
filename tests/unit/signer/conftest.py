import importlib.util
import sys
from pathlib import Path

# importlib mode leaves sys.path alone; the world is a module beside the tests.
if "signer_world" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("signer_world", Path(__file__).parent / "world.py")
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["signer_world"] = _module
    _spec.loader.exec_module(_module)
