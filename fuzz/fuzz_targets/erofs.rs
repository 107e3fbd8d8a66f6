//! A layer's tar becomes an EROFS image.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzzing::erofs(bytes));
