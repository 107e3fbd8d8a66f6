//! System call filters: Docker's profiles, and the compiler from a filter to classic BPF.

mod compile;
mod profile;
mod table;

use crate::oci;

/// The machine whose system calls a profile is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// x86_64, with x86 and x32 beside it.
    X86_64,
    /// aarch64, with arm beside it.
    Aarch64,
}

impl Machine {
    /// The one that this program was built for.
    pub const HOST: Self = if cfg!(target_arch = "aarch64") {
        Self::Aarch64
    } else {
        Self::X86_64
    };

    /// Whether it runs programs of `abi`.
    fn runs(self, abi: table::Abi) -> bool {
        use table::Abi;
        match self {
            Self::X86_64 => matches!(abi, Abi::X86_64 | Abi::X86 | Abi::X32),
            Self::Aarch64 => matches!(abi, Abi::Aarch64 | Abi::Arm),
        }
    }
}

/// A profile that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not JSON, or not a profile.
    #[error("decode the seccomp profile")]
    Json(#[source] serde_json::Error),
    /// A field with a value nobody knows.
    #[error("seccomp profile: {field}: unknown value {value:?}")]
    Unknown {
        /// Such as `syscalls[3].action`.
        field: String,
        /// What was given.
        value: String,
    },
    /// Two fields that exclude each other.
    #[error("seccomp profile: {0}")]
    Conflict(String),
}

/// A filter that cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// Something in it cannot be.
    #[error("seccomp profile: {path}: {reason}")]
    Invalid {
        /// Where in the filter, such as `syscalls[3].args[0].index`.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// More than the kernel loads.
    #[error("seccomp profile: the program has {0} instructions, the kernel loads 4096")]
    TooLong(usize),
}

/// What a filter is loaded with that says nothing: without it, the kernels before 5.16 slow down
/// every filtered process by switching off speculation.
pub(crate) const DEFAULT_FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// Every action of the specification; all are compiled.
pub const ACTIONS: [oci::LinuxSeccompAction; 9] = {
    use oci::LinuxSeccompAction as A;
    [
        A::ScmpActAllow,
        A::ScmpActErrno,
        A::ScmpActKill,
        A::ScmpActKillProcess,
        A::ScmpActKillThread,
        A::ScmpActLog,
        A::ScmpActNotify,
        A::ScmpActTrace,
        A::ScmpActTrap,
    ]
};

/// Every operator of the specification; all are compiled.
pub const OPERATORS: [oci::LinuxSeccompOperator; 7] = {
    use oci::LinuxSeccompOperator as O;
    [
        O::ScmpCmpEq,
        O::ScmpCmpGe,
        O::ScmpCmpGt,
        O::ScmpCmpLe,
        O::ScmpCmpLt,
        O::ScmpCmpMaskedEq,
        O::ScmpCmpNe,
    ]
};

/// Every architecture of the specification. Those that this machine cannot run are accepted and
/// left out of the program.
pub const ARCHITECTURES: [oci::Arch; 23] = {
    use oci::Arch as A;
    [
        A::ScmpArchAarch64,
        A::ScmpArchArm,
        A::ScmpArchLoongarch64,
        A::ScmpArchM68k,
        A::ScmpArchMips,
        A::ScmpArchMips64,
        A::ScmpArchMips64n32,
        A::ScmpArchMipsel,
        A::ScmpArchMipsel64,
        A::ScmpArchMipsel64n32,
        A::ScmpArchParisc,
        A::ScmpArchParisc64,
        A::ScmpArchPpc,
        A::ScmpArchPpc64,
        A::ScmpArchPpc64le,
        A::ScmpArchRiscv64,
        A::ScmpArchS390,
        A::ScmpArchS390x,
        A::ScmpArchSh,
        A::ScmpArchSheb,
        A::ScmpArchX32,
        A::ScmpArchX86,
        A::ScmpArchX86_64,
    ]
};

/// Every flag of the specification, and what `seccomp(2)` calls it.
pub(crate) const FLAGS: [(oci::LinuxSeccompFilterFlag, libc::c_ulong); 4] = {
    use oci::LinuxSeccompFilterFlag as F;
    [
        (F::SeccompFilterFlagTsync, libc::SECCOMP_FILTER_FLAG_TSYNC),
        (
            F::SeccompFilterFlagSpecAllow,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        ),
        (F::SeccompFilterFlagLog, libc::SECCOMP_FILTER_FLAG_LOG),
        (
            F::SeccompFilterFlagWaitKillableRecv,
            libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        ),
    ]
};

/// The flags of a filter, as `seccomp(2)` takes them.
pub(crate) fn flags(filter: &oci::LinuxSeccomp) -> libc::c_ulong {
    let Some(named) = filter.flags() else {
        return DEFAULT_FLAGS;
    };
    let given = FLAGS.iter().filter(|(flag, _)| named.contains(flag));
    let bits = given.fold(0, |all, (_, bits)| all | bits);
    if notifies(filter) {
        // The two exclude each other, and a process with one thread has none to synchronise.
        bits & !libc::SECCOMP_FILTER_FLAG_TSYNC
    } else {
        // Means nothing to the kernel where nobody listens, and is then refused.
        bits & !libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
    }
}

/// Whether some calls are somebody else's to answer.
pub(crate) fn notifies(filter: &oci::LinuxSeccomp) -> bool {
    let notify = oci::LinuxSeccompAction::ScmpActNotify;
    let mut rules = filter.syscalls().iter().flatten();
    filter.default_action() == notify || rules.any(|rule| rule.action() == notify)
}

/// Whether the kernel lets every call of `name` through, as far as that can be told without looking
/// at arguments.
pub(crate) fn plainly_allows(filter: &oci::LinuxSeccomp, name: &str) -> bool {
    let passes = |action| {
        use oci::LinuxSeccompAction as A;
        matches!(action, A::ScmpActAllow | A::ScmpActLog)
    };
    let rules = || {
        let named = |rule: &&oci::LinuxSyscall| rule.names().iter().any(|named| named == name);
        filter.syscalls().iter().flatten().filter(named)
    };
    let unconditional = |rule: &oci::LinuxSyscall| rule.args().iter().flatten().next().is_none();
    rules().all(|rule| passes(rule.action()))
        && (passes(filter.default_action()) || rules().any(unconditional))
}

/// Docker's default profile for a process that holds these capabilities (`CAP_…`).
pub fn docker_default(capabilities: &[String], machine: Machine) -> oci::LinuxSeccomp {
    from_docker_profile(profile::DOCKER_DEFAULT, capabilities, machine)
        .expect("the embedded profile is right, as the tests show for both machines")
}

/// A profile in Docker's format (`--security-opt seccomp=FILE`), resolved for these capabilities
/// and the kernel that runs here.
pub fn from_docker_profile(
    json: &[u8],
    capabilities: &[String],
    machine: Machine,
) -> Result<oci::LinuxSeccomp, ProfileError> {
    let release = rustix::system::uname();
    let kernel = profile::kernel_version(&release.release().to_string_lossy());
    // A kernel whose name tells nothing gets only what every kernel may do.
    let kernel = kernel.unwrap_or((0, 0));
    profile::resolve(
        json,
        &profile::Situation {
            capabilities,
            machine,
            kernel,
        },
    )
}

/// The filter as the kernel loads it: an array of `struct sock_filter`, 8 bytes each.
pub fn compile(filter: &oci::LinuxSeccomp) -> Result<Vec<u8>, CompileError> {
    compile::compile(filter, Machine::HOST)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reads(default: &str, rules: &Value) -> bool {
        let filter = json!({"defaultAction": default, "syscalls": rules});
        plainly_allows(&serde_json::from_value(filter).unwrap(), "read")
    }

    #[test]
    fn a_call_is_plainly_allowed_by_a_rule_of_its_own_or_by_default() {
        let rule = |name: &str, action: &str| json!({"names": [name], "action": action});
        let (allow, errno) = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
        assert!(reads(allow, &json!([])));
        assert!(reads(allow, &json!([rule("write", errno)])));
        assert!(reads(errno, &json!([rule("read", allow)])));
        assert!(!reads(errno, &json!([rule("write", allow)])));
        assert!(!reads(allow, &json!([rule("read", "SCMP_ACT_NOTIFY")])));
    }

    #[test]
    fn a_call_that_is_allowed_for_some_arguments_is_not_plainly_allowed() {
        let rule = json!({"names": ["read"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]});
        assert!(!reads("SCMP_ACT_ERRNO", &json!([rule])));
        assert!(reads("SCMP_ACT_ALLOW", &json!([rule])));
    }
}
