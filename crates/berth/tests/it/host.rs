//! One berth host for one test: scratch roots, a daemon, and what must be gone afterwards.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::tool;

use crate::client::{Client, Run};

/// How long anything may take before a test gives up; generous, since CI has two busy cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon on roots of its own.
pub(crate) struct Host {
    root: tempfile::TempDir,
    program: PathBuf,
    daemon: Option<Child>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    /// The control group that daemons begin in, if not this process's.
    room: Option<PathBuf>,
}

impl Host {
    /// A running daemon with no images.
    pub(crate) fn empty() -> Self {
        Self::with_flags(&[])
    }

    /// The same with further daemon flags.
    pub(crate) fn with_flags(flags: &[&str]) -> Self {
        Self::on(scratch(), flags)
    }

    /// The same on a folder that the test made.
    pub(crate) fn on(root: tempfile::TempDir, flags: &[&str]) -> Self {
        Self::of(env!("CARGO_BIN_EXE_berth").into(), root, flags)
    }

    /// The same with a daemon of another build.
    pub(crate) fn of(program: PathBuf, root: tempfile::TempDir, flags: &[&str]) -> Self {
        Self::set(program, root, flags, &[])
    }

    /// One whose daemon has these variables too.
    pub(crate) fn with_environment(flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let program = env!("CARGO_BIN_EXE_berth").into();
        Self::set(program, scratch(), flags, variables)
    }

    fn set(
        program: PathBuf,
        root: tempfile::TempDir,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let flags = flags.iter().map(ToString::to_string).collect();
        let mut host = Self {
            root,
            program,
            daemon: None,
            flags,
            environment: variables.iter().map(own).collect(),
            room: None,
        };
        host.start();
        host
    }

    /// A running daemon with the image `busybox:latest`.
    pub(crate) fn new() -> Self {
        let host = Self::empty();
        host.import_busybox();
        host
    }

    /// Imports `busybox:latest`.
    pub(crate) fn import_busybox(&self) {
        let tar = self.root.path().join("busybox.tar");
        fs::write(&tar, busybox_tar()).unwrap();
        self.berth(&["import", tar.to_str().unwrap(), "busybox:latest"])
            .ok();
        fs::remove_file(tar).unwrap();
    }

    /// The scratch folder.
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    /// The socket as `DOCKER_HOST` wants it.
    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.path().join("berth.sock")
    }

    /// One HTTP/1.0 exchange on the socket: status line, headers and body.
    pub(crate) fn raw(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .write_all(request.replace('\n', "\r\n").as_bytes())
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        assert!(self.daemon.is_none(), "the daemon already runs");
        let root = self.root.path();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(root.join("daemon.log"))
            .unwrap();
        let configured = self.flags.iter().any(|flag| flag == "--config-file");
        let no_file = ["--config-file", "/dev/null"];
        let program = &self.program;
        let mut command = match &self.room {
            Some(room) => {
                // Before its first page, so that all that it ever has in memory counts.
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]);
                shell.arg(room.join("cgroup.procs")).arg(program);
                shell
            }
            None => Command::new(program),
        };
        let child = command
            .arg("daemon")
            .args(["-H", &self.url()])
            .arg("--data-root")
            .arg(root.join("data"))
            .arg("--exec-root")
            .arg(root.join("run"))
            .arg("--pidfile")
            .arg(root.join("berth.pid"))
            .args(no_file.iter().filter(|_| !configured))
            .args(&self.flags)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        self.wait_until("the daemon answers", || {
            UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// Ends the daemon and starts the next one with these flags.
    pub(crate) fn restart_with(&mut self, flags: &[&str]) {
        self.stop_daemon();
        self.flags = flags.iter().map(ToString::to_string).collect();
        self.start();
    }

    /// The process id of the daemon.
    pub(crate) fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Ends the daemon and starts the next one in a control group.
    pub(crate) fn restart_in(&mut self, room: &Path) {
        self.stop_daemon();
        self.room = Some(room.to_owned());
        self.start();
    }

    /// SIGKILL, as a crash would be.
    pub(crate) fn kill_daemon(&mut self) {
        let mut child = self.daemon.take().expect("a daemon runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn stop_daemon(&mut self) -> Option<i32> {
        let mut child = self.daemon.take().expect("a daemon runs");
        Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status()
            .unwrap();
        child.wait().unwrap().code()
    }

    /// What the daemon wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("daemon.log")).unwrap_or_default()
    }

    /// Runs one command of `berth` against this host.
    pub(crate) fn berth(&self, args: &[&str]) -> Run {
        Client::Berth.run(self, args)
    }

    /// Runs one command of docker's own command line against this host.
    pub(crate) fn docker(&self, args: &[&str]) -> Run {
        Client::Docker.run(self, args)
    }

    /// Waits for a condition; shows the daemon's log when it never comes.
    pub(crate) fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(
                Instant::now() < deadline,
                "never came true: {what}\n{}",
                self.log()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Processes whose command line names this host's folder.
    pub(crate) fn processes(&self) -> Vec<String> {
        let marker = self.root.path().to_str().unwrap().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(line) = fs::read(entry.path().join("cmdline")) else {
                continue;
            };
            if line.windows(marker.len()).any(|part| part == marker) {
                found.push(String::from_utf8_lossy(&line).replace('\0', " "));
            }
        }
        found
    }

    /// How many monitors run: processes that have files of a container open.
    pub(crate) fn monitors(&self) -> usize {
        let files = ["run/containers", "data/containers"].map(|below| self.path().join(below));
        let has_one_open = |process: fs::DirEntry| {
            let open = fs::read_dir(process.path().join("fd"));
            open.into_iter().flatten().flatten().any(|link| {
                let file = fs::read_link(link.path()).unwrap_or_default();
                files.iter().any(|below| file.starts_with(below))
            })
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|process| has_one_open(process).then_some(()))
            .count()
    }

    /// Mounts under this host's folder, as this process sees them.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let marker = self.root.path().to_str().unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .filter(|line| line.contains(marker))
            .map(str::to_owned)
            .collect()
    }

    /// Control groups of the given container, in any hierarchy.
    pub(crate) fn cgroups(&self, container: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if entry.file_name().to_string_lossy().contains(container) {
                        found.push(entry.path());
                    }
                    folders.push(entry.path());
                }
            }
        }
        found
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            let ids = self.berth(&["ps", "-aq"]).stdout;
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if !ids.is_empty() {
                self.berth(&[&["rm", "-f"], ids.as_slice()].concat());
            }
            let mut child = self.daemon.take().expect("a daemon runs");
            let _ = Command::new("kill")
                .args(["-TERM", &child.id().to_string()])
                .status();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the daemon's log ended so:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        // What a failed test or a daemon that was killed leaves; nothing is expected here.
        for line in self.mounts() {
            if let Some(point) = line.split(' ').nth(4) {
                let _ = Command::new("umount")
                    .args(["-l", point])
                    .stderr(Stdio::null())
                    .status();
            }
        }
    }
}

/// A scratch folder with a short path, since socket names have 108 bytes.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("b").tempdir().unwrap()
}

/// A root tar of busybox with its applets, an `app` user, and a file that is not executable.
pub(crate) fn busybox_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        match link {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, data).unwrap(),
        }
    };
    for folder in ["bin/", "etc/", "tmp/", "root/", "home/", "var/"] {
        let mode = if folder == "tmp/" { 0o1777 } else { 0o755 };
        put(folder, tar::EntryType::Directory, mode, None, b"");
    }
    let busybox = fs::read(tool("busybox")).unwrap();
    put(
        "bin/busybox",
        tar::EntryType::Regular,
        0o755,
        None,
        &busybox,
    );
    for applet in APPLETS {
        put(
            &format!("bin/{applet}"),
            tar::EntryType::Symlink,
            0o777,
            Some("busybox"),
            b"",
        );
    }
    put(
        "etc/passwd",
        tar::EntryType::Regular,
        0o644,
        None,
        b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n",
    );
    put(
        "etc/group",
        tar::EntryType::Regular,
        0o644,
        None,
        b"root:x:0:\napp:x:1000:\nextra:x:2000:app\n",
    );
    put(
        "etc/plain",
        tar::EntryType::Regular,
        0o644,
        None,
        b"not a program\n",
    );
    tar.into_inner().unwrap()
}

const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "cut", "date", "dd", "df", "echo", "env", "false", "grep", "head",
    "hostname", "httpd", "id", "ifconfig", "ip", "kill", "ls", "mkdir", "mount", "nc", "nslookup",
    "ping", "printf", "ps", "pwd", "readlink", "rm", "seq", "sh", "sleep", "stat", "stty", "sync",
    "tail", "tee", "test", "top", "touch", "tr", "trap", "true", "tty", "umount", "wc", "wget",
    "yes",
];
