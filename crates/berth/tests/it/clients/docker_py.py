"""What programs do with docker-py, from a container to its files, events and health."""

import io
import tarfile
import threading
import time

import docker
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound
from docker.types import Healthcheck, LogConfig, Mount

client = docker.from_env()
assert client.ping()
assert client.version()["ApiVersion"]
assert client.info()["Containers"] == 0

json_file = LogConfig(type="json-file")
busybox = {"image": "busybox", "log_config": json_file}


def raises(error, part, call):
    try:
        call()
    except error as caught:
        assert part in str(caught), caught
        return
    raise AssertionError(f"nothing was raised; {part} was expected")


# Runs, with output, with a failure, without an image.
assert client.containers.run(command=["echo", "hello"], remove=True, **busybox) == b"hello\n"
raises(ContainerError, "exit status 3",
       lambda: client.containers.run(command=["sh", "-c", "exit 3"], remove=True, **busybox))
raises((ImageNotFound, APIError), "no/such",
       lambda: client.containers.create("localhost:1/no/such:image"))

# A container with a network, a volume, a label, an environment, a health check.
network = client.networks.create("net", driver="bridge", labels={"of": "test"})
volume = client.volumes.create("vol", labels={"of": "test"})
events = client.events(decode=True, filters={"type": "container"})
seen = []
listener = threading.Thread(target=lambda: seen.extend(event["Action"] for event in events),
                            daemon=True)
listener.start()
box = client.containers.run(
    command=["sh", "-c", "echo begins; exec sleep 1000"], detach=True, name="box",
    environment={"A": "b"}, labels={"of": "test"}, network="net", hostname="boxed",
    mounts=[Mount("/data", "vol"), Mount("/scratch", None, type="tmpfs")],
    healthcheck=Healthcheck(test=["CMD", "test", "-f", "/data/well"], interval=200_000_000,
                            retries=1000),
    **busybox)
assert [one.name for one in client.containers.list(filters={"label": "of=test"})] == ["box"]
assert box.status in ("created", "running")
assert client.containers.get(box.short_id).id == box.id

# Commands in it.
code, output = box.exec_run(["sh", "-c", "echo $A; hostname"])
assert (code, output) == (0, b"b\nboxed\n"), output
code, (out, err) = box.exec_run(["sh", "-c", "echo out; echo err >&2; exit 4"], demux=True)
assert (code, out, err) == (4, b"out\n", b"err\n")
assert b"".join(box.exec_run(["seq", "3"], stream=True).output) == b"1\n2\n3\n"
socket = box.exec_run(["cat"], stdin=True, socket=True).output
socket._sock.sendall(b"through a socket\n")
assert b"through a socket" in socket.read(64)
socket.close()

# Files.
tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w") as archive:
    member = tarfile.TarInfo("well")
    member.size = 2
    archive.addfile(member, io.BytesIO(b"ok"))
assert box.put_archive("/data", tar.getvalue())
pieces, stat = box.get_archive("/data/well")
assert (stat["name"], stat["size"]) == ("well", 2), stat
with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
    assert archive.extractfile("well").read() == b"ok"
raises(NotFound, "Could not find the file /nope", lambda: box.get_archive("/nope"))
box.exec_run(["touch", "/tmp/new"])
assert {"Path": "/tmp/new", "Kind": 1} in box.diff()
box.put_archive("/scratch", tar.getvalue())
assert box.exec_run(["cat", "/scratch/well"]).output == b"ok"

# Health, logs, statistics, processes, limits.
box.reload()
while box.attrs["State"]["Health"]["Status"] != "healthy":
    time.sleep(0.05)
    box.reload()
assert box.health == "healthy"
assert box.logs() == b"begins\n"
assert box.logs(tail=0) == b""
assert b"".join(box.logs(stream=True, follow=False)) == b"begins\n"
assert box.stats(stream=False)["memory_stats"] is not None
assert any("sleep" in line[-1] for line in box.top()["Processes"])
box.update(mem_limit="64m", memswap_limit="64m", cpu_shares=512)
box.pause()
box.reload()
assert box.status == "paused"
box.unpause()
box.rename("renamed")
network.disconnect(box)
network.connect(box, aliases=["other"])

# An image of it, saved and loaded.
image = box.commit("made", "one")
assert image.tags == ["made:one"]
assert image.history()
saved = b"".join(image.save())
client.images.remove("made:one")
assert client.images.load(saved)
assert client.images.get(image.id).id == image.id
assert image.tag("made", "two")
assert client.images.list(name="made")

# The end.
box.restart(timeout=1)
box.stop(timeout=1)
assert box.wait()["StatusCode"] == 137
assert box.logs(tail=1) == b"begins\n"
box.remove()
raises(NotFound, "No such container", lambda: client.containers.get("renamed"))
volume.remove()
network.remove()
client.images.remove(image.id, force=True)
assert client.containers.prune()["ContainersDeleted"] is None
events.close()
listener.join(10)
for action in ["create", "start", "health_status: healthy", "pause", "rename", "die", "destroy"]:
    assert action in seen, (action, seen)
print("all of docker-py")
