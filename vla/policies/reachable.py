"""Whether a server answers, before something is downloaded from it."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

REACH_TIMEOUT_S = 4.0


def is_reachable(url: str, timeout_s: float = REACH_TIMEOUT_S) -> bool:
    """Whether the server of `url` answers at all within `timeout_s`, look-up of its name included."""
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout_s).close()
        except urllib.error.HTTPError:
            pass  # an error status is an answer too
        except (OSError, ValueError):
            return
        answered.set()

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout_s)  # looking up the name can take longer than urlopen's own timeout
    return answered.is_set()
