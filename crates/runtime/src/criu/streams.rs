//! Standard streams that lead out of a container: what they are called in the images.

use std::fs;
use std::io;
use std::os::linux::fs::MetadataExt as _;

/// What our descriptors 0, 1 and 2 lead to, as a container that gets them is saved with: a file of the
/// host as CRIU names it, `file[MOUNT:INODE]`, all else as the link of `/proc/self/fd`. They are
/// asked now, since the container may put others in their place.
pub fn own_streams() -> Vec<String> {
    // One that is closed leads nowhere.
    (0..3).map(|fd| stream(fd).unwrap_or_default()).collect()
}

fn stream(fd: i32) -> io::Result<String> {
    let path = format!("/proc/self/fd/{fd}");
    let link = fs::read_link(&path)?.to_string_lossy().into_owned();
    if !link.starts_with('/') {
        return Ok(link);
    }
    let found = fs::metadata(&path)?;
    if !found.is_file() {
        return Ok(link);
    }
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let mount: Option<u64> = mount.and_then(|mount| mount.trim().parse().ok());
    let mount = mount.ok_or(io::ErrorKind::InvalidData)?;
    Ok(format!("file[{mount:x}:{:x}]", found.st_ino()))
}

/// Whether a stream is a file of the host.
pub(super) fn is_file(name: &str) -> bool {
    name.starts_with("file[")
}
