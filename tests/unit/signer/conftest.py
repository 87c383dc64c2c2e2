from pathlib import Path

from beside import beside

beside("signer_world", Path(__file__).parent / "world.py")
