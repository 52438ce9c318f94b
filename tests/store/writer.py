"""A program that writes attempts until it is stopped, and says which ones the store has acknowledged.

    python writer.py STORE RUN PREFIX [LIMIT_BYTES [UID]]

LIMIT_BYTES is the largest size a file may have (0 = none), UID the user to become. On a refusal it prints what the
store said and ends. Attempts are written in batches of three; the ids are printed once the batch is acknowledged.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import sys
from itertools import count
from pathlib import Path

from flyball.errors import StoreError
from flyball.store.store import Store

spec = importlib.util.spec_from_file_location("samples", Path(__file__).with_name("conftest.py"))
assert spec and spec.loader
samples = importlib.util.module_from_spec(spec)
spec.loader.exec_module(samples)

root, run_id, prefix, limit, uid = (*sys.argv[1:], "0", "0")[:5]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
if int(uid):
    os.setuid(int(uid))
try:
    with Store(root) as store:
        for batch in count():
            names = [f"{prefix}-{batch}-{i}" for i in range(3)]
            store.add_attempts(run_id, "rl", batch, [samples.make_graded(name) for name in names])
            store.artifacts.put_bytes(names[0].encode())
            print(*names, flush=True)
except StoreError as error:
    print(f"refused: {error}", flush=True)
