#!/usr/bin/env python3
"""Writes libseccomp.jsonl: random filters, and the programs that libseccomp makes of them.

The compiler's tests run both programs on the same calls. It takes libseccomp.so.2 (2.5 or newer)
of x86_64 and no privileges; the output depends on nothing but the seed and the library's version.
The rules are given to the library as runc gives them: those that say what the default says are left
out, and several conditions on one argument are rules of their own.
"""

import base64
import ctypes
import json
import os
import pathlib
import random

LIBRARY = ctypes.CDLL("libseccomp.so.2", use_errno=True)
LIBRARY.seccomp_init.restype = ctypes.c_void_p
LIBRARY.seccomp_init.argtypes = [ctypes.c_uint32]
LIBRARY.seccomp_release.argtypes = [ctypes.c_void_p]
LIBRARY.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
LIBRARY.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
LIBRARY.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]


class Comparison(ctypes.Structure):
    _fields_ = [
        ("index", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


LIBRARY.seccomp_rule_add_array.argtypes = [
    ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Comparison),
]

OPERATORS = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
NATIVE = 0xC000003E
ARCHITECTURES = {
    "SCMP_ARCH_X86_64": NATIVE, "SCMP_ARCH_X86": 0x40000003, "SCMP_ARCH_X32": 0x4000003E,
}
ACTIONS = {
    "KILL_PROCESS": 0x80000000, "KILL_THREAD": 0, "TRAP": 0x30000, "ERRNO": 0x50000,
    "TRACE": 0x7FF00000, "LOG": 0x7FFC0000, "ALLOW": 0x7FFF0000,
}
# Of all kinds: with and without a number on each architecture, and with x86's socketcall and ipc.
CALLS = """read write open close stat mmap ioctl clone execve kill semget semop shmget msgget socket
connect accept4 sendto recvfrom bind getsockopt mount umount2 personality keyctl openat futex
set_tls arch_prctl _llseek fchown32 setuid geteuid32 waitpid prctl ptrace time unshare setns bpf
clone3 openat2 accept recv send nonsense""".split()
# Their arguments lie in memory where x86 multiplexes them.
WITHOUT_ARGUMENTS = """semget semop shmget msgget socket connect accept4 sendto recvfrom bind
getsockopt accept recv send""".split()
# What an argument of 32 bits is compared with, and of 64.
NARROW = [0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
WIDE = [*NARROW, 1 << 32, (1 << 32) + 1, 1 << 63, (1 << 64) - 1]


def action(random_, kinds):
    kind = random_.choice(kinds)
    said = {"action": f"SCMP_ACT_{kind}"}
    number = ACTIONS[kind]
    if kind in ("ERRNO", "TRACE"):
        said["errnoRet"] = random_.choice([1, 5, 38, 4094])
        number |= said["errnoRet"]
    return said, number


def condition(random_, index, values):
    return {
        "index": index, "value": random_.choice(values), "valueTwo": random_.choice(values),
        "op": f"SCMP_CMP_{random_.choice(OPERATORS)}",
    }


def rules(random_, name, values):
    """The arguments of each rule for a call.

    Where several rules of one call order their arguments (LT to GT), the library merges them into
    a tree that answers some calls wrongly; so only those that compare for equality come together.
    """
    if name in WITHOUT_ARGUMENTS or random_.random() < 0.2:
        return [[]]
    if random_.random() < 0.7:
        indexes = random_.sample(range(6), random_.randint(1, 3))
        return [[condition(random_, index, values) for index in indexes]]
    index = random_.randrange(6)
    equal = [{"index": index, "value": value, "op": "SCMP_CMP_EQ"}
             for value in random_.sample(values, 3)]
    # Two of them in one rule are alternatives.
    return [equal[:2], equal[2:]]


def add(context, number, syscall, conditions):
    listed = (Comparison * max(len(conditions), 1))()
    for place, each in enumerate(conditions):
        op = OPERATORS.index(each["op"].removeprefix("SCMP_CMP_")) + 1
        listed[place] = Comparison(each["index"], op, each["value"], each.get("valueTwo", 0))
    rc = LIBRARY.seccomp_rule_add_array(context, number, syscall, len(conditions), listed)
    assert rc == 0, (rc, syscall, conditions)


def profile(random_):
    said, default = action(random_, ["ALLOW", "ERRNO", "LOG", "TRACE", "KILL_PROCESS", "TRAP"])
    made = {"defaultAction": said["action"], "architectures": list(ARCHITECTURES)}
    if "errnoRet" in said:
        made["defaultErrnoRet"] = said["errnoRet"]
    values = random_.choice([NARROW, WIDE])
    made["syscalls"], added = [], []
    for name in random_.sample(CALLS, random_.randint(1, 14)):
        said, number = action(random_, list(ACTIONS))
        if number == default:
            continue
        for arguments in rules(random_, name, values):
            rule = {"names": [name], **said}
            if arguments:
                rule["args"] = arguments
            made["syscalls"].append(rule)
            syscall = LIBRARY.seccomp_syscall_resolve_name(name.encode())
            if syscall == -1:
                continue
            indexes = [each["index"] for each in arguments]
            if len(set(indexes)) < len(indexes):
                added += [(number, syscall, [each]) for each in arguments]
            else:
                added.append((number, syscall, arguments))
    return made, default, added


def program(architecture, default, added):
    """For one architecture alone. None where the library (2.5.4) forgets to load the call's number
    after the architecture, and so compares the wrong one with the rules."""
    context = LIBRARY.seccomp_init(default)
    if architecture != NATIVE:
        assert LIBRARY.seccomp_arch_add(context, architecture) == 0
        assert LIBRARY.seccomp_arch_remove(context, NATIVE) == 0
    for rule in added:
        add(context, *rule)
    file = os.memfd_create("program")
    assert LIBRARY.seccomp_export_bpf(context, file) == 0
    made = os.pread(file, 1 << 20, 0)
    os.close(file)
    LIBRARY.seccomp_release(context)
    loads_number = made[16:24] == bytes([0x20, 0, 0, 0, 0, 0, 0, 0])
    return base64.b64encode(made).decode() if loads_number else None


def one(random_):
    made, default, added = profile(random_)
    programs = {name: program(token, default, added) for name, token in ARCHITECTURES.items()}
    return {"profile": made, "programs": programs}


def main():
    random_ = random.Random(1)
    lines = [json.dumps(one(random_)) + "\n" for _ in range(60)]
    pathlib.Path(__file__).with_suffix(".jsonl").write_text("".join(lines))


main()
