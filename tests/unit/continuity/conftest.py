from pathlib import Path

from beside import beside

beside("continuity_services", Path(__file__).parents[2] / "contract" / "notify_services.py")
beside("continuity_world", Path(__file__).parent / "world.py")
