//! `config.json` of a bundle.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::config(bytes));
