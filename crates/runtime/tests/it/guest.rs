//! Containers and their limits again, on hosts that mount cgroups differently from the one at hand.

use testkit::guest::{Cgroups, Guest};

/// What a cgroup layout can break. The other modules need programs of a whole host, or have
/// nothing to do with cgroups.
const TESTS: &str = "cgroups:: exec:: process:: view::privileged_cgroups";

fn check(cgroups: Cgroups) {
    let suite = std::env::current_exe().unwrap();
    let outcome = Guest::new(cgroups)
        .program(&suite)
        .tool("busybox")
        .run(&format!("{} --test-threads=2 {TESTS}", suite.display()));
    assert_eq!(
        outcome.code,
        Some(0),
        "{}\n{}",
        outcome.console,
        outcome.output
    );
}

#[test]
fn slow_containers_live_on_version_2_alone() {
    check(Cgroups::V2);
}

#[test]
fn slow_containers_live_on_version_1_alone() {
    check(Cgroups::V1);
}

#[test]
fn slow_systemd_makes_the_cgroups_of_containers() {
    let suite = std::env::current_exe().unwrap();
    let outcome = Guest::new(Cgroups::V2)
        .systemd()
        .program(&suite)
        .tool("busybox")
        .run(&format!(
            "{}=1 {} --exact systemd::in_a_guest --test-threads=1",
            crate::systemd::GUEST,
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
