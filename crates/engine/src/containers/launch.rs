//! The start of a container, and what is given back at its end.
//!
//! ```text
//!  prepare ─┬─ files, layers, users, devices, specification ─┐
//!           └─ network sandbox ──────────────────────────────┴┬─ Launcher::spawn ──┐
//!                                                             └─ network.attach ───┤
//!            hosts file, waiting clients attached ◀────────────────────────────────┘
//!  (the owner writes down what the container holds)
//!  go ────── Start and Watch on the control socket ─▶ Started
//! ```

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use monitor::Setup;
use monitor::protocol::{Exit, Reply, Request};
use network::files::Dns;
use runtime::cgroup::Cgroup;
use tokio::sync::oneshot;
use vocab::{ContainerId, failure};

use super::link::{self, Link, LinkError};
use super::record::{Joined, MountKind, Record, to_nanos};
use super::{StartError, ipc};
use crate::endpoints::{self, Mode};
use crate::logs::driver;
use crate::shared::Shared;
use crate::spec::security::Security;
use crate::spec::{self, Facts, Namespace, Namespaces, devices, user};

/// The exit code of a container whose end nobody saw (Docker's).
const LOST_CODE: i32 = 255;

/// Time that a monitor which nobody started gets to clean up.
const ABANDON_GRACE: Duration = Duration::from_secs(5);

/// A client that waits to be attached.
#[derive(Debug)]
pub(crate) struct PendingAttach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) connected: oneshot::Sender<UnixStream>,
}

impl PendingAttach {
    /// Whether the client has gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.connected.is_closed()
    }
}

/// A container that waits for its start.
pub(crate) struct Prepared {
    control: Link,
    dir: PathBuf,
    pub(crate) pid: i32,
    pub(crate) endpoints: Vec<Joined>,
}

/// Makes everything up to the start. After a failure nothing of it is left.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    record: &Arc<Record>,
    name: &str,
    attaches: Vec<PendingAttach>,
) -> Result<Prepared, StartError> {
    let mode = shared.network_mode(record).map_err(StartError::Network)?;
    let sandbox = async {
        let Mode::Own(_) = &mode else {
            return Ok(None);
        };
        let links = &shared.links;
        let sandbox = links.open_sandbox().await.map_err(StartError::Sandbox)?;
        if mode.has_names() {
            let asking = endpoints::asking(shared, record);
            let heard = links.hear(record.id, sandbox.as_fd(), asking, true);
            heard.await.map_err(StartError::Names)?;
        }
        Ok(Some(sandbox))
    };
    let setup = {
        let (shared, record, mode) = (Arc::clone(shared), Arc::clone(record), mode.clone());
        let name = name.to_owned();
        tasks::blocking(move || setup(&shared, &record, &name, &mode))
    };
    let (sandbox, setup) = tokio::join!(sandbox, setup);
    let (sandbox, setup) = match (sandbox, setup) {
        (Ok(sandbox), Ok(setup)) => (sandbox.map(Arc::new), setup),
        (sandbox, setup) => {
            give_back(shared, record, &[]).await;
            remove_run_dir(shared, &record.id).await;
            setup?;
            return Err(sandbox
                .err()
                .unwrap_or_else(|| unreachable!("one of the two failed")));
        }
    };

    let dir = shared.run_dir(&record.id);
    let spawned = spawn(shared, &dir, setup, sandbox.clone());
    let joined = shared.join(record, name, &mode, sandbox.as_deref());
    let (spawned, joined) = tokio::join!(spawned, joined);
    let (endpoints, outcome) = match joined {
        Ok(endpoints) => (endpoints, Ok(())),
        Err(error) => (Vec::new(), Err(error)),
    };
    let spawned = match (spawned, outcome) {
        (Ok((control, pid)), Ok(())) => Ok(Prepared {
            control,
            dir: dir.clone(),
            pid,
            endpoints: endpoints.clone(),
        }),
        (Ok((control, _)), Err(error)) => {
            close(control).await;
            Err(StartError::Network(error))
        }
        (Err(error), _) => Err(error),
    };
    let prepared = match spawned {
        Ok(prepared) => prepared,
        Err(error) => {
            give_back(shared, record, &endpoints).await;
            remove_run_dir(shared, &record.id).await;
            return Err(error);
        }
    };
    if let Err(error) = finish(shared, record, &mode, &prepared.endpoints, &dir, attaches).await {
        abandon(prepared).await;
        give_back(shared, record, &endpoints).await;
        remove_run_dir(shared, &record.id).await;
        return Err(error);
    }
    Ok(prepared)
}

/// Lets the container run; the connection then tells what happens to it.
pub(crate) async fn go(prepared: Prepared) -> Result<Link, StartError> {
    let Prepared {
        mut control, dir, ..
    } = prepared;
    let io = |source| {
        StartError::Monitor(LinkError::Io {
            dir: dir.clone(),
            source,
        })
    };
    control
        .send(&[&Request::Start, &Request::Watch])
        .await
        .map_err(io)?;
    match control.receive().await.map_err(io)? {
        Some(Reply::Started { .. }) => {}
        Some(Reply::Failed { kind, message }) => {
            close(control).await;
            return Err(StartError::Launch {
                code: kind.exit_code(),
                message,
            });
        }
        answer => {
            return Err(StartError::Monitor(link::unexpected(&dir, &answer)));
        }
    }
    match control.receive().await.map_err(io)? {
        Some(Reply::Ok) => Ok(control),
        answer => Err(StartError::Monitor(link::unexpected(&dir, &answer))),
    }
}

/// Lets a container that was never started go.
pub(crate) async fn abandon(prepared: Prepared) {
    close(prepared.control).await;
}

/// A monitor whose control socket closes before the start removes the container and goes.
async fn close(control: Link) {
    let (mut stream, _) = control.into_stream();
    let gone = async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        // Whatever it still says, its closing is what matters.
        let _ = stream.shutdown().await;
        let mut rest = [0; 512];
        while matches!(stream.read(&mut rest).await, Ok(1..)) {}
    };
    if tokio::time::timeout(ABANDON_GRACE, gone).await.is_err() {
        tracing::warn!("a monitor did not end in time");
    }
}

async fn spawn(
    shared: &Arc<Shared>,
    dir: &Path,
    setup: Setup,
    sandbox: Option<Arc<OwnedFd>>,
) -> Result<(Link, i32), StartError> {
    let (owner, dir) = (Arc::clone(shared), dir.to_owned());
    let spawned = tasks::blocking(move || {
        let netns = sandbox.as_deref().map(|fd| fd.as_fd());
        let spawned = owner.launcher.spawn(&dir, &setup, netns);
        spawned.map_err(StartError::Spawn)
    })
    .await?;
    let control = Link::new(spawned.control).map_err(StartError::Control)?;
    Ok((control, spawned.pid))
}

/// Directories, files, layers, users, devices, and the specification of it all. Blocks.
fn setup(shared: &Shared, record: &Record, name: &str, mode: &Mode) -> Result<Setup, StartError> {
    let id = &record.id;
    let files = shared.data_dir(id);
    let dir = shared.run_dir(id);
    let write = |path: &Path, source| StartError::Files {
        path: path.to_owned(),
        source,
    };
    // What an earlier run left, if anything, must not be taken for this one's end.
    match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write(&dir, error)),
        _ => {}
    }
    for dir in [&dir, &files] {
        fs::create_dir_all(dir).map_err(|error| write(dir, error))?;
    }
    let mounts = shared.store.mount_snapshot(id).map_err(StartError::Root)?;
    let accounts = shared
        .cache
        .accounts(&record.image, &mounts)
        .map_err(StartError::Accounts)?;
    let identity = user::find(
        &record.config.user,
        record.host.group_add.as_deref().unwrap_or_default(),
        &accounts.passwd,
        &accounts.group,
    )
    .map_err(StartError::User)?;
    let security =
        Security::of(&record.host, shared.config.no_new_privileges).map_err(StartError::Check)?;
    let seccomp = shared
        .cache
        .program(&security)
        .map_err(StartError::Seccomp)?;
    let devices = devices::look_up(&record.host, &shared.config.cdi_directories)
        .map_err(StartError::Device)?;
    for mounted in &record.mounts {
        let source = Path::new(&mounted.source);
        if mounted.kind == MountKind::Bind && mounted.create_source && !source.exists() {
            fs::create_dir_all(source).map_err(|error| write(source, error))?;
        }
    }
    shared.hold_volumes(&record.mounts, *id)?;
    let origins = spec::mounts::origins(&record.mounts, |holder| {
        Ok(shared.store.mount_snapshot(holder)?.lower)
    });
    let origins = origins.map_err(StartError::Root)?;
    let ipc = ipc::prepare(shared, record)?;
    let namespaces = namespaces(shared, record, mode, ipc.namespace)?;
    let hostname = hostname(record, mode);
    let own_files = write_files(shared, record, mode, &hostname, &files)?;
    let cgroup = shared.cgroup(id, &record.host.resources.cgroup_parent);
    let facts = Facts {
        config: &record.config,
        host: &record.host,
        path: &record.path,
        args: &record.args,
        hostname: &hostname,
        identity: &identity,
        mounts: &record.mounts,
        files: Some(&own_files),
        cgroup: &cgroup,
        namespaces: &namespaces,
        security: &security,
        devices: &devices,
        ulimits: &shared.config.ulimits,
        shm_bytes: shared.config.shm_bytes,
        shm: ipc.shm.as_deref(),
    };
    let mut spec = spec::build(&facts);
    let directory = match spec.hooks() {
        Some(_) => bundle_for_hooks(&mut spec, &dir)?,
        None => PathBuf::new(),
    };
    let [rows, columns] = record.host.console_size;
    Ok(Setup {
        bundle: runtime::Bundle {
            id: id.to_string(),
            directory,
            spec,
            rootfs: runtime::Rootfs::Overlay(runtime::Overlay {
                lower: mounts.lower,
                upper: mounts.upper,
                work: mounts.work,
            }),
            seccomp,
            extras: runtime::Extras {
                init: namespaces.pid == Namespace::New
                    && record.host.init.unwrap_or(shared.config.init),
                origins,
            },
        },
        terminal: record.config.tty.then_some((rows, columns)),
        stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        log: driver::log(shared, record, name),
    })
}

/// A directory in which hooks find what they look for: the specification, and the root.
fn bundle_for_hooks(spec: &mut runtime::oci::Spec, dir: &Path) -> Result<PathBuf, StartError> {
    let mut root = spec.root().clone().unwrap_or_default();
    root.set_path(dir.join("rootfs"));
    spec.set_root(Some(root));
    let write = |path: PathBuf, step: &dyn Fn(&Path) -> io::Result<()>| {
        step(&path).map_err(|source| StartError::Files { path, source })
    };
    write(dir.join("rootfs"), &|path| fs::create_dir_all(path))?;
    write(dir.join("config.json"), &|path| {
        fs::write(path, serde_json::to_vec(&spec)?)
    })?;
    Ok(dir.to_owned())
}

fn namespaces(
    shared: &Shared,
    record: &Record,
    mode: &Mode,
    ipc: Namespace,
) -> Result<Namespaces, StartError> {
    let of_process =
        |pid: i32, kind: &str| Namespace::Path(PathBuf::from(format!("/proc/{pid}/ns/{kind}")));
    let host = &record.host;
    let pid = match host.pid_mode.as_str() {
        "host" => Namespace::Host,
        mode => match mode.strip_prefix("container:") {
            Some(typed) => of_process(
                shared.running_pid(typed).map_err(StartError::Network)?,
                "pid",
            ),
            None => Namespace::New,
        },
    };
    let private = match host.cgroupns_mode.as_str() {
        "private" => true,
        "host" => false,
        // Docker's rule: private where there is nothing but version 2.
        _ => shared.layout == runtime::cgroup::Layout::V2 && !host.privileged,
    };
    Ok(Namespaces {
        network: match mode {
            Mode::Host => Namespace::Host,
            Mode::Own(_) => Namespace::New,
            Mode::Container { pid, .. } => of_process(*pid, "net"),
        },
        pid,
        ipc,
        uts: match (host.uts_mode.as_str(), mode) {
            ("host", _) => Namespace::Host,
            (_, Mode::Container { pid, .. }) => of_process(*pid, "uts"),
            _ => Namespace::New,
        },
        cgroup: if private {
            Namespace::New
        } else {
            Namespace::Host
        },
    })
}

pub(crate) fn hostname(record: &Record, mode: &Mode) -> String {
    if !record.config.hostname.is_empty() {
        record.config.hostname.clone()
    } else if *mode == Mode::Host || record.host.uts_mode == "host" {
        let name = rustix::system::uname();
        name.nodename().to_string_lossy().into_owned()
    } else {
        record.id.short()
    }
}

/// Writes `hostname`, `resolv.conf` and, as far as it is known, `hosts`; answers where they are.
fn write_files(
    shared: &Shared,
    record: &Record,
    mode: &Mode,
    hostname: &str,
    dir: &Path,
) -> Result<PathBuf, StartError> {
    if let Mode::Container { id, .. } = mode {
        return Ok(shared.data_dir(id));
    }
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).map_err(|source| StartError::Files { path, source })
    };
    write("hostname", &format!("{hostname}\n"))?;
    write_resolv_conf(shared, record, mode.has_names())?;
    write("hosts", &hosts(shared, record, mode, hostname, &[]))?;
    Ok(dir.to_owned())
}

/// Writes `resolv.conf`: the daemon answers where others are found by `names`.
pub(crate) fn write_resolv_conf(
    shared: &Shared,
    record: &Record,
    names: bool,
) -> Result<(), StartError> {
    use network::{dns::ADDRESS, files};
    let path = shared.data_dir(&record.id).join("resolv.conf");
    let wanted = dns(shared, record);
    let written = files::host_resolv_conf().and_then(|host| {
        let text = match names {
            true => files::resolv_conf_for(ADDRESS.into(), &host, &wanted),
            false => files::resolv_conf(&host, &wanted),
        };
        fs::write(&path, text)
    });
    written.map_err(|source| StartError::Files { path, source })
}

pub(crate) fn dns(shared: &Shared, record: &Record) -> Dns {
    let own = |wanted: &Option<Vec<String>>, default: &[String]| match wanted {
        Some(words) if !words.is_empty() => words.clone(),
        _ => default.to_vec(),
    };
    let servers: Vec<IpAddr> = record
        .host
        .dns
        .iter()
        .flatten()
        .filter_map(|server| server.parse().ok())
        .collect();
    Dns {
        servers: if servers.is_empty() {
            shared.config.dns.clone()
        } else {
            servers
        },
        search: own(&record.host.dns_search, &shared.config.dns_search),
        options: own(&record.host.dns_options, &shared.config.dns_options),
    }
}

fn hosts(
    shared: &Shared,
    record: &Record,
    mode: &Mode,
    hostname: &str,
    addresses: &[IpAddr],
) -> String {
    let gateway = || -> Vec<IpAddr> {
        if shared.config.host_gateway.is_empty() {
            shared
                .networks()
                .gateway()
                .map(IpAddr::V4)
                .into_iter()
                .collect()
        } else {
            shared.config.host_gateway.clone()
        }
    };
    let extra: Vec<(String, IpAddr)> = record
        .host
        .extra_hosts
        .iter()
        .flatten()
        .filter_map(|text| text.split_once(['=', ':']))
        .flat_map(|(name, address)| {
            let addresses = match address {
                "host-gateway" => gateway(),
                address => address
                    .trim_matches(['[', ']'])
                    .parse()
                    .into_iter()
                    .collect(),
            };
            addresses
                .into_iter()
                .map(|address| (name.to_owned(), address))
        })
        .collect();
    if *mode == Mode::Host {
        let mut text = fs::read_to_string("/etc/hosts").unwrap_or_default();
        for (name, address) in extra {
            text.push_str(&format!("{address}\t{name}\n"));
        }
        return text;
    }
    network::files::hosts(hostname, &record.config.domainname, addresses, &extra)
}

/// Writes `hosts` with the container's own addresses.
pub(crate) fn write_hosts(
    shared: &Shared,
    record: &Record,
    mode: &Mode,
    endpoints: &[Joined],
) -> Result<(), StartError> {
    let endpoints = endpoints
        .iter()
        .filter_map(|joined| joined.endpoint.as_ref());
    let addresses: Vec<IpAddr> = endpoints
        .flat_map(|endpoint| endpoint.addresses())
        .collect();
    let hostname = hostname(record, mode);
    let text = hosts(shared, record, mode, &hostname, &addresses);
    let path = shared.data_dir(&record.id).join("hosts");
    // In place: the container has this very file mounted.
    fs::write(&path, text).map_err(|source| StartError::Files { path, source })
}

/// What needs the container's addresses or its monitor.
async fn finish(
    shared: &Arc<Shared>,
    record: &Arc<Record>,
    mode: &Mode,
    joined: &[Joined],
    dir: &Path,
    attaches: Vec<PendingAttach>,
) -> Result<(), StartError> {
    if joined.iter().any(|joined| joined.endpoint.is_some()) {
        write_hosts(shared, record, mode, joined)?;
    }
    if !attaches.is_empty() {
        connect_attaches(dir, attaches).await;
    }
    Ok(())
}

/// Connects waiting clients; one that cannot be connected sees its connection end.
pub(crate) async fn connect_attaches(dir: &Path, attaches: Vec<PendingAttach>) {
    let dir = dir.to_owned();
    tasks::blocking(move || {
        for pending in attaches {
            let request = Request::Attach {
                exec: None,
                stdin: pending.stdin,
                stdout: pending.stdout,
                stderr: pending.stderr,
            };
            match attach(&dir, &request) {
                // A client that has gone does not need it.
                Ok(stream) => drop(pending.connected.send(stream)),
                Err(error) => tracing::warn!(error = failure::chain(&error), "attach a client"),
            }
        }
    })
    .await;
}

/// A connection that carries the bytes of a process. Blocks.
pub(crate) fn attach(dir: &Path, request: &Request) -> Result<UnixStream, LinkError> {
    let io = |source| LinkError::Io {
        dir: dir.to_owned(),
        source,
    };
    let stream = monitor::connect(dir).map_err(io)?;
    match monitor::client::ask(&stream, request).map_err(io)? {
        Reply::Ok => Ok(stream),
        Reply::Failed { kind, message } => Err(LinkError::Refused { kind, message }),
        answer => Err(link::unexpected(dir, &answer)),
    }
}

/// Gives back what a run held: addresses, ports, the mounted root. Goes on after a failure.
pub(crate) async fn give_back(shared: &Arc<Shared>, record: &Arc<Record>, endpoints: &[Joined]) {
    let id = &record.id;
    shared.links.ignore(id);
    let detached = async {
        for joined in endpoints {
            if let Some(endpoint) = &joined.endpoint
                && let Err(error) = shared.links.detach(endpoint).await
            {
                tracing::warn!(%id, error = failure::chain(&error), "leave a network");
            }
        }
    };
    let released = {
        let (shared, record) = (Arc::clone(shared), Arc::clone(record));
        tasks::blocking(move || {
            shared.let_volumes_go(&record.mounts, record.id);
            ipc::let_go(&shared, &record.id);
            shared.store.release_snapshot(&record.id)
        })
    };
    let ((), released) = tokio::join!(detached, released);
    if let Err(error) = released {
        tracing::warn!(%id, error = failure::chain(&error), "release the root");
    }
}

/// Removes what monitor and engine shared. Only after the end is written down.
pub(crate) async fn remove_run_dir(shared: &Shared, id: &ContainerId) {
    let dir = shared.run_dir(id);
    tasks::blocking(move || match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, ?dir, "remove the run directory");
        }
        _ => {}
    })
    .await;
}

/// The end of a container whose monitor does not answer: what it wrote down, or that it died too.
pub(crate) async fn lost(shared: &Arc<Shared>, record: &Arc<Record>) -> Exit {
    let dir = shared.run_dir(&record.id);
    let group = shared.cgroup(&record.id, &record.host.resources.cgroup_parent);
    let id = record.id;
    tasks::blocking(move || {
        match monitor::find_exit(&dir) {
            Ok(Some(exit)) => return exit,
            Ok(None) => {}
            Err(error) => tracing::warn!(%id, error = failure::chain(&error), "read the exit"),
        }
        // Nobody holds its stdio or would reap it: what is left of it is ended.
        let cleaned = Cgroup::open(&group).and_then(|group| {
            group.kill_all()?;
            group.remove()
        });
        if let Err(error) = cleaned {
            tracing::debug!(%id, error = failure::chain(&error), "remove the cgroup");
        }
        Exit {
            code: LOST_CODE,
            oom_killed: false,
            at: to_nanos(SystemTime::now()),
            error: Some("the container's monitor died".to_owned()),
        }
    })
    .await
}

/// The address of the host that a published port without one is bound to.
pub(crate) fn host_address(text: &str, default: Ipv4Addr) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(Some(IpAddr::V4(default)).filter(|address| !address.is_unspecified()));
    }
    text.parse()
        .map(Some)
        .map_err(|_| format!("invalid IP address: {text}"))
}
