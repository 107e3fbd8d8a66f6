//! Changes to limits and restart policy.

use vocab::config::{HostConfig, Resources};

use super::{Update, UpdateError};
use crate::spec;

/// Takes what was given; what was not stays.
pub(crate) fn merge(host: &mut HostConfig, update: &Update) -> Result<(), UpdateError> {
    let wanted = &update.resources;
    let nothing = Resources::default();
    let own = &mut host.resources;
    macro_rules! take {
        ($($field:ident),*) => { $(
            if wanted.$field != nothing.$field {
                own.$field.clone_from(&wanted.$field);
            }
        )* };
    }
    // Shares of processors in two spellings exclude each other.
    if wanted.nano_cpus > 0 {
        own.cpu_period = 0;
        own.cpu_quota = 0;
    } else if wanted.cpu_period > 0 || wanted.cpu_quota != 0 {
        own.nano_cpus = 0;
    }
    take!(
        cpu_shares,
        memory,
        nano_cpus,
        blkio_weight,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        memory_reservation,
        memory_swap,
        pids_limit
    );
    if let Some(policy) = &update.restart_policy
        && !policy.name.is_empty()
    {
        if host.auto_remove && policy.name != "no" {
            return Err(UpdateError::AutoRemove);
        }
        host.restart_policy = policy.clone();
    }
    spec::check::check(&Default::default(), host)
        .map(drop)
        .map_err(UpdateError::Check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut host = HostConfig {
            resources: Resources {
                memory: 64 << 20,
                nano_cpus: 1,
                ..Resources::default()
            },
            ..HostConfig::default()
        };
        let update = Update {
            resources: Resources {
                cpu_quota: 50_000,
                ..Resources::default()
            },
            restart_policy: None,
        };
        merge(&mut host, &update).unwrap();
        assert_eq!(host.resources.memory, 64 << 20);
        assert_eq!(
            (host.resources.nano_cpus, host.resources.cpu_quota),
            (0, 50_000)
        );
    }
}
