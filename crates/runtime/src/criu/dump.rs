//! A container becomes images.

use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::UnshareFlags;

use super::external::{self, Mounted};
use super::rpc::{self, Features, Kind, Request};
use super::streams::is_file;
use super::swrk::{self, Criu, CriuError, Seat};
use super::{DESCRIPTORS, Directories, EXTERNAL_NAMESPACES, Options, PrepareError};
use crate::bundle::{Bundle, Rootfs};
use crate::cgroup::Cgroup;
use crate::error::CreateError;
use crate::plan::Plan;

/// What CRIU locks the network with.
const IPTABLES: &str = "iptables-restore";
/// The name of CRIU's log.
const LOG: &str = "dump.log";

/// What is saved, and how; [`Options`] has what concerns its restoring too.
#[derive(Debug)]
pub struct Dump<'a> {
    /// As it was created.
    pub bundle: &'a Bundle,
    /// Its first process.
    pub pid: i32,
    /// Where its processes are.
    pub cgroup: Option<&'a Cgroup>,
    /// What its descriptors 0, 1 and 2 led to when it was created: [`own_streams`](super::own_streams).
    pub streams: &'a [String],
    /// Images of before, relative to [`Options::images`].
    pub parent: Option<&'a str>,
    /// It goes on when it is saved.
    pub leave_running: bool,
    /// Connections that are being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Files that are open and unlinked are linked for as long as the images are there.
    pub link_remap: bool,
    /// Only memory is saved, and the container goes on.
    pub pre_dump: bool,
    /// Where memory is sent.
    pub page_server: Option<PageServer>,
    /// Gets a zero byte when lazy pages are to be had.
    pub status_fd: Option<RawFd>,
}

/// A page server of CRIU's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageServer {
    /// Its host.
    pub address: String,
    /// Its port.
    pub port: u16,
}

/// Why a container was not saved. It goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// What comes before CRIU.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
}

impl From<CreateError> for DumpError {
    fn from(error: CreateError) -> Self {
        Self::Prepare(error.into())
    }
}

/// Saves a container. Unless it is to go on its processes are dead then, or about to be.
///
/// Forks the calling thread: call it from a program with one thread.
pub fn dump(dump: &Dump<'_>, options: &Options) -> Result<(), DumpError> {
    let plan = Plan::new(dump.bundle, false)?;
    check_features(dump, options)?;
    let mut criu = Criu::start(&Seat {
        namespaces: UnshareFlags::empty(),
        prepare: &|| Ok(()),
        inherited: Vec::new(),
        own_streams: false,
    })?;
    let directories = options.open(LOG, criu.pid())?;
    let request = request(dump, options, &plan, &directories)?;
    let mut status = dump.status_fd;
    let done = criu.ask(&request, &directories.log, &mut |_, _| {
        // CRIU has it by now; whoever waits for its end is not to wait for ours.
        if let Some(fd) = status.take() {
            let _ = sys::descriptors::close_raw(fd);
        }
        Ok::<(), DumpError>(())
    });
    criu.end();
    done.map(drop)
}

fn check_features(dump: &Dump<'_>, options: &Options) -> Result<(), CriuError> {
    let asked = Features {
        memory_tracking: dump.pre_dump.then_some(true),
        lazy_pages: options.lazy_pages.then_some(true),
    };
    if asked == Features::default() {
        return Ok(());
    }
    let has = swrk::features(asked)?;
    if dump.pre_dump && has.memory_tracking != Some(true) {
        return Err(CriuError::Feature("track memory (--pre-dump)"));
    }
    if options.lazy_pages && has.lazy_pages != Some(true) {
        return Err(CriuError::Feature("restore memory later (--lazy-pages)"));
    }
    Ok(())
}

fn request(
    dump: &Dump<'_>,
    options: &Options,
    plan: &Plan,
    directories: &Directories,
) -> Result<Request, DumpError> {
    let on = |switch: bool| switch.then_some(true);
    let Rootfs::Directory(root) = &dump.bundle.rootfs else {
        let reason = "only a root that is a directory can be saved";
        return Err(CreateError::invalid("root.path", reason).into());
    };
    let mut wanted = rpc::Options {
        pid: Some(dump.pid),
        root: Some(root.to_string_lossy().into_owned()),
        leave_running: on(dump.leave_running),
        tcp_skip_in_flight: on(dump.tcp_skip_in_flight),
        link_remap: on(dump.link_remap),
        parent_images: dump.parent.map(str::to_owned),
        track_memory: on(dump.parent.is_some() || dump.pre_dump),
        status_fd: dump.status_fd,
        page_server: dump.page_server.as_ref().map(|server| rpc::PageServer {
            address: Some(server.address.clone()),
            port: Some(i32::from(server.port)),
        }),
        network_lock: network_lock(options),
        freeze_cgroup: dump.cgroup.and_then(Cgroup::freezer_directory),
        external: external_namespaces(dump.pid, plan)?,
        ..options.request(directories, dump.bundle)
    };
    let kind = if dump.pre_dump {
        Kind::PreDump
    } else {
        let container = Mounted::of(Path::new(&format!("/proc/{}/mountinfo", dump.pid)))?;
        let host = Mounted::of(Path::new(external::HOST))?;
        wanted.external_mounts = external::of_running(plan, &container, &host);
        let files = dump.streams.iter().filter(|name| is_file(name));
        wanted.external.extend(files.cloned());
        keep_streams(dump.streams, &options.images)?;
        Kind::Dump
    };
    Ok(Request {
        options: Some(wanted),
        ..Request::of(kind)
    })
}

/// CRIU holds packets back by iptables, for connections to be as they were saved. Where that is not
/// installed it can by nftables itself; without connections nothing is lost if it does not at all.
fn network_lock(options: &Options) -> Option<i32> {
    match (swrk::find(IPTABLES), options.tcp_established) {
        (Some(_), _) => None,
        (None, true) => Some(rpc::LOCK_NFTABLES),
        (None, false) => Some(rpc::LOCK_NO_NETWORK),
    }
}

/// `net[4026532281]:extRootNetNS`
fn external_namespaces(pid: i32, plan: &Plan) -> Result<Vec<String>, PrepareError> {
    let joined = |kind| plan.namespaces.joined.iter().any(|(is, _)| *is == kind);
    let listed = EXTERNAL_NAMESPACES.iter();
    let external = listed.filter(|(kind, ..)| joined(*kind));
    external
        .map(|(_, kind, name)| {
            let path = format!("/proc/{pid}/ns/{kind}");
            let found = fs::metadata(&path).map_err(PrepareError::read(Path::new(&path)))?;
            Ok(format!("{kind}[{}]:{name}", found.st_ino()))
        })
        .collect()
}

fn keep_streams(streams: &[String], images: &Path) -> Result<(), PrepareError> {
    let path = images.join(DESCRIPTORS);
    let kept = serde_json::to_vec(streams)
        .map_err(io::Error::from)
        .and_then(|json| write_private(&path, &json));
    kept.map_err(|source| PrepareError::Write { path, source })
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(content)
}
