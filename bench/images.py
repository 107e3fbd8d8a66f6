"""Images that bench.py loads, removes and reads from."""

import hashlib
import io
import json
import os
import tarfile

from registry import ARCHITECTURE, DEBIAN

NAME = "bench-debian:latest"


class Archive:
    """What `docker save` makes of Debian in one layer: its plain tar, a configuration and a list."""

    def __init__(self, scratch, peers):
        self.path = f"{scratch}/archive.tar"
        layer = DEBIAN.format(peers=peers)
        with open(layer, "rb") as file:
            diff_id = hashlib.file_digest(file, "sha256").hexdigest()
        config = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": {"Cmd": ["/bin/true"]},
                             "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]}}).encode()
        config_path = f"blobs/sha256/{hashlib.sha256(config).hexdigest()}"
        layer_path = f"blobs/sha256/{diff_id}"
        listing = json.dumps([{"Config": config_path, "RepoTags": [NAME], "Layers": [layer_path]}]).encode()
        with tarfile.open(self.path, "w") as tar:
            for path, data in ((config_path, config), ("manifest.json", listing)):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            tar.add(layer, layer_path)

    @staticmethod
    def is_here(peers):
        return os.path.exists(DEBIAN.format(peers=peers))

    def load(self, engine):
        """A case; removing the image again is outside the measured time."""
        with open(self.path, "rb") as file:
            # With its length told, so that nobody waits for the end of chunks.
            headers = {"Content-Type": "application/x-tar", "Content-Length": str(os.path.getsize(self.path))}
            engine.api.blocksize = 1 << 20
            engine.api.request("POST", "/v1.43/images/load?quiet=1", file, headers)
            answer = engine.api.getresponse()
            text = answer.read().decode(errors="replace")
        if answer.status != 200 or '"error"' in text:
            raise SystemExit(f"{engine.name}: load: {text[-500:]}")
        return lambda: remove(engine, NAME)


def remove(engine, image):
    engine.api.call("DELETE", f"/images/{image}?force=1")


class Remove:
    """Removes an image; bringing it is outside the measured time."""

    def __init__(self, bring, image):
        self.bring, self.image = bring, image

    def prepare(self, engine):
        self.bring(engine)

    def __call__(self, engine):
        remove(engine, self.image)


class FirstFile:
    """From the answer of create to a file of the container, of an image that was just loaded."""

    def __init__(self, archive):
        self.archive = archive
        self.container = None

    def prepare(self, engine):
        self.archive.load(engine)
        self.container = engine.api.call("POST", "/containers/create", {"Image": NAME, "HostConfig": {"NetworkMode": "none"}})["Id"]

    def __call__(self, engine):
        engine.api.request("GET", f"/v1.43/containers/{self.container}/export")
        answer = engine.api.getresponse()
        with tarfile.open(fileobj=answer, mode="r|", bufsize=1 << 12) as tar:
            first = next(entry for entry in tar if entry.isfile() and entry.size > 0)
            if len(tar.extractfile(first).read()) != first.size:
                raise SystemExit(f"{engine.name}: {first.name} is not whole")
        container = self.container

        def tidy():
            engine.api.close()
            engine.connect()
            engine.api.call("DELETE", f"/containers/{container}?force=1")
            remove(engine, NAME)
        return tidy
