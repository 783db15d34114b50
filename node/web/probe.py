"""Are the roles of the node on this machine well? For a container's health check.

`python -m node.web.probe [SITE.toml]` asks `/health` and goes by its `roles` alone: a PACS that is
away or a certificate that ends soon makes no container unhealthy. Exit code 0 or 1; what is wrong
is printed.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from config.settings import load

TIMEOUT_S: Final = 8.0
# Where one asks who listens everywhere.
_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def wrong_with_roles(address: str, port: int) -> str:
    """What `/health` says about the roles; empty when they are well."""
    host = _LOOPBACK.get(address, address)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/health"
    # No proxy stands between a node and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            page = json.load(answer)
    except urllib.error.HTTPError as error:
        page = json.load(error)
    except OSError as error:
        return f"the web role does not answer: {error}"
    return str(page["checks"]["roles"].get("wrong", ""))


def main() -> int:
    """Ask once."""
    web = load(Path(sys.argv[1]) if len(sys.argv) > 1 else None).web
    wrong = wrong_with_roles(web.bind_address, web.port)
    print(wrong or "ok")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
