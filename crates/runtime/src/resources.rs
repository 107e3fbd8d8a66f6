//! What cannot be among `linux.resources`, whatever the host: said before a cgroup is made. What a
//! kernel refuses of the rest is told by [`cgroup`](crate::cgroup).

use crate::error::CreateError;
use crate::oci;

/// `vm.swappiness` of a cgroup ends there.
const MAX_SWAPPINESS: u64 = 100;

pub(crate) fn check(resources: &oci::LinuxResources) -> Result<(), CreateError> {
    if let Some(memory) = resources.memory() {
        check_memory(memory)?;
    }
    for (i, rule) in resources.devices().iter().flatten().enumerate() {
        let access = rule.access().as_deref().unwrap_or_default();
        if access.contains(|letter| !"rwm".contains(letter)) {
            let at = format!("linux.resources.devices[{i}].access");
            let reason = format!("`{access}` is not made of `r`, `w` and `m`");
            return Err(CreateError::invalid(at, reason));
        }
    }
    Ok(())
}

fn check_memory(memory: &oci::LinuxMemory) -> Result<(), CreateError> {
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    if let (Some(limit), Some(swap)) = (positive(memory.limit()), positive(memory.swap()))
        && swap < limit
    {
        // The specification counts both together.
        let reason = format!("{swap}, memory and swap together, is below the memory limit {limit}");
        return Err(CreateError::invalid("linux.resources.memory.swap", reason));
    }
    match memory.swappiness() {
        Some(value) if value > MAX_SWAPPINESS => Err(CreateError::invalid(
            "linux.resources.memory.swappiness",
            format!("{value} is above {MAX_SWAPPINESS}"),
        )),
        _ => Ok(()),
    }
}
