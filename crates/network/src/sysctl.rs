//! Kernel settings under `/proc/sys`, as the calling thread's network namespace sees them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The file of a setting, named with `/` because device names may have dots.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Writes a setting unless it has that value already.
pub(crate) fn write(name: &str, value: &str) -> io::Result<()> {
    let path = path(name);
    if fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    fs::write(path, value)
}

/// The same for a setting that kernels may lack, such as all of IPv6.
pub(crate) fn write_if_there(name: &str, value: &str) -> io::Result<()> {
    match write(name, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether a setting is there and not zero.
pub(crate) fn is_on(name: &str) -> bool {
    fs::read_to_string(path(name)).is_ok_and(|value| value.trim() != "0")
}

/// The setting by which a host passes IPv6 packets on.
pub(crate) const FORWARD_IPV6: &str = "net/ipv6/conf/all/forwarding";

/// Passes IPv6 packets on. A host that does so stops listening to its own router, unless its links
/// are told to go on: those that listened until now are.
pub(crate) fn forward_ipv6() -> io::Result<()> {
    if is_on(FORWARD_IPV6) {
        return Ok(());
    }
    for link in fs::read_dir(path("net/ipv6/conf"))?.flatten() {
        let setting = link.path().join("accept_ra");
        let listens = fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "1");
        let name = link.file_name();
        if listens && name != "all" {
            // A link that went meanwhile listens to nobody.
            let _ = fs::write(setting, "2");
        }
    }
    write(FORWARD_IPV6, "1")
}
