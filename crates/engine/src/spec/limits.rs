//! Cgroup limits and ulimits.

use runtime::oci;
use vocab::config::{Resources, ThrottleDevice, Ulimit};

use super::CheckError;
use super::cpusets;
use super::devices::{self, Devices};

/// Microseconds of a period when only a share of processors is given (Docker's).
const CPU_PERIOD: u64 = 100_000;

/// Bytes below which a container cannot live (Docker's bound).
const MEMORY_MIN: i64 = 6 << 20;

/// The limits as the runtime takes them.
pub(crate) fn resources(wanted: &Resources, devices: &Devices) -> oci::LinuxResources {
    let mut resources = limits(wanted);
    let mut rules = devices::default_rules();
    rules.extend(devices.rules.iter().cloned());
    resources.set_devices(Some(rules));
    resources
}

/// The limits without device rules: what an update changes.
pub(crate) fn limits(wanted: &Resources) -> oci::LinuxResources {
    let mut resources = oci::LinuxResources::default();
    resources
        .set_devices(None)
        .set_memory(memory(wanted))
        .set_cpu(cpu(wanted))
        .set_block_io(block_io(wanted));
    if let Some(limit) = wanted.pids_limit {
        let mut pids = oci::LinuxPids::default();
        pids.set_limit(if limit <= 0 { -1 } else { limit });
        resources.set_pids(Some(pids));
    }
    resources
}

fn memory(wanted: &Resources) -> Option<oci::LinuxMemory> {
    let mut memory = oci::LinuxMemory::default();
    let mut any = false;
    if wanted.memory > 0 {
        memory.set_limit(Some(wanted.memory));
        any = true;
    }
    if wanted.memory_reservation > 0 {
        memory.set_reservation(Some(wanted.memory_reservation));
        any = true;
    }
    match wanted.memory_swap {
        0 if wanted.memory > 0 => {
            memory.set_swap(Some(wanted.memory.saturating_mul(2)));
        }
        0 => {}
        swap => {
            memory.set_swap(Some(swap));
            any = true;
        }
    }
    if let Some(swappiness) = wanted.memory_swappiness
        && let Ok(swappiness) = u64::try_from(swappiness)
    {
        memory.set_swappiness(Some(swappiness));
        any = true;
    }
    if wanted.oom_kill_disable == Some(true) {
        memory.set_disable_oom_killer(Some(true));
        any = true;
    }
    any.then_some(memory)
}

fn cpu(wanted: &Resources) -> Option<oci::LinuxCpu> {
    let mut cpu = oci::LinuxCpu::default();
    let mut any = false;
    if let Ok(shares @ 1..) = u64::try_from(wanted.cpu_shares) {
        cpu.set_shares(Some(shares));
        any = true;
    }
    if wanted.nano_cpus > 0 {
        let period = i64::try_from(CPU_PERIOD).unwrap_or(i64::MAX);
        cpu.set_period(Some(CPU_PERIOD)).set_quota(Some(
            wanted.nano_cpus.saturating_mul(period) / 1_000_000_000,
        ));
        any = true;
    }
    if let Ok(period @ 1..) = u64::try_from(wanted.cpu_period) {
        cpu.set_period(Some(period));
        any = true;
    }
    if wanted.cpu_quota != 0 {
        cpu.set_quota(Some(wanted.cpu_quota));
        any = true;
    }
    if let Ok(period @ 1..) = u64::try_from(wanted.cpu_realtime_period) {
        cpu.set_realtime_period(Some(period));
        any = true;
    }
    if wanted.cpu_realtime_runtime != 0 {
        cpu.set_realtime_runtime(Some(wanted.cpu_realtime_runtime));
        any = true;
    }
    if !wanted.cpuset_cpus.is_empty() {
        cpu.set_cpus(Some(wanted.cpuset_cpus.clone()));
        any = true;
    }
    if !wanted.cpuset_mems.is_empty() {
        cpu.set_mems(Some(wanted.cpuset_mems.clone()));
        any = true;
    }
    any.then_some(cpu)
}

fn block_io(wanted: &Resources) -> Option<oci::LinuxBlockIo> {
    let mut block = oci::LinuxBlockIo::default();
    let mut any = false;
    if wanted.blkio_weight != 0 {
        block.set_weight(Some(wanted.blkio_weight));
        any = true;
    }
    let weights: Vec<oci::LinuxWeightDevice> = wanted
        .blkio_weight_device
        .iter()
        .flatten()
        .filter_map(|wanted| {
            let (major, minor) = block_device(&wanted.path).ok()?;
            let device = oci::LinuxWeightDeviceBuilder::default().major(major);
            device.minor(minor).weight(wanted.weight).build().ok()
        })
        .collect();
    if !weights.is_empty() {
        block.set_weight_device(Some(weights));
        any = true;
    }
    type Set =
        fn(&mut oci::LinuxBlockIo, Option<Vec<oci::LinuxThrottleDevice>>) -> &mut oci::LinuxBlockIo;
    let sets: [Set; 4] = [
        oci::LinuxBlockIo::set_throttle_read_bps_device,
        oci::LinuxBlockIo::set_throttle_write_bps_device,
        oci::LinuxBlockIo::set_throttle_read_iops_device,
        oci::LinuxBlockIo::set_throttle_write_iops_device,
    ];
    for (rates, set) in rates(wanted).into_iter().zip(sets) {
        let devices: Vec<oci::LinuxThrottleDevice> = rates
            .iter()
            .filter_map(|wanted| {
                let (major, minor) = block_device(&wanted.path).ok()?;
                let device = oci::LinuxThrottleDeviceBuilder::default().major(major);
                device.minor(minor).rate(wanted.rate).build().ok()
            })
            .collect();
        if !devices.is_empty() {
            set(&mut block, Some(devices));
            any = true;
        }
    }
    any.then_some(block)
}

/// Bytes read and written, reads and writes a second.
fn rates(wanted: &Resources) -> [&[ThrottleDevice]; 4] {
    [
        &wanted.blkio_device_read_bps,
        &wanted.blkio_device_write_bps,
        &wanted.blkio_device_read_iops,
        &wanted.blkio_device_write_iops,
    ]
    .map(|rates| rates.as_deref().unwrap_or_default())
}

/// The numbers of a block device of the host.
fn block_device(path: &str) -> Result<(i64, i64), CheckError> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let refused = |why: &str| CheckError::Invalid(format!("cannot limit the device {path}: {why}"));
    let found = std::fs::metadata(path).map_err(|error| refused(&error.to_string()))?;
    if !found.file_type().is_block_device() {
        return Err(refused("it is no block device"));
    }
    let number = found.rdev();
    Ok((
        rustix::fs::major(number).into(),
        rustix::fs::minor(number).into(),
    ))
}

/// Refuses limits of devices that are none.
fn check_block_devices(wanted: &Resources) -> Result<(), CheckError> {
    for device in wanted.blkio_weight_device.iter().flatten() {
        if !(10..=1000).contains(&device.weight) {
            return Err(CheckError::Invalid(format!(
                "invalid weight for device {}: {} is not between 10 and 1000",
                device.path, device.weight
            )));
        }
        block_device(&device.path)?;
    }
    let mut throttled = rates(wanted).into_iter().flatten();
    throttled.try_for_each(|device| block_device(&device.path).map(drop))
}

/// Refuses limits that make no sense, in Docker's words.
pub(crate) fn check(wanted: &Resources, warnings: &mut Vec<String>) -> Result<(), CheckError> {
    let refuse = |text: &str| Err(CheckError::Invalid(text.to_owned()));
    if wanted.memory != 0 && wanted.memory < MEMORY_MIN {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if wanted.memory > 0 && wanted.memory_swap > 0 && wanted.memory_swap < wanted.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if wanted.memory == 0 && wanted.memory_swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if wanted.memory_reservation > 0
        && wanted.memory > 0
        && wanted.memory < wanted.memory_reservation
    {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if let Some(swappiness) = wanted.memory_swappiness
        && !(-1..=100).contains(&swappiness)
    {
        return Err(CheckError::Invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if wanted.nano_cpus > 0 && wanted.cpu_period > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if wanted.nano_cpus > 0 && wanted.cpu_quota > 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = i64::try_from(available)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000_000);
    if !(0..=most).contains(&wanted.nano_cpus) {
        return Err(CheckError::Invalid(format!(
            "range of CPUs is from 0.01 to {available}.00, as there are only {available} CPUs available"
        )));
    }
    if wanted.cpu_shares < 0 {
        return Err(CheckError::Invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            wanted.cpu_shares
        )));
    }
    if wanted.cpu_period != 0 && !(1_000..=1_000_000).contains(&wanted.cpu_period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if wanted.cpu_quota > 0 && wanted.cpu_quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    cpusets::check(wanted)?;
    if wanted.blkio_weight != 0 && !(10..=1000).contains(&wanted.blkio_weight) {
        return refuse("Range of blkio weight is from 10 to 1000");
    }
    check_block_devices(wanted)?;
    for (set, what) in [
        (wanted.cpu_count != 0, "CpuCount"),
        (wanted.cpu_percent != 0, "CpuPercent"),
        (wanted.io_maximum_iops != 0, "IOMaximumIOps"),
        (wanted.io_maximum_bandwidth != 0, "IOMaximumBandwidth"),
    ] {
        if set {
            return Err(CheckError::Invalid(format!("{what} is for Windows only")));
        }
    }
    if wanted.kernel_memory_tcp != 0 {
        warnings.push(
            "Specifying a kernel memory TCP limit has no effect: current kernels have none. \
             Discarded."
                .to_owned(),
        );
    }
    for ulimit in wanted.ulimits.iter().flatten() {
        rlimit(ulimit)?;
    }
    Ok(())
}

/// The container's, and the daemon's for names that the container does not set.
pub(crate) fn rlimits(own: &[Ulimit], daemon: &[Ulimit]) -> Vec<oci::PosixRlimit> {
    let inherited = daemon
        .iter()
        .filter(|ulimit| !own.iter().any(|own| own.name == ulimit.name));
    own.iter()
        .chain(inherited)
        .filter_map(|ulimit| rlimit(ulimit).ok())
        .collect()
}

fn rlimit(ulimit: &Ulimit) -> Result<oci::PosixRlimit, CheckError> {
    let typ: oci::PosixRlimitType = format!("RLIMIT_{}", ulimit.name.to_uppercase())
        .parse()
        .map_err(|_| CheckError::Invalid(format!("invalid ulimit type: {}", ulimit.name)))?;
    if ulimit.hard >= 0 && (ulimit.soft > ulimit.hard || ulimit.soft < 0) {
        return Err(CheckError::Invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            ulimit.soft, ulimit.hard
        )));
    }
    // −1 is RLIM_INFINITY, all bits set.
    let bits = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let (soft, hard) = (bits(ulimit.soft), bits(ulimit.hard));
    oci::PosixRlimitBuilder::default()
        .typ(typ)
        .soft(soft)
        .hard(hard)
        .build()
        .map_err(|error| CheckError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_of_the_daemon_fill_the_gaps() {
        let ulimit = |name: &str, value| Ulimit {
            name: name.to_owned(),
            soft: value,
            hard: value,
        };
        let limits = rlimits(
            &[ulimit("nofile", 5)],
            &[ulimit("nofile", 9), ulimit("core", -1)],
        );
        let seen: Vec<_> = limits
            .iter()
            .map(|limit| (limit.typ(), limit.hard()))
            .collect();
        assert_eq!(
            seen,
            [
                (oci::PosixRlimitType::RlimitNofile, 5),
                (oci::PosixRlimitType::RlimitCore, u64::MAX)
            ]
        );
    }

    #[test]
    fn limits_that_make_no_sense_are_refused() {
        let refused =
            |resources: Resources| check(&resources, &mut Vec::new()).unwrap_err().to_string();
        let few = Resources {
            memory: 1000,
            ..Resources::default()
        };
        assert_eq!(refused(few), "Minimum memory limit allowed is 6MB");
        let many = Resources {
            nano_cpus: i64::MAX,
            ..Resources::default()
        };
        assert!(refused(many).starts_with("range of CPUs is from 0.01 to "));
        let both = Resources {
            nano_cpus: 1,
            cpu_quota: 5000,
            ..Resources::default()
        };
        assert!(refused(both).starts_with("Conflicting options: Nano CPUs"));
    }
}
