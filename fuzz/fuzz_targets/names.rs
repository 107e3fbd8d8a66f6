//! Questions for names, and replies of name servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::names(bytes));
