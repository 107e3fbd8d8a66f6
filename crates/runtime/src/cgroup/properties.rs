//! Limits as properties of systemd's units. What systemd is not told it would undo when it reloads.

use super::dbus::Value;
use super::host::Layout;
use super::plan::{given, memory_and_swap};
use super::{CgroupError, devices, v2};
use crate::oci;

/// A property of a unit.
pub(super) type Property = (&'static str, Value);

/// What is counted, so that there is a cgroup of each controller that systemd knows.
pub(super) fn accounting(layout: Layout) -> [Property; 4] {
    let block_io = match layout {
        Layout::V2 => "IOAccounting",
        Layout::V1 | Layout::Hybrid => "BlockIOAccounting",
    };
    let all = [
        "MemoryAccounting",
        "CPUAccounting",
        block_io,
        "TasksAccounting",
    ];
    all.map(|name| (name, Value::Bool(true)))
}

/// The limits of a new unit.
pub(super) fn of_start(
    layout: Layout,
    resources: Option<&oci::LinuxResources>,
) -> Result<Vec<Property>, CgroupError> {
    let mut all = match resources {
        Some(resources) => limits(layout, resources)?,
        None => Vec::new(),
    };
    if layout != Layout::V2 {
        // Also without rules: then as little is allowed as the cgroup allows.
        let rules = resources.and_then(|resources| resources.devices().as_deref());
        all.extend(device_rules(rules)?);
    }
    Ok(all)
}

/// The limits that are to change.
pub(super) fn of_update(
    layout: Layout,
    resources: &oci::LinuxResources,
) -> Result<Vec<Property>, CgroupError> {
    let mut all = limits(layout, resources)?;
    if let Some(rules) = resources
        .devices()
        .as_deref()
        .filter(|_| layout != Layout::V2)
    {
        all.extend(device_rules(Some(rules))?);
    }
    Ok(all)
}

fn limits(layout: Layout, resources: &oci::LinuxResources) -> Result<Vec<Property>, CgroupError> {
    match layout {
        Layout::V2 => unified(resources),
        Layout::V1 | Layout::Hybrid => Ok(v1(resources)),
    }
}

/// On version 1 systemd writes device rules of its own whenever it reloads; on version 2 it adds a
/// program to ours where it has any.
fn device_rules(rules: Option<&[oci::LinuxDeviceCgroup]>) -> Result<[Property; 2], CgroupError> {
    // Where it cannot be read, rules for all devices of a driver are left out: less is allowed.
    let drivers = std::fs::read_to_string("/proc/devices").unwrap_or_default();
    let (policy, allowed) = devices::for_systemd(rules, &drivers)?;
    Ok([
        ("DevicePolicy", Value::Text(policy.to_owned())),
        ("DeviceAllow", Value::Pairs(allowed)),
    ])
}

/// Where version 1 has the controllers. What has no property there is left as it was written.
fn v1(resources: &oci::LinuxResources) -> Vec<Property> {
    let mut all = Vec::new();
    let memory = resources.memory().as_ref();
    if let Some(limit) = memory.and_then(|memory| given(memory.limit())) {
        all.push(("MemoryLimit", bytes(limit)));
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = given(cpu.shares()) {
            all.push(("CPUShares", Value::Number(shares)));
        }
        all.extend(quota(cpu));
    }
    let block = resources.block_io().as_ref();
    if let Some(weight) = block.and_then(|block| given(block.weight())) {
        all.push(("BlockIOWeight", Value::Number(weight.into())));
    }
    all.extend(tasks(resources));
    all
}

fn quota(cpu: &oci::LinuxCpu) -> impl Iterator<Item = Property> {
    let period = given(cpu.period());
    let quota = given(cpu.quota())
        .map(|quota| quota_of_a_second(quota, period.unwrap_or(DEFAULT_PERIOD_MICROS)));
    let period = period.map(|period| ("CPUQuotaPeriodUSec", Value::Number(period)));
    let quota = quota.map(|quota| ("CPUQuotaPerSecUSec", Value::Number(quota)));
    period.into_iter().chain(quota)
}

fn tasks(resources: &oci::LinuxResources) -> Option<Property> {
    let pids = resources.pids().as_ref().map(oci::LinuxPids::limit);
    given(pids).map(|limit| ("TasksMax", bytes(limit)))
}

/// Negative is unlimited, which systemd writes as the largest number.
fn bytes(limit: i64) -> Value {
    Value::Number(u64::try_from(limit).unwrap_or(u64::MAX))
}

/// On version 2 alone.
fn unified(resources: &oci::LinuxResources) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    if let Some(memory) = resources.memory() {
        if let Some(limit) = given(memory.limit()) {
            all.push(("MemoryMax", bytes(limit)));
        }
        if let Some(reservation) = given(memory.reservation()) {
            all.push(("MemoryLow", bytes(reservation)));
        }
        if let Some(sum) = memory_and_swap(memory) {
            let swap = v2::swap_alone(given(memory.limit()), sum)?;
            let swap = swap.parse().unwrap_or(u64::MAX);
            all.push(("MemorySwapMax", Value::Number(swap)));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = given(cpu.shares()) {
            let weight = v2::weight_of_shares(shares);
            all.push(("CPUWeight", Value::Number(weight)));
        }
        all.extend(quota(cpu));
        for (name, set) in [
            ("AllowedCPUs", cpu.cpus()),
            ("AllowedMemoryNodes", cpu.mems()),
        ] {
            if let Some(set) = set.as_ref().filter(|set| !set.is_empty()) {
                all.push((name, Value::Bytes(bit_mask(set)?)));
            }
        }
    }
    all.extend(tasks(resources));
    Ok(all)
}

/// The kernel's default (`cpu.max`).
const DEFAULT_PERIOD_MICROS: u64 = 100_000;
/// systemd keeps whole percents of a second.
const PERCENT_MICROS: u64 = 10_000;

/// In microseconds, rounded up to what systemd can say, so that the cgroup's own quota fits.
fn quota_of_a_second(quota: i64, period: u64) -> u64 {
    match u64::try_from(quota) {
        Ok(quota) => (quota.saturating_mul(1_000_000) / period.max(1))
            .checked_next_multiple_of(PERCENT_MICROS)
            .unwrap_or(u64::MAX),
        Err(_) => u64::MAX,
    }
}

/// The most processors of a kernel (`CONFIG_NR_CPUS`).
const MAX_CPUS: usize = 8192;

/// `0-2,8` as the bytes 0x07 0x01: processor n is bit n.
fn bit_mask(list: &str) -> Result<Vec<u8>, CgroupError> {
    let wrong = || super::plan::invalid("the set of CPUs or memory nodes", list);
    let number = |text: &str| text.trim().parse().ok().filter(|n: &usize| *n < MAX_CPUS);
    let mut mask = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = number(first).zip(number(last)).ok_or_else(wrong)?;
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0_u8);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_properties() {
        let resources = r#"{"memory":{"limit":64,"swap":96,"reservation":32},
            "cpu":{"shares":1024,"quota":50500,"period":100000,"cpus":"0-2,8"},"pids":{"limit":-1}}"#;
        let resources = serde_json::from_str(resources).unwrap();
        let number = Value::Number;
        assert_eq!(
            of_start(Layout::V2, Some(&resources)).unwrap(),
            [
                ("MemoryMax", number(64)),
                ("MemoryLow", number(32)),
                ("MemorySwapMax", number(32)),
                ("CPUWeight", number(100)),
                ("CPUQuotaPeriodUSec", number(100_000)),
                ("CPUQuotaPerSecUSec", number(510_000)),
                ("AllowedCPUs", Value::Bytes(vec![7, 1])),
                ("TasksMax", number(u64::MAX)),
            ]
        );
        assert!(bit_mask("0-99999999").is_err());
    }

    #[test]
    fn on_version_1_they_have_other_names_and_devices_are_among_them() {
        let resources = r#"{"memory":{"limit":64,"swap":96,"reservation":32},
            "cpu":{"shares":1024,"quota":50500,"cpus":"0-2,8"},"blockIO":{"weight":300},
            "pids":{"limit":7},"devices":[{"allow":false},
            {"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"}]}"#;
        let resources = serde_json::from_str(resources).unwrap();
        let number = Value::Number;
        let mut all = of_start(Layout::Hybrid, Some(&resources)).unwrap();
        let Some(("DeviceAllow", Value::Pairs(allowed))) = all.pop() else {
            panic!("{all:?}");
        };
        assert_eq!(
            all,
            [
                ("MemoryLimit", number(64)),
                ("CPUShares", number(1024)),
                ("CPUQuotaPerSecUSec", number(510_000)),
                ("BlockIOWeight", number(300)),
                ("TasksMax", number(7)),
                ("DevicePolicy", Value::Text(String::from("strict"))),
            ]
        );
        assert_eq!(
            allowed[0],
            (String::from("/dev/char/10:229"), String::from("rwm"))
        );
        let none = of_update(Layout::V1, &oci::LinuxResources::default()).unwrap();
        assert_eq!(none, []);
    }
}
