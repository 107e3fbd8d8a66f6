//! Containers on hosts that are not like the one at hand: with other cgroups, systemd, security modules.

use std::path::Path;

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
    outcome.passed();
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
    outcome.passed();
}

/// Runs some tests in a guest that has been prepared by `before`.
fn check_labels(guest: Guest, before: &str, tests: &str) {
    let suite = std::env::current_exe().unwrap();
    let outcome = guest
        .program(&suite)
        .tool("busybox")
        .run(&format!("set -e\n{before}\n{} {tests}", suite.display()));
    outcome.passed();
    let output = &outcome.output;
    assert!(output.contains("test result: ok. 1 passed"), "{output}");
}

#[test]
fn slow_profiles_of_apparmor_are_put_on() {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/apparmor-profile.bin");
    let load = format!(
        "mount -t securityfs securityfs /sys/kernel/security\n\
         cat {} > /sys/kernel/security/apparmor/.load\n\
         grep '^berth-test (enforce)$' /sys/kernel/security/apparmor/profiles",
        profile.display()
    );
    let guest = Guest::new(Cgroups::V2).file(&profile);
    check_labels(guest, &load, "attributes::privileged_a_profile_of_apparmor");
}

#[test]
fn slow_labels_of_selinux_are_put_on() {
    // There is no policy to load: shown is that a label that the kernel takes is in nobody's way.
    let mount = "mount -t selinuxfs selinuxfs /sys/fs/selinux";
    let guest = Guest::new(Cgroups::V2).argument("security=selinux");
    check_labels(guest, mount, "attributes::privileged_labels_of_selinux");
}
