//! Who comes to the daemon, and what is asked for there: TLS, sockets of systemd, scopes.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use testkit::tool;

use crate::host::{Host, PATIENCE, scratch};

/// Makes an authority, and certificates of it for the daemon on loopback and for a client.
fn certificates(folder: &Path) {
    const SCRIPT: &str = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=authority -keyout ca-key.pem -out ca.pem
        issue() {
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$1 \
                -keyout $2key.pem -out $2.csr
            printf \"$3\" > $2.ext
            openssl x509 -req -in $2.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
                -extfile $2.ext -out $2cert.pem
        }
        issue daemon server- 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth'
        issue client '' 'extendedKeyUsage=clientAuth'";
    fs::create_dir(folder).unwrap();
    let output = Command::new("sh")
        .args(["-c", SCRIPT])
        .current_dir(folder)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
}

/// Docker's command line, which finds what it needs in `certificates`.
fn docker(host: &str, certificates: &Path, args: &[&str]) -> Output {
    Command::new(tool("docker"))
        .args(args)
        .env("DOCKER_HOST", host)
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", certificates)
        .env("DOCKER_CONFIG", certificates)
        .env_remove("DOCKER_CONTEXT")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Where the daemon's TCP socket is.
fn tcp_address(host: &Host) -> String {
    let mut found = None;
    host.wait_until("the daemon says where it listens", || {
        let log = host.log();
        let line = log
            .lines()
            .find(|line| line.contains("API listens address=\"tcp://"));
        found = line.and_then(|line| {
            Some(
                line.split("tcp://")
                    .nth(1)?
                    .trim_end_matches('"')
                    .to_owned(),
            )
        });
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn privileged_docker_comes_in_by_its_certificate_and_nobody_else_does() {
    let root = scratch();
    let ours = root.path().join("ours");
    let others = root.path().join("others");
    certificates(&ours);
    certificates(&others);
    let file = |name: &str| ours.join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (
        file("ca.pem"),
        file("server-cert.pem"),
        file("server-key.pem"),
    );
    let host = Host::on(
        root,
        &[
            "-H",
            "tcp://127.0.0.1:0",
            "--tlsverify",
            "--tlscacert",
            &ca,
            "--tlscert",
            &cert,
            "--tlskey",
            &key,
        ],
    );
    host.import_busybox();
    let address = tcp_address(&host);
    let url = format!("tcp://{address}");
    assert!(!host.log().contains("has no TLS"), "{}", host.log());

    let run = docker(
        &url,
        &ours,
        &["run", "--rm", "-i", "busybox", "echo", "privately"],
    );
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.stdout, b"privately\n", "{complaint}");

    // It trusts the daemon; the daemon does not trust it.
    fs::copy(ours.join("ca.pem"), others.join("ca.pem")).unwrap();
    let stranger = docker(&url, &others, &["version"]);
    let complaint = String::from_utf8_lossy(&stranger.stderr);
    assert!(
        !stranger.status.success() && complaint.contains("tls"),
        "{complaint}"
    );

    assert!(
        host.log().contains("a client was not let in"),
        "{}",
        host.log()
    );

    let mut plain = TcpStream::connect(&address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /info HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(
        !String::from_utf8_lossy(&answer).contains("HTTP"),
        "{answer:?}"
    );
}

#[test]
fn privileged_tcp_without_tls_works_and_is_warned_of() {
    let host = Host::with_flags(&["-H", "tcp://127.0.0.1:0", "--tlscert", "/nowhere"]);
    let mut plain = TcpStream::connect(tcp_address(&host)).unwrap();
    plain.write_all(b"GET /_ping HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("OK"), "{answer}");
    assert!(host.log().contains("it has no TLS"), "{}", host.log());
    let idle = "tlscert has no effect without tls or tlsverify";
    assert!(host.log().contains(idle), "{}", host.log());
}

#[test]
fn privileged_systemd_may_hold_the_socket() {
    let root = scratch();
    let socket = root.path().join("s.sock");
    let mut daemon = Command::new(tool("systemd-socket-activate"))
        .args(["--listen", socket.to_str().unwrap()])
        .arg(env!("CARGO_BIN_EXE_berth"))
        .args(["daemon", "-H", "fd://", "--config-file", "/dev/null"])
        .arg("--data-root")
        .arg(root.path().join("data"))
        .arg("--exec-root")
        .arg(root.path().join("run"))
        .arg("--pidfile")
        .arg(root.path().join("pid"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    testkit::eventually(PATIENCE, || UnixStream::connect(&socket).is_ok());
    let url = format!("unix://{}", socket.display());
    let version = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["-H", &url, "version", "--format", "{{.Server.Version}}"])
        .output()
        .unwrap();
    Command::new("kill")
        .args(["-TERM", &daemon.id().to_string()])
        .status()
        .unwrap();
    let ended = daemon.wait().unwrap();
    let said = String::from_utf8_lossy(&version.stdout);
    assert_eq!(said.trim(), env!("CARGO_PKG_VERSION"));
    assert!(ended.success(), "{ended}");
    assert!(socket.exists(), "it is systemd's");
}

#[test]
fn the_units_are_what_systemd_understands() {
    let root = scratch();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts");
    for unit in ["berth.service", "berth.socket"] {
        let text = fs::read_to_string(scripts.join(unit)).unwrap();
        let text = text.replace("/usr/local/bin/berth", env!("CARGO_BIN_EXE_berth"));
        fs::write(root.path().join(unit), text).unwrap();
    }
    let output = Command::new(tool("systemd-analyze"))
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args([
            root.path().join("berth.service"),
            root.path().join("berth.socket"),
        ])
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    assert!(!complaint.contains("berth."), "{complaint}");
}

#[test]
fn privileged_a_socket_has_the_mode_that_its_address_says() {
    let root = scratch();
    let place = root.path().join("own.sock");
    let url = format!("unix://{}?mode=0640&group=daemon", place.display());
    let _host = Host::on(root, &["-H", &url]);
    let found = fs::metadata(&place).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o640);
    assert_eq!(found.gid(), 1, "the group daemon");
}

/// A socket of a daemon, to be asked in plain HTTP.
pub(crate) struct Socket(pub(crate) PathBuf);

impl Socket {
    pub(crate) fn ask(&self, line: &str, body: &Value) -> (u16, String) {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        let head = format!(
            "{line} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    pub(crate) fn refuses(&self, line: &str, body: &Value, status: u16, part: &str) {
        let (answered, text) = self.ask(line, body);
        assert_eq!(answered, status, "{line} {body}: {text}");
        assert!(text.contains(part), "{line} {body}: {text}");
    }

    pub(crate) fn allows(&self, line: &str, body: &Value) -> String {
        let (answered, text) = self.ask(line, body);
        assert!(answered < 300, "{line} {body}: {answered} {text}");
        text
    }
}

/// A daemon with a socket of each scope, and a container `admin` that is nobody's.
fn scoped() -> (Host, impl Fn(&str) -> Socket) {
    let root = scratch();
    let folder = root.path().to_owned();
    let url = |name: &str, scope: &str| format!("unix://{}/{name}?scope={scope}", folder.display());
    let urls = [
        url("ro", "read-only"),
        url("ev", "events"),
        url("ci", "own-containers&owner=ci"),
        url("cd", "own-containers&owner=cd"),
    ];
    let flags: Vec<&str> = urls.iter().flat_map(|url| ["-H", url.as_str()]).collect();
    let host = Host::on(root, &flags);
    host.import_busybox();
    host.berth(&["run", "-d", "--name", "admin", "busybox", "sleep", "1000"])
        .ok();
    (host, move |name| Socket(folder.join(name)))
}

#[test]
fn privileged_read_only_sockets_change_nothing_and_show_no_files() {
    let (_host, socket) = scoped();
    let reader = socket("ro");
    for path in [
        "/_ping",
        "/info",
        "/version",
        "/containers/json?all=1",
        "/containers/admin/json",
        "/v1.41/containers/admin/top",
        "/containers/admin/logs?stdout=1",
        "/images/json",
        "/images/busybox/json",
        "/networks",
        "/volumes",
        "/system/df",
        "/containers/admin/stats?stream=0&one-shot=1",
        "/events?since=1&until=2",
    ] {
        reader.allows(&format!("GET {path}"), &Value::Null);
    }
    let start = json!({"Image": "busybox"});
    for line in [
        "POST /containers/create",
        "POST /v1.47/containers/create",
        "POST /containers/admin/stop",
        "POST /containers/admin/exec",
        "POST /containers/admin/attach?stream=1&stdin=1",
        "GET /containers/admin/attach/ws?stream=1&stdin=1",
        "DELETE /containers/admin?force=1",
        "GET /containers/admin/archive?path=/etc/passwd",
        "HEAD /containers/admin/archive?path=/",
        "PUT /containers/admin/archive?path=/",
        "GET /containers/admin/export",
        "GET /images/busybox/get",
        "GET /images/get?names=busybox",
        "DELETE /images/busybox",
        "POST /images/busybox/tag?repo=x",
        "POST /images/create?fromImage=x",
        "POST /commit",
        "POST /auth",
        "POST /volumes/create",
        "POST /networks/create",
        "POST /volumes/prune",
        "POST /containers/prune",
        "POST /containers/admin/update",
        "POST /containers/admin/kill",
        "GET /%76ersion/../containers/admin/export",
        "GET /containers%2Fadmin%2Fexport",
        "POST /containers/%61dmin/stop",
        "GET /v1.41/containers/admin/export",
    ] {
        let (status, text) = reader.ask(line, &start);
        assert!(
            status == 403 || status == 404 && text.contains("page not found"),
            "{line}: {status} {text}"
        );
    }
    let (status, _) = reader.ask("GET //containers/admin/export", &Value::Null);
    assert_eq!(status, 404);
    reader.refuses(
        "POST /containers/create",
        &start,
        403,
        "this socket has the scope read-only, which does not include POST /containers/create",
    );
    let listener = socket("ev");
    listener.allows("GET /events?since=1&until=2", &Value::Null);
    listener.allows("GET /_ping", &Value::Null);
    listener.refuses("GET /containers/json", &Value::Null, 403, "scope events");
    listener.refuses("GET /info", &Value::Null, 403, "scope events");
}

#[test]
fn privileged_owners_see_and_touch_only_what_they_made() {
    let (host, socket) = scoped();
    let (ci, cd) = (socket("ci"), socket("cd"));
    let mine = json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "StopSignal": "KILL"});
    ci.allows("POST /containers/create?name=mine", &mine);
    ci.allows("POST /containers/mine/start", &Value::Null);
    let listed = |socket: &Socket| {
        let list = socket.allows("GET /containers/json?all=1", &Value::Null);
        serde_json::from_str::<Value>(&list)
            .unwrap()
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!((listed(&ci), listed(&cd)), (1, 0));
    // Filters of the client's own come on top.
    let others = "GET /containers/json?filters=%7B%22label%22%3A%5B%22io.berth.owner%3Dcd%22%5D%7D";
    assert_eq!(
        ci.allows(&format!("{others}&filters=%7B%7D"), &Value::Null),
        "[]\n"
    );

    let exec: Value = serde_json::from_str(&ci.allows(
        "POST /containers/mine/exec",
        &json!({"Cmd": ["echo", "inside"], "AttachStdout": true, "Tty": true}),
    ))
    .unwrap();
    let exec = exec["Id"].as_str().unwrap();
    cd.refuses(
        &format!("POST /exec/{exec}/start"),
        &json!({}),
        404,
        "No such exec instance",
    );
    cd.refuses(
        &format!("GET /exec/{exec}/json"),
        &Value::Null,
        404,
        "No such exec instance",
    );
    let said = ci.allows(&format!("POST /exec/{exec}/start"), &json!({"Tty": true}));
    assert!(said.contains("inside"), "{said}");

    let id = host
        .berth(&["inspect", "--format", "{{.Id}}", "admin"])
        .ok()
        .to_owned();
    for name in ["admin", "/admin", &id, &id[..12], "%61dmin"] {
        for operation in [
            "GET /containers/@/json",
            "GET /v1.41/containers/@/logs?stdout=1",
            "POST /containers/@/exec",
            "POST /containers/@/attach?stream=1&stdin=1",
            "GET /containers/@/attach/ws?stream=1",
            "GET /containers/@/archive?path=/",
            "PUT /containers/@/archive?path=/",
            "DELETE /containers/@?force=1",
            "POST /containers/@/stop",
            "POST /containers/@/update",
            "POST /containers/@/rename?name=x",
        ] {
            let line = operation.replace('@', name);
            ci.refuses(&line, &json!({"Cmd": ["true"]}), 404, "No such container");
        }
    }
    ci.refuses(
        "POST /containers/mine/exec",
        &json!({"Cmd": ["true"], "privileged": true}),
        403,
        "Privileged",
    );
    ci.refuses(
        "POST /commit?container=mine&repo=busybox",
        &json!({}),
        403,
        "POST /commit",
    );
    ci.refuses(
        "POST /images/create?fromSrc=-&repo=busybox",
        &Value::Null,
        403,
        "images/create",
    );
    ci.refuses("POST /images/busybox/tag?repo=x", &Value::Null, 403, "tag");
    ci.refuses("POST /volumes/prune", &Value::Null, 403, "prune");
    ci.refuses(
        "POST /containers/mine/update",
        &json!({"Devices": [{"PathOnHost": "/dev/mem"}]}),
        403,
        "Devices",
    );
    ci.allows(
        "POST /containers/mine/update",
        &json!({"Memory": 100_000_000, "MemorySwap": -1}),
    );

    // Names are resolved once: what the name means later is another's.
    ci.allows(
        "POST /containers/create?name=joins",
        &json!({"Image": "busybox", "Cmd": ["true"],
        "HostConfig": {"PidMode": "container:mine", "VolumesFrom": ["mine:ro"]}}),
    );
    let kept = host.berth(&["inspect", "--format", "{{.HostConfig.PidMode}}", "joins"]);
    assert!(kept.ok().len() > 60, "{}", kept.ok());
    ci.allows("POST /containers/prune", &Value::Null);
    host.berth(&["inspect", "admin"]).ok();
    ci.refuses(
        "GET /containers/joins/json",
        &Value::Null,
        404,
        "No such container: joins",
    );
    ci.allows("DELETE /containers/mine?force=1", &Value::Null);
}

#[test]
fn privileged_owners_have_no_way_to_the_host() {
    let (host, socket) = scoped();
    let ci = socket("ci");
    host.berth(&["volume", "create", "theirs"]).ok();
    host.berth(&["network", "create", "theirs"]).ok();
    ci.allows("POST /volumes/create", &json!({"Name": "mine"}));
    ci.allows("POST /networks/create", &json!({"Name": "own"}));
    let bind = json!({"Type": "bind", "Source": "/", "Target": "/h"});
    let device = json!({"Type": "volume", "Target": "/h", "VolumeOptions": {"DriverConfig":
        {"Name": "local", "Options": {"type": "none", "o": "bind", "device": "/"}}}});
    for (host, part) in [
        (json!({"Privileged": true}), "HostConfig.Privileged"),
        (
            json!({"privileged": true, "Privileged": false, "PRIVILEGED": true, "CapAdd": ["ALL"]}),
            "HostConfig.CapAdd",
        ),
        (json!({"Binds": ["/:/h"]}), "HostConfig.Binds"),
        (json!({"Binds": ["/etc/../:/h:ro"]}), "HostConfig.Binds"),
        (
            json!({"Binds": ["theirs:/h"]}),
            "`theirs` is no volume of yours",
        ),
        (json!({"Binds": ["new:/h"]}), "create it first"),
        (json!({"Mounts": [bind]}), "HostConfig.Mounts[0].Type"),
        (json!({"Mounts": [device]}), "DriverConfig"),
        (
            json!({"Mounts": [{"Type": "volume", "Source": "theirs", "Target": "/h"}]}),
            "Mounts[0].Source",
        ),
        (
            json!({"Mounts": [{"Type": "image", "Source": "busybox", "Target": "/h"}]}),
            "Mounts[0].Type",
        ),
        (json!({"NetworkMode": "host"}), "HostConfig.NetworkMode"),
        (json!({"NetworkMode": "theirs"}), "network theirs not found"),
        (
            json!({"NetworkMode": "container:admin"}),
            "No such container: admin",
        ),
        (json!({"PidMode": "host"}), "HostConfig.PidMode"),
        (
            json!({"PidMode": "container:admin"}),
            "No such container: admin",
        ),
        (json!({"IpcMode": "host"}), "HostConfig.IpcMode"),
        (
            json!({"IpcMode": "container:admin"}),
            "No such container: admin",
        ),
        (json!({"UTSMode": "host"}), "HostConfig.UTSMode"),
        (json!({"UsernsMode": "host"}), "HostConfig.UsernsMode"),
        (json!({"CgroupnsMode": "host"}), "HostConfig.CgroupnsMode"),
        (
            json!({"VolumesFrom": ["admin"]}),
            "No such container: admin",
        ),
        (json!({"Links": ["admin:db"]}), "HostConfig.Links"),
        (
            json!({"Devices": [{"PathOnHost": "/dev/mem", "PathInContainer": "/dev/mem"}]}),
            "HostConfig.Devices",
        ),
        (
            json!({"DeviceCgroupRules": ["a *:* rwm"]}),
            "HostConfig.DeviceCgroupRules",
        ),
        (
            json!({"DeviceRequests": [{"Count": -1}]}),
            "HostConfig.DeviceRequests",
        ),
        (
            json!({"SecurityOpt": ["seccomp=unconfined"]}),
            "HostConfig.SecurityOpt",
        ),
        (
            json!({"SecurityOpt": ["no-new-privileges=false"]}),
            "HostConfig.SecurityOpt",
        ),
        (json!({"MaskedPaths": []}), "HostConfig.MaskedPaths"),
        (json!({"ReadonlyPaths": []}), "HostConfig.ReadonlyPaths"),
        (json!({"CgroupParent": "/"}), "HostConfig.CgroupParent"),
        (json!({"Runtime": "other"}), "HostConfig.Runtime"),
        (json!({"OomScoreAdj": -1000}), "HostConfig.OomScoreAdj"),
        (
            json!({"LogConfig": {"Type": "syslog"}}),
            "HostConfig.LogConfig.Type",
        ),
    ] {
        let request = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
        let (status, text) = ci.ask("POST /containers/create", &request);
        assert!(
            (status == 403 || status == 404) && text.contains(part),
            "{request}: {status} {text}"
        );
    }
    let other = json!({"Image": "busybox", "Labels": {"io.berth.owner": "cd"}});
    ci.refuses("POST /containers/create", &other, 403, "Labels");
    let bridge = json!({"Name": "x", "Options": {"com.docker.network.bridge.name": "eth0"}});
    ci.refuses("POST /networks/create", &bridge, 403, "Options");
    let range = json!({"Name": "x", "IPAM": {"Config": [{"Subnet": "8.8.8.0/24"}]}});
    ci.refuses("POST /networks/create", &range, 403, "IPAM.Config");
    let volume = json!({"Name": "x", "DriverOpts": {"type": "none", "o": "bind", "device": "/"}});
    ci.refuses("POST /volumes/create", &volume, 403, "DriverOpts");
    ci.refuses(
        "POST /volumes/create",
        &json!({"Name": "theirs"}),
        409,
        "another's",
    );
    ci.refuses(
        "DELETE /volumes/theirs",
        &Value::Null,
        404,
        "no such volume",
    );
    ci.refuses(
        "POST /networks/theirs/connect",
        &json!({"Container": "admin"}),
        404,
        "not found",
    );
    ci.refuses(
        "POST /networks/own/connect",
        &json!({"Container": "admin"}),
        404,
        "No such container",
    );

    // What is left is enough to work with, by docker's own command line too.
    let url = format!("unix://{}", ci.0.display());
    let config = host.path().join("docker-config");
    let run = Command::new(tool("docker"))
        .args([
            "-H",
            &url,
            "run",
            "--rm",
            "-v",
            "mine:/data",
            "--network",
            "own",
            "-m",
            "64m",
        ])
        .args(["--tmpfs", "/t", "busybox", "echo", "done"])
        .env("DOCKER_CONFIG", config)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.stdout, b"done\n", "{complaint}");
    ci.allows("DELETE /volumes/mine", &Value::Null);
    ci.allows("DELETE /networks/own", &Value::Null);
}

#[test]
fn privileged_an_image_makes_nobody_an_owner() {
    let (host, socket) = scoped();
    host.berth(&[
        "commit",
        "--change",
        "LABEL io.berth.owner=ci",
        "admin",
        "trap",
    ])
    .ok();
    host.berth(&["run", "-d", "--name", "lured", "trap", "sleep", "1000"])
        .ok();
    let ci = socket("ci");
    ci.refuses(
        "GET /containers/lured/json",
        &Value::Null,
        404,
        "No such container",
    );
    assert_eq!(ci.allows("GET /containers/json", &Value::Null), "[]\n");
}
