"""``python -m tests.benchmarks.served bare|guarded FD``: an application under uvicorn, until stdin is closed."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import threading

import uvicorn

from . import apps


def main() -> None:
    name, descriptor = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    heartbeat = {"ping_interval": float(os.environ["BENCHMARK_PING_INTERVAL"]), "ping_timeout": 20}
    lines = apps.Lines()
    if name == "bare":
        app = apps.bare(**heartbeat)
    else:
        secret = os.environ["BENCHMARK_SECRET"]
        app = apps.guarded(apps.Algorithm("HS256", secret, secret), lines, **heartbeat)
    server = uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning", lifespan="off"))

    def watch() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    asyncio.run(server.serve(sockets=[socket.socket(fileno=int(descriptor))]))


if __name__ == "__main__":
    main()
