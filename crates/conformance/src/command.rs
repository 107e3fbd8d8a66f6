//! Running a program with its output in files.
//!
//! In files, because a container inherits the streams of the runtime that made it: on a pipe, the
//! end of the runtime would not be the end of the output.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// Where and how a program runs.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Its working directory.
    pub directory: &'a Path,
    /// Its output goes to this path with `.out` and `.err` behind.
    pub files: &'a Path,
    /// After this long it is ended.
    pub limit: Duration,
    /// Its standard input; nothing if `None`.
    pub stdin: Option<&'a str>,
}

impl<'a> Context<'a> {
    /// With no standard input.
    pub fn new(directory: &'a Path, files: &'a Path, limit: Duration) -> Self {
        Self {
            directory,
            files,
            limit,
            stdin: None,
        }
    }
}

/// What a program left.
#[derive(Clone, Debug, Default)]
pub struct Ran {
    /// Its exit code, 128 and the signal if one ended it; `None` if it took too long.
    pub exit: Option<i32>,
    /// What it printed, or who inherited its output.
    pub stdout: String,
    /// The same for errors.
    pub stderr: String,
}

/// Runs `argv` and waits until it ends.
#[expect(
    clippy::disallowed_methods,
    reason = "running programs is what this module is for"
)]
pub fn run(argv: &[OsString], context: &Context<'_>) -> Result<Ran> {
    let (program, arguments) = argv.split_first().context("nothing to run")?;
    let (out, err) = (output(context.files, "out"), output(context.files, "err"));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(context.directory)
        .stdout(File::create(&out)?)
        .stderr(File::create(&err)?)
        .stdin(if context.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        // A group of its own, so that all of it can be ended.
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("start `{}`", program.display()))?;
    if let (Some(text), Some(mut stdin)) = (context.stdin, child.stdin.take()) {
        // Who does not read its input is judged by what it prints.
        let _ = stdin.write_all(text.as_bytes());
    }
    let status = wait(&mut child, context.limit)?;
    Ok(Ran {
        exit: status.map(code),
        stdout: read(&out)?,
        stderr: read(&err)?,
    })
}

/// The file of a stream.
pub fn output(files: &Path, stream: &str) -> PathBuf {
    files.with_extension(stream)
}

/// What is in a file of output so far.
pub fn read(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read `{}`", file.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn code(status: ExitStatus) -> i32 {
    let signalled = || 128 + status.signal().unwrap_or(0);
    status.code().unwrap_or_else(signalled)
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("watch the program")?;
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let _ = kill_process_group(pid, Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        let left = Timespec::try_from(left)?;
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left))?;
    }
}
