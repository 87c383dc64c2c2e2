from pathlib import Path

from beside import beside

beside("promotion_world", Path(__file__).parent / "promotion_world.py")
