"""A program that appends to a spool until it is killed, and says what the spool has acknowledged.

    python spooler.py FOLDER PREFIX [LIMIT_BYTES]

LIMIT_BYTES is the largest size a file may have; with it, 40 groups are tried and the last line says what was lost.
"""

from __future__ import annotations

import json
import resource
import sys
from collections import Counter
from itertools import count

from flyball.errors import StoreError
from flyball.store.spool import Spool

folder, prefix, limit = (*sys.argv[1:], "0")[:3]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
with Spool(folder, segment_bytes=100_000, group_seconds=0.0) as spool:
    for group in count() if not int(limit) else range(40):
        names = [f"{prefix}-{group}-{i}".ljust(60 + i, "-") for i in range(50)]
        for name in names:
            spool.append("call", name.encode(), arm="canary")
        try:
            spool.flush()
        except StoreError:
            continue
        print(*names, flush=True)
    lost: Counter[str] = Counter()
    for (_, _, reason), number in spool.counts.lost.items():
        lost[reason] += number
    print(json.dumps({"accepted": spool.counts.accepted.total() - spool.counts.accepted["counter", ""], "lost": lost}))
