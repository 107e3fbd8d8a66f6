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
    /// An architecture without a system call table.
    #[error("seccomp: architecture {0} is not supported")]
    Architecture(String),
    /// An action that needs what we do not have.
    #[error("seccomp: action {0} is not supported")]
    Action(String),
    /// An argument index above 5.
    #[error("seccomp: {syscall}: there is no argument {index}")]
    Argument {
        /// The system call.
        syscall: String,
        /// Which argument.
        index: usize,
    },
    /// More than the kernel loads.
    #[error("seccomp: the program has {0} instructions, the kernel loads 4096")]
    TooLong(usize),
}

/// What a filter is loaded with that says nothing: without it, the kernels before 5.16 slow down
/// every filtered process by switching off speculation.
pub(crate) const DEFAULT_FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// The flags of a filter, as `seccomp(2)` takes them.
pub(crate) fn flags(filter: &oci::LinuxSeccomp) -> libc::c_ulong {
    use oci::LinuxSeccompFilterFlag as Flag;
    let Some(flags) = filter.flags().as_ref().filter(|flags| !flags.is_empty()) else {
        return DEFAULT_FLAGS;
    };
    let bits = flags.iter().map(|flag| match flag {
        Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        Flag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        Flag::SeccompFilterFlagWaitKillableRecv => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    });
    bits.fold(0, |all, one| all | one)
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
    compile::compile(filter)
}
