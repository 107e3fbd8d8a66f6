//! Interactive sessions on a real pseudo-terminal, with both command lines.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::client::{CLIENTS, Client};
use crate::host::{Host, PATIENCE};

/// A command whose three streams are a terminal that the test types on.
pub(crate) struct Session {
    child: Child,
    terminal: File,
    seen: String,
}

impl Session {
    fn open(client: Client, host: &Host, args: &[&str]) -> Self {
        Self::of(&client.command(host, args))
    }

    pub(crate) fn of(inner: &Command) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open(name)
            .unwrap()
            .into();
        tcsetwinsize(
            &ours,
            Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
        // `setsid --ctty` makes the terminal the controlling one, so that resizing signals the client.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", "--wait"])
            .arg(inner.get_program())
            .args(inner.get_args());
        if let Some(directory) = inner.get_current_dir() {
            command.current_dir(directory);
        }
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let child = command
            .env("TERM", "xterm")
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs))
            .spawn()
            .unwrap();
        Self {
            child,
            terminal: File::from(ours),
            seen: String::new(),
        }
    }

    pub(crate) fn type_in(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    /// Reads until the text has appeared, and forgets what came up to it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let more = self.read();
            assert!(
                more,
                "the session ended before `{text}`; seen: {:?}",
                self.seen
            );
        }
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(
            &self.terminal,
            Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .unwrap();
    }

    /// Drains the rest and gives the exit code.
    pub(crate) fn finish(mut self) -> (Option<i32>, String) {
        while self.read() {}
        (self.child.wait().unwrap().code(), self.seen)
    }

    /// Reads what has come, or waits for it; `false` at the end of the session.
    fn read(&mut self) -> bool {
        let mut wait = [PollFd::new(&self.terminal, PollFlags::IN)];
        let moment = Timespec {
            tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(),
            tv_nsec: 0,
        };
        let ready = poll(&mut wait, Some(&moment)).unwrap();
        assert!(ready > 0, "nothing more came; seen: {:?}", self.seen);
        let mut buffer = [0; 4096];
        match self.terminal.read(&mut buffer) {
            Ok(count) => {
                self.seen
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
                count > 0
            }
            // What Linux says of a terminal whose other end is closed.
            Err(error) if error.raw_os_error() == Some(5) => false,
            Err(error) => panic!("read the terminal: {error}"),
        }
    }
}

#[test]
fn privileged_a_shell_can_be_typed_into_resized_and_interrupted() {
    let host = Host::new();
    for client in CLIENTS {
        let mut session = Session::open(client, &host, &["run", "-it", "--rm", "busybox", "sh"]);
        session.expect("# ");
        session.type_in(b"echo $((40+2)) on $(tty)\r");
        session.expect("42 on /dev/");
        session.type_in(b"stty size\r");
        session.expect("24 80");
        session.resize(50, 132);
        session.type_in(
            b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo re''sized\r",
        );
        session.expect("resized");
        // A child says it, so that it is in the foreground by then: a shell that is hit between
        // starting a child and giving it the terminal keeps the signal for itself.
        session.type_in(b"sh -c \"echo as''leep; exec sleep 1000\"\r");
        session.expect("asleep\r\n");
        session.type_in(b"\x03");
        session.expect("# ");
        session.type_in(b"echo af''ter\r");
        session.expect("after\r\n");
        session.type_in(b"exit 6\r");
        let (code, seen) = session.finish();
        assert_eq!(code, Some(6), "{client:?}: {seen:?}");
    }
}

#[test]
fn privileged_detach_keys_leave_the_container_running() {
    let host = Host::new();
    for (client, name) in CLIENTS.into_iter().zip(["first", "second"]) {
        let mut session = Session::open(
            client,
            &host,
            &["run", "-it", "--name", name, "busybox", "sh"],
        );
        session.expect("# ");
        session.type_in(b"\x10\x11");
        let (code, seen) = session.finish();
        assert_eq!(code, Some(0), "{client:?}: {seen:?}");
        assert_eq!(
            host.berth(&["inspect", "-f", "{{.State.Running}}", name])
                .ok(),
            "true"
        );
        let mut again = Session::open(client, &host, &["attach", name]);
        again.type_in(b"\recho back again\r");
        again.expect("back again\r\n");
        again.type_in(b"exit 4\r");
        assert_eq!(again.finish().0, Some(4));
    }
}

#[test]
fn privileged_exec_has_a_terminal_of_its_own() {
    let host = Host::new();
    let id = host
        .berth(&["run", "-d", "busybox", "sleep", "1000"])
        .ok()
        .to_owned();
    for client in CLIENTS {
        let mut session = Session::open(client, &host, &["exec", "-it", &id, "sh"]);
        session.expect("# ");
        session.type_in(b"stty size; exit 8\r");
        session.expect("24 80");
        assert_eq!(session.finish().0, Some(8), "{client:?}");
    }
}
