#!/usr/bin/env python3
"""`berth runtime` beside crun and runc, in one run, on one machine.

    sudo make bench-runtime              # or: bench/runtime.py --berth PROGRAM [--runs N]

Every case is done by each runtime in turn, round after round, so that a slow moment of the machine
falls on all of them; the table shows medians in milliseconds. The bundle is runc's own default
configuration with a static `true`. Memory is the largest resident set of any process of `run`; the
smallest limit is the least `memory.limit`, in steps of 16 kB, under which that `true` still starts
three times in a row.

Times are read by people; memory is the same in every run, so more of it than crun's and 1 MB is a failure.
"""

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

BUSYBOX = next((p for p in ("/bin/busybox", "/var/cache/berth/tools/bin/busybox") if os.path.exists(p)), None)
STEP = 16 << 10
# How much more memory `run` may take at its peak than crun's.
PEAK_OVER_CRUN_KILOBYTES = 1024


class Runtime:
    """One runtime under test, with a state directory of its own."""

    def __init__(self, name, command, scratch):
        self.name = name
        self.command = [*command, "--root", f"{scratch}/{name}"]
        self.serial = 0

    def id(self):
        self.serial += 1
        return f"bench-{self.name}-{os.getpid()}-{self.serial}"

    def call(self, *words, may_fail=False):
        """Seconds that the command took; `None` if it failed and may."""
        # A file, not a pipe: the container of `create` inherits it, and would keep a pipe open.
        with tempfile.TemporaryFile() as said:
            begin = time.perf_counter()
            done = subprocess.run([*self.command, *words], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=said)
            took = time.perf_counter() - begin
            if done.returncode == 0:
                return took
            if may_fail:
                return None
            said.seek(0)
            sys.exit(f"{self.name} {' '.join(words)}: {done.returncode} {said.read().decode(errors='replace')}")


def bundle(directory):
    """A root with a static `true`, and a configuration that runs it."""
    os.makedirs(f"{directory}/rootfs/bin")
    shutil.copy(BUSYBOX, f"{directory}/rootfs/bin/true")
    subprocess.run(["runc", "spec"], cwd=directory, check=True)
    with open(f"{directory}/config.json") as file:
        config = json.load(file)
    config["process"].update(terminal=False, args=["/bin/true"])
    config["root"]["readonly"] = False
    return config


def write(directory, config, limit=None):
    """Writes the configuration, with a memory limit in bytes."""
    if limit is not None:
        config = json.loads(json.dumps(config))
        config["linux"].setdefault("resources", {})["memory"] = {"limit": limit}
    with open(f"{directory}/config.json", "w") as file:
        json.dump(config, file)


def lifecycle(runtime, directory, times):
    """create, start, delete of one container, each timed."""
    name = runtime.id()
    pid_file = f"{directory}/pid"
    times["create"].append(runtime.call("create", "--bundle", directory, "--pid-file", pid_file, name))
    with open(pid_file) as file:
        handle = os.pidfd_open(int(file.read()))
    times["start"].append(runtime.call("start", name))
    # Only an ended container can be deleted: its end is awaited, not timed.
    select.select([handle], [], [])
    os.close(handle)
    times["delete"].append(runtime.call("delete", name))


def peak_kilobytes(runtime, directory):
    """The largest resident set of any process of one `run`."""
    # Of Debian's package `time`: busybox's shows four times as much, and a child of this program
    # would be told its resident set.
    words = ["/usr/bin/time", "-v", *runtime.command, "run", "--bundle", directory, runtime.id()]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    line = next(line for line in done.stderr.decode().splitlines() if "Maximum resident" in line)
    return int(line.rsplit(":", 1)[1])


def smallest_limit(runtime, directory, config):
    """Bytes; found by halving, on steps of 16 kB."""

    def starts(steps):
        write(directory, config, limit=steps * STEP)
        for _ in range(3):
            name = runtime.id()
            if runtime.call("run", "--bundle", directory, name, may_fail=True) is None:
                runtime.call("delete", "--force", name, may_fail=True)
                return False
        return True

    low, high = 0, (64 << 20) // STEP
    while high - low > 1:
        middle = (low + high) // 2
        if starts(middle):
            high = middle
        else:
            low = middle
    write(directory, config)
    return high * STEP


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--berth", required=True, help="the program to measure")
    parser.add_argument("--runs", type=int, default=51, help="rounds (51)")
    parser.add_argument("--no-limits", action="store_true", help="leave the smallest memory limit out")
    options = parser.parse_args()

    scratch = tempfile.mkdtemp(prefix="berth-bench-")
    runtimes = [Runtime("berth", [os.path.abspath(options.berth), "runtime"], scratch)]
    for name in ("crun", "runc"):
        program = shutil.which(name)
        if program:
            runtimes.append(Runtime(name, [program], scratch))
            said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
            print(f"{name}: {said.splitlines()[0]}")
    directory = f"{scratch}/bundle"
    try:
        config = bundle(directory)
        write(directory, config)
        cases = ["run", "create", "start", "delete"]
        times = {runtime.name: {case: [] for case in cases} for runtime in runtimes}
        for _ in range(options.runs):
            for runtime in runtimes:
                times[runtime.name]["run"].append(runtime.call("run", "--bundle", directory, runtime.id()))
                lifecycle(runtime, directory, times[runtime.name])
        print(f"\n{'':32}" + "".join(f"{runtime.name:>12}" for runtime in runtimes))
        for case in cases:
            row = [statistics.median(times[runtime.name][case]) * 1000 for runtime in runtimes]
            print(f"{case + ', ms':32}" + "".join(f"{value:12.2f}" for value in row))
        peaks = {runtime.name: statistics.median(peak_kilobytes(runtime, directory) for _ in range(5)) for runtime in runtimes}
        print(f"{'peak memory of run, kB':32}" + "".join(f"{value:12.0f}" for value in peaks.values()))
        if not options.no_limits:
            row = [smallest_limit(runtime, directory, config) // 1024 for runtime in runtimes]
            print(f"{'smallest memory limit, kB':32}" + "".join(f"{value:12}" for value in row))
        if peaks["berth"] > peaks.get("crun", float("inf")) + PEAK_OVER_CRUN_KILOBYTES:
            sys.exit("run takes too much memory: see crates/berth/layout.ld")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
