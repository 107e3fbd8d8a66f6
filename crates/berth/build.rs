//! What the linker is told about the static program: how little of it is in memory when it runs.
//!
//! - Relocations are packed (RELR, which musl's start-up code reads since 1.2.4): 10 kB instead of
//!   860, all of which every start reads. A linker that does not know them says so and goes on.
//! - The functions and constants that start a container lie together: `layout.ld`.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=layout.ld");
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        let here = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{here}/layout.ld");
    }
}
