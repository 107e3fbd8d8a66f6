//! Files as block devices, for kernels that mount from no files.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// How often somebody else may take the device that was free a moment ago.
const ATTEMPTS: usize = 1000;

/// A file attached to a loop device, read-only. It is detached when nobody has the device open or
/// mounted any more, this value being the first who has.
#[derive(Debug)]
pub(super) struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Reads go through the page cache of the file, where what was pulled just now still is.
    pub(super) fn attach(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut failure = io::Error::from(io::ErrorKind::ResourceBusy);
        for _ in 0..ATTEMPTS {
            let number = sys::loop_device::find_free(control.as_fd())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let device = File::open(&path)?;
            match sys::loop_device::attach(device.as_fd(), file.as_fd()) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        _open: device,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => failure = error,
                Err(error) => return Err(error),
            }
        }
        Err(failure)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
