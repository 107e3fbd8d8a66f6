//! `berth runtime` called by an ordinary user, on whom nothing was bestowed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::client::Run;

/// The user, whom no machine has.
const USER: u32 = 1_670_000_000;

/// A bundle of the user's, and the program where the user can reach it.
struct Rootless {
    bundle: Bundle,
    program: PathBuf,
}

impl Rootless {
    /// One whose configuration is what `spec --rootless` writes, but for the script.
    fn sh(script: &str) -> Self {
        let bundle = Bundle::sh("");
        let program = bundle.path().join("berth");
        let built = Path::new(env!("CARGO_BIN_EXE_berth"));
        if fs::hard_link(built, &program).is_err() {
            fs::copy(built, &program).unwrap();
        }
        fs::create_dir(bundle.path().join("run")).unwrap();
        fs::remove_file(bundle.config()).unwrap();
        give(bundle.path(), &program);
        let rootless = Self { bundle, program };
        rootless.run(&["spec", "--rootless"]).ok();
        let config = rootless.bundle.config();
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", script]);
        spec["root"]["readonly"] = json!(false);
        fs::write(&config, spec.to_string()).unwrap();
        rootless
    }

    /// `berth runtime ARGS` by the user, with the state where the user's is.
    fn run(&self, args: &[&str]) -> Run {
        let said = |name: &str| self.bundle.path().join(name);
        let file = |name: &str| fs::File::create(said(name)).unwrap();
        let status = Command::new(&self.program)
            .arg("runtime")
            .args(args)
            .env("XDG_RUNTIME_DIR", self.state())
            .current_dir(self.bundle.path())
            .uid(USER)
            .gid(USER)
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .status()
            .unwrap();
        Run {
            what: format!("berth runtime {}", args.join(" ")),
            code: status.code(),
            stdout: fs::read_to_string(said("stdout")).unwrap(),
            stderr: fs::read_to_string(said("stderr")).unwrap(),
        }
    }

    fn state(&self) -> PathBuf {
        self.bundle.path().join("run")
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        self.bundle.reap();
        self.run(&["kill", &self.bundle.id, "KILL"]);
        self.bundle.reap();
        self.run(&["delete", "--force", &self.bundle.id]);
    }
}

/// All but the program, whose file is the build's.
fn give(path: &Path, program: &Path) {
    if path == program {
        return;
    }
    lchown(path, Some(USER), Some(USER)).unwrap();
    if fs::symlink_metadata(path).unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), program);
        }
    }
}

#[test]
fn privileged_an_ordinary_user_runs_a_container() {
    let script = "id -u; cat /proc/self/uid_map; hostname; echo x > /made; exit 7";
    let rootless = Rootless::sh(script);
    let run = rootless.run(&["run", &rootless.bundle.id]);
    let words: Vec<&str> = run.stdout.split_whitespace().collect();
    let user = USER.to_string();
    assert_eq!(
        (run.code, words.as_slice()),
        (Some(7), ["0", "0", &user, "1", "runc"].as_slice()),
        "{}",
        run.stderr
    );
    let made = fs::metadata(rootless.bundle.inside("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (USER, USER));
    assert_eq!(rootless.run(&["list", "-q"]).ok(), "");
}

#[test]
fn privileged_a_container_of_an_ordinary_user_is_managed_by_the_user() {
    let rootless = Rootless::sh("echo started > /made; exec sleep 1000");
    let id = rootless.bundle.id.as_str();
    rootless.run(&["create", id]).ok();
    let status = || {
        let state: Value = serde_json::from_str(rootless.run(&["state", id]).ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status(), "created");
    rootless.run(&["start", id]).ok();
    assert_eq!(status(), "running");
    assert_eq!(rootless.bundle.wait_for_file("made"), "started\n");
    assert!(rootless.state().join("berth/runtime").join(id).exists());
    let exec = rootless.run(&["exec", id, "sh", "-c", "id -u; hostname; exit 5"]);
    assert_eq!(
        (exec.code, exec.stdout.as_str()),
        (Some(5), "0\nrunc\n"),
        "{}",
        exec.stderr
    );
    rootless.run(&["kill", id, "KILL"]).ok();
    testkit::eventually(crate::host::PATIENCE, || {
        rootless.bundle.reap();
        status() == "stopped"
    });
    rootless.run(&["delete", id]).ok();
    assert_eq!(rootless.run(&["list", "-q"]).ok(), "");
}

#[test]
fn privileged_what_an_ordinary_user_cannot_have_is_said() {
    let rootless = Rootless::sh("true");
    let config = rootless.bundle.config();
    let spec: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut Value)| {
        let mut spec = spec.clone();
        change(&mut spec);
        fs::write(&config, spec.to_string()).unwrap();
        let run = rootless.run(&["run", &rootless.bundle.id]);
        assert_eq!(run.code, Some(1), "{}", run.stderr);
        run.stderr
    };
    let said = refused(&|spec| spec["linux"]["namespaces"] = json!([{"type": "mount"}]));
    assert!(
        said.contains("linux.uidMappings: needs a user namespace"),
        "{said}"
    );
    let said =
        refused(&|spec| spec["linux"]["resources"] = json!({"memory": {"limit": 10_000_000}}));
    assert!(
        said.contains("need a cgroup that is delegated to this user"),
        "{said}"
    );
    let said = refused(&|spec| spec["process"]["user"]["uid"] = json!(5));
    assert!(
        said.contains("process.user.uid: user 5 is not mapped"),
        "{said}"
    );
}
