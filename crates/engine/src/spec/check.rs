//! Which options have an effect, a warning, or an error: nothing is silently ignored.

use vocab::config::{ContainerConfig, HostConfig, Resources};
use vocab::{Failure, Kind};

use super::security::Security;
use super::{devices, limits};
use crate::Config;
use crate::containers::health;
use crate::logs::driver::{self, DriverError};

/// Why what was asked cannot be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It makes no sense, in Docker's words.
    #[error("{0}")]
    Invalid(String),
    /// A capability that the kernel does not have.
    #[error("invalid {list}: unknown capability: {name:?}")]
    Capability {
        /// The member of the request it is in.
        list: &'static str,
        /// Its name.
        name: String,
    },
    /// A security option that nobody knows.
    #[error("invalid --security-opt 2: {0:?}")]
    SecurityOption(String),
    /// Docker does it, berth does not.
    #[error("berth does not do {0} yet")]
    NotYet(String),
}

impl Failure for CheckError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotYet(_) => Kind::NotImplemented,
            _ => Kind::InvalidArgument,
        }
    }
}

/// Checks everything that needs no look at the host's state; answers with warnings.
pub(crate) fn check(
    config: &ContainerConfig,
    host: &HostConfig,
) -> Result<Vec<String>, CheckError> {
    let mut warnings = Vec::new();
    let refuse = |text: String| Err(CheckError::Invalid(text));
    let later = |what: &str| Err(CheckError::NotYet(what.to_owned()));

    limits::check(&host.resources, &mut warnings)?;
    warnings.extend(Security::of(host, false)?.warnings);
    for rule in host.resources.device_cgroup_rules.iter().flatten() {
        devices::parse_rule(rule)?;
    }
    for variable in config.env.iter().flatten() {
        if variable.is_empty() || variable.starts_with('=') {
            return refuse(format!("invalid environment variable: {variable}"));
        }
        if variable.contains('\0') {
            return refuse("environment variables cannot hold a null byte".to_owned());
        }
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return refuse(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        ));
    }
    if !config.hostname.is_empty() {
        host_name(&config.hostname)?;
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return refuse("conflicting options: hostname and the UTS mode".to_owned());
    }
    if !config.stop_signal.is_empty() && vocab::signal::parse(&config.stop_signal).is_none() {
        return refuse(format!("invalid signal: {}", config.stop_signal));
    }
    restart_policy(host)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return refuse(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    if host.shm_size < 0 {
        return refuse("SHM size can not be less than 0".to_owned());
    }
    for (key, _) in host.sysctls.iter().flatten() {
        if key.starts_with("net.") && host.network_mode == "host" {
            return refuse(format!(
                "sysctl '{key}' is not allowed: the container shares the host's network namespace"
            ));
        }
    }
    namespace_modes(host)?;
    log_driver(host)?;

    if host.init == Some(true) && !matches!(host.pid_mode.as_str(), "" | "private") {
        warnings.push(format!(
            "--init has no effect with --pid {}: there is an init already. Discarded.",
            host.pid_mode
        ));
    }
    if host.links.as_ref().is_some_and(|links| !links.is_empty()) {
        return later("legacy links (--link)");
    }
    if host
        .storage_opt
        .as_ref()
        .is_some_and(|options| !options.is_empty())
    {
        return later("storage options (--storage-opt)");
    }
    if !matches!(
        host.runtime.as_str(),
        "" | "berth" | "runc" | "io.containerd.runc.v2"
    ) {
        return refuse(format!("unknown or invalid runtime name: {}", host.runtime));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return refuse(format!(
            "invalid isolation '{}' on linux: only 'default' is",
            host.isolation
        ));
    }
    if let Some(reason) = config.healthcheck.as_ref().and_then(health::reason_against) {
        return refuse(reason);
    }
    if !host.cgroup.is_empty() {
        warnings.push("HostConfig.Cgroup has no effect. Discarded.".to_owned());
    }
    Ok(warnings)
}

/// Checks what the daemon decides for containers that do not: it is as binding as their own.
pub(crate) fn check_defaults(config: &Config) -> Result<(), CheckError> {
    let host = HostConfig {
        log_config: config.log.clone(),
        init: Some(config.init),
        ipc_mode: config.ipc_mode.clone().unwrap_or_default(),
        cgroupns_mode: config.cgroupns_mode.clone().unwrap_or_default(),
        resources: Resources {
            ulimits: Some(config.ulimits.clone()),
            ..Resources::default()
        },
        ..HostConfig::default()
    };
    check(&ContainerConfig::default(), &host).map(drop)
}

fn restart_policy(host: &HostConfig) -> Result<(), CheckError> {
    let policy = &host.restart_policy;
    let refuse = |text: String| Err(CheckError::Invalid(text));
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" => {
            if policy.maximum_retry_count != 0 {
                return refuse(format!(
                    "invalid restart policy: maximum retry count can only be used with 'on-failure'{}",
                    if policy.maximum_retry_count < 0 {
                        " and cannot be negative"
                    } else {
                        ""
                    }
                ));
            }
        }
        "on-failure" => {
            if policy.maximum_retry_count < 0 {
                return refuse(
                    "invalid restart policy: maximum retry count cannot be negative".to_owned(),
                );
            }
        }
        other => {
            return refuse(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            ));
        }
    }
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return refuse("can't create 'AutoRemove' container with restart policy".to_owned());
    }
    Ok(())
}

fn namespace_modes(host: &HostConfig) -> Result<(), CheckError> {
    let refuse =
        |what: &str, mode: &str| Err(CheckError::Invalid(format!("invalid {what} mode: {mode}")));
    let container = |mode: &str| {
        mode.strip_prefix("container:")
            .is_some_and(|name| !name.is_empty())
    };
    match host.pid_mode.as_str() {
        "" | "private" | "host" => {}
        mode if container(mode) => {}
        mode => return refuse("PID", mode),
    }
    match host.ipc_mode.as_str() {
        "" | "none" | "private" | "shareable" | "host" => {}
        mode if container(mode) => {}
        mode => return refuse("IPC", mode),
    }
    if !matches!(host.uts_mode.as_str(), "" | "private" | "host") {
        return refuse("UTS", &host.uts_mode);
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return refuse("user", &host.userns_mode);
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "private" | "host") {
        return refuse("cgroup namespace", &host.cgroupns_mode);
    }
    Ok(())
}

fn log_driver(host: &HostConfig) -> Result<(), CheckError> {
    driver::check(&host.log_config).map_err(|error| match error {
        DriverError::Invalid(text) => CheckError::Invalid(text),
        DriverError::NotYet(text) => CheckError::NotYet(text),
    })
}

fn host_name(name: &str) -> Result<(), CheckError> {
    let fine = name.len() <= 63 && !name.contains(['\0', '/', '\n']) && !name.trim().is_empty();
    if fine {
        Ok(())
    } else {
        Err(CheckError::Invalid(format!(
            "invalid hostname format: {name}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vocab::config::{LogConfig, RestartPolicy};

    #[test]
    fn defaults_of_the_daemon_are_checked_like_a_container() {
        let place = std::path::PathBuf::from("/nowhere");
        let new = || Config::new(place.clone(), place.clone(), String::new(), place.clone());
        check_defaults(&new()).unwrap();
        let mut config = new();
        config.log.kind = "splunk".to_owned();
        assert_eq!(
            check_defaults(&config).unwrap_err().kind(),
            Kind::NotImplemented
        );
    }

    #[track_caller]
    fn refused(host: &HostConfig, kind: Kind, part: &str) {
        let error = check(&ContainerConfig::default(), host).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn nothing_is_silently_ignored() {
        use Kind::{InvalidArgument, NotImplemented};
        let of = |change: fn(&mut HostConfig)| {
            let mut host = HostConfig::default();
            change(&mut host);
            host
        };
        refused(
            &of(|host| host.links = Some(vec!["a:b".into()])),
            NotImplemented,
            "--link",
        );
        refused(
            &of(|host| host.isolation = "hyperv".into()),
            InvalidArgument,
            "isolation",
        );
        refused(
            &of(|host| host.runtime = "nope".into()),
            InvalidArgument,
            "runtime name: nope",
        );
        refused(
            &of(|host| host.pid_mode = "nope".into()),
            InvalidArgument,
            "PID mode: nope",
        );
        refused(
            &of(|host| host.log_config.kind = "x".into()),
            InvalidArgument,
            "logging plugin x",
        );
        let policy = of(|host| {
            host.restart_policy = RestartPolicy {
                name: "always".into(),
                maximum_retry_count: 0,
            };
            host.auto_remove = true;
        });
        refused(&policy, InvalidArgument, "AutoRemove");
        let option = of(|host| {
            host.log_config = LogConfig {
                kind: "json-file".into(),
                config: Some([("nope".to_owned(), "1".to_owned())].into()),
            };
        });
        refused(&option, InvalidArgument, "unknown log opt 'nope'");
    }
}
