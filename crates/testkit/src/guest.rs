//! A Linux of its own for a test: another cgroup layout than this machine's, on a real kernel.
//!
//! ```text
//! qemu (with KVM where that works)    kernel and modules that scripts/guest.sh fetched
//!  ├─ initramfs, made here           busybox; programs and their libraries, at the paths of the host
//!  ├─ first serial port              the kernel's console
//!  └─ second serial port             output of the command, then `exit CODE`
//! ```
//!
//! The guest has no disk and no network; what it does not get with [`Guest::file`] or
//! [`Guest::program`] is not there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where `scripts/guest.sh` puts the kernel.
const PLACE: &str = "/var/cache/berth/guest";
const INIT: &str = include_str!("../fixtures/guest-init.sh");
const SESSION: &str = include_str!("../fixtures/guest-session.sh");
/// All that a guest's systemd starts.
const UNIT: &str = "[Unit]\nDefaultDependencies=no\n\
                    [Service]\nType=oneshot\nEnvironment=PATH=/bin\nTimeoutStartSec=infinity\n\
                    ExecStart=/bin/sh /guest/session\n";
const TARGET: &str = "[Unit]\nRequires=guest.service\nAfter=guest.service\n";
/// Of a systemd that is another's to start: the loader of `scripts/guest.sh`, its libraries, it.
const MANAGER: &str = "/guest/systemd/ld-linux-x86-64.so.2 --library-path /guest/systemd \
                       /guest/systemd/systemd --user";
/// The ordinary user of [`Guest::run_as_user`].
pub const USER: u32 = 1000;
/// The guest's memory, of which its root file system is a part.
const MEMORY: &str = "1536M";
/// Boot, run, power off: seconds with KVM, a minute or two without.
const PATIENCE: Duration = Duration::from_secs(240);

/// How the guest mounts cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// Version 1 controllers and nothing of version 2.
    V1,
    /// Version 1 controllers, and version 2 beside them without any.
    Hybrid,
    /// Version 2 alone.
    V2,
}

/// A machine to be.
#[derive(Debug)]
pub struct Guest {
    archive: Archive,
    cgroups: Cgroups,
    /// For the kernel.
    arguments: String,
}

/// How the command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` if the guest ended before it.
    pub code: Option<i32>,
    /// What it printed, and its exit code once more.
    pub output: String,
    /// What the kernel printed.
    pub console: String,
}

impl Outcome {
    /// # Panics
    /// If it did not end with 0, with all that was printed.
    #[track_caller]
    pub fn passed(&self) {
        let Self {
            code,
            output,
            console,
        } = self;
        assert_eq!(*code, Some(0), "{console}\n{output}");
    }
}

impl Guest {
    /// One with busybox, and nothing else.
    ///
    /// # Panics
    /// If no kernel is installed for it.
    pub fn new(cgroups: Cgroups) -> Self {
        let mut archive = Archive::default();
        archive.add(Path::new("/bin/busybox"), &crate::tool("busybox"));
        archive.put("/init", 0o755, INIT.as_bytes());
        archive.put("/guest/session", 0o644, SESSION.as_bytes());
        let layout: &[u8] = match cgroups {
            Cgroups::V1 => b"v1",
            Cgroups::Hybrid => b"hybrid",
            Cgroups::V2 => b"v2",
        };
        archive.put("/guest/cgroups", 0o644, layout);
        archive.folder("modules");
        let arguments =
            String::from("console=ttyS0 loglevel=4 systemd.show_status=0 panic=-1 reboot=t");
        Self {
            archive,
            cgroups,
            arguments,
        }
    }

    /// With one more argument for the kernel, such as `security=selinux`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(' ');
        self.arguments.push_str(argument);
        self
    }

    /// With systemd as its first process, which mounts the cgroups and starts the command.
    #[must_use]
    pub fn systemd(self) -> Self {
        let (unified, legacy) = match self.cgroups {
            Cgroups::V1 => (0, 1),
            Cgroups::Hybrid => (0, 0),
            Cgroups::V2 => (1, 0),
        };
        let mut guest = self.argument(&format!("systemd.unified_cgroup_hierarchy={unified}"));
        if unified == 0 {
            guest = guest.argument(&format!(
                "systemd.legacy_systemd_cgroup_controller={legacy}"
            ));
        }
        guest.units()
    }

    fn units(mut self) -> Self {
        self.archive.folder("systemd");
        let units = "/etc/systemd/system";
        for (name, unit) in [("guest.service", UNIT), ("default.target", TARGET)] {
            self.archive
                .put(&format!("{units}/{name}"), 0o644, unit.as_bytes());
        }
        self
    }

    /// With a file of the host, at the same path.
    #[must_use]
    pub fn file(mut self, path: &Path) -> Self {
        self.archive.add(path, path);
        self
    }

    /// With a program of the host and the libraries that it is linked against.
    #[must_use]
    pub fn program(self, path: &Path) -> Self {
        let libraries = listed(&["ldd", path.to_str().unwrap()]);
        libraries.iter().fold(self.file(path), |guest, library| {
            guest.file(Path::new(library))
        })
    }

    /// With a test tool: a static program, or one with a launcher as `scripts/tools.sh` writes it.
    #[must_use]
    pub fn tool(self, name: &str) -> Self {
        let path = crate::tool(name);
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let guest = self.file(&path);
        let Some((_, command)) = text
            .split_once("\nexec ")
            .filter(|_| text.starts_with("#!"))
        else {
            return guest;
        };
        let words: Vec<&str> = command.split(' ').collect();
        let [loader, _, _, "--library-path", folders, program, ..] = words.as_slice() else {
            panic!("`{}` is not the launcher that was expected", path.display());
        };
        let listed = listed(&[loader, "--library-path", folders, "--list", program]);
        let needed = listed.iter().map(String::as_str).chain([*loader, *program]);
        let needed: BTreeSet<&str> = needed.collect();
        needed
            .into_iter()
            .fold(guest, |guest, path| guest.file(Path::new(path)))
    }

    /// Boots a guest with [`systemd`](Self::systemd), has the manager of an ordinary user ([`USER`])
    /// run `command` as a unit of its own, by a shell, and ends.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_as_user(mut self, command: &str) -> Outcome {
        let run = format!("/run/user/{USER}");
        let passwd = format!("root:x:0:0::/:/bin/sh\nuser:x:{USER}:{USER}::/tmp:/bin/sh\n");
        let group = format!("root:x:0:\nuser:x:{USER}:\n");
        // As systemd's own user@.service has it, without PAM.
        let manager = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nUser={USER}\nSlice=user-{USER}.slice\n\
             Delegate=yes\nRuntimeDirectory=user/{USER}\nRuntimeDirectoryMode=0700\n\
             Environment=PATH=/bin XDG_RUNTIME_DIR={run} HOME=/tmp\nExecStart={MANAGER}\n"
        );
        let unit = format!(
            "[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart=/bin/sh -c \
             'sh /guest/user-command > {run}/said 2>&1; echo $? > {run}/code; mv {run}/code {run}/ended'\n"
        );
        let system = "/etc/systemd/system";
        for (path, text) in [
            (String::from("/etc/passwd"), passwd.as_str()),
            (String::from("/etc/group"), &group),
            (format!("{system}/manager.service"), &manager),
            (
                format!("{system}/guest.service.d/manager.conf"),
                "[Unit]\nWants=manager.service\n",
            ),
            (
                String::from("/etc/systemd/user/default.target"),
                "[Unit]\nWants=guest.service\n",
            ),
            (String::from("/etc/systemd/user/guest.service"), &unit),
            (String::from("/guest/user-command"), command),
        ] {
            self.archive.put(&path, 0o644, text.as_bytes());
        }
        self.run(&format!(
            "while [ ! -e {run}/ended ]; do sleep 0.1; done; cat {run}/said; exit $(cat {run}/ended)"
        ))
    }

    /// Boots, runs `command` by a shell, and ends.
    ///
    /// # Panics
    /// If qemu cannot be run, or does not end in time.
    pub fn run(mut self, command: &str) -> Outcome {
        self.archive
            .put("/guest/command", 0o644, command.as_bytes());
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::write(at("initramfs"), self.archive.finish()).unwrap();
        let accelerator = fs::read_to_string(installed("accelerator")).unwrap();
        let serial = |name: &str| format!("file:{}", at(name).display());
        #[expect(clippy::disallowed_methods, reason = "a test runs a machine")]
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-accel", accelerator.trim()])
            .args(["-cpu", "max", "-smp", "2", "-m", MEMORY])
            .arg("-kernel")
            .arg(installed("vmlinuz"))
            .arg("-initrd")
            .arg(at("initramfs"))
            .args(["-append", &self.arguments])
            .args(["-serial", &serial("console"), "-serial", &serial("output")])
            .stdin(Stdio::null())
            .stderr(fs::File::create(at("qemu")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("run qemu-system-x86_64 (scripts/guest.sh installs it): {error}")
            });
        let ended = Running(qemu).wait();
        let text = |name: &str| {
            String::from_utf8_lossy(&fs::read(at(name)).unwrap_or_default()).into_owned()
        };
        assert!(
            ended,
            "the guest did not end within {PATIENCE:?}\n{}\n{}\n{}",
            text("qemu"),
            text("console"),
            text("output"),
        );
        let output = text("output");
        let last = output.lines().last().unwrap_or_default();
        let code = last
            .strip_prefix("exit ")
            .and_then(|code| code.parse().ok());
        let console = text("qemu") + &text("console");
        Outcome {
            code,
            output,
            console,
        }
    }
}

/// qemu, killed when its test gives up.
struct Running(Child);

impl Running {
    /// Whether it ended in time.
    fn wait(mut self) -> bool {
        let end = std::time::Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            if std::time::Instant::now() >= end {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn installed(name: &str) -> PathBuf {
    let path = Path::new(PLACE).join(name);
    assert!(
        path.exists(),
        "this test boots a kernel from `{}`: `sudo scripts/guest.sh` installs it",
        path.display()
    );
    path
}

/// The files that a dynamic loader says it would load; none for a static program.
fn listed(command: &[&str]) -> Vec<String> {
    #[expect(clippy::disallowed_methods, reason = "a test asks the dynamic loader")]
    let said = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    said.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// A cpio archive in the `newc` format, as the kernel unpacks it (its documentation,
/// driver-api/early-userspace/buffer-format).
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<PathBuf>,
}

impl Archive {
    /// A file of the host.
    fn add(&mut self, path: &Path, source: &Path) {
        let mode = fs::metadata(source).unwrap().permissions().mode() & 0o777;
        let path = path.to_str().unwrap().to_owned();
        self.put(&path, mode, &fs::read(source).unwrap());
    }

    /// What is installed for guests under a name, as the same below `/guest`.
    fn folder(&mut self, name: &str) {
        let inside = Path::new("/guest").join(name);
        for file in fs::read_dir(installed(name)).unwrap() {
            let file = file.unwrap().path();
            self.add(&inside.join(file.file_name().unwrap()), &file);
        }
    }

    fn put(&mut self, path: &str, mode: u32, data: &[u8]) {
        let above: Vec<_> = Path::new(path).ancestors().skip(1).collect();
        for folder in above.into_iter().rev() {
            if folder != Path::new("/") && self.folders.insert(folder.to_owned()) {
                self.entry(folder.to_str().unwrap(), 0o040_755, &[]);
            }
        }
        self.entry(path, 0o100_000 | mode, data);
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let name = path.trim_start_matches('/');
        let (size, name_size) = (data.len(), name.len() + 1);
        // inode, mode, uid, gid, links, time, size, device and its own numbers, name, no check sum.
        write!(
            self.bytes,
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}{name_size:08x}{:08x}",
            self.entries, 0, 0, 1, 0, 0, 0, 0, 0, 0
        )
        .unwrap();
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
