"""Whether something answers over HTTP right now."""

from typing import Final

import httpx

TIMEOUT_S: Final = 2.0
CONNECT_LIMIT_S: Final = 1.0


def answers_http(url: str, *, healthy: bool) -> bool:
    """Whether a GET is answered in time; with `healthy`, with success."""
    try:
        answer = httpx.get(url, timeout=httpx.Timeout(TIMEOUT_S, connect=CONNECT_LIMIT_S), trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.is_success or not healthy
