//! Limits again, end to end, on hosts that mount cgroups differently from the one at hand.

use std::path::Path;

use testkit::guest::{Cgroups, Guest};

fn check(cgroups: Cgroups) {
    let suite = std::env::current_exe().unwrap();
    let outcome = Guest::new(cgroups)
        .program(&suite)
        .program(Path::new(env!("CARGO_BIN_EXE_berth")))
        .tool("busybox")
        .tool("docker")
        .run(&format!(
            "{} --exact daily::privileged_limits_reach_the_kernel",
            suite.display()
        ));
    assert_eq!(
        outcome.code,
        Some(0),
        "{}\n{}",
        outcome.console,
        outcome.output
    );
}

#[test]
fn slow_limits_hold_on_version_2_alone() {
    check(Cgroups::V2);
}

#[test]
fn slow_limits_hold_on_version_1_alone() {
    check(Cgroups::V1);
}
