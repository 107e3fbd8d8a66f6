"""Asks a daemon for what the definition of the Engine API allows, and for much that it does not.

    strangers.py DEFINITION SOCKET SEED SECONDS

Schemathesis makes the requests. Names of what exists are mixed in, and bodies are thinned out, so that they reach
further than "no such container"; what the requests destroyed is made anew before each round. Whatever is asked: an
answer comes in time, it is no failure of the daemon's own, it has the documented form, a refusal has a message, and
the daemon lives. With -v it tells how often each status was answered.
"""

import collections
import io
import itertools
import json
import random
import sys
import tarfile
import time

import hypothesis
import requests
import schemathesis
import yaml
from docker.transport import UnixHTTPAdapter
from schemathesis.core.failures import FailureGroup, Failure
from schemathesis.checks import CHECKS
from schemathesis.generation.modes import GenerationMode

definition, socket, seed, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
verbose = "-v" in sys.argv

# How long an answer may take: CI has two busy cores.
PATIENCE = 30
BASE = "http+docker://localhost/v1.55"

# What a name in a path may mean.
EXISTING = {
    "containers": ["running", "stopped"],
    "images": ["busybox", "busybox:latest"],
    "networks": ["bridge", "host", "none", "some"],
    "volumes": ["some"],
    "exec": [],
}
# Answers that go on for as long as something runs: their beginning is enough.
ENDLESS = {
    "GET /events", "GET /containers/{id}/logs", "GET /containers/{id}/stats", "POST /containers/{id}/attach",
    "GET /containers/{id}/attach/ws", "POST /containers/{id}/wait", "POST /exec/{id}/start",
}
# Requests with many members, most of which are wrong in most ways.
RICH = {
    "POST /containers/create", "POST /containers/{id}/exec", "POST /containers/{id}/update", "POST /networks/create",
    "POST /networks/{id}/connect", "POST /volumes/create", "GET /containers/json",
}

session = requests.Session()
session.mount("http+docker://", UnixHTTPAdapter("http+unix://" + socket, timeout=PATIENCE, pool_connections=8))
chance = random.Random(seed)
ends = time.monotonic() + seconds
counts = collections.Counter()
faults = {}


def ask(method, path, **more):
    return session.request(method, BASE + path, timeout=PATIENCE, **more)


# To be loaded again when a request removed it.
image = ask("GET", "/images/busybox/get").content


def restore():
    """Makes what requests may have destroyed."""
    if ask("GET", "/images/busybox/json").status_code != 200:
        assert ask("POST", "/images/load", data=image).status_code == 200
    ask("POST", "/networks/create", json={"Name": "some"})
    ask("POST", "/volumes/create", json={"Name": "some"})
    for name, command in ("running", ["sleep", "100000"]), ("stopped", ["true"]):
        body = {"Image": "busybox", "Cmd": command, "StopSignal": "KILL"}
        ask("POST", "/containers/create", params={"name": name}, json=body)
    ask("POST", "/containers/running/unpause")
    ask("POST", "/containers/running/start")
    made = ask("POST", "/containers/running/exec", json={"Cmd": ["true"], "AttachStdout": True})
    EXISTING["exec"] = [made.json()["Id"]] if made.status_code == 201 else []


@schemathesis.serializer("application/x-tar", "application/octet-stream")
def tar(context, value):
    """A tar with one file, or what is none."""
    if chance.random() < 0.5:
        return chance.randbytes(chance.randrange(2000))
    bytes_ = io.BytesIO()
    with tarfile.open(fileobj=bytes_, mode="w") as archive:
        entry = tarfile.TarInfo(chance.choice(["file", "../file", "/etc/passwd", "a/b/c", "manifest.json"]))
        entry.type = chance.choice([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
        entry.linkname = "/etc"
        archive.addfile(entry)
    return bytes_.getvalue()


def thin(value):
    """Keeps few members: a request with fifty wrong ones is refused for the first."""
    if isinstance(value, dict):
        keep = chance.sample(sorted(value), min(len(value), chance.choice([0, 1, 1, 2, 3])))
        return {key: thin(value[key]) for key in keep}
    return value


def reach_further(case):
    kind = case.operation.path.split("/")[1]
    if case.path_parameters and EXISTING.get(kind) and chance.random() < 0.7:
        for key in case.path_parameters:
            case.path_parameters[key] = chance.choice(EXISTING[kind])
    if isinstance(case.query, dict) and chance.random() < 0.5:
        case.query = thin(case.query)
        if case.operation.path == "/containers/{id}/archive":
            case.query.setdefault("path", chance.choice(["/", "/bin/sh", "/nope", "..", "", "\0", "/proc/self/root"]))
    if isinstance(case.body, dict) and chance.random() < 0.7:
        case.body = thin(case.body)
        if case.operation.path == "/containers/create":
            case.body["Image"] = "busybox"
            case.body.setdefault("Cmd", ["true"])
            case.query.pop("platform", None)
        if case.operation.path == "/containers/{id}/exec":
            case.body.setdefault("Cmd", ["true"])
        if case.operation.path.startswith("/networks/{id}/"):
            case.body["Container"] = chance.choice(EXISTING["containers"])


def form_fault(failure):
    lines = str(getattr(failure, "message", failure)).split("\n")
    return " ".join(line for line in lines if line)[:200]


def send(case, label):
    """What is wrong with the answer, if anything is."""
    request = case.as_transport_kwargs()
    request.pop("cookies", None)
    request["url"] = request["url"].replace("http://localhost/v1.55", BASE, 1)
    endless = label in ENDLESS
    try:
        response = session.request(**request, stream=True, allow_redirects=False, timeout=1 if endless else PATIENCE)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, UnicodeError):
        return None  # nothing was sent
    except requests.exceptions.RequestException as error:
        if endless and "timed out" in str(error):
            return None
        return f"no answer: {error}"
    with response:
        status = response.status_code
        counts[label, status] += 1
        if status == 101 or endless and status < 300:
            return None
        try:
            body = response.content
        except requests.exceptions.RequestException as error:
            return f"{status}, and a body that broke off: {error}"
    if status >= 500 and status not in (501, 503):
        return f"{status}: {body[:300]}"
    if status >= 400 and case.method != "HEAD":
        try:
            assert json.loads(body)["message"]
        except (ValueError, KeyError, TypeError, AssertionError):
            return f"{status} without a message: {body[:300]}"
    if status == 200:
        try:
            case.validate_response(response, checks=[CHECKS.get_one("response_schema_conformance")])
        except (FailureGroup, Failure) as failure:
            each = getattr(failure, "exceptions", [failure])
            return "another form than the documented: " + "; ".join(form_fault(one) for one in each)
    if status == 201 and label == "POST /containers/create":
        name = json.loads(body)["Id"]
        for method, path in ("POST", "/start"), ("GET", "/json"), ("DELETE", "?force=1&v=1"):
            answer = ask(method, f"/containers/{name}{path}")
            counts["then " + path, answer.status_code] += 1
            if answer.status_code >= 500 and answer.status_code not in (501, 503):
                return f"then {method} {path} {answer.status_code}: {answer.text[:300]}"
    return None


def nullable(part):
    """Docker says null for every list and object that is empty, and takes it."""
    if isinstance(part, list):
        return [nullable(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: nullable(member) for key, member in part.items()}
    if isinstance(part.get("type"), str) and "in" not in part:
        part["x-nullable"] = True
    return part


with open(definition) as file:
    described = nullable(yaml.safe_load(file))
# A slip of the definition's: there is no such property.
described["definitions"]["ImageManifestSummary"]["properties"]["ImageData"]["required"].remove("UnpackedSize")
schema = schemathesis.openapi.from_dict(described)
schema.config.update(base_url="http://localhost/v1.55")
operations = sorted((result.ok() for result in schema.get_all_operations()), key=lambda one: one.label)
done = set()
for round_ in itertools.count():
    restore()
    for operation, mode in itertools.product(operations, (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
        if time.monotonic() > ends:
            break
        label = operation.label
        if all(counts[label, status] == 0 for status in range(600) if status != 501) and counts[label, 501] > 2:
            continue  # not there yet, which it says

        @hypothesis.seed(seed + round_)
        @hypothesis.settings(
            max_examples=12 if label in RICH else 3, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def one(case):
            reach_further(case)
            started = time.monotonic()
            if fault := send(case, label):
                faults.setdefault(label, []).append(fault + "\n    " + case.as_curl_command()[:600])
            if verbose and time.monotonic() - started > 1.5 and label not in ENDLESS:
                print("slow", time.monotonic() - started, case.as_curl_command()[:300])

        try:
            one()
        except hypothesis.errors.Unsatisfiable:
            pass  # there is no wrong way to ask for this
    if time.monotonic() > ends:
        break

assert ask("GET", "/_ping").text == "OK"
if verbose:
    for (label, status), number in sorted(counts.items()):
        print(label, status, number)
for label, found in faults.items():
    print(f"{label}: {len(found)} faults, for example", *found[:4], sep="\n  ")
print(sum(counts.values()), "requests in", round_ + 1, "rounds")
sys.exit(1 if faults else 0)
