//! `Config` and `HostConfig` become an OCI specification.
//!
//! [`build`] is pure: what has to be looked up (users, devices, other containers' namespaces) is
//! looked up before and comes as [`Facts`]. Everything that can be refused is refused when the
//! container is created ([`check`]), by the same functions that the start uses.
//!
//! | module | holds |
//! |---|---|
//! | `check` | which options have an effect, a warning, or an error |
//! | [`fields`] | every member of `HostConfig`, and what becomes of it |
//! | `cache` | compiled filters and images' users, kept from start to start |
//! | `environment` | variables of the daemon, the image and the user |
//! | `mounts` | `-v`, `--mount`, `--tmpfs`, and the mounts that every container has |
//! | `limits` | cgroup limits and ulimits |
//! | `security` | capabilities, security options, masked paths |
//! | `devices` | device nodes of the host |
//! | `cdi` | devices that their vendors describe |
//! | `user` | names become numbers |

pub(crate) mod cache;
pub(crate) mod cdi;
pub(crate) mod check;
pub(crate) mod cpusets;
pub(crate) mod devices;
pub(crate) mod environment;
pub mod fields;
pub(crate) mod limits;
pub(crate) mod mounts;
pub(crate) mod security;
pub(crate) mod user;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use runtime::oci;
use vocab::config::{ContainerConfig, HostConfig, Ulimit};

use crate::containers::record::Mounted;
use security::Security;
use user::Identity;

pub use cache::SeccompError;
pub use check::CheckError;
pub use devices::DeviceError;
pub use user::UserError;

/// A namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Namespace {
    /// Its own.
    New,
    /// The host's.
    Host,
    /// That of this file.
    Path(PathBuf),
}

/// The namespaces of a container. A mount namespace is always its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespaces {
    pub(crate) network: Namespace,
    pub(crate) pid: Namespace,
    pub(crate) ipc: Namespace,
    pub(crate) uts: Namespace,
    pub(crate) cgroup: Namespace,
}

/// Everything that a specification is built from.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) host: &'a HostConfig,
    pub(crate) path: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) hostname: &'a str,
    pub(crate) identity: &'a Identity,
    pub(crate) mounts: &'a [Mounted],
    /// Directory with `hosts`, `hostname` and `resolv.conf` to mount over the image's.
    pub(crate) files: Option<&'a Path>,
    pub(crate) cgroup: &'a str,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) security: &'a Security,
    pub(crate) devices: &'a devices::Devices,
    /// Of the daemon, for names that the container does not set.
    pub(crate) ulimits: &'a [Ulimit],
    /// Of the daemon.
    pub(crate) shm_bytes: u64,
    /// What of the host is `/dev/shm`; the container has its own without.
    pub(crate) shm: Option<&'a Path>,
}

/// The specification.
pub(crate) fn build(facts: &Facts<'_>) -> oci::Spec {
    let mut spec = oci::Spec::default();
    spec.set_version("1.2.0".to_owned())
        .set_root(None)
        .set_process(Some(process(facts)))
        .set_mounts(Some(mounts::all(facts)))
        .set_hostname(None)
        .set_linux(Some(linux(facts)))
        .set_annotations(
            facts
                .host
                .annotations
                .clone()
                .map(|annotations| annotations.into_iter().collect()),
        );
    let mut root = oci::Root::default();
    root.set_path(PathBuf::from("rootfs"))
        .set_readonly(Some(facts.host.readonly_rootfs));
    spec.set_root(Some(root));
    if facts.namespaces.uts == Namespace::New {
        spec.set_hostname(Some(facts.hostname.to_owned()));
        let domain = &facts.config.domainname;
        spec.set_domainname(Some(domain.clone()).filter(|domain| !domain.is_empty()));
    }
    spec.set_hooks(hooks(&facts.devices.edits.hooks));
    spec
}

/// Those of devices; nothing else has any.
fn hooks(wanted: &[cdi::Hook]) -> Option<oci::Hooks> {
    if wanted.is_empty() {
        return None;
    }
    let named = |name: &str| -> Option<Vec<oci::Hook>> {
        let own = wanted.iter().filter(|hook| hook.hook_name == name);
        let own: Vec<oci::Hook> = own
            .map(|wanted| {
                let mut hook = oci::Hook::default();
                hook.set_path(wanted.path.clone())
                    .set_args(Some(wanted.args.clone()))
                    .set_env(Some(wanted.env.clone()))
                    .set_timeout(wanted.timeout);
                hook
            })
            .collect();
        Some(own).filter(|own| !own.is_empty())
    };
    let mut hooks = oci::Hooks::default();
    hooks
        .set_create_runtime(named("createRuntime"))
        .set_create_container(named("createContainer"))
        .set_start_container(named("startContainer"))
        .set_poststart(named("poststart"))
        .set_poststop(named("poststop"));
    hooks.set_prestart(named("prestart"));
    Some(hooks)
}

/// What runs.
fn process(facts: &Facts<'_>) -> oci::Process {
    let mut args = vec![facts.path.to_owned()];
    args.extend_from_slice(facts.args);
    let mut env = environment::of_container(
        facts.config.env.as_deref().unwrap_or_default(),
        facts.hostname,
        facts.config.tty,
        &facts.identity.home,
    );
    environment::replace(&mut env, &facts.devices.edits.env);
    let mut process = process_of(
        facts.identity,
        args,
        env,
        &facts.config.working_dir,
        facts.config.tty,
        facts.security,
    );
    let [rows, columns] = facts.host.console_size;
    if facts.config.tty && (rows, columns) != (0, 0) {
        let size = oci::BoxBuilder::default()
            .height(rows)
            .width(columns)
            .build();
        process.set_console_size(size.ok());
    }
    let mut groups = facts.identity.groups.clone();
    groups.extend(&facts.devices.edits.additional_gids);
    let mut user = process.user().clone();
    user.set_additional_gids(Some(groups));
    process.set_user(user);
    process
        .set_rlimits(Some(limits::rlimits(
            facts.host.resources.ulimits.as_deref().unwrap_or_default(),
            facts.ulimits,
        )))
        .set_oom_score_adj(Some(facts.host.oom_score_adj));
    process
}

/// A process by its parts; also of an exec.
pub(crate) fn process_of(
    identity: &Identity,
    args: Vec<String>,
    env: Vec<String>,
    working_dir: &str,
    tty: bool,
    security: &Security,
) -> oci::Process {
    let mut user = oci::User::default();
    user.set_uid(identity.uid)
        .set_gid(identity.gid)
        .set_additional_gids(Some(identity.groups.clone()));
    let held: oci::Capabilities = security
        .capabilities
        .iter()
        .filter_map(|name| name.strip_prefix("CAP_")?.parse().ok())
        .collect();
    let mut sets = oci::LinuxCapabilities::default();
    sets.set_bounding(Some(held.clone()))
        .set_permitted(Some(held.clone()))
        .set_effective(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    let mut process = oci::Process::default();
    process
        .set_terminal(Some(tty))
        .set_user(user)
        .set_args(Some(args))
        .set_env(Some(env))
        .set_cwd(PathBuf::from(if working_dir.is_empty() {
            "/"
        } else {
            working_dir
        }))
        .set_capabilities(Some(sets))
        .set_rlimits(None)
        .set_no_new_privileges(Some(security.no_new_privileges))
        .set_apparmor_profile(security.apparmor.clone());
    process
}

fn linux(facts: &Facts<'_>) -> oci::Linux {
    let mut linux = oci::Linux::default();
    linux
        .set_namespaces(Some(namespaces(facts.namespaces)))
        .set_resources(Some(limits::resources(
            &facts.host.resources,
            facts.devices,
        )))
        .set_cgroups_path(Some(PathBuf::from(facts.cgroup)))
        .set_devices(Some(facts.devices.nodes.clone()))
        .set_seccomp(None)
        .set_uid_mappings(None)
        .set_gid_mappings(None)
        .set_sysctl(Some(sysctls(facts)))
        .set_masked_paths(Some(facts.security.masked_paths.clone()))
        .set_readonly_paths(Some(facts.security.readonly_paths.clone()))
        .set_rootfs_propagation(mounts::root_propagation(facts.mounts).map(str::to_owned));
    linux
}

fn namespaces(wanted: &Namespaces) -> Vec<oci::LinuxNamespace> {
    use oci::LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    [
        (Mount, &Namespace::New),
        (Network, &wanted.network),
        (Pid, &wanted.pid),
        (Ipc, &wanted.ipc),
        (Uts, &wanted.uts),
        (Cgroup, &wanted.cgroup),
    ]
    .into_iter()
    .filter_map(|(typ, namespace)| {
        let path = match namespace {
            Namespace::New => None,
            Namespace::Host => return None,
            Namespace::Path(path) => Some(path.clone()),
        };
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path);
        Some(namespace)
    })
    .collect()
}

/// The user's, after those that make low ports and ping usable without privileges (as Docker).
fn sysctls(facts: &Facts<'_>) -> HashMap<String, String> {
    let mut sysctls = HashMap::new();
    if facts.namespaces.network == Namespace::New {
        let unprivileged = [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ];
        sysctls.extend(unprivileged.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
    sysctls.extend(facts.host.sysctls.clone().unwrap_or_default());
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;
    use vocab::config::Resources;

    fn spec(config: &ContainerConfig, host: &HostConfig) -> serde_json::Value {
        let identity = Identity {
            uid: 0,
            gid: 0,
            groups: vec![0],
            home: "/root".to_owned(),
        };
        let namespaces = Namespaces {
            network: Namespace::New,
            pid: Namespace::New,
            ipc: Namespace::New,
            uts: Namespace::New,
            cgroup: Namespace::Host,
        };
        let security = Security::of(host, false).unwrap();
        let facts = Facts {
            config,
            host,
            path: "true",
            args: &[],
            hostname: "h",
            identity: &identity,
            mounts: &[],
            files: Some(Path::new("/files")),
            cgroup: "/berth/x",
            namespaces: &namespaces,
            security: &security,
            devices: &devices::Devices::default(),
            ulimits: &[],
            shm_bytes: 64 << 20,
            shm: None,
        };
        serde_json::to_value(build(&facts)).unwrap()
    }

    #[test]
    fn a_plain_container_is_confined() {
        let spec = spec(&ContainerConfig::default(), &HostConfig::default());
        assert_eq!(spec["hostname"], "h");
        assert_eq!(spec["linux"]["cgroupsPath"], "/berth/x");
        assert_eq!(spec["process"]["cwd"], "/");
        assert_eq!(spec["process"]["noNewPrivileges"], false);
        assert_eq!(
            spec["process"]["capabilities"]["bounding"]
                .as_array()
                .unwrap()
                .len(),
            14
        );
        let env = spec["process"]["env"].as_array().unwrap();
        assert!(env.contains(&"HOME=/root".into()) && env.contains(&"HOSTNAME=h".into()));
        let kinds: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|namespace| namespace["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["mount", "network", "pid", "ipc", "uts"]);
        assert!(!spec["linux"]["maskedPaths"].as_array().unwrap().is_empty());
    }

    #[test]
    fn limits_reach_the_specification() {
        let host = HostConfig {
            resources: Resources {
                memory: 64 << 20,
                nano_cpus: 500_000_000,
                pids_limit: Some(50),
                ..Resources::default()
            },
            readonly_rootfs: true,
            ..HostConfig::default()
        };
        let spec = spec(&ContainerConfig::default(), &host);
        let resources = &spec["linux"]["resources"];
        assert_eq!(resources["memory"]["limit"], 64 << 20);
        assert_eq!(resources["memory"]["swap"], 128 << 20);
        assert_eq!(resources["cpu"]["quota"], 50_000);
        assert_eq!(resources["cpu"]["period"], 100_000);
        assert_eq!(resources["pids"]["limit"], 50);
        assert_eq!(spec["root"]["readonly"], true);
    }
}
