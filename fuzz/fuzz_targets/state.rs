//! The state of a container.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::state(bytes));
