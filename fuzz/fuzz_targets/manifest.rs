//! Manifests, indexes and image configurations.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::manifest(bytes));
