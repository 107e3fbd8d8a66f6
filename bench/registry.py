"""A registry on loopback for bench.py, with images to pull."""

import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import random
import subprocess
import tarfile
import time

DEBIAN = "{peers}/images/debian.tar"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
OCI = "application/vnd.oci.image"


class Registry:
    """Debian's docker-registry with two images: `debian` (one gzip layer) and `layers` (20 of 5 MB)."""

    def __init__(self, scratch, peers):
        tool = "/var/cache/berth/tools/bin/docker-registry"
        program = tool if os.path.exists(tool) else "docker-registry"
        config = f"{scratch}/registry.yml"
        with open(config, "w") as file:
            file.write("version: 0.1\nlog: {level: info}\nhttp: {addr: '127.0.0.1:0', secret: bench}\n"
                       f"storage: {{filesystem: {{rootdirectory: '{scratch}/registry'}}}}\n")
        self.log = f"{scratch}/registry.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log,
                                            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"})
        self.address = self.wait()
        self.push("layers", [self.layer(seed) for seed in range(20)])
        debian = DEBIAN.format(peers=peers)
        self.has_debian = os.path.exists(debian)
        if self.has_debian:
            with open(debian, "rb") as file:
                self.push("debian", [file.read()])

    def wait(self):
        for _ in range(300):
            text = open(self.log).read()
            if "listening on " in text:
                return text.split("listening on ")[1].split('"')[0].split(",")[0].strip()
            time.sleep(0.1)
        raise SystemExit("docker-registry does not come up")

    @staticmethod
    def layer(seed):
        """About five megabytes, half of which can be compressed."""
        source, out = random.Random(seed), io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for number in range(50):
                data = source.randbytes(50_000) + bytes(50_000)
                info = tarfile.TarInfo(f"layer{seed}/file{number}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()

    def request(self, method, path, body=b"", headers=None):
        connection = http.client.HTTPConnection(self.address)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer

    def blob(self, name, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        begun = self.request("POST", f"/v2/{name}/blobs/uploads/")
        place = begun.getheader("location").split(self.address)[1]
        assert self.request("PUT", f"{place}&digest={digest}", data).status == 201
        return digest

    def push(self, name, tars):
        layers = []
        for tar in tars:
            data = gzip.compress(tar, 6, mtime=0)
            layers.append({"mediaType": f"{OCI}.layer.v1.tar+gzip", "digest": self.blob(name, data), "size": len(data)})
        diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]
        config = json.dumps({"architecture": ARCHITECTURE, "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "layers": layers,
            "config": {"mediaType": f"{OCI}.config.v1+json", "digest": self.blob(name, config), "size": len(config)},
        }).encode()
        put = self.request("PUT", f"/v2/{name}/manifests/1", manifest, {"Content-Type": f"{OCI}.manifest.v1+json"})
        assert put.status == 201

    def image(self, name):
        return f"{self.address}/{name}:1"

    def pull(self, name):
        """A case that pulls; removing the image again is outside the measured time."""
        def case(engine):
            image = self.image(name)
            path = f"/v1.43/images/create?fromImage={self.address}/{name}&tag=1"
            if engine.name == "podman":
                path = f"/v4.0.0/libpod/images/pull?reference={image}&tlsVerify=false&quiet=true"
            engine.api.request("POST", path)
            answer = engine.api.getresponse()
            text = answer.read().decode(errors="replace")
            if answer.status != 200 or '"error"' in text:
                raise SystemExit(f"{engine.name}: pull {image}: {text[-500:]}")
            return lambda: engine.api.call("DELETE", f"/images/{image}?force=1")
        return case

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
