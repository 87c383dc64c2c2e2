from pathlib import Path

from beside import beside

beside("chainmaker", Path(__file__).parent / "chainmaker.py")
