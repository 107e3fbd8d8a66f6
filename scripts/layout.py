#!/usr/bin/env python3
"""Writes the order of functions in the release binary: crates/berth/layout.ld (see there).

    sudo make layout        # or: scripts/layout.py --berth PROGRAM --map MAP > crates/berth/layout.ld

Runs what starts containers with a breakpoint at each function (ptrace), notes which are entered and
in what order, and finds for each the section and the object file it came from in the linker's map.
What changes with every build (hashes of crates, of symbols) becomes a wildcard.
"""

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{TOP}/bench")
import bench  # noqa: E402
import runtime  # noqa: E402

# linux/ptrace.h
TRACEME, PEEKUSER, POKEUSER, CONT, DETACH = 0, 3, 6, 7, 17
SETOPTIONS = 0x4200
WALL = 0x40000000
OPTIONS = 0x2 | 0x4 | 0x8 | 0x10  # forks, vforks, clones and execs are followed
EXEC = 4
RIP = 16 * 8  # offsetof(struct user_regs_struct, rip)
BREAKPOINT = 0xCC

# Whose functions are put together, in this order. The command line is gone before it matters.
ROLES = ["runtime", "monitor", "daemon"]

# What the runtime consists of. What of it was not entered, and its constants, are near all the same.
RUNTIME = [f"*.{crate}-*.o" for crate in ("runtime", "runc", "oci_spec", "vocab", "sys", "netlink", "rustix",
                                          "serde_json", "itoa", "jiff", "core", "alloc", "std")]
RUNTIME += ["*libc.a:*", "*libtikv_jemalloc_sys-*.rlib:*"]

# Only what is said about a wrong configuration comes by this.
COLD = ".text.*serde_path_to_error*"

HEAD = """\
/* The order of the functions in the static program. Written by `make layout`, not by hand.
 *
 * A page of the program that is touched brings its neighbours into memory: sixteen, or since Linux
 * 6.18 all that the page cache holds in one piece with it, up to 2 MB. The runtime enters some 800
 * functions of 30,000; spread over the whole program they kept from 3.4 to 17 MB of it in memory,
 * side by side it is 1.5. Beside them lies what else the runtime consists of, then come what
 * only monitors enter and what only the daemon does.
 *
 * Code is a page further away from the constants than in the file, so that the kernel cannot map it
 * in huge pages.
 *
 * What is not named here is laid out as ever: a name that is gone does no harm, and one that is
 * missing costs memory, nothing else.
 */
SECTIONS
{
"""

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def ptrace(request, pid, data=0, address=0):
    ctypes.set_errno(0)
    done = libc.ptrace(request, pid, address, data)
    if done == -1 and ctypes.get_errno():
        raise OSError(ctypes.get_errno(), f"ptrace {request} of {pid}")
    return done & (1 << 64) - 1


def code_offset(file, address):
    """Where in the file the segment with this address has it."""
    header = struct.unpack("<16sHHIQQQIHHHHHH", file.read(64))
    file.seek(header[5])
    for _ in range(header[10]):
        kind, _, offset, start, _, size, _, _ = struct.unpack("<IIQQQQQQ", file.read(56))
        if kind == 1 and start <= address < start + size:  # PT_LOAD
            return address - start + offset
    sys.exit(f"no segment of the program has {address:#x}")


class Tracer:
    """Follows processes while they run `program`, and notes which of its functions they enter, in order.

    Each begins with a breakpoint, which is taken out when it is met: a process stops once for a function.
    """

    def __init__(self, program, functions):
        found = os.stat(program)
        self.program = (found.st_dev, found.st_ino)
        self.functions = {function[0]: function for function in functions}
        self.first, last = functions[0][0], functions[-1][0]
        with open(program, "rb") as file:
            file.seek(code_offset(file, self.first))
            self.code = file.read(last + 1 - self.first)
        self.trapped = bytearray(self.code)
        for address in self.functions:
            self.trapped[address - self.first] = BREAKPOINT
        # By what the program was called as: `runtime`, `monitor`, `daemon` and other commands.
        self.entered = {}
        # Of each process that is followed, where the program lies in its memory.
        self.bases = {}

    def base(self, pid):
        """Where the program lies in the process; `None` if it runs another."""
        found = os.stat(f"/proc/{pid}/exe")
        if (found.st_dev, found.st_ino) != self.program:
            return None
        with open(f"/proc/{pid}/maps") as maps:
            mapped = (line.split() for line in maps)
            return next(int(words[0].split("-")[0], 16) for words in mapped
                        if int(words[4]) == found.st_ino and int(words[2], 16) == 0)

    def write(self, pid, address, code):
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(self.bases[pid] + address)
            memory.write(code)

    def begin(self, pid):
        """Sets the breakpoints in a process that has just become the program, or leaves it if it has not."""
        self.bases[pid] = self.base(pid)
        if self.bases[pid] is None:
            self.leave(pid)
            return False
        self.write(pid, self.first, self.trapped)
        return True

    def leave(self, pid, pass_on=0):
        del self.bases[pid]
        ptrace(DETACH, pid, pass_on)

    def met(self, pid):
        """Notes the function whose breakpoint was met, and lets it run."""
        address = ptrace(PEEKUSER, pid, 0, RIP) - 1 - self.bases[pid]
        if address not in self.functions:
            return False
        self.entered.setdefault(role(pid), {}).setdefault(self.functions[address])
        self.write(pid, address, self.code[address - self.first:][:1])
        ptrace(POKEUSER, pid, self.bases[pid] + address, RIP)
        return True

    def start(self, argv):
        """Starts a command; it and everything that it starts from the same program are followed."""
        pid = os.fork()
        if pid == 0:
            libc.ptrace(TRACEME, 0, None, None)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0), os.dup2(null, 1)
            os.execv(argv[0], argv)
        os.waitpid(pid, 0)
        ptrace(SETOPTIONS, pid, OPTIONS)
        self.begin(pid)
        ptrace(CONT, pid)
        return pid

    def run(self, argv):
        """Runs a command to its end."""
        pid = self.start(argv)
        if code := self.follow(lambda: pid not in self.bases)[pid]:
            sys.exit(f"{' '.join(argv)}: {code}")

    def follow(self, enough):
        """Lets all that is followed go on until it is enough; tells the exit codes of what ended."""
        codes = {}
        while not enough():
            pid, status = os.waitpid(-1, WALL | os.WNOHANG)
            if pid == 0:
                time.sleep(0.001)
            elif os.WIFSTOPPED(status):
                try:
                    self.stopped(pid, status >> 16, os.WSTOPSIG(status))
                except (ProcessLookupError, FileNotFoundError):
                    pass  # killed meanwhile
            else:
                codes[pid] = os.waitstatus_to_exitcode(status)
                self.bases.pop(pid, None)
        return codes

    def stopped(self, pid, event, told):
        pass_on = 0
        if event == EXEC:
            if not self.begin(pid):
                return
        elif event == 0 and told == signal.SIGTRAP and self.bases.get(pid) is not None:
            if not self.met(pid):
                pass_on = told
        elif event == 0 and told != signal.SIGSTOP:
            pass_on = told
        # A copy of one that is followed; it has the breakpoints, too.
        if pid not in self.bases:
            self.bases[pid] = self.base(pid)
        ptrace(CONT, pid, pass_on)


def role(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")[1]


def functions_of(path):
    """The functions' sections in the linker's map: address, size, file and name, by address."""
    found, name = [], None
    place = re.compile(r"^ (\.text\.\S+)?\s*(?:(0x[0-9a-f]+)\s+(0x[0-9a-f]+)\s+(\S.*))?$")
    with open(path, errors="replace") as lines:
        for line in lines:
            match = place.match(line.rstrip())
            if not match:
                name = None
                continue
            name = match[1] or name
            if name and match[2]:
                found.append((int(match[2], 16), int(match[3], 16), match[4], name))
                name = None
    return sorted(section for section in found if section[0] and section[1])


def pattern(section):
    """What names the section in every build, as far as that can be: file and name."""
    _, _, file, name = section
    file = os.path.basename(file)
    archive = re.match(r"(.*\.(?:a|rlib))\((.*)\)$", file)
    rust = re.match(r"berth-[0-9a-f]{16}\.(\w+)(-[0-9a-f]{16})?\.", file)
    if rust:
        # Of the program's own crate there is no hash.
        file = f"*.{rust[1]}-*.o" if rust[2] else f"*.{rust[1]}.*.o"
    elif archive:
        file = f"*{archive[1]}:{archive[2]}"
    else:
        file = f"*{file}"
    file = re.sub(r"\b[0-9a-f]{16}\b", "*", file)
    file = re.sub(r"-cgu\.\d+", "-cgu.*", file)
    name = re.sub(r"17h[0-9a-f]{16}E", "17h*E", name)
    name = re.sub(r"\.llvm\.\d+", ".llvm.*", name)
    name = re.sub(r"_\d+_\d+_\d+_", "_*_", name)
    # Hashes of crates in newer symbols; what has no place in a pattern.
    name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
    return file, re.sub(r"[^\w.*]", "?", name)


def patterns(entered, functions):
    """What names the functions that were entered, in that order; last what names many others, too."""
    every, used = {}, {}
    for sizes, these in (every, functions), (used, entered):
        for function in these:
            key = pattern(function)
            sizes[key] = sizes.get(key, 0) + function[1]
    return sorted(used, key=lambda key: used[key] * 2 < every[key])


def of_docker(config):
    """The configuration with what Docker adds: a filter, limits."""
    config = json.loads(json.dumps(config))
    with open(f"{TOP}/crates/runtime/src/seccomp/docker-default.json") as file:
        profile = json.load(file)
    keep = ("names", "action", "args", "errnoRet")
    rules = [{key: rule[key] for key in keep if rule.get(key) is not None} for rule in profile["syscalls"]
             if "amd64" in rule.get("includes", {}).get("arches", ["amd64"]) and "caps" not in rule.get("includes", {})]
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": rules,
                                  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]}
    config["linux"]["resources"].update(memory={"limit": 64 << 20}, pids={"limit": 100}, cpu={"shares": 512})
    return config


def trace_runtime(tracer, program, scratch):
    """Every step in a container's life, as its callers ask for them."""
    directory = f"{scratch}/bundle"
    config = runtime.bundle(directory)
    command = [program, "runtime", "--root", f"{scratch}/state"]
    for number, config in enumerate([config, of_docker(config)]):
        runtime.write(directory, config)
        tracer.run([*command, "run", "--bundle", directory, f"layout-run-{os.getpid()}-{number}"])
    shutil.copy(runtime.BUSYBOX, f"{directory}/rootfs/bin/sleep")
    config["process"]["args"] = ["/bin/sleep", "1000"]
    runtime.write(directory, config)
    name = f"layout-{os.getpid()}"
    try:
        for words in (["create", "--bundle", directory, "--pid-file", f"{scratch}/pid", name], ["state", name],
                      ["start", name], ["exec", name, "/bin/true"], ["kill", name, "KILL"]):
            tracer.run([*command, *words])
    finally:
        subprocess.run([*command, "delete", "--force", f"{name}-none"], check=True)
        tracer.run([*command, "delete", "--force", name])


def trace_engine(tracer, program, scratch):
    """The daemon, its monitors and its command line, through what is done most."""
    address = f"{scratch}/berth.sock"
    daemon = tracer.start([program, "daemon", "-H", f"unix://{address}", "--data-root", f"{scratch}/data",
                           "--exec-root", f"{scratch}/run", "--pidfile", f"{scratch}/berth.pid"])
    try:
        tracer.follow(lambda: os.path.exists(address))
        image = bench.IMAGE
        bench.busybox_tar(f"{scratch}/busybox.tar")
        for words in (["import", f"{scratch}/busybox.tar", image], ["images"],
                      ["run", "--rm", "--network", "none", image, "/bin/true"], ["run", "--rm", image, "/bin/true"],
                      ["run", "-d", "--name", "layout", image, "/bin/sleep", "1000"], ["exec", "layout", "/bin/true"],
                      ["ps"], ["inspect", "layout"], ["logs", "layout"], ["stats", "--no-stream"],
                      ["rm", "-f", "layout"]):
            tracer.run([program, "-H", f"unix://{address}", *words])
    finally:
        os.kill(daemon, signal.SIGTERM)
        tracer.follow(lambda: daemon not in tracer.bases)


def main():
    parser = argparse.ArgumentParser(description="the order of functions in the release binary")
    parser.add_argument("--berth", required=True, help="the program, with its symbols")
    parser.add_argument("--map", required=True, help="the linker's map of it")
    options = parser.parse_args()
    program = os.path.abspath(options.berth)
    functions = functions_of(options.map)
    tracer = Tracer(program, functions)
    scratch = tempfile.mkdtemp(prefix="berth-layout-", dir="/var/tmp")
    try:
        trace_runtime(tracer, program, scratch)
        trace_engine(tracer, program, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(HEAD, end="")
    print(f"  .text.cold : {{ *({COLD}) }}\n}}\nINSERT AFTER .text;\nSECTIONS\n{{\n  .rodata.runtime :\n  {{")
    for file in [*RUNTIME, "*.monitor-*.o"]:
        print(f"    {file}(.rodata .rodata.*)")
    print("    *libaws_lc_sys-*.rlib:*(.rodata.*OPENSSL_cpuid_setup*)")
    print("  }\n  . = ALIGN(CONSTANT(MAXPAGESIZE)) + CONSTANT(MAXPAGESIZE);\n}\nINSERT BEFORE .init;")
    print("SECTIONS\n{\n  .text.entered :\n  {\n    *crt1.o(.text)\n    *libc.a:*(.text)")
    listed = set()
    for name in ROLES:
        print(f"    /* {name} */")
        for file, section in patterns(tracer.entered[name], functions):
            if (file, section) not in listed:
                print(f"    {file}({section})")
                listed.add((file, section))
        if name == "runtime":
            for file in RUNTIME:
                print(f"    {file}(.text .text.*)")
    print("  }\n}\nINSERT BEFORE .text;")


if __name__ == "__main__":
    main()
