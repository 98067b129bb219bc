"""Two thousand answers from the real `mythos up`, a third of them left in the middle: memory stays flat."""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

REQUESTS, AT_ONCE, CANCELLED = 2000, 12, 0.3


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def load(base_url: str, key: str, numbers: range) -> tuple[int, int]:
    """Ask for each of `numbers`; (answers read to the end, answers left)."""
    limit = asyncio.Semaphore(AT_ONCE)
    done = left = 0

    async def one(client: httpx.AsyncClient, number: int) -> None:
        nonlocal done, left
        rng = random.Random(number)
        words = " ".join(
            rng.choices(["river", "seven", "how", "paper", "moon", "code", "why"], k=rng.choice([5, 40, 300]))
        )
        body = {
            "model": "opus",
            "max_tokens": 12,
            "stream": True,
            "messages": [{"role": "user", "content": f"{number}: {words}"}],
        }
        leave = rng.random() < CANCELLED
        async with limit, client.stream("POST", "/v1/messages", json=body) as response:
            assert response.status_code == 200, await response.aread()
            last = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    last = line
                if leave and last == "event: content_block_delta":
                    left += 1
                    return
            assert last == "event: message_stop"
            done += 1

    headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=300) as client:
        await asyncio.gather(*(one(client, n) for n in numbers))
    return done, left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads a process's memory from /proc")
def test_memory_is_flat_over_two_thousand_answers(opus_home):
    server = subprocess.Popen(
        [sys.executable, "-m", "mythos.cli", "up", "--port", "0"],
        env={**os.environ, **opus_home},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        said = {}
        assert server.stdout is not None
        for line in server.stdout:
            if found := re.match(r"(base_url|api_key) = (\S+)", line):
                said[found[1]] = found[2]
            if "api_key" in said:
                break
        sizes, ended = [], 0
        step = REQUESTS // 8
        for start in range(0, REQUESTS, step):
            done, left = asyncio.run(load(said["base_url"], said["api_key"], range(start, start + step)))
            ended += done + left
            sizes.append(resident(server.pid))
        print(json.dumps({"resident_MB": [round(size / 1e6) for size in sizes]}))
        assert ended == REQUESTS
        # The prefix cache fills in the first half; from then on nothing may grow.
        assert max(sizes[4:]) < sizes[3] * 1.03 + 8e6, sizes
        metrics = httpx.get(
            said["base_url"] + "/metrics",
            headers={"x-api-key": said["api_key"], "anthropic-version": "2023-06-01"},
        ).text
        assert re.search(r"_running\S* 0(\.0)?$", metrics, re.M), metrics
    finally:
        server.terminate()
        server.wait(60)
