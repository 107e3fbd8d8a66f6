//! What tests share: waiting for a condition, scratch roots, the daemon under test and its clients.
