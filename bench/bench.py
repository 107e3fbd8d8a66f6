#!/usr/bin/env python3
"""berth beside docker and podman, in one run, on one machine.

    sudo make bench                      # or: bench/bench.py [--runs N] [CASE …]

Every case is done by each engine in turn, round after round, so that a slow moment of the machine
falls on all of them; the table shows medians in milliseconds. Docker and Podman take part where
they are installed: on the machine itself, or in a root of their own ($PEERS, by default
/var/lib/peers, as ../shared/peers/setup.sh makes it). berth runs on scratch roots and leaves
nothing behind.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from images import NAME, Archive, FirstFile, Remove  # noqa: E402: beside this file
from registry import Registry  # noqa: E402

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PEERS = os.environ.get("PEERS", "/var/lib/peers")
ENTER = os.path.join(TOP, "..", "shared", "peers", "enter.sh")
BUSYBOX = next((p for p in ("/bin/busybox", "/var/cache/berth/tools/bin/busybox") if os.path.exists(p)), None)
IMAGE = "bench-busybox:latest"


def quiet(argv, **kwargs):
    """Runs a command, and shows what it said only when it fails."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **kwargs)
    if done.returncode != 0:
        sys.exit(f"{' '.join(argv)} failed ({done.returncode}):\n{done.stdout.decode(errors='replace')}")
    return done.stdout.decode(errors="replace")


class Api(http.client.HTTPConnection):
    """The Engine API on a unix socket, one connection kept open."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)

    def call(self, method, path, body=None):
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.request(method, "/v1.43" + path, json.dumps(body) if body is not None else None, headers)
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 300:
            sys.exit(f"{method} {path}: {answer.status} {data.decode(errors='replace')}")
        return json.loads(data) if data.strip() else None


class Engine:
    """One engine under test: its command line, its API socket, and how to stop it."""

    def __init__(self, name, cli, sock, stop):
        self.name, self.cli, self.sock, self.stop = name, cli, sock, stop
        self.api = None

    def connect(self):
        self.api = Api(self.sock)
        self.api.connect()


def wait_for(sock, what):
    for _ in range(300):
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(sock)
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{what} does not answer on {sock}")


def start_berth(scratch, binary):
    sock = f"{scratch}/berth.sock"
    log = open(f"{scratch}/berth.log", "wb")
    daemon = subprocess.Popen(
        [binary, "daemon", "-H", f"unix://{sock}", "--data-root", f"{scratch}/data", "--exec-root", f"{scratch}/run",
         "--pidfile", f"{scratch}/berth.pid"], stdout=log, stderr=log)
    wait_for(sock, "berth")

    def stop():
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)

    return Engine("berth", [binary, "-H", f"unix://{sock}"], sock, stop)


def start_docker(scratch):
    sock = "/run/berth-bench-docker.sock"
    if os.path.exists(f"{PEERS}/root/usr/bin/dockerd") or os.path.exists(f"{PEERS}/root/usr/sbin/dockerd"):
        start = ["bash", ENTER]
        cli = f"{PEERS}/root/usr/bin/docker"
    elif shutil.which("dockerd"):
        start, cli = [], "docker"
    else:
        return None
    log = open(f"{scratch}/docker.log", "wb")
    daemon = subprocess.Popen(start + ["dockerd", "-H", f"unix://{sock}", "--pidfile", f"{scratch}/docker.pid"],
                              stdout=log, stderr=log)
    wait_for(sock, "dockerd")

    def stop():
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(60)

    root = f"{PEERS}/root"
    loader = f"{root}/lib64/ld-linux-x86-64.so.2"
    argv = [loader, "--library-path", f"{root}/usr/lib/x86_64-linux-gnu", cli] if start else [cli]
    return Engine("docker", argv + ["-H", f"unix://{sock}"], sock, stop)


def start_podman(scratch):
    sock = "/run/berth-bench-podman.sock"
    if os.path.exists(f"{PEERS}/root/usr/bin/podman"):
        start = ["bash", ENTER]
    elif shutil.which("podman"):
        start = []
    else:
        return None
    log = open(f"{scratch}/podman.log", "wb")
    service = subprocess.Popen(start + ["podman", "system", "service", "-t", "0", f"unix://{sock}"], stdout=log, stderr=log)
    wait_for(sock, "podman")

    def stop():
        service.send_signal(signal.SIGTERM)
        service.wait(30)

    # Entering the private root costs time of its own, so the command line is not compared there.
    return Engine("podman", None if start else ["podman"], sock, stop)


def nft_tables():
    nft = shutil.which("nft") or "/var/cache/berth/tools/bin/nft"
    if not os.path.exists(nft):
        return nft, set()
    listed = subprocess.run([nft, "list", "tables"], capture_output=True, text=True).stdout
    return nft, {tuple(line.split()[1:]) for line in listed.splitlines() if line.startswith("table ")}


class Tidy:
    """Puts back what peers change on a host that did not have them: firewall tables, the bridge."""

    def __enter__(self):
        self.nft, self.tables = nft_tables()
        self.bridge = os.path.exists("/sys/class/net/docker0")
        # crun refuses a cgroup2 mount that owns a controller beside v1 hierarchies.
        self.hugetlb = "/sys/fs/cgroup/hugetlb"
        unified = "/sys/fs/cgroup/unified/cgroup.controllers"
        self.mounted = False
        if os.path.exists(unified) and "hugetlb" in open(unified).read() and not os.path.exists(self.hugetlb):
            os.mkdir(self.hugetlb)
            quiet(["mount", "-t", "cgroup", "-o", "hugetlb", "cgroup", self.hugetlb])
            self.mounted = True
        return self

    def __exit__(self, *_):
        for table in nft_tables()[1] - self.tables:
            subprocess.run([self.nft, "delete", "table", *table], stderr=subprocess.DEVNULL)
        if not self.bridge and os.path.exists("/sys/class/net/docker0"):
            subprocess.run(["ip", "link", "delete", "docker0"], stderr=subprocess.DEVNULL)
        if self.mounted:
            subprocess.run(["umount", self.hugetlb])
            os.rmdir(self.hugetlb)


def busybox_tar(path):
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(f"{root}/bin")
        os.makedirs(f"{root}/etc")
        shutil.copy(BUSYBOX, f"{root}/bin/busybox")
        for applet in ("true", "sh", "cat", "head", "sleep", "yes"):
            os.symlink("busybox", f"{root}/bin/{applet}")
        with open(f"{root}/etc/passwd", "w") as file:
            file.write("root:x:0:0:root:/root:/bin/sh\n")
        quiet(["tar", "-C", root, "-cf", path, "."])


def import_image(engine, tar):
    with open(tar, "rb") as file:
        data = file.read()
    engine.connect()
    name, tag = IMAGE.split(":")
    engine.api.request("POST", f"/v1.43/images/create?fromSrc=-&repo={name}&tag={tag}", data, {"Content-Type": "application/x-tar"})
    answer = engine.api.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status != 200 or '"error"' in text:
        sys.exit(f"{engine.name}: import: {text}")


def create(engine, network, command):
    body = {"Image": IMAGE, "Cmd": command, "HostConfig": {"NetworkMode": network}}
    return engine.api.call("POST", "/containers/create", body)["Id"]


def lifecycle(network):
    def case(engine):
        container = create(engine, network, ["/bin/true"])
        engine.api.call("POST", f"/containers/{container}/start")
        engine.api.call("POST", f"/containers/{container}/wait")
        engine.api.call("DELETE", f"/containers/{container}")
    return case


def command_line(network):
    def case(engine):
        if engine.cli is None:
            return False
        subprocess.run(engine.cli + ["run", "--rm", "--network", network, IMAGE, "/bin/true"], check=True,
                       stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        return True
    return case


def exec_true(engine):
    target = engine.idle
    ident = engine.api.call("POST", f"/containers/{target}/exec", {"Cmd": ["/bin/true"], "AttachStdout": True})["Id"]
    engine.api.call("POST", f"/exec/{ident}/start", {"Detach": True})
    while engine.api.call("GET", f"/exec/{ident}/json")["Running"]:
        pass


def list_all(engine):
    engine.api.call("GET", "/containers/json?all=1")


def stats_once(engine):
    engine.api.call("GET", f"/containers/{engine.idle}/stats?stream=0&one-shot=1")


def log_write(engine):
    container = create(engine, "none", ["/bin/sh", "-c", "yes 0123456789012345678901234567890123456789012345678 | head -c 50000000"])
    engine.api.call("POST", f"/containers/{container}/start")
    engine.api.call("POST", f"/containers/{container}/wait")
    if not engine.logged:
        engine.logged.append(container)
        return None
    return lambda: engine.api.call("DELETE", f"/containers/{container}")  # outside the measured time


def log_read(engine):
    engine.api.request("GET", f"/v1.43/containers/{engine.logged[0]}/logs?stdout=1")
    answer = engine.api.getresponse()
    while answer.read(1 << 20):
        pass


CASES = {
    "run --rm true, command line, bridge": command_line("bridge"),
    "run --rm true, command line, no network": command_line("none"),
    "create+start+wait+remove, API, bridge": lifecycle("bridge"),
    "create+start+wait+remove, API, no network": lifecycle("none"),
    "exec true, API": exec_true,
    "list 40 containers, API": list_all,
    "stats one-shot, API": stats_once,
    "50 MB written to the log, to exit": log_write,
    "50 MB of log read back": log_read,
}
HEAVY = {"50 MB written to the log, to exit", "50 MB of log read back"}
PULL_DEBIAN = "pull of 170 MB in one gzip layer, API"
PULL_LAYERS = "pull of 100 MB in 20 layers, API"
REMOVE_DEBIAN = "remove of 170 MB in one layer, API"
REMOVE_LAYERS = "remove of 100 MB in 20 layers, API"
LOAD_DEBIAN = "load of a 170 MB tar, API"
FIRST_FILE = "first file of a fresh container, API"
IMAGES = (PULL_DEBIAN, PULL_LAYERS, REMOVE_DEBIAN, REMOVE_LAYERS, LOAD_DEBIAN, FIRST_FILE)


def main():
    parser = argparse.ArgumentParser(description="berth beside docker and podman")
    parser.add_argument("--runs", type=int, default=15, help="rounds for each case, at least 10 (default 15)")
    parser.add_argument("--berth", default="/usr/local/bin/berth", help="the binary to measure")
    parser.add_argument("--only", default="berth,docker,podman", help="which engines take part")
    parser.add_argument("cases", nargs="*", help="parts of case names")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("this needs root: sudo make bench")
    if BUSYBOX is None:
        sys.exit("no static busybox: install the package busybox-static")
    scratch = tempfile.mkdtemp(prefix="berth-bench.", dir="/var/tmp")
    tar = f"{scratch}/busybox.tar"
    busybox_tar(tar)
    engines = []
    registry = None
    cases = dict(CASES)
    if not args.cases or any(part in name for part in args.cases for name in IMAGES):
        registry = Registry(scratch, PEERS)
        if registry.has_debian:
            cases[PULL_DEBIAN] = registry.pull("debian")
        cases[PULL_LAYERS] = registry.pull("layers")
        cases[REMOVE_LAYERS] = Remove(registry.pull("layers"), registry.image("layers"))
        if Archive.is_here(PEERS):
            archive = Archive(scratch, PEERS)
            cases[LOAD_DEBIAN] = archive.load
            cases[REMOVE_DEBIAN] = Remove(archive.load, NAME)
            cases[FIRST_FILE] = FirstFile(archive)
    tidy = Tidy()
    tidy.__enter__()
    try:
        only = args.only.split(",")
        starters = {"berth": lambda: start_berth(scratch, args.berth), "docker": lambda: start_docker(scratch),
                    "podman": lambda: start_podman(scratch)}
        for name in only:
            engine = starters[name]()
            if engine is not None:
                engines.append(engine)
        for engine in engines:
            import_image(engine, tar)
            engine.logged = []
            engine.idle = create(engine, "none", ["/bin/sleep", "1000000"])
            engine.api.call("POST", f"/containers/{engine.idle}/start")
            engine.extra = [create(engine, "none", ["/bin/true"]) for _ in range(39)]
        commit = subprocess.run(["git", "-C", TOP, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        load = f"load average {os.getloadavg()[0]:.1f} before"
        print(f"commit {commit}, {os.cpu_count()} CPUs, Linux {os.uname().release}, {load}; medians in ms of {args.runs} rounds\n")
        width = max(map(len, cases)) + 2
        print("".ljust(width) + "".join(e.name.rjust(12) for e in engines))
        for name, case in cases.items():
            if args.cases and not any(part in name for part in args.cases):
                continue
            times = {engine.name: [] for engine in engines}
            rounds = args.runs if name not in HEAVY.union(IMAGES) else min(args.runs, 10)
            prepare = getattr(case, "prepare", None)
            for number in range(rounds + 1):
                for engine in engines:
                    if prepare is not None:
                        prepare(engine)
                    began = time.perf_counter()
                    took_part = case(engine)
                    took = time.perf_counter() - began
                    if callable(took_part):
                        took_part()
                    if took_part is not False and number > 0:  # the first round only warms up
                        times[engine.name].append(took * 1000)
            cells = (f"{statistics.median(t):12.2f}" if (t := times[e.name]) else "-".rjust(12) for e in engines)
            print(name.ljust(width) + "".join(cells), flush=True)
    finally:
        for engine in engines:
            try:
                engine.connect()
                for container in [getattr(engine, "idle", ""), *getattr(engine, "extra", []), *engine.logged]:
                    engine.api.call("DELETE", f"/containers/{container}?force=1")
                engine.api.call("DELETE", f"/images/{IMAGE}?force=1")
            except (OSError, AttributeError, http.client.HTTPException, SystemExit) as error:
                print(f"cleaning up {engine.name}: {error}", file=sys.stderr)
            engine.stop()
        if registry is not None:
            registry.stop()
        tidy.__exit__()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
