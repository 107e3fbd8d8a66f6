//! Files between a container and this host.
//!
//! What is copied is a tar. Whether its members keep their first name, and into which directory it
//! goes, follows from what source and destination are: [`arrange`].

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use api::Client;
use api::client::CallError;
use api::types::{ContainerPathStat, PATH_STAT};
use base64::Engine as _;
use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::image::stream_body;
use crate::attached::Stdin;
use crate::command::{Command, Invocation, Run};
use crate::failure::{Failure, Result};
use crate::flags::switch;
use crate::grammar::pairs;
use crate::local::{self, Target};
use crate::{human, output, terminal};

/// `cp`.
pub const CP: Command = Command {
    names: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n        or: SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files between a container and this host; - is a tar on standard input or output",
    flags: &[&[
        switch(
            "archive",
            "Keep owners (into the container: make all the container's user's)",
        )
        .short('a'),
        switch("follow-link", "Copy what a link at the source leads to").short('L'),
        switch("quiet", "Say nothing of what was copied").short('q'),
    ]],
    words: (2, 2),
    stops: false,
    run: |invocation| Box::pin(cp(invocation)) as Run,
};

/// Pieces of a tar between the connection and the files.
const PIECES: usize = 16;
/// Bytes in each.
const PIECE_BYTES: usize = 128 << 10;
/// Links that a destination is followed through (Docker's figure).
const MAX_LINKS: usize = 10;

struct Options {
    archive: bool,
    follow: bool,
    quiet: bool,
}

async fn cp(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let options = Options {
        archive: typed.on("archive"),
        follow: typed.on("follow-link"),
        quiet: match typed.has("quiet") {
            true => typed.on("quiet"),
            false => !terminal::stdout_is_terminal(),
        },
    };
    let (source, destination) = (invocation.word(0), invocation.word(1));
    if source.is_empty() {
        return Err(Failure::new("source can not be empty"));
    }
    if destination.is_empty() {
        return Err(Failure::new("destination can not be empty"));
    }
    match (split(source), split(destination)) {
        (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
        (None, None) => Err(Failure::new("must specify at least one container source")),
        (Some((container, path)), None) => {
            let client = invocation.session.client().await?;
            take_out(&client, container, path, destination, &options).await
        }
        (None, Some((container, path))) => {
            let client = invocation.session.client().await?;
            put_in(&client, source, container, path, &options).await
        }
    }
}

/// `CONTAINER:PATH`; a path of this host with a colon is written with a slash or dot before it.
fn split(typed: &str) -> Option<(&str, &str)> {
    if typed.starts_with('/') {
        return None;
    }
    let (container, path) = typed.split_once(':')?;
    (!container.starts_with('.') && !container.is_empty()).then_some((container, path))
}

/// One end of a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// With the last slash or dot that was typed.
    path: String,
    exists: bool,
    is_directory: bool,
    /// The name that was asked for, where a link was followed to another.
    called: Option<String>,
}

impl Place {
    fn name(&self) -> String {
        split_last(&self.path).1
    }
}

/// Into which directory a tar goes, and what its members' first name becomes.
fn arrange(from: &Place, to: &Place) -> Result<(String, Option<String>)> {
    let (directory, name) = split_last(&to.path);
    if to.exists && to.is_directory {
        return Ok((to.path.clone(), from.called.clone()));
    }
    if to.exists && from.is_directory {
        return Err(Failure::new("cannot copy directory"));
    }
    if !to.exists && !from.is_directory && says_directory(&to.path) {
        return Err(Failure::new("no such directory"));
    }
    Ok((directory, Some(name)))
}

fn says_directory(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.")
}

/// The directory and the last part. A last `.` is a part: what is in the directory.
fn split_last(path: &str) -> (String, String) {
    let clean = clean(path);
    if path == "." || path.ends_with("/.") {
        return (format!("{}/", clean.trim_end_matches('/')), ".".to_owned());
    }
    match clean.rsplit_once('/') {
        Some((directory, name)) => (format!("{directory}/"), name.to_owned()),
        None => ("./".to_owned(), clean),
    }
}

/// Without `.`, `..` and doubled slashes, by its letters alone.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let rooted = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// A clean path with the end that was typed.
fn with_end(path: String, typed: &str) -> String {
    if typed == "." || typed.ends_with("/.") {
        return format!("{}/.", path.trim_end_matches('/'));
    }
    match typed.ends_with('/') && !path.ends_with('/') {
        true => path + "/",
        false => path,
    }
}

/// A path of this host, from its root.
fn absolute(typed: &str) -> Result<String> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(format!("getwd: {}", pairs::reason(&error))))?;
    let here = here.to_string_lossy();
    let whole = match typed.starts_with('/') {
        true => typed.to_owned(),
        false => format!("{here}/{typed}"),
    };
    Ok(with_end(clean(&whole), typed))
}

fn archive_of(container: &str) -> String {
    format!("/containers/{container}/archive")
}

/// What is at a path of a container.
async fn stat(client: &Client, container: &str, path: &str) -> Result<ContainerPathStat> {
    let call = client.head(archive_of(container)).query("path", path);
    told(&call.send().await?)
}

/// What the header of an answer tells.
fn told(answer: &api::client::Answer) -> Result<ContainerPathStat> {
    let header = answer.headers().get(PATH_STAT);
    let bytes = header.and_then(|header| {
        base64::engine::general_purpose::STANDARD
            .decode(header.as_bytes())
            .ok()
    });
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Failure::new("the daemon does not say what it sends"))
}

/// Where a link leads, seen from what it is called.
fn target_of(path: &str, stat: &ContainerPathStat) -> String {
    match stat.link_target.starts_with('/') {
        true => stat.link_target.clone(),
        false => clean(&format!("{}{}", split_last(path).0, stat.link_target)),
    }
}

/// Container to host.
async fn take_out(
    client: &Client,
    container: &str,
    path: &str,
    destination: &str,
    options: &Options,
) -> Result<u8> {
    let to_stdout = destination == "-";
    let destination = match to_stdout {
        true => destination.to_owned(),
        false => absolute(destination)?,
    };
    if !to_stdout {
        check_destination(&destination)?;
    }
    let mut source = Place {
        path: path.to_owned(),
        exists: true,
        ..Place::default()
    };
    if options.follow
        && let Ok(stat) = stat(client, container, path).await
        && stat.is_link()
    {
        source.path = with_end(target_of(path, &stat), path);
        let called = split_last(path).1;
        source.called = (called != source.name()).then_some(called);
    }
    let call = client
        .get(archive_of(container))
        .query("path", &source.path);
    let mut answer = call.send().await?;
    if to_stdout {
        while let Some(piece) = answer.next().await {
            output::bytes(&piece?)?;
        }
        return Ok(0);
    }
    let stat = told(&answer)?;
    source.is_directory = stat.is_directory();
    let to = destination_of(&destination)?;
    let (directory, name) = arrange(&source, &to)?;
    let target = Target {
        directory: PathBuf::from(directory),
        rename: name.map(|name| (source.name().into_bytes(), name.into_bytes())),
        keep_owner: options.archive && rustix::process::geteuid().is_root(),
    };
    let (sender, pieces) = mpsc::channel(PIECES);
    let unpacking = std::thread::spawn(move || local::unpack(&target, Pieces::new(pieces)));
    let mut bytes = 0;
    while let Some(piece) = answer.next().await {
        let piece = piece.map_err(|error| io::Error::other(vocab::failure::chain(&error)));
        bytes += piece.as_ref().map_or(0, Bytes::len);
        if sender.send(piece).await.is_err() {
            break;
        }
    }
    drop(sender);
    let unpacked = unpacking.join().expect("unpacking does not panic");
    unpacked.map_err(|error| Failure::new(error.to_string()))?;
    let content = match source.is_directory {
        true => bytes as u64,
        false => u64::try_from(stat.size).unwrap_or_default(),
    };
    say(options, content, bytes as u64, &destination);
    Ok(0)
}

/// Docker's rules for where a file may come to lie.
fn check_destination(path: &str) -> Result {
    let parent = clean(path);
    let parent = Path::new(&parent)
        .parent()
        .unwrap_or_else(|| Path::new("/"));
    if !parent.exists() {
        return Err(Failure::new(format!(
            "invalid output path: directory \"{}\" does not exist",
            parent.display()
        )));
    }
    if let Ok(found) = std::fs::metadata(path)
        && !found.is_dir()
        && !found.is_file()
    {
        return Err(Failure::new(format!(
            "invalid output path: \"{path}\" must be a directory or a regular file: got a device"
        )));
    }
    Ok(())
}

/// What is at a destination on this host; a link there is followed.
fn destination_of(path: &str) -> Result<Place> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let link = std::fs::read_link(&path)
                    .map_err(|error| Failure::new(pairs::reason(&error)))?;
                let link = Path::new(&split_last(&path).0).join(link);
                path = with_end(clean(&link.to_string_lossy()), &path);
            }
            Ok(found) => {
                return Ok(Place {
                    path,
                    exists: true,
                    is_directory: found.is_dir(),
                    called: None,
                });
            }
            Err(_) => {
                let parent = split_last(&path).0;
                return match std::fs::metadata(&parent) {
                    Ok(found) if found.is_dir() => Ok(Place {
                        path,
                        ..Place::default()
                    }),
                    Ok(_) => Err(Failure::new("not a directory")),
                    Err(error) => Err(Failure::new(format!(
                        "stat {parent}: {}",
                        pairs::reason(&error)
                    ))),
                };
            }
        }
    }
    Err(Failure::new(format!("too many symlinks in {path}")))
}

/// Host to container.
async fn put_in(
    client: &Client,
    source: &str,
    container: &str,
    path: &str,
    options: &Options,
) -> Result<u8> {
    let from_stdin = source == "-";
    let source = match from_stdin {
        true => source.to_owned(),
        false => absolute(source)?,
    };
    let mut to = Place {
        path: path.to_owned(),
        ..Place::default()
    };
    // What cannot be told may still be made: the daemon will say.
    if let Ok(mut found) = stat(client, container, path).await {
        let mut known = true;
        if found.is_link() {
            to.path = target_of(path, &found);
            match stat(client, container, &to.path).await {
                Ok(target) => found = target,
                Err(_) => known = false,
            }
        }
        if known && !found.is_plain() {
            return Err(Failure::new(format!(
                "destination \"{container}:{path}\" must be a directory or a regular file: got a device"
            )));
        }
        (to.exists, to.is_directory) = (known, known && found.is_directory());
    }
    let call = |directory: &str| {
        let call = client.put(archive_of(container)).query("path", directory);
        let call = call.query("noOverwriteDirNonDir", true);
        if options.archive {
            call.query("copyUIDGID", true)
        } else {
            call
        }
    };
    const TAR: &str = "application/x-tar";
    if from_stdin {
        if !to.is_directory {
            return Err(Failure::new(format!(
                "destination \"{container}:{path}\" must be a directory"
            )));
        }
        let body = stream_body(Stdin::open()?);
        call(&to.path).body(TAR, body).done().await?;
        return Ok(0);
    }
    let from = source_of(&source, options.follow)?;
    let (directory, name) = arrange(&from, &to)?;
    let shown = name.unwrap_or_else(|| from.name());
    let content = local::content_bytes(Path::new(&from.path));
    let (sender, pieces) = mpsc::channel(PIECES);
    let packing = std::thread::spawn(move || {
        let mut out = PieceWriter {
            pieces: sender,
            gathered: Vec::with_capacity(PIECE_BYTES),
            bytes: 0,
        };
        let packed = local::pack(Path::new(&from.path), Path::new(&shown), &mut out);
        match packed.and_then(|()| out.flush()) {
            Ok(()) => Ok(out.bytes),
            Err(error) => {
                // The daemon must not take a part for the whole.
                let said = io::Error::new(error.kind(), error.to_string());
                let _ = out.pieces.blocking_send(Err(said));
                Err(error)
            }
        }
    });
    let body = futures_util::stream::unfold(pieces, |mut pieces| async {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let sent = call(&directory).body(TAR, body).done().await;
    let packed = packing.join().expect("packing does not panic");
    match (sent, packed) {
        // Of a daemon that refused, packing only saw that it listened no more.
        (Err(refused @ CallError::Api { .. }), _) => return Err(refused.into()),
        (_, Err(error)) => return Err(Failure::new(error.to_string())),
        (sent, Ok(bytes)) => {
            sent?;
            say(options, content, bytes, &format!("{container}:{}", to.path));
        }
    }
    Ok(0)
}

/// What is at a source on this host.
fn source_of(path: &str, follow: bool) -> Result<Place> {
    let failed =
        |error: io::Error| Failure::new(format!("lstat {path}: {}", pairs::reason(&error)));
    let mut place = Place {
        path: path.to_owned(),
        exists: true,
        ..Place::default()
    };
    let found = std::fs::symlink_metadata(path).map_err(failed)?;
    place.is_directory = found.is_dir();
    if follow && found.is_symlink() {
        let link = std::fs::read_link(path).map_err(failed)?;
        let link = Path::new(&split_last(path).0).join(link);
        place.path = clean(&link.to_string_lossy());
        place.is_directory = std::fs::metadata(path).map_err(failed)?.is_dir();
        place.called = Some(split_last(path).1);
    }
    Ok(place)
}

fn say(options: &Options, content: u64, moved: u64, to: &str) {
    if options.quiet {
        return;
    }
    let shown = |bytes: u64| human::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    let (content, moved) = (shown(content), shown(moved));
    output::error(match content == moved {
        true => format!("Successfully copied {content} to {to}"),
        false => format!("Successfully copied {content} (transferred {moved}) to {to}"),
    });
}

/// An answer's pieces, for code that blocks.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Pieces {
    fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self {
            pieces,
            current: Bytes::new(),
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// A request's body, from code that blocks.
struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
    bytes: u64,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE_BYTES));
        let sent = self.pieces.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the daemon stopped reading"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_told_from_paths_with_colons() {
        for (typed, meant) in [
            ("c:/x", Some(("c", "/x"))),
            ("c:", Some(("c", ""))),
            ("/a:b", None),
            ("./a:b", None),
            ("-", None),
            (":x", None),
        ] {
            assert_eq!(split(typed), meant, "{typed}");
        }
    }

    #[test]
    fn tars_go_where_docker_puts_them() {
        let place = |path: &str, exists, is_directory| Place {
            path: path.to_owned(),
            exists,
            is_directory,
            called: None,
        };
        let (file, directory) = (place("/a/f", true, false), place("/a/d", true, true));
        let check = |from: &Place, to: Place, wanted: Result<(&str, Option<&str>), &str>| {
            let got = arrange(from, &to).map_err(|failure| failure.message);
            let wanted = wanted
                .map(|(path, name)| (path.to_owned(), name.map(str::to_owned)))
                .map_err(str::to_owned);
            assert_eq!(got, wanted, "{from:?} to {to:?}");
        };
        check(&file, place("/to", true, true), Ok(("/to", None)));
        check(&file, place("/to/g", true, false), Ok(("/to/", Some("g"))));
        check(&file, place("/to/g", false, false), Ok(("/to/", Some("g"))));
        check(
            &file,
            place("/to/g/", false, false),
            Err("no such directory"),
        );
        check(&directory, place("/to", true, true), Ok(("/to", None)));
        check(
            &directory,
            place("/to/e", false, false),
            Ok(("/to/", Some("e"))),
        );
        check(
            &directory,
            place("/to/e/", false, false),
            Ok(("/to/", Some("e"))),
        );
        check(
            &directory,
            place("/to/f", true, false),
            Err("cannot copy directory"),
        );
    }

    #[test]
    fn ends_of_paths_are_kept() {
        assert_eq!(split_last("/a/b/."), ("/a/b/".into(), ".".into()));
        assert_eq!(split_last("/a/b/"), ("/a/".into(), "b".into()));
        assert_eq!(split_last("/"), ("/".into(), String::new()));
        assert_eq!(with_end(clean("/a/../b/"), "/a/../b/"), "/b/");
        assert_eq!(with_end(clean("/a/."), "/a/."), "/a/.");
    }
}
