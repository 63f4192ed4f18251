"""How long a request to a store is tried. Its client is another file: it is slow to import."""

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long one request is tried: at most attempts * seconds and the pauses between."""

    attempts: int = 6
    pause: float = 0.5  # seconds before the second attempt; doubles up to 8
    connect: float = 5.0  # seconds until there is a connection
    silence: float = 15.0  # seconds without a byte
    seconds: float = 120.0  # one attempt in all: 100 MB, the largest body, at 1 MB/s

    def pause_after(self, attempt: int) -> float:
        # at random: many workers must not come back at once
        return random.uniform(0.5, 1.0) * min(self.pause * 2 ** (attempt - 1), 8.0)


PATIENCE = Patience()
