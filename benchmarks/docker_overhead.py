"""Agora's overhead on a Docker Engine against the bare SDK, in the same run, interleaved.

    .venv/bin/python benchmarks/docker_overhead.py --rounds 60

Prints medians in seconds with their quartiles, the medians of each round's ratio, which what else the machine does
disturbs least, and the requests that watching costs.

Dispatch is compared to its running: create, start, inspect. Cancel is compared to its confirmed end in two ways:
`cancel_sdk` is the least that tells how it ended, a stop with grace, which the engine answers at the end, and one
inspect for exit code and OOM; no `wait`, which would only say the code again. `proven_sdk` asks for the container's
events besides, the only place where the engine says whether it had to be killed, which every record of Agora tells.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
from agora.client import AgoraClient
from agora.config import Settings, TargetConfig
from agora_docker.config import DockerConfig
from agora_docker.endpoint import resolve
from agora_docker.engine import Engine
from agora_docker.testing import images
from agora_docker.testing.proxy import Proxy

COMMAND = ("sleep", "600")


def bare(api: docker.APIClient, image: str) -> tuple[float, float, float]:
    """Start and stop a container with the SDK alone; return the times to running, to its end, and to the proof."""
    since = time.time()
    begun = time.perf_counter()
    host = api.create_host_config(init=True, network_mode="none")
    made = api.create_container(image, list(COMMAND), host_config=host, stop_signal="SIGTERM")
    api.start(made["Id"])
    assert api.inspect_container(made["Id"])["State"]["Running"]
    started = time.perf_counter()
    api.stop(made["Id"], timeout=10)
    assert api.inspect_container(made["Id"])["State"]["Status"] == "exited"
    stopped = time.perf_counter()
    # Text, since the SDK cuts times to whole seconds.
    window: dict[str, Any] = {"since": f"{since:.9f}", "until": f"{time.time():.9f}"}
    events = list(api.events(filters={"container": made["Id"]}, decode=True, **window))
    assert [event["Actor"]["Attributes"]["signal"] for event in events if event["Action"] == "kill"] == ["15"]
    proven = time.perf_counter()
    api.remove_container(made["Id"], v=True, force=True)
    return started - begun, stopped - started, proven - started


async def agora(client: AgoraClient, image: str) -> tuple[float, float]:
    """Do the same with Agora: to the running record, and to the confirmed end."""
    begun = time.perf_counter()
    handle = await client.dispatch(image=image, command=list(COMMAND), grace=10, options={"network": "none"})
    started = time.perf_counter()
    await client.cancel(handle.id)
    record = await client.wait(handle.id, confirmed=True)
    stopped = time.perf_counter()
    assert (record.state.value, record.forced, record.evidence) == ("cancelled", False, "proven"), record
    return started - begun, stopped - started


async def measure(rounds: int, watched: int) -> dict[str, float]:
    """Return the medians of so many rounds."""
    engine = Engine(resolve("bench", DockerConfig()), 60, "bench")
    image = images.ensure(engine)
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    api = docker.APIClient(host, version="auto")
    proxy = Proxy(host.removeprefix("unix://"))
    table = {"pull": "never"}
    seen = {"host": proxy.url, "pull": "never"}
    targets = {
        "docker": TargetConfig("docker", "docker", table, "bench"),
        "seen": TargetConfig("seen", "docker", seen, "bench"),
    }
    settings = Settings(default_target="docker", targets=targets)
    results: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        async with AgoraClient(Path(home), settings=settings, supervisor=False) as client:
            await agora(client, image)
            bare(api, image)
            ours, theirs = [], []
            for number in range(rounds):
                if number % 2:
                    theirs.append(await asyncio.to_thread(bare, api, image))
                ours.append(await agora(client, image))
                if not number % 2:
                    theirs.append(await asyncio.to_thread(bare, api, image))
            for name, number, other in (("dispatch", 0, 0), ("cancel", 1, 1), ("proven", 1, 2)):
                own = _spread(f"{name}_agora", [one[number] for one in ours])
                sdk = _spread(f"{name}_sdk", [one[other] for one in theirs])
                ratios = [mine[number] / bares[other] for mine, bares in zip(ours, theirs, strict=True)]
                results |= own | sdk | {f"{name}_ratio": statistics.median(ratios)}
            if watched:
                results |= await watching(client, proxy, image, watched)
            ids = [record.id for record in await client.list()]
            for id in ids:
                await client.cancel(id, force=True)
        installation = (Path(home) / "installation").read_text().strip()
    filters = json.dumps({"label": [f"agora.installation={installation}"]})
    for found in engine.request("GET", "/containers/json", params={"all": "1", "filters": filters}).json():
        engine.request("DELETE", f"/containers/{found['Id']}", params={"force": "1", "v": "1"}, accept=(404, 409))
    proxy.close()
    return results


def _spread(name: str, values: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: median, f"{name}_25": low, f"{name}_75": high}


async def watching(client: AgoraClient, proxy: Proxy, image: str, count: int) -> dict[str, float]:
    """Watch so many containers for 20 s in which nothing happens, and count the requests."""
    limit = asyncio.Semaphore(8)

    async def start() -> None:
        async with limit:
            options = {"network": "none"}
            await client.dispatch(image=image, command=list(COMMAND), target="seen", options=options)

    await asyncio.gather(*(start() for _ in range(count)))
    watch = asyncio.create_task(client.supervise())
    await asyncio.sleep(3)
    before = proxy.requests
    await asyncio.sleep(20)
    asked = proxy.requests - before
    watch.cancel()
    return {"watched": count, "requests_in_20_s": asked}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--watched", type=int, default=0, help="containers to watch, 500 for the whole picture")
    options = parser.parse_args()
    for name, value in asyncio.run(measure(options.rounds, options.watched)).items():
        print(f"{name:20} {value:.3f}")


if __name__ == "__main__":
    main()
