"""Records a stretch of a real chain for the unit tests: `python tests/chain/record_fixture.py RPC_URL FIRST LAST > F`.

Run it against a CometBFT v0.38 network whose validator set changes within the stretch.  The answers are kept as the
node gave them, so that the parser is tested on real input too.
"""

import json
import sys
import urllib.request


def ask(url: str, path: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/{path}", timeout=5) as answer:  # noqa: S310 -- the operator names the node
        return dict(json.load(answer)["result"])


def main() -> None:
    url, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    heights = [1, *range(first, last + 1)]
    record = {
        "genesis": ask(url, "genesis")["genesis"],
        "status": ask(url, "status"),
        "net_info": ask(url, "net_info"),
        "abci_info": ask(url, "abci_info"),
        "consensus_state": ask(url, "dump_consensus_state"),
        "block": ask(url, f"block?height={last}"),
        "commit": {h: ask(url, f"commit?height={h}") for h in heights},
        "validators": {h: ask(url, f"validators?height={h}&per_page=100") for h in heights},
        "blockchain": ask(url, f"blockchain?minHeight={last - 9}&maxHeight={last}"),
    }
    json.dump(record, sys.stdout, separators=(",", ":"))


if __name__ == "__main__":
    main()
