"""Autobahn's cases against one address, driven by the package `kosoku`: URL MESSAGES PARALLEL CASE… (`*` is a glob).

Prints one JSON object per case. MESSAGES bounds how many messages each compression case (12.*, 13.*) exchanges; the
cases themselves ask for 1,000. No verdict is given here: whoever calls compares.
"""

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient
from kosoku.cases import CASES

url, messages, parallel, selected = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]


async def run():
    for name, case in CASES.items():
        if name.startswith(("12.", "13.")):
            case.COUNT = min(case.COUNT, messages)
    try:
        return await run_fuzzingclient(url, selected, concurrency=parallel)
    except FailureError as failure:
        return failure.results


for result in asyncio.run(run()):
    print(json.dumps({
        "case": result.case_id,
        "behavior": result.behavior.value,
        "close": result.behavior_close.value,
        "code": result.remote_close_code,
        "milliseconds": result.duration,
        "result": result.result,
        "resultClose": result.result_close,
    }))

# Threads of the package's native part may still be at work, and now and then one of them aborts the process when the
# interpreter is taken down around it. Everything is said, so it is not taken down.
sys.stdout.flush()
os._exit(0)
