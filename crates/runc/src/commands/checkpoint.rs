//! `checkpoint`: saves a container through CRIU, and the flags that it shares with `restore`.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime::criu::{self, CgroupMode, Dump, Options, PageServer};
use runtime::{Bundle, Rootfs, Status};
use vocab::failure::chain;

use super::{Command, Outcome, delete, locked, word};
use crate::Context;
use crate::arguments::{ArgumentError, Arguments, Flag};
use crate::launch;
use crate::state::Container;

pub(crate) const COMMAND: Command = Command::new(
    "checkpoint",
    "saves a running container, through CRIU",
    "<container-id>",
    &[
        IMAGE_PATH,
        WORK_PATH,
        Flag::value(
            &["parent-path"],
            "directory of an earlier pre-dump, relative to --image-path",
        ),
        Flag::switch(
            &["leave-running"],
            "let the container go on when it is saved",
        ),
        TCP_ESTABLISHED,
        Flag::switch(
            &["tcp-skip-in-flight"],
            "leave out connections that are being made",
        ),
        Flag::switch(
            &["link-remap"],
            "link unlinked open files for as long as the images are there",
        ),
        EXT_UNIX_SK,
        SHELL_JOB,
        LAZY_PAGES,
        Flag::value(
            &["status-fd"],
            "descriptor that gets a zero byte when lazy pages are to be had",
        ),
        Flag::value(
            &["page-server"],
            "ADDRESS:PORT of a page server that memory is sent to",
        ),
        FILE_LOCKS,
        Flag::switch(
            &["pre-dump"],
            "save memory only, and let the container go on",
        ),
        MANAGE_CGROUPS_MODE,
        EMPTY_NS,
        AUTO_DEDUP,
    ],
    checkpoint,
)
.fails_with("checkpoint failed: ", 1);

pub(super) const IMAGE_PATH: Flag = Flag::value(
    &["image-path"],
    "directory of the images (default: checkpoint)",
);
pub(super) const WORK_PATH: Flag = Flag::value(
    &["work-path"],
    "directory of CRIU's log (default: that of the images)",
);
pub(super) const TCP_ESTABLISHED: Flag =
    Flag::switch(&["tcp-established"], "with open connections of TCP");
pub(super) const EXT_UNIX_SK: Flag = Flag::switch(
    &["ext-unix-sk"],
    "with unix sockets that lead out of the container",
);
pub(super) const SHELL_JOB: Flag =
    Flag::switch(&["shell-job"], "with a session or terminal of the caller's");
pub(super) const LAZY_PAGES: Flag = Flag::switch(
    &["lazy-pages"],
    "memory follows when it is asked for (userfaultfd)",
);
pub(super) const FILE_LOCKS: Flag = Flag::switch(&["file-locks"], "with locks of files");
pub(super) const MANAGE_CGROUPS_MODE: Flag = Flag::value(
    &["manage-cgroups-mode"],
    "what CRIU does about cgroups: soft (default), full, strict or ignore",
);
pub(super) const EMPTY_NS: Flag = Flag::value(
    &["empty-ns"],
    "namespace whose contents are left out: network, which they always are",
);
pub(super) const AUTO_DEDUP: Flag = Flag::switch(
    &["auto-dedup"],
    "drop from earlier images what later ones replace",
);

/// Where images are when nobody says where.
const DEFAULT_IMAGES: &str = "checkpoint";

/// Flags that cannot be right. Texts that tools look for are runc's.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    #[error(transparent)]
    Argument(#[from] ArgumentError),
    #[error("invalid manage-cgroups-mode {0:?}: soft, full, strict or ignore")]
    ManageCgroups(String),
    #[error("namespace {0:?} is not supported: only network can be left empty")]
    EmptyNamespace(String),
    #[error("create the directory `{path}`")]
    Directory { path: PathBuf, source: io::Error },
}

#[derive(Debug, thiserror::Error)]
enum CheckpointError {
    #[error("Container cannot be checkpointed in {0} state")]
    Status(&'static str),
    #[error("use --page-server ADDRESS:PORT to specify page server, not {0:?}")]
    PageServer(String),
    #[error("invalid --parent-path: must be relative")]
    AbsoluteParent,
    #[error("invalid --parent-path: `{path}`")]
    Parent { path: PathBuf, source: io::Error },
    #[error("invalid --status-fd {0}: is not open")]
    StatusFd(i32),
}

/// The flags that concern saving and restoring.
pub(super) fn options(arguments: &Arguments) -> Result<Options, OptionError> {
    let path = |name| {
        let given = arguments.value(name).filter(|path| !path.is_empty());
        given.map(PathBuf::from)
    };
    let cgroups = match arguments.text("manage-cgroups-mode")? {
        None | Some("") => None,
        Some(word) => {
            let mode = CgroupMode::parse(word);
            Some(mode.ok_or_else(|| OptionError::ManageCgroups(word.to_owned()))?)
        }
    };
    for namespace in arguments.texts("empty-ns")? {
        if namespace != "network" {
            return Err(OptionError::EmptyNamespace(namespace.to_owned()));
        }
    }
    Ok(Options {
        images: path("image-path").unwrap_or_else(|| PathBuf::from(DEFAULT_IMAGES)),
        work: path("work-path"),
        tcp_established: arguments.switch("tcp-established")?,
        external_unix_sockets: arguments.switch("ext-unix-sk")?,
        shell_job: arguments.switch("shell-job")?,
        file_locks: arguments.switch("file-locks")?,
        auto_dedup: arguments.switch("auto-dedup")?,
        lazy_pages: arguments.switch("lazy-pages")?,
        cgroups,
    })
}

/// Memory is in them: they are nobody else's.
pub(super) fn make_directory(path: &Path) -> Result<(), OptionError> {
    let mut directory = fs::DirBuilder::new();
    directory.recursive(true).mode(0o700);
    directory
        .create(path)
        .map_err(|source| OptionError::Directory {
            path: path.to_owned(),
            source,
        })
}

fn checkpoint(context: &Context, arguments: &Arguments) -> Outcome {
    let container = locked(context, arguments)?;
    match container.status() {
        Status::Running | Status::Paused => {}
        status => return Err(CheckpointError::Status(word(status)).into()),
    }
    let options = options(arguments)?;
    make_directory(&options.images)?;
    if let Some(work) = &options.work {
        make_directory(work)?;
    }
    let bundle = saved_bundle(&container)?;
    let cgroup = container.cgroup();
    let dump = Dump {
        bundle: &bundle,
        pid: container.record.pid,
        cgroup: cgroup.as_ref(),
        streams: &container.record.streams,
        parent: parent(arguments, &options.images)?,
        leave_running: arguments.switch("leave-running")?,
        tcp_skip_in_flight: arguments.switch("tcp-skip-in-flight")?,
        link_remap: arguments.switch("link-remap")?,
        pre_dump: arguments.switch("pre-dump")?,
        page_server: page_server(arguments)?,
        status_fd: status_fd(arguments)?,
    };
    criu::dump(&dump, &options)?;
    if !dump.leave_running && !dump.pre_dump {
        remove(context, &container);
    }
    Ok(ExitCode::SUCCESS)
}

/// What the container was created from.
fn saved_bundle(container: &Container) -> Result<Bundle, Box<dyn std::error::Error>> {
    let record = &container.record;
    let mut spec = runtime::config::spec(&container.directory.config()?)?.value;
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(record.cgroup.as_ref().map(PathBuf::from));
    }
    Ok(Bundle {
        id: record.id.clone(),
        directory: record.bundle.clone(),
        spec,
        rootfs: Rootfs::Directory(record.rootfs.clone()),
        seccomp: None,
        extras: runtime::Extras::default(),
    })
}

/// It is saved: that something of it is left is only told.
fn remove(context: &Context, container: &Container) {
    if let Err(error) = delete::end(container) {
        context.log.warn(&chain(&error));
    }
    if let Err(error) = launch::destroy(context, container) {
        context.log.warn(&chain(&error));
    }
}

fn parent<'a>(
    arguments: &'a Arguments,
    images: &Path,
) -> Result<Option<&'a str>, Box<dyn std::error::Error>> {
    let Some(parent) = arguments
        .text("parent-path")?
        .filter(|path| !path.is_empty())
    else {
        return Ok(None);
    };
    if Path::new(parent).is_absolute() {
        return Err(CheckpointError::AbsoluteParent.into());
    }
    let path = images.join(parent);
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(Some(parent)),
        found => {
            let source = found.err();
            let source = source.unwrap_or_else(|| io::ErrorKind::NotADirectory.into());
            Err(CheckpointError::Parent { path, source }.into())
        }
    }
}

fn page_server(arguments: &Arguments) -> Result<Option<PageServer>, Box<dyn std::error::Error>> {
    let Some(text) = arguments
        .text("page-server")?
        .filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let parsed = text.rsplit_once(':').and_then(|(address, port)| {
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let address = address.trim_matches(['[', ']']).to_owned();
        (!address.is_empty()).then_some(PageServer { address, port })
    });
    parsed
        .map(Some)
        .ok_or_else(|| CheckpointError::PageServer(text.to_owned()).into())
}

fn status_fd(arguments: &Arguments) -> Result<Option<i32>, Box<dyn std::error::Error>> {
    let fd: Option<i32> = arguments.parsed("status-fd")?.filter(|fd| *fd != -1);
    match fd {
        Some(fd) if fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() => {
            Err(CheckpointError::StatusFd(fd).into())
        }
        fd => Ok(fd),
    }
}
