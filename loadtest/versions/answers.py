"""Writes a version's answers to 300 requests as JSON, to compare two versions byte for byte.

    answers.py BINARY OUT [PORT]     for each version, then: cmp OUT OTHER

The server's clock is frozen by libfaketime (`apt-get install faketime`), because scores depend on the time. Timings and
receipts are left out. Run it in the project's root.
"""

import glob
import json
import os
import random
import subprocess
import sys
import time
import urllib.request

EFFORTS = ("SCORED", "WEIGHED", "RERANKED", "REASONED", "AUTO")
SHOPPERS = ("stored", "inline", "cold", "query", "unknown")
TIMINGS = ("queue", "compute", "receipt")
BUNDLE = "models/demo"


def serve(binary, port):
    """Starts a server with a frozen clock, and waits until it is ready."""
    library = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")[0]
    env = dict(
        os.environ,
        LD_PRELOAD=library,
        FAKETIME="2026-12-01 00:00:00",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        RAISONNE__API__LISTEN=f"127.0.0.1:{port}",
        RAISONNE__API__DEADLINE_DEFAULT="60s",
    )
    server = subprocess.Popen([binary, "serve", "--bundle", BUNDLE], env=env, stdout=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
            return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    sys.exit("the server is not ready after a minute")


def requests():
    """Each ready-made slate for each sort of shopper, at each effort."""
    with open(f"{BUNDLE}/samples.json") as file:
        samples = json.load(file)
    items = sorted({candidate["itemId"] for sample in samples for candidate in sample["candidates"]})
    rng = random.Random(7)
    for effort in EFFORTS:
        for index, sample in enumerate(samples):
            for shopper in SHOPPERS:
                body = json.loads(json.dumps(sample))
                body["effort"] = f"EFFORT_{effort}"
                body["explain"] = "EXPLAIN_" + ("NONE", "CACHED", "LIVE")[index % 3]
                body["reasonsPerItem"] = 3
                change(body, shopper, index, items, rng)
                yield f"{effort} {index} {shopper}", body


def change(body, shopper, index, items, rng):
    """Makes a request one of this sort of shopper."""
    if shopper == "inline":
        kinds = ("PURCHASE", "CLICK", "CART")
        body["user"]["history"] = [
            {"itemId": rng.choice(items), "time": f"2026-11-{day:02d}T10:00:00Z", "kind": f"EVENT_KIND_{rng.choice(kinds)}"}
            for day in range(1, 2 + rng.randrange(25))
        ]
    elif shopper == "cold":
        body["user"] = {"userId": f"nobody{index}"}
    elif shopper == "query":
        body["query"] = "a red gift for a gardener"
        body["user"]["profile"] = "likes plain things"
    elif shopper == "unknown":
        body["candidates"][3]["itemId"] = "X1"
        body["candidates"][5] = {"itemId": "X2", "item": {"title": "Red Mug", "category": "Kitchen"}}


def without_timings(answer):
    if isinstance(answer, dict):
        return {key: without_timings(value) for key, value in answer.items() if key not in TIMINGS}
    return [without_timings(value) for value in answer] if isinstance(answer, list) else answer


def main(binary, out, port="9101"):
    server, answers = serve(binary, port), {}
    try:
        for name, body in requests():
            headers = {"content-type": "application/json", "x-request-timeout-ms": "60000"}
            body["requestId"] = name.replace(" ", "-")
            url = f"http://127.0.0.1:{port}/api/v1/rerank"
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            answers[name] = without_timings(json.load(urllib.request.urlopen(request, timeout=90)))
    finally:
        server.terminate()
        server.wait()
    with open(out, "w") as file:
        json.dump(answers, file, indent=1, sort_keys=True)
    reached = [answer["quality"] for answer in answers.values()]
    print({quality: reached.count(quality) for quality in sorted(set(reached))})


main(*sys.argv[1:])
