"""Testcontainers in Python: a container for a test, its published port, its log, its end.

The reaper is switched off: its image is on Docker Hub alone.
"""

import urllib.request

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.waiting_utils import wait_for_logs

script = "mkdir /www; echo served > /www/index.html; echo ready; exec httpd -f -p 80 -h /www"
with Network() as network:
    with DockerContainer("busybox").with_command(["sh", "-c", script]).with_exposed_ports(80) \
            .with_network(network).with_network_aliases("web").with_env("A", "b") as web:
        wait_for_logs(web, "ready", timeout=20)
        host, port = web.get_container_host_ip(), web.get_exposed_port(80)
        with urllib.request.urlopen(f"http://{host}:{port}/", timeout=20) as answer:
            assert answer.read() == b"served\n"
        code, output = web.exec(["sh", "-c", "echo $A"])
        assert (code, output) == (0, b"b\n"), output
        peer = DockerContainer("busybox").with_command(["wget", "-q", "-O", "-", "http://web/"])
        with peer.with_network(network) as other:
            wait_for_logs(other, "served", timeout=20)
assert docker.from_env().containers.list(all=True) == []
print("all of Testcontainers")
