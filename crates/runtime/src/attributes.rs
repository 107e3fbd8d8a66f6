//! What a process is beside its user, limits and capabilities: how it is scheduled, where its
//! memory comes from, which labels it carries. Checked here, set by `child::attributes`.

use rustix::thread::CpuSet;
use sys::numa::Policy;
use sys::schedule::SchedulerAttributes;

use crate::error::CreateError;
use crate::{lsm, oci};

/// As the kernel takes them.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) scheduler: Option<SchedulerAttributes>,
    /// `IOPRIO_PRIO_VALUE`.
    pub(crate) io_priority: Option<u32>,
    /// `PER_*`.
    pub(crate) personality: Option<libc::c_ulong>,
    pub(crate) memory: Option<Policy>,
    /// Taken on with the program.
    pub(crate) label: Option<Label>,
}

/// What a security module knows the program by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    AppArmor(String),
    SeLinux(String),
}

/// Processors that a process which is executed may run on.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    /// Before it enters the container's cgroup.
    pub(crate) initial: Option<CpuSet>,
    /// In it.
    pub(crate) last: Option<CpuSet>,
}

fn invalid(path: &str, reason: impl Into<String>) -> CreateError {
    CreateError::invalid(path, reason)
}

impl Attributes {
    /// Those that the process names.
    pub(crate) fn new(process: &oci::Process) -> Result<Self, CreateError> {
        Ok(Self {
            scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
            io_priority: process
                .io_priority()
                .as_ref()
                .map(io_priority)
                .transpose()?,
            label: label(process)?,
            ..Self::default()
        })
    }

    /// And those that its container has for all.
    pub(crate) fn of_container(
        &mut self,
        personality: Option<&oci::LinuxPersonality>,
        memory: Option<&oci::LinuxMemoryPolicy>,
    ) -> Result<(), CreateError> {
        self.personality = personality.map(domain).transpose()?;
        self.memory = memory.map(policy).transpose()?;
        Ok(())
    }
}

/// `SCHED_*` (linux/sched.h).
fn policy_number(policy: oci::LinuxSchedulerPolicy) -> u32 {
    use oci::LinuxSchedulerPolicy as Policy;
    match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    }
}

/// `SCHED_FLAG_*` (linux/sched.h).
fn flag_bit(flag: oci::LinuxSchedulerFlag) -> u64 {
    use oci::LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

fn scheduler(asked: &oci::Scheduler) -> Result<SchedulerAttributes, CreateError> {
    use oci::LinuxSchedulerPolicy as Policy;
    let at = |name: &str| format!("process.scheduler.{name}");
    let policy = *asked.policy();
    let nice = asked.nice().unwrap_or(0);
    if !(-20..=19).contains(&nice) {
        let reason = format!("{nice} is not between -20 and 19");
        return Err(invalid(&at("nice"), reason));
    }
    let priority = asked.priority().unwrap_or(0);
    let real_time = matches!(policy, Policy::SchedFifo | Policy::SchedRr);
    let priorities = if real_time { 1..=99 } else { 0..=0 };
    if !priorities.contains(&priority) {
        let reason = if real_time {
            format!("{priority} is not between 1 and 99")
        } else {
            format!("{policy} has no priorities")
        };
        return Err(invalid(&at("priority"), reason));
    }
    let deadline = [
        ("runtime", *asked.runtime()),
        ("deadline", *asked.deadline()),
        ("period", *asked.period()),
    ];
    if policy != Policy::SchedDeadline {
        let given = deadline
            .iter()
            .find(|(_, time)| time.is_some_and(|time| time != 0));
        if let Some((name, _)) = given {
            return Err(invalid(&at(name), format!("{policy} has no deadlines")));
        }
    }
    let [runtime, deadline, period] = deadline.map(|(_, time)| time.unwrap_or(0));
    let flags = asked.flags().iter().flatten();
    Ok(SchedulerAttributes {
        policy: policy_number(policy),
        flags: flags.fold(0, |all, flag| all | flag_bit(*flag)),
        nice,
        priority: priority.unsigned_abs(),
        runtime,
        deadline,
        period,
        ..SchedulerAttributes::default()
    })
}

fn io_priority(asked: &oci::LinuxIOPriority) -> Result<u32, CreateError> {
    /// `IOPRIO_CLASS_SHIFT` (linux/ioprio.h).
    const CLASS_SHIFT: u32 = 13;
    let class: u32 = match asked.class() {
        oci::IOPriorityClass::IoprioClassRt => 1,
        oci::IOPriorityClass::IoprioClassBe => 2,
        oci::IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(asked.priority()) {
        Ok(level @ 0..=7) => Ok(class << CLASS_SHIFT | level),
        _ => {
            let reason = format!("{} is not between 0 and 7", asked.priority());
            Err(invalid("process.ioPriority.priority", reason))
        }
    }
}

fn domain(asked: &oci::LinuxPersonality) -> Result<libc::c_ulong, CreateError> {
    if let Some(flag) = asked.flags().iter().flatten().next() {
        // The specification has the field and no value for it.
        let reason = format!("unknown flag `{flag}`");
        return Err(invalid("linux.personality.flags[0]", reason));
    }
    // sys/personality.h
    Ok(match asked.domain() {
        oci::LinuxPersonalityDomain::PerLinux => 0,
        oci::LinuxPersonalityDomain::PerLinux32 => 8,
    })
}

/// Modes by name, in the order of `MPOL_*` (linux/mempolicy.h).
pub(crate) const MEMORY_MODES: [oci::MemoryPolicyModeType; 7] = {
    use oci::MemoryPolicyModeType as Mode;
    [
        Mode::MpolDefault,
        Mode::MpolPreferred,
        Mode::MpolBind,
        Mode::MpolInterleave,
        Mode::MpolLocal,
        Mode::MpolPreferredMany,
        Mode::MpolWeightedInterleave,
    ]
};

/// `MPOL_F_*` (linux/mempolicy.h).
pub(crate) const MEMORY_FLAGS: [(oci::MemoryPolicyFlagType, u32); 3] = {
    use oci::MemoryPolicyFlagType as Flag;
    [
        (Flag::MpolFNumaBalancing, 1 << 13),
        (Flag::MpolFRelativeNodes, 1 << 14),
        (Flag::MpolFStaticNodes, 1 << 15),
    ]
};

fn policy(asked: &oci::LinuxMemoryPolicy) -> Result<Policy, CreateError> {
    use oci::MemoryPolicyModeType as Mode;
    let nodes = match asked.nodes().as_deref() {
        None | Some("") => Vec::new(),
        Some(list) => numbers(list, Policy::MAX_NODES)
            .map_err(|reason| invalid("linux.memoryPolicy.nodes", reason))?,
    };
    let mode = asked.mode();
    let wants_nodes = match mode {
        Mode::MpolDefault | Mode::MpolLocal => Some(false),
        // Without nodes it is the local one.
        Mode::MpolPreferred => None,
        _ => Some(true),
    };
    if wants_nodes.is_some_and(|wants| wants == nodes.is_empty()) {
        let wants = if nodes.is_empty() { "needs" } else { "has no" };
        let reason = format!("{mode} {wants} nodes");
        return Err(invalid("linux.memoryPolicy.nodes", reason));
    }
    let number = MEMORY_MODES.iter().position(|known| *known == mode);
    let number = number.and_then(|number| u32::try_from(number).ok());
    let number = number.ok_or_else(|| invalid("linux.memoryPolicy.mode", "is unknown"))?;
    let given = asked.flags().as_deref().unwrap_or_default();
    let flags = MEMORY_FLAGS.iter().filter(|(flag, _)| given.contains(flag));
    Ok(Policy::new(
        flags.fold(number, |all, (_, bit)| all | bit),
        &nodes,
    ))
}

impl Affinity {
    pub(crate) fn new(process: &oci::Process) -> Result<Self, CreateError> {
        let Some(asked) = process.exec_cpu_affinity() else {
            return Ok(Self::default());
        };
        Ok(Self {
            initial: processors("initial", asked.initial().as_deref())?,
            last: processors("final", asked.cpu_affinity_final().as_deref())?,
        })
    }
}

fn processors(name: &str, list: Option<&str>) -> Result<Option<CpuSet>, CreateError> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let mut set = CpuSet::new();
    let all = numbers(list, CpuSet::MAX_CPU)
        .map_err(|reason| invalid(&format!("process.execCPUAffinity.{name}"), reason))?;
    all.into_iter().for_each(|cpu| set.set(cpu));
    Ok(Some(set))
}

/// `0-3,7`, below `limit`.
fn numbers(list: &str, limit: usize) -> Result<Vec<usize>, String> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>();
        let (Ok(first), Ok(last)) = (number(first), number(last)) else {
            return Err(format!("`{list}` is not a list such as `0-3,7`"));
        };
        if first > last {
            return Err(format!("`{part}` ends before it begins"));
        }
        if last >= limit {
            return Err(format!("{last} is too large, the last is {}", limit - 1));
        }
        all.extend(first..=last);
    }
    Ok(all)
}

fn label(process: &oci::Process) -> Result<Option<Label>, CreateError> {
    // Docker sends an empty one where it means none.
    let given = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    let apparmor = given(process.apparmor_profile());
    let selinux = given(process.selinux_label());
    // Which is what every program is without AppArmor.
    let idle = apparmor.as_deref() == Some("unconfined") && !lsm::has_apparmor();
    match (apparmor.filter(|_| !idle), selinux) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(invalid(
            "process.selinuxLabel",
            "excludes process.apparmorProfile",
        )),
        (Some(profile), None) if lsm::has_apparmor() => Ok(Some(Label::AppArmor(profile))),
        (Some(profile), None) => Err(invalid(
            "process.apparmorProfile",
            format!("`{profile}` cannot be applied: AppArmor is not enabled on this host"),
        )),
        (None, Some(label)) if lsm::has_selinux() => Ok(Some(Label::SeLinux(label))),
        (None, Some(label)) => Err(invalid(
            "process.selinuxLabel",
            format!("`{label}` cannot be applied: SELinux is not enabled on this host"),
        )),
    }
}

/// Checks the label of files, which is a mount option of SELinux's.
pub(crate) fn mount_label(label: Option<&str>) -> Result<Option<String>, CreateError> {
    match label.filter(|label| !label.is_empty()) {
        None => Ok(None),
        Some(label) if lsm::has_selinux() => Ok(Some(label.to_owned())),
        Some(label) => Err(invalid(
            "linux.mountLabel",
            format!("`{label}` cannot be applied: SELinux is not enabled on this host"),
        )),
    }
}
