"""Asks a running binary for the probes' paths."""

import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from manifests import Wrong


def free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def ask(binary, probes):
    """Starts all roles on embedded engines. Each probe's path must become 200 on its role's port."""
    example = subprocess.run([binary, "check-config", "--example"], env={}, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^#((?:HTTP|METRICS|GRPC)_PORT_[A-Z]+)=", example, re.M)
    ports = dict(zip(names, free_ports(len(names))))
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "log"), "w+", encoding="utf-8") as log:
        variables = {name: str(port) for name, port in ports.items()} | {"DATABASE_URL": os.path.join(folder, "odds.db")}
        server = subprocess.Popen([binary, "serve"], env=variables, cwd=folder, stdout=log, stderr=log)
        try:
            for role, path in probes:
                wait_for(server, ports[f"METRICS_PORT_{ {'simulator': 'SUPPLIER', 'bets': 'BET'}.get(role, role.upper())}"], role, path)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def wait_for(server, port, role, path):
    deadline = time.monotonic() + 30
    while True:
        answer = status(port, path)
        if answer == 200:
            return
        if answer == 404 or server.poll() is not None or time.monotonic() > deadline:
            raise Wrong(f"{role}: {path} answers {answer} instead of 200")
        time.sleep(0.1)
