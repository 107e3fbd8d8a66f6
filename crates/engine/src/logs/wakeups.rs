//! Tells a reader that a log has grown.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Tells when something was written.
#[derive(Debug)]
pub(super) struct Wakeups {
    notify: AsyncFd<OwnedFd>,
}

impl Wakeups {
    /// Watches the directory of a log: renames and new files are seen too.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let notify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&notify, dir, flags | WatchFlags::ONLYDIR)?;
        #[expect(
            deprecated,
            reason = "the safe one; an `OwnedFd` owns its descriptor as it should"
        )]
        let notify = AsyncFd::new(notify)?;
        Ok(Self { notify })
    }

    /// Waits until something was written since the last wait.
    pub(super) async fn wait(&self) -> io::Result<()> {
        let mut ready = self.notify.readable().await?;
        let mut events = [0; 4096];
        loop {
            match rustix::io::read(self.notify.get_ref(), &mut events) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        Ok(())
    }
}
