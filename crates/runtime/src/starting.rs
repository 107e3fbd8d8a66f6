//! From the order to start to the program's first instruction, as whoever gave the order hears of it.
//!
//! What is between may take long: the file of the program may be on a file system that does not
//! answer. So each step is one call, and a caller who has more to do waits for the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::channel::{Channel, Word};
use crate::create::start_error;
use crate::error::{CreateError, StartError};
use crate::listener;

/// A process that was told to start. Its descriptor is readable when [`advance`](Self::advance) has
/// something to hear.
#[derive(Debug)]
pub struct Starting {
    gate: Channel,
    /// Whether its next act is to become the program, so that the end of the channel is the exec.
    announced: bool,
}

impl Starting {
    pub(crate) fn new(gate: Channel) -> Self {
        let announced = false;
        Self { gate, announced }
    }

    pub(crate) fn gate(&self) -> &Channel {
        &self.gate
    }

    /// Hears what the process says next, for which it waits. Whether the program runs now.
    pub fn advance(&mut self) -> Result<bool, StartError> {
        match self.gate.next().map_err(CreateError::Channel)? {
            Some(Word::Program) => self.announced = true,
            Some(Word::Listener(coming)) => {
                listener::pass_on(coming, &self.gate).map_err(CreateError::Listener)?;
            }
            Some(Word::Failed(failure)) => return Err(start_error(failure)),
            Some(_) => return Err(CreateError::Channel(io::ErrorKind::InvalidData.into()).into()),
            None if self.announced => return Ok(true),
            None => return Err(CreateError::Died.into()),
        }
        Ok(false)
    }

    /// Waits until the program runs.
    pub(crate) fn finish(mut self) -> Result<(), StartError> {
        while !self.advance()? {}
        Ok(())
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.gate.as_fd()
    }
}
