"""Times two versions in turns: medians of each, and the ratio of the second to the first.

    pairs.py BINARY OTHER MODEL [ROUNDS]

MODEL is a Hugging Face folder for the engine. Stop other work first. Run it in the project's root.
"""

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request

BUNDLE = "models/demo"
SERVICE = (("scored", 100, 3000), ("weighed", 50, 400), ("reasoned", 50, 250))
INLINE = (("scored", 400), ("weighed", 200), ("reasoned", 150))
FIGURES = {}


def record(name, side, value):
    FIGURES.setdefault(name, ([], []))[side].append(value)


def bench(binary, *args):
    done = subprocess.run([binary, "bench", *args, "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def scorer(side, binary):
    for count in (100, 1000):
        figures = bench(binary, "scorer", "--candidates", str(count), "--candle-repetitions", "1", "--repetitions", "300")
        record(f"scorer, {count} candidates, us", side, figures["fused"]["median_us"])


def engine(side, binary, model):
    sizes = ("--batches", "1,8", "--prompt-tokens", "256", "--tokens", "24", "--trunk-tokens", "256")
    for dtype in ("q8_0", "bf16"):
        figures = bench(binary, "engine", "--model", model, "--quantize", dtype, *sizes)
        for batch in figures["batches"]:
            for phase in ("prefill", "decode"):
                record(f"engine, {dtype}, {phase} of {batch['texts']}, tokens/s", side, batch[phase])
        for trunk in ("cold", "warm"):
            record(f"engine, {dtype}, weighing, {trunk} trunk, s", side, figures["weighing"][trunk])


def service(side, binary, client, port):
    env = dict(os.environ, RAISONNE__API__LISTEN=f"127.0.0.1:{port}", RAISONNE__API__DEADLINE_DEFAULT="5s")
    server = subprocess.Popen([binary, "serve", "--bundle", BUNDLE], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(port)
        for effort, candidates, count in SERVICE:
            figures = bench(
                client, "service", "--address", f"http://127.0.0.1:{port}", "--bundle", BUNDLE, "--effort", effort,
                "--candidates", str(candidates), "--requests", str(count), "--server", str(server.pid),
            )
            record(f"{effort}, p50 ms", side, figures["latency_ms"][0])
            record(f"{effort}, p99 ms", side, figures["latency_ms"][2])
            record(f"{effort}, CPU ms of the server", side, figures["server_cpu_ms"])
        for effort, count in INLINE:
            record(f"{effort}, inline history, p50 ms (JSON)", side, inline(port, effort, count))
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(port):
    for _ in range(200):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2)
        except OSError:
            time.sleep(0.1)
    sys.exit("the server is not ready after 20 s")


def inline(port, effort, count):
    """The median time of a request with a history of 28 events, one at a time, ms."""
    with open(f"{BUNDLE}/samples.json") as file:
        body = json.load(file)[0]
    bought = [candidate["itemId"] for candidate in body["candidates"]][:28]
    history = [
        {"itemId": item, "time": f"2020-01-{day:02d}T10:00:00Z", "kind": "EVENT_KIND_PURCHASE"}
        for day, item in enumerate(bought, 1)
    ]
    body["user"] = {"userId": "inline-shopper", "history": history}
    body["effort"] = f"EFFORT_{effort.upper()}"
    text, headers = json.dumps(body), {"content-type": "application/json", "x-request-timeout-ms": "5000"}
    connection, times = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begun = time.perf_counter()
        connection.request("POST", "/api/v1/rerank", text, headers)
        connection.getresponse().read()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def main(first, second, model, rounds="4"):
    sides = list(enumerate((first, second)))
    for turn in range(int(rounds)):
        for side, binary in sides if turn % 2 == 0 else reversed(sides):
            scorer(side, binary)
            engine(side, binary, model)
            # One client for both versions.
            service(side, binary, first, 9200 + 2 * turn + side)
    print("| | first | second | ratio |\n|---|--:|--:|--:|")
    for name, (one, other) in FIGURES.items():
        one, other = statistics.median(one), statistics.median(other)
        print(f"| {name} | {one:.3f} | {other:.3f} | {other / one:.2f}x |")


main(*sys.argv[1:])
