"""Takes messages apart and writes one JSON object a line: receiver.py gelf-udp|gelf-tcp|fluentd."""
import gzip, json, socket, sys, zlib

kind = sys.argv[1]
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "gelf-udp" else socket.SOCK_STREAM)
server.bind(("127.0.0.1", 0))


def tell(value):
    print(json.dumps(value), flush=True)


def plain(data):
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    return data if data[:1] == b"{" else zlib.decompress(data)


def gelf_udp():
    chunks = {}
    while True:
        data = server.recv(65536)
        if data[:2] == b"\x1e\x0f":
            parts = chunks.setdefault(data[2:10], {})
            parts[data[10]] = data[12:]
            if len(parts) < data[11]:
                continue
            data = b"".join(parts[number] for number in sorted(parts))
        tell(json.loads(plain(data)))


def gelf_tcp():
    connection, _ = server.accept()
    rest = b""
    while data := connection.recv(65536):
        *messages, rest = (rest + data).split(b"\0")
        for message in messages:
            tell(json.loads(message))


def fluentd():
    import msgpack

    connection, _ = server.accept()
    unpacker = msgpack.Unpacker(raw=False)
    while data := connection.recv(65536):
        unpacker.feed(data)
        for tag, entries, *options in unpacker:
            for time, record in entries:
                if isinstance(time, msgpack.ExtType):
                    assert time.code == 0
                    time = [int.from_bytes(time.data[:4], "big"), int.from_bytes(time.data[4:], "big")]
                else:
                    time = [time, 0]
                tell({"tag": tag, "time": time, "record": record})
            if options:
                connection.sendall(msgpack.packb({"ack": options[0]["chunk"]}))


if kind != "gelf-udp":
    server.listen()
tell(server.getsockname()[1])
{"gelf-udp": gelf_udp, "gelf-tcp": gelf_tcp, "fluentd": fluentd}[kind]()
