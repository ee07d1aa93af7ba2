"""What events cost requests: p50 and p99 of *scored* over HTTP, with and without events pushed beside them.

    raisonne demo &
    python3 loadtest/events/beside.py target/release/raisonne [--rate 20000] [--requests 1200] [--turns 3]

Sends the samples of a demo on 127.0.0.1:8080 one after the other, in turns: alone, and beside `raisonne events push`.
The events are drawn anew for each turn. Needs nothing but Python.
"""

import argparse
import http.client
import json
import pathlib
import random
import statistics
import subprocess
import tempfile
import time

ADDRESS = "127.0.0.1:8080"
KINDS = ["click", "click", "purchase", "cart"]


def draw(path, turn, count):
    now = int(time.time())
    with open(path, "w", encoding="utf-8") as file:
        file.write("user_id,item_id,time,kind,event_id\n")
        for at in range(count):
            user, item = random.randrange(20_000), random.randrange(3_000)
            moment = now - 3_600 + at * 3_000 // count
            file.write(f"u{user},P{item:05d},{moment},{random.choice(KINDS)},{now}-{turn}-{at}\n")


def measure(connection, bodies, requests):
    taken = []
    for at in range(requests):
        begun = time.perf_counter()
        connection.request("POST", "/api/v1/rerank", bodies[at % len(bodies)])
        connection.getresponse().read()
        taken.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(taken), sorted(taken)[int(0.99 * requests)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("raisonne")
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=1_200)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    connection = http.client.HTTPConnection(ADDRESS)
    connection.request("GET", "/api/v1/samples")
    samples = json.loads(connection.getresponse().read())
    bodies = [json.dumps(sample | dict(topN=0, effort="EFFORT_SCORED")) for sample in samples]
    measure(connection, bodies, 300)
    folder = pathlib.Path(tempfile.mkdtemp())
    for turn in range(options.turns):
        events = folder / f"events{turn}.csv"
        draw(events, turn, 15 * options.rate)
        alone = measure(connection, bodies, options.requests)
        push = [options.raisonne, "events", "push", events, "--url", f"http://{ADDRESS}", "--in-flight", "2",
                "--batch", "500", "--rate", str(options.rate)]
        pushing = subprocess.Popen(push, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        beside = measure(connection, bodies, options.requests)
        still = pushing.poll() is None
        pushing.terminate()
        pushing.wait()
        print(f"p50 {alone[0]:.2f} ms alone, {beside[0]:.2f} beside ({beside[0] / alone[0]:.2f}); "
              f"p99 {alone[1]:.2f}, {beside[1]:.2f}" + ("" if still else "; the push ended before the turn"))
        time.sleep(1)


if __name__ == "__main__":
    main()
