#!/usr/bin/env python3
"""What a thousand containers cost, and whether ten thousand leave anything behind.

    sudo make bench-scale                # or: bench/scale.py [--containers N] [--cycles N] [PART …]

Parts: `idle` starts N idle containers (bridge network) and tells what a start takes among 10 and among N,
what daemon and monitors occupy, how long lists and readings take, and how soon a daemon that was killed
answers again; `cycles` creates, starts and removes containers, and compares what the daemon and the kernel
hold before and after. berth runs on scratch roots and leaves nothing behind.
"""

import argparse
import ctypes
import glob
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from bench import IMAGE, Api, busybox_tar, import_image, start_berth  # noqa: E402: beside this file

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PR_SET_CHILD_SUBREAPER = 36


def reap():
    """Takes in what the daemon's children left: this process stands for init."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def milliseconds(what):
    begin = time.perf_counter()
    what()
    return (time.perf_counter() - begin) * 1000


def memory(pid):
    """Proportional set size and what is private of it, in kB."""
    told = {"Pss:": 0, "Private_Clean:": 0, "Private_Dirty:": 0}
    for line in open(f"/proc/{pid}/smaps_rollup"):
        name, *rest = line.split()
        if name in told:
            told[name] = int(rest[0])
    return told["Pss:"], told["Private_Clean:"] + told["Private_Dirty:"]


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])


class Host:
    def __init__(self, binary):
        self.binary = binary
        self.scratch = tempfile.mkdtemp(prefix="bs", dir="/var/tmp")
        self.start()
        tar = f"{self.scratch}/busybox.tar"
        busybox_tar(tar)
        import_image(self.engine, tar)

    def start(self):
        self.engine = start_berth(self.scratch, self.binary)
        self.engine.connect()
        self.api = self.engine.api
        self.pid = int(open(f"{self.scratch}/berth.pid").read())

    def create(self, command, network="bridge"):
        body = {"Image": IMAGE, "Cmd": command, "HostConfig": {"NetworkMode": network}}
        return self.api.call("POST", "/containers/create", body)["Id"]

    def begin(self, identity):
        return milliseconds(lambda: self.api.call("POST", f"/containers/{identity}/start"))

    def monitors(self):
        """Processes that have a container's file open."""
        found = []
        for entry in glob.glob("/proc/[0-9]*"):
            pid = int(entry[6:])
            try:
                links = [os.readlink(f"{entry}/fd/{fd}") for fd in os.listdir(f"{entry}/fd")]
            except OSError:
                continue
            if pid != self.pid and any(link.startswith(f"{self.scratch}/run/containers/") for link in links):
                found.append(pid)
        return found

    def held(self):
        """What daemon and kernel hold."""
        instance = self.api.call("GET", "/networks/bridge")["Options"]["com.docker.network.bridge.name"]
        rules = subprocess.run(["/var/cache/berth/tools/bin/nft", "list", "table", "inet", f"berth-{instance[3:]}"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        status = open(f"/proc/{self.pid}/status").read()
        return {
            "resident kB": int(status.split("VmRSS:")[1].split()[0]),
            "threads": int(status.split("Threads:")[1].split()[0]),
            "descriptors": len(os.listdir(f"/proc/{self.pid}/fd")),
            "mounts": sum(self.scratch in line for line in open("/proc/self/mountinfo")),
            "rules": rules.count(b"\n"),
            "links": len(os.listdir(f"/sys/class/net/{instance}/brif")),
            "cgroups": len(glob.glob(f"/sys/fs/cgroup/*/berth-{instance[3:]}/*/")),
            "files": sum(len(files) + len(folders) for _, folders, files in os.walk(self.scratch)),
        }

    def close(self):
        for one in self.api.call("GET", "/containers/json?all=1"):
            self.api.call("DELETE", f"/containers/{one['Id']}?force=1&v=1")
        self.engine.stop()
        subprocess.run(f"grep -o '{self.scratch}/run/layers/[^ ]*' /proc/self/mountinfo | xargs -r umount",
                       shell=True, check=False)
        shutil.rmtree(self.scratch)


def show(what, value, bar=""):
    print(f"{what:<52}{value:>12}   {bar}", flush=True)


def idle(host, count):
    resident = memory(host.pid)[1]
    starts = []
    for number in range(count):
        identity = host.create(["sleep", "1000000"])
        starts.append(host.begin(identity))
        reap()
        if number + 1 in (10, 100):
            show(f"start, median of the 10 before {number + 1}, ms", f"{statistics.median(starts[-10:]):.2f}")
    few, many = statistics.median(starts[:20]), statistics.median(starts[-20:])
    show("start, median of the first 20, ms", f"{few:.2f}")
    show(f"start, median of the last 20 of {count}, ms", f"{many:.2f}", f"{many / few:.2f}x of at most 1.5x")
    show("private memory of the daemon for each, kB", f"{(memory(host.pid)[1] - resident) / count:.1f}", "at most 150")
    monitors = host.monitors()
    held = [memory(pid) for pid in monitors]
    show("monitors", len(monitors))
    show("monitor, PSS, kB", f"{statistics.mean(pss for pss, _ in held):.1f}")
    show("monitor, private, kB", f"{statistics.mean(private for _, private in held):.1f}")
    lists = sorted(milliseconds(lambda: host.api.call("GET", "/containers/json")) for _ in range(100))
    show("list, median of 100, ms", f"{lists[50]:.2f}")
    show("list, 99th of 100, ms", f"{lists[98]:.2f}", "at most 20")
    first = milliseconds(lambda: host.api.call("GET", "/containers/stats"))
    time.sleep(2)
    readings = [milliseconds(lambda: host.api.call("GET", "/containers/stats")) for _ in range(11)]
    show("stats of all, the first time, ms", f"{first:.1f}")
    show("stats of all, median of 11, ms", f"{statistics.median(readings):.1f}", "at most 50")
    identity = host.api.call("GET", "/containers/json?limit=1")[0]["Id"]
    ones = [milliseconds(lambda: host.api.call("GET", f"/containers/{identity}/stats?stream=0")) for _ in range(101)]
    show("stats of one, median of 101, ms", f"{statistics.median(ones):.2f}", "at most 1")
    os.kill(host.pid, signal.SIGKILL)
    os.waitpid(host.pid, 0)

    def again():
        host.start()
        assert len(host.api.call("GET", "/containers/json")) == count

    show(f"next start after SIGKILL, until all {count} are listed, ms", f"{milliseconds(again):.0f}", "1,000 with 200")


def cycle(host):
    identity = host.create(["true"])
    host.begin(identity)
    host.api.call("POST", f"/containers/{identity}/wait")
    host.api.call("DELETE", f"/containers/{identity}")
    reap()


def settle(host):
    """What is put off is done after a while."""
    last = None
    for _ in range(60):
        held = host.held()
        if held == last:
            return held
        last = held
        time.sleep(1)
    return last


def cycles(host, count):
    # Pools, caches and buffers get their size.
    for _ in range(min(500, count)):
        cycle(host)
    before = settle(host)
    took = [milliseconds(lambda: cycle(host)) for _ in range(count)]
    after = settle(host)
    tenth = max(count // 10, 1)
    show("cycle, median of the first tenth, ms", f"{statistics.median(took[:tenth]):.2f}")
    show("cycle, median of the last tenth, ms", f"{statistics.median(took[-tenth:]):.2f}")
    for name, value in before.items():
        change = (after[name] - value) * 100 / value if value else after[name] * 100
        show(f"{name} before and after {count} cycles", f"{value} {after[name]}", f"{change:+.1f} % of at most 1 %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--berth", default=f"{TOP}/target/release/berth")
    parser.add_argument("--containers", type=int, default=1000)
    parser.add_argument("--cycles", type=int, default=10000)
    parser.add_argument("parts", nargs="*", default=[])
    wanted = parser.parse_args()
    # Monitors outlive the daemon, and the machine's first process may not take them in.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for part, count in ((idle, wanted.containers), (cycles, wanted.cycles)):
        if wanted.parts and part.__name__ not in wanted.parts:
            continue
        host = Host(wanted.berth)
        try:
            part(host, count)
        finally:
            host.close()
            reap()


if __name__ == "__main__":
    main()
