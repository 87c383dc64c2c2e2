import importlib.util
import sys
from pathlib import Path

# importlib mode leaves sys.path alone; the chain maker is a module beside the tests.
if "chainmaker" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("chainmaker", Path(__file__).parent / "chainmaker.py")
    assert _spec is not None
    assert _spec.loader is not None
    _module = importlib.util.module_from_spec(_spec)
    sys.modules["chainmaker"] = _module
    _spec.loader.exec_module(_module)
