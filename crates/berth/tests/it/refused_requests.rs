//! The same requests at Docker's daemon and at berth's: what one refuses, the other refuses with the
//! same status and the same words, but where it says here why not.

use std::fs;

use serde_json::{Value, json};

use crate::access::Socket;
use crate::host::{Host, busybox_tar};
use crate::runtime::docker::Docker;

/// A request: its first line, and its body.
type Request = (&'static str, Value);

/// Ids that differ stand for each other.
fn without_ids(text: &str) -> String {
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_hex) {
        let (before, from) = rest.split_at(at);
        let length = from.find(|c| !is_hex(c)).unwrap_or(from.len());
        out.push_str(before);
        let id = length == 64 || length == 12;
        out.push_str(if id { "ID" } else { &from[..length] });
        rest = &from[length..];
    }
    out + rest
}

/// A status, and the message of a refusal.
fn answer(socket: &Socket, (line, body): &Request) -> (u16, String) {
    let (status, text) = socket.ask(line, body);
    let message = serde_json::from_str::<Value>(&text)
        .ok()
        .and_then(|value| Some(value["message"].as_str()?.to_owned()))
        .unwrap_or_default();
    (status, without_ids(&message))
}

/// Makes three containers: `made`, which never ran, `runs`, and `rests`, which is paused.
fn prepare(socket: &Socket) {
    let sleeper = |mounts: Value| {
        json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "StopSignal": "KILL",
               "HostConfig": {"NetworkMode": "none", "Mounts": mounts}})
    };
    let mount = json!([{"Type": "volume", "Source": "used", "Target": "/v"}]);
    for (line, body) in [
        ("POST /containers/create?name=made", sleeper(json!([]))),
        ("POST /containers/create?name=runs", sleeper(mount)),
        ("POST /containers/runs/start", Value::Null),
        ("POST /containers/create?name=rests", sleeper(json!([]))),
        ("POST /containers/rests/start", Value::Null),
        ("POST /containers/rests/pause", Value::Null),
    ] {
        socket.allows(line, &body);
    }
}

/// What is asked for is not there.
fn nothing_there() -> Vec<Request> {
    vec![
        ("GET /containers/nope/json", Value::Null),
        ("GET /containers/nope/top", Value::Null),
        ("GET /containers/nope/logs?stdout=1", Value::Null),
        ("GET /containers/nope/changes", Value::Null),
        ("GET /containers/nope/export", Value::Null),
        ("GET /containers/nope/stats?stream=0", Value::Null),
        ("GET /containers/nope/archive?path=/", Value::Null),
        ("PUT /containers/nope/archive?path=/", Value::Null),
        ("POST /containers/nope/resize?h=1&w=1", Value::Null),
        ("POST /containers/nope/start", Value::Null),
        ("POST /containers/nope/stop", Value::Null),
        ("POST /containers/nope/restart", Value::Null),
        ("POST /containers/nope/kill", Value::Null),
        ("POST /containers/nope/pause", Value::Null),
        ("POST /containers/nope/unpause", Value::Null),
        ("POST /containers/nope/rename?name=x", Value::Null),
        ("POST /containers/nope/update", json!({})),
        ("POST /containers/nope/wait", Value::Null),
        ("POST /containers/nope/exec", json!({"Cmd": ["true"]})),
        ("DELETE /containers/nope", Value::Null),
        ("POST /exec/nope/start", json!({})),
        ("POST /exec/nope/resize?h=1&w=1", Value::Null),
        ("GET /exec/nope/json", Value::Null),
        ("GET /images/nope/json", Value::Null),
        ("GET /images/nope/history", Value::Null),
        ("POST /images/nope/tag?repo=x", Value::Null),
        ("DELETE /images/nope", Value::Null),
        ("POST /commit?container=nope", json!({})),
        ("GET /volumes/nope", Value::Null),
        ("DELETE /volumes/nope", Value::Null),
        ("GET /networks/nope", Value::Null),
        ("DELETE /networks/nope", Value::Null),
        ("GET /plugins/nope/json", Value::Null),
        ("GET /nope", Value::Null),
        ("PUT /version", Value::Null),
    ]
}

/// It is there, but not in this state.
fn not_in_this_state() -> Vec<Request> {
    vec![
        ("POST /containers/made/kill", Value::Null),
        ("POST /containers/made/pause", Value::Null),
        ("POST /containers/made/unpause", Value::Null),
        ("POST /containers/made/stop", Value::Null),
        ("POST /containers/made/resize?h=1&w=1", Value::Null),
        ("POST /containers/made/exec", json!({"Cmd": ["true"]})),
        ("GET /containers/made/top", Value::Null),
        ("POST /containers/runs/start", Value::Null),
        ("POST /containers/runs/unpause", Value::Null),
        ("DELETE /containers/runs", Value::Null),
        ("POST /containers/rests/pause", Value::Null),
        ("POST /containers/rests/exec", json!({"Cmd": ["true"]})),
        ("POST /containers/rests/start", Value::Null),
        ("DELETE /containers/rests", Value::Null),
        ("DELETE /volumes/used", Value::Null),
        ("DELETE /images/busybox", Value::Null),
        ("DELETE /networks/none", Value::Null),
        ("DELETE /networks/host", Value::Null),
        ("POST /networks/create", json!({"Name": "host"})),
        ("POST /networks/create", json!({"Name": ""})),
        (
            "POST /containers/create?name=runs",
            json!({"Image": "busybox"}),
        ),
        ("POST /containers/made/rename?name=runs", Value::Null),
        ("POST /containers/made/rename?name=made", Value::Null),
        ("POST /containers/made/rename?name=", Value::Null),
        ("POST /containers/made/rename?name=a%20b", Value::Null),
    ]
}

/// A container cannot be so.
fn containers_that_cannot_be() -> Vec<Request> {
    let with = |member: &str, value: Value| json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", member: value}});
    vec![
        (
            "POST /containers/create?name=a%20b",
            json!({"Image": "busybox"}),
        ),
        ("POST /containers/create", Value::Null),
        ("POST /containers/create", json!({})),
        (
            "POST /containers/create",
            json!({"Image": "nope", "Cmd": ["true"]}),
        ),
        (
            "POST /containers/create",
            json!({"Image": "UPPER", "Cmd": ["true"]}),
        ),
        ("POST /containers/create", json!({"Image": "busybox"})),
        (
            "POST /containers/create",
            json!({"Image": "busybox", "Cmd": ["true"], "StopSignal": "NOPE"}),
        ),
        (
            "POST /containers/create",
            json!({"Image": "busybox", "Cmd": ["true"], "WorkingDir": "relative"}),
        ),
        (
            "POST /containers/create",
            json!({"Image": "busybox", "Cmd": ["true"], "Env": ["=x"]}),
        ),
        (
            "POST /containers/create",
            json!({"Image": "busybox", "Cmd": ["true"], "Healthcheck": {"Interval": 1}}),
        ),
        (
            "POST /containers/create",
            json!({"Image": "busybox", "Cmd": ["true"], "ExposedPorts": {"x/tcp": {}}}),
        ),
        ("POST /containers/create", with("Memory", json!(1))),
        (
            "POST /containers/create",
            with("MemorySwap", json!(7_000_000)),
        ),
        ("POST /containers/create", with("NanoCpus", json!(-1))),
        ("POST /containers/create", with("CpuPeriod", json!(1))),
        ("POST /containers/create", with("CpusetCpus", json!("x"))),
        ("POST /containers/create", with("ShmSize", json!(-1))),
        ("POST /containers/create", with("OomScoreAdj", json!(2000))),
        ("POST /containers/create", with("PidsLimit", json!(-7))),
        ("POST /containers/create", with("IpcMode", json!("nope"))),
        ("POST /containers/create", with("PidMode", json!("nope"))),
        ("POST /containers/create", with("UTSMode", json!("nope"))),
        ("POST /containers/create", with("CapAdd", json!(["NOPE"]))),
        (
            "POST /containers/create",
            with("RestartPolicy", json!({"Name": "nope"})),
        ),
        (
            "POST /containers/create",
            with(
                "RestartPolicy",
                json!({"Name": "no", "MaximumRetryCount": 1}),
            ),
        ),
        ("POST /containers/create", with("Binds", json!(["a:b"]))),
        (
            "POST /containers/create",
            with("Binds", json!(["/a:/b:nope"])),
        ),
        (
            "POST /containers/create",
            with("Mounts", json!([{"Type": "nope", "Target": "/x"}])),
        ),
        (
            "POST /containers/create",
            with(
                "Mounts",
                json!([{"Type": "bind", "Source": "/nope/nope", "Target": "/x"}]),
            ),
        ),
        (
            "POST /containers/create",
            with(
                "Mounts",
                json!([{"Type": "bind", "Source": "x", "Target": "/x"}]),
            ),
        ),
        (
            "POST /containers/create",
            with(
                "Mounts",
                json!([{"Type": "volume", "Source": "x", "Target": ""}]),
            ),
        ),
        (
            "POST /containers/create",
            with("VolumesFrom", json!(["nope"])),
        ),
        (
            "POST /containers/create",
            with(
                "LogConfig",
                json!({"Type": "json-file", "Config": {"nope": "1"}}),
            ),
        ),
        (
            "POST /containers/create",
            with("PortBindings", json!({"80/tcp": [{"HostPort": "x"}]})),
        ),
        (
            "POST /containers/create",
            with("CpusetCpus", json!("0,4000")),
        ),
        ("POST /containers/create", with("CpusetMems", json!("x"))),
        (
            "POST /containers/create",
            with("NanoCpus", json!(9_000_000_000_000_i64)),
        ),
        ("POST /containers/create", with("CapDrop", json!(["NOPE"]))),
    ]
}

/// Other requests that are not understood.
fn not_understood() -> Vec<Request> {
    vec![
        ("POST /containers/runs/kill?signal=NOPE", Value::Null),
        ("POST /containers/made/wait?condition=nope", Value::Null),
        ("POST /containers/made/exec", json!({})),
        ("GET /containers/made/logs", Value::Null),
        ("GET /containers/made/logs?stdout=1&since=x", Value::Null),
        ("POST /containers/runs/resize?h=x&w=1", Value::Null),
        ("GET /containers/runs/archive?path=/nope", Value::Null),
        ("PUT /containers/runs/archive?path=/nope", Value::Null),
        (
            "GET /containers/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /containers/json?filters=%7B%22status%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /containers/json?filters=%7B%22exited%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /images/json?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /volumes?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /networks?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        ("GET /events?since=x", Value::Null),
        ("GET /events?since=2&until=1", Value::Null),
        (
            "POST /containers/prune?filters=%7B%22nope%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        ("POST /volumes/create", json!({"Name": "a b"})),
        ("POST /images/busybox/tag?repo=UPPER", Value::Null),
        ("GET /system/df?type=nope", Value::Null),
        ("GET /v1.10/version", Value::Null),
        ("POST /containers/nope/rename?name=", Value::Null),
        ("POST /containers/made/rename?name=x", Value::Null),
        (
            "POST /containers/runs/resize?h=1&w=99999999999",
            Value::Null,
        ),
        ("POST /containers/runs/resize", Value::Null),
        (
            "GET /containers/json?filters=%7B%22health%22%3A%5B%22x%22%5D%7D",
            Value::Null,
        ),
        (
            "GET /containers/json?filters=%7B%22exited%22%3A%5B%2299999999999999999999%22%5D%7D",
            Value::Null,
        ),
        ("POST /networks/create", json!({"Name": "bridge"})),
        ("POST /networks/create", json!({"Name": "default"})),
        (
            "POST /volumes/create",
            json!({"Name": "fine", "DriverOpts": {"nope": "x"}}),
        ),
    ]
}

/// Where berth differs on purpose, and how it answers.
fn apart() -> Vec<(Request, u16, &'static str)> {
    let filter = "GET /events?until=1&filters=%7B%22nope%22%3A%5B%22x%22%5D%7D";
    let ulimit = json!([{"Name": "nope", "Soft": 1, "Hard": 1}]);
    let limited = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Ulimits": ulimit}});
    vec![
        // Docker writes this text into the connection, without JSON.
        (
            ("POST /containers/nope/attach", Value::Null),
            404,
            "No such container: nope",
        ),
        // Docker notes the name of any network for a container that does not run.
        (
            ("POST /networks/nope/connect", json!({"Container": "made"})),
            404,
            "network nope not found",
        ),
        // Docker takes any limit, and the container does not start.
        (
            ("POST /containers/create", limited),
            400,
            "invalid ulimit type: nope",
        ),
        // Docker's sentence lacks a space.
        (
            ("GET /containers/runs/archive", Value::Null),
            400,
            "bad parameter: path cannot be empty",
        ),
        // Docker does not say what is wrong with it.
        (
            ("GET /containers/json?filters=x", Value::Null),
            400,
            "invalid filter: expected value at line 1 column 1",
        ),
        // Docker takes filters of events that it does not know, and nothing passes.
        ((filter, Value::Null), 400, "invalid filter 'nope'"),
        // Berth speaks newer versions.
        (
            ("GET /v1.99/version", Value::Null),
            400,
            "client version 1.99 is too new. Maximum supported API version is 1.55",
        ),
    ]
}

/// Where Docker looks for a plugin a quarter of a minute long: what it says then (28.5.2).
fn plugins() -> Vec<(Request, u16, &'static str)> {
    let logging = json!({"LogConfig": {"Type": "nope"}});
    vec![
        (
            (
                "POST /containers/create",
                json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": logging}),
            ),
            400,
            "error looking up logging plugin nope: plugin \"nope\" not found",
        ),
        (
            (
                "POST /volumes/create",
                json!({"Name": "x", "Driver": "nope"}),
            ),
            404,
            "create x: error looking up volume plugin nope: plugin \"nope\" not found",
        ),
    ]
}

#[test]
fn privileged_refused_requests_get_dockers_status_and_words() {
    let docker = Docker::empty();
    let host = Host::new();
    let tar = docker.path().join("busybox.tar");
    fs::write(&tar, busybox_tar()).unwrap();
    let tar = tar.to_str().unwrap();
    docker.run(&["import", tar, "busybox"]).ok();
    let dockers = Socket(docker.path().join("d.sock"));
    let berths = Socket(host.socket());
    prepare(&dockers);
    prepare(&berths);
    let requests = [
        nothing_there(),
        not_in_this_state(),
        containers_that_cannot_be(),
        not_understood(),
    ];
    let mut differences = Vec::new();
    for request in requests.iter().flatten() {
        let (theirs, ours) = (answer(&dockers, request), answer(&berths, request));
        // Docker calls some mistakes of the client its own.
        let blamed = theirs.0 == 500 && (400..500).contains(&ours.0);
        if theirs != ours && !blamed {
            let (line, body) = request;
            differences.push(format!(
                "{line} {body}\n  docker {theirs:?}\n  berth  {ours:?}"
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for (request, status, words) in apart() {
        let wanted = (status, words.to_owned());
        assert_eq!(answer(&berths, &request), wanted, "{request:?}");
        assert_ne!(answer(&dockers, &request), wanted, "{request:?}");
    }
    for (request, status, words) in plugins() {
        let wanted = (status, words.to_owned());
        assert_eq!(answer(&berths, &request), wanted, "{request:?}");
    }
}
