//! The `WWW-Authenticate` header of a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::authenticate(bytes));
