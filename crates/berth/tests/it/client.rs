//! The two command lines, and what one run of them said.

use std::process::{Child, Command, Output, Stdio};

use testkit::tool;

use crate::host::Host;

/// Both, for tests that hold them to the same behaviour.
pub(crate) const CLIENTS: [Client; 2] = [Client::Docker, Client::Berth];

/// A command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// Docker's own, unmodified.
    Docker,
    /// Ours.
    Berth,
}

/// What one run said; printed whole when a test fails.
#[derive(Debug)]
pub(crate) struct Run {
    #[expect(dead_code, reason = "read by `Debug`")]
    pub(crate) what: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Demands success; gives what it printed, without the last newline.
    #[track_caller]
    pub(crate) fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout.trim_end_matches('\n')
    }

    /// Demands this exit code; gives what it complained, without the last newline.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self.stderr.trim_end_matches('\n')
    }
}

impl Client {
    /// The command, not yet started.
    pub(crate) fn command(self, host: &Host, args: &[&str]) -> Command {
        let mut command = match self {
            Self::Docker => Command::new(tool("docker")),
            Self::Berth => Command::new(env!("CARGO_BIN_EXE_berth")),
        };
        command
            .args(args)
            .env("DOCKER_HOST", host.url())
            .env("DOCKER_CONFIG", host.path().join("docker-config"));
        command
            .env("DOCKER_CLI_HINTS", "false")
            .env_remove("DOCKER_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(self, host: &Host, args: &[&str]) -> Run {
        let output = self.command(host, args).output().unwrap();
        self.told(args, &output)
    }

    /// Starts it with its output kept for later.
    pub(crate) fn spawn(self, host: &Host, args: &[&str]) -> Child {
        self.command(host, args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs it with `input` on its standard input.
    pub(crate) fn feed(self, host: &Host, args: &[&str], input: &[u8]) -> Run {
        self.feed_command(self.command(host, args), args, input)
    }

    /// The same for a command that the test has changed.
    pub(crate) fn feed_command(self, mut command: Command, args: &[&str], input: &[u8]) -> Run {
        use std::io::Write as _;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // In a thread of its own, since a pipe holds less than a test may send.
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().ok();
        self.told(args, &output)
    }

    fn told(self, args: &[&str], output: &Output) -> Run {
        Run {
            what: format!("{self:?} {}", args.join(" ")),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
