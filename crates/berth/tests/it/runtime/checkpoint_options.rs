//! What can be asked of saving and restoring beside it: connections, locks, sockets that lead out,
//! memory that goes elsewhere, cgroups, ids that are others. Real CRIU each time.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use serde_json::json;
use testkit::{eventually, tool};

use super::bundle::Bundle;
use super::checkpoint::COUNTER;
use crate::host::PATIENCE;

/// One whose process is a program in Perl, out of the test tools' own root.
fn perl(program: &str) -> Bundle {
    let usr = tool("busybox").ancestors().nth(2).unwrap().join("root/usr");
    let bundle = Bundle::sh("").with(|spec| {
        spec["process"]["args"] = json!(["perl", "-e", program]);
        spec["process"]["env"] = json!(["PATH=/usr/bin:/bin"]);
        let options = ["rbind", "ro"];
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"type": "bind", "source": usr, "destination": "/usr", "options": options}),
        );
    });
    for folder in ["lib", "lib64"] {
        symlink(format!("usr/{folder}"), bundle.inside(folder)).unwrap();
    }
    bundle
}

/// A container for its network alone, which others join.
fn network() -> Bundle {
    let bundle = Bundle::sh("ip link set lo up; echo up > /up; exec sleep 1000").with(|spec| {
        for set in ["bounding", "effective", "permitted"] {
            let set = spec["process"]["capabilities"][set].as_array_mut().unwrap();
            set.push(json!("CAP_NET_ADMIN"));
        }
    });
    bundle.run(&["run", "--detach", &bundle.id]).ok();
    bundle.wait_for_file("up");
    bundle
}

impl Bundle {
    fn in_network_of(self, other: &Self) -> Self {
        let path = format!("/proc/{}/ns/net", other.state()["pid"]);
        self.with(|spec| {
            let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
            all.retain(|namespace| namespace["type"] != "network");
            all.push(json!({"type": "network", "path": path}));
        })
    }

    /// Whether a socket of the port is in a state, by its number in `/proc/net/tcp`.
    fn has_socket(&self, state: &str) -> bool {
        let path = format!("/proc/{}/net/tcp", self.state()["pid"]);
        let text = fs::read_to_string(path).unwrap();
        let mut fields = text.lines().map(|line| line.split_whitespace());
        fields.any(|mut line| {
            let here = line.nth(1).is_some_and(|own| own.ends_with(":115C"));
            here && line.nth(1) == Some(state)
        })
    }

    #[track_caller]
    fn refuses(&self, args: &[&str], said: &str) {
        let run = self.criu(args);
        assert!(run.fails(1).contains(said), "{run:#?}");
    }
}

#[test]
fn privileged_connections_go_on_if_they_are_asked_for() {
    let network = network();
    let program = r#"
        use IO::Socket::INET;
        $l = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1:4444") or die;
        $s = IO::Socket::INET->new("127.0.0.1:4444") or die;
        $c = $l->accept;
        $s->autoflush(1);
        for ($i = 1; ; $i++) {
            print $s "$i\n";
            $said = <$c>;
            open F, ">>/count"; print F $said; close F;
        }"#;
    let bundle = perl(program).in_network_of(&network);
    let id = bundle.id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    let saving = ["checkpoint", "--image-path", "images", id];
    bundle.refuses(
        &saving,
        "Connected TCP socket, consider using --tcp-established",
    );
    bundle.counts_beyond(bundle.count());
    let saving = [
        "checkpoint",
        "--tcp-established",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&saving));
    let reached = bundle.count();
    let restoring = ["restore", "--detach", "--image-path", "images", id];
    bundle.refuses(&restoring, "inet: Connected TCP socket in image");
    bundle.is_gone();
    let restoring = [
        "restore",
        "--detach",
        "--tcp-established",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&restoring));
    bundle.counts_beyond(reached);
}

#[test]
fn privileged_connections_that_nobody_has_accepted_are_left_out_if_asked() {
    let network = network();
    let program = r#"
        use IO::Socket::INET;
        $l = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1:4444") or die;
        sleep 1000 while 1"#;
    let bundle = perl(program).in_network_of(&network);
    let id = bundle.id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    eventually(PATIENCE, || network.has_socket("0A"));
    let caller = ["exec", &network.id, "nc", "127.0.0.1", "4444"];
    let mut caller = network.command(&caller);
    let mut caller = caller.stdin(Stdio::piped()).spawn().unwrap();
    eventually(PATIENCE, || network.has_socket("01"));
    bundle.refuses(
        &["checkpoint", "--image-path", "images", id],
        "In-flight connection",
    );
    let saving = [
        "checkpoint",
        "--tcp-skip-in-flight",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&saving));
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "images", id]));
    assert!(network.has_socket("0A"));
    drop(caller.stdin.take());
    network.run(&["kill", &network.id, "KILL"]).ok();
    caller.wait().unwrap();
}

#[test]
fn privileged_locks_of_files_are_saved_if_they_are_asked_for() {
    let program = r#"
        use Fcntl ":flock";
        open L, ">/lock"; flock L, LOCK_EX or die;
        open F, ">/begun"; print F "x"; close F;
        sleep 1000 while 1"#;
    let bundle = perl(program);
    let id = bundle.id.as_str();
    let is_free = || {
        let lock = fs::File::open(bundle.inside("lock")).unwrap();
        rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    bundle.run(&["run", "--detach", id]).ok();
    bundle.wait_for_file("begun");
    assert!(!is_free());
    bundle.refuses(
        &["checkpoint", "--image-path", "images", id],
        "You can try --file-locks",
    );
    bundle.did(&bundle.criu(&["checkpoint", "--file-locks", "--image-path", "images", id]));
    assert!(is_free());
    let restoring = [
        "restore",
        "--detach",
        "--file-locks",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&restoring));
    assert!(!is_free());
}

#[test]
fn privileged_sockets_that_lead_out_are_saved_if_they_are_asked_for() {
    let outside = tempfile::tempdir().unwrap();
    let path = outside.path().join("socket");
    let listener = UnixDatagram::bind(&path).unwrap();
    listener.set_read_timeout(Some(PATIENCE)).unwrap();
    let program = format!(
        r#"
        use IO::Socket::UNIX;
        $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => "{}") or die;
        for ($i = 1; ; $i++) {{ $s->send("$i") }}"#,
        path.display()
    );
    let bundle = perl(&program).with(|spec| {
        // Found by the same name, in the same network.
        let place = outside.path();
        let mount =
            json!({"type": "bind", "source": place, "destination": place, "options": ["rbind"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.retain(|namespace| namespace["type"] != "network");
    });
    let id = bundle.id.as_str();
    let said = || {
        let mut bytes = [0; 32];
        let length = listener.recv(&mut bytes).unwrap();
        let text = std::str::from_utf8(&bytes[..length]).unwrap();
        text.parse::<u32>().unwrap()
    };
    bundle.run(&["run", "--detach", id]).ok();
    said();
    bundle.refuses(
        &["checkpoint", "--image-path", "images", id],
        "External socket is used. Consider using --ext-unix-sk",
    );
    bundle.did(&bundle.criu(&["checkpoint", "--ext-unix-sk", "--image-path", "images", id]));
    // What was under way when it was saved.
    listener.set_nonblocking(true).unwrap();
    let mut last = said();
    while listener.recv(&mut [0; 32]).is_ok() {
        last += 1;
    }
    listener.set_nonblocking(false).unwrap();
    let restoring = [
        "restore",
        "--detach",
        "--ext-unix-sk",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&restoring));
    eventually(PATIENCE, || said() > last);
}

#[test]
fn privileged_memory_goes_to_a_page_server() {
    let bundle = Bundle::sh(COUNTER);
    let id = bundle.id.as_str();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let pages = bundle.path().join("pages");
    fs::create_dir(&pages).unwrap();
    let mut server = Command::new(tool("criu"))
        .args([
            "page-server",
            "--status-fd",
            "1",
            "--address",
            "127.0.0.1",
            "--port",
        ])
        .arg(port.to_string())
        .arg("--images-dir")
        .arg(&pages)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [1];
    server
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(ready, [0]);
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    let address = format!("127.0.0.1:{port}");
    let saving = [
        "checkpoint",
        "--page-server",
        &address,
        "--empty-ns",
        "network",
    ];
    bundle.did(&bundle.criu(&[&saving[..], &["--image-path", "images", id]].concat()));
    assert!(server.wait().unwrap().success());
    let images = bundle.path().join("images");
    let has_pages = |path| {
        let mut found = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        found.any(|name| name.to_string_lossy().starts_with("pages-"))
    };
    assert!(has_pages(&pages) && !has_pages(&images));
    let restoring = [
        "restore",
        "--detach",
        "--empty-ns",
        "network",
        "--image-path",
        "images",
        id,
    ];
    bundle.refuses(&restoring, "criu failed: type RESTORE");
    for page in fs::read_dir(&pages).unwrap() {
        let page = page.unwrap();
        fs::rename(page.path(), images.join(page.file_name())).unwrap();
    }
    bundle.did(&bundle.criu(&restoring));
    bundle.counts_beyond(bundle.count());
}

#[test]
fn privileged_limits_are_those_that_were_saved_if_that_is_asked_for() {
    let pids = |limit: u32| {
        move |spec: &mut serde_json::Value| {
            spec["linux"]["resources"]["pids"] = json!({"limit": limit});
        }
    };
    let mut bundle = Bundle::sh(COUNTER).with(pids(55));
    let id = bundle.id.clone();
    let id = id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    let limit = |bundle: &Bundle| {
        let files = bundle.cgroups();
        let mut files = files.iter().map(|path| path.join("pids.max"));
        fs::read_to_string(files.find(|file| file.exists()).unwrap()).unwrap()
    };
    for (mode, reached) in [("full", "55\n"), ("ignore", "66\n"), ("soft", "66\n")] {
        let save = [
            "checkpoint",
            "--manage-cgroups-mode",
            mode,
            "--image-path",
            mode,
            id,
        ];
        bundle.did(&bundle.criu(&save));
        bundle = bundle.with(pids(66));
        let restore = [
            "restore",
            "--detach",
            "--manage-cgroups-mode",
            mode,
            "--image-path",
            mode,
            id,
        ];
        bundle.did(&bundle.criu(&restore));
        assert_eq!(limit(&bundle), reached, "{mode}");
    }
    bundle.did(&bundle.criu(&["checkpoint", "--manage-cgroups-mode", "strict", id]));
    bundle.refuses(
        &["restore", "--detach", "--manage-cgroups-mode", "strict", id],
        r#"restored with --manage-cgroups-mode strict: its cgroup is made before it"#,
    );
    bundle.is_gone();
}

#[test]
fn privileged_a_container_of_mapped_users_goes_on_in_mounts_that_map_their_ids() {
    let script = "i=0; while :; do i=$((i+1)); echo $i >> /data/count; done";
    let bundle = Bundle::sh(script).with(|spec| {
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = ids.clone();
        spec["linux"]["gidMappings"] = ids;
        let all = spec["linux"]["namespaces"].as_array_mut().unwrap();
        all.push(json!({"type": "user"}));
        let options = ["rbind", "idmap"];
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"type": "bind", "source": "data", "destination": "/data", "options": options}),
        );
    });
    fs::set_permissions(bundle.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let data = bundle.path().join("data");
    for directory in [&data, &bundle.inside("data")] {
        fs::create_dir(directory).unwrap();
    }
    let id = bundle.id.as_str();
    let count = || {
        let text = fs::read_to_string(data.join("count")).unwrap_or_default();
        text.lines()
            .last()
            .and_then(|line| line.parse().ok())
            .unwrap_or(0)
    };
    let goes_on = || {
        let reached: u32 = count();
        eventually(PATIENCE, || count() > reached);
    };
    // It may open its streams again.
    let start = |args: &[&str]| {
        let mut command = bundle.criu_command(args);
        let null = Stdio::null;
        let ended = command.stdout(null()).stderr(null()).status().unwrap();
        assert!(ended.success(), "{args:?}");
        goes_on();
    };
    start(&["run", "--detach", id]);
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    start(&["restore", "--detach", "--image-path", "images", id]);
    assert_eq!(fs::metadata(data.join("count")).unwrap().uid(), 0);
    let pid = bundle.state()["pid"].to_string();
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    let new = "echo > /data/new; ls -ln /data/new; echo > /dev/null";
    let new = bundle.run(&["exec", id, "sh", "-c", new]);
    assert!(new.ok().contains(" 0        0 "), "{new:#?}");
    // Memory is in the images: nobody else reads them.
    let images = fs::metadata(bundle.path().join("images")).unwrap();
    assert_eq!((images.mode() & 0o777, images.gid()), (0o710, 100_000));
}

#[test]
fn privileged_ids_of_a_mount_stay_mapped_when_it_is_restored() {
    let bind = |to: &str, ids: serde_json::Value| {
        json!({"type": "bind", "source": "data", "destination": to, "options": ["rbind"],
               "uidMappings": ids, "gidMappings": ids})
    };
    let ids = json!([{"containerID": 0, "hostID": 1234, "size": 1}]);
    let bundle = Bundle::sh(COUNTER).with(|spec| {
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(bind("/data", ids));
    });
    fs::create_dir(bundle.path().join("data")).unwrap();
    let id = bundle.id.as_str();
    let owner = || bundle.run(&["exec", id, "stat", "-c", "%u:%g", "/data"]);
    bundle.run(&["run", "--detach", id]).ok();
    assert_eq!(owner().ok(), "1234:1234");
    bundle.counts_beyond(1);
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "images", id]));
    assert_eq!(owner().ok(), "1234:1234");
    assert_eq!(fs::metadata(bundle.path().join("data")).unwrap().uid(), 0);
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    let own = bundle.id.clone();
    let bundle = bundle.with(|spec| {
        let mut plain = bind("/plain", json!([]));
        plain["source"] = json!("data");
        spec["mounts"].as_array_mut().unwrap().push(plain);
    });
    bundle.refuses(
        &["restore", "--detach", "--image-path", "images", &own],
        "the mounts at `/data` and `/plain` show the same files with different ids",
    );
}

#[test]
fn privileged_memory_is_saved_ahead_where_the_kernel_tells_what_has_changed() {
    let bundle = Bundle::sh(COUNTER);
    let id = bundle.id.as_str();
    let tracks = Command::new(tool("criu"))
        .args(["check", "--feature", "mem_dirty_track"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    let ahead = ["checkpoint", "--pre-dump", "--image-path", "ahead", id];
    if !tracks.success() {
        bundle.refuses(&ahead, "CRIU is missing features");
        return bundle.counts_beyond(bundle.count());
    }
    bundle.did(&bundle.criu(&ahead));
    bundle.counts_beyond(bundle.count());
    let saving = [
        "checkpoint",
        "--parent-path",
        "../ahead",
        "--image-path",
        "images",
        id,
    ];
    bundle.did(&bundle.criu(&saving));
    bundle.did(&bundle.criu(&["restore", "--detach", "--image-path", "images", id]));
    bundle.counts_beyond(bundle.count());
}

#[test]
fn privileged_a_label_of_no_security_module_is_refused() {
    let bundle = Bundle::sh(COUNTER);
    let id = bundle.id.as_str();
    bundle.run(&["run", "--detach", id]).ok();
    bundle.counts_beyond(1);
    bundle.did(&bundle.criu(&["checkpoint", "--image-path", "images", id]));
    let restore = |label: &[&'static str]| {
        let restore = ["restore", "--detach", "--image-path", "images"];
        [&restore[..], label, &[id]].concat()
    };
    bundle.refuses(
        &restore(&["--lsm-profile", "nonsense"]),
        "invalid argument nonsense for --lsm-profile",
    );
    bundle.is_gone();
    bundle.did(&bundle.criu(&restore(&["--lsm-mount-context", "unused"])));
    bundle.counts_beyond(bundle.count());
}
