//! Limits again, end to end, on hosts that mount cgroups differently from the one at hand.

use std::path::Path;

use testkit::guest::{Cgroups, Guest};

/// A container in a scope of systemd's, by runc's command line.
const SCOPE: &str = r#"
set -e
berth() { BERTH runtime --systemd-cgroup --root /run/b "$@"; }
mkdir -p /b/rootfs/bin && cp /bin/busybox /b/rootfs/bin
cd /b && berth spec
sed -i 's|"terminal": true|"terminal": false|; s|"sh"|"/bin/busybox", "sleep", "1000"|
        s|"linux": {|"linux": {"cgroupsPath": "berth-e2e.slice:box:two",|' config.json
property=org.systemd.property
annotations="\"$property.TimeoutStopSec\": \"7\", \"$property.Documentation\": \"['man:two']\""
sed -i "s|\"root\": {|\"annotations\": {$annotations}, &|" config.json
cgroup=/sys/fs/cgroup/berth.slice/berth-e2e.slice/box-two.scope
berth create --bundle /b two && berth start two
grep -r TimeoutStopSec=7 /run/systemd/transient
grep -r Documentation=man:two /run/systemd/transient
berth update --pids-limit 7 --memory 33554432 two
test "$(cat $cgroup/pids.max $cgroup/memory.max | xargs)" = "7 33554432"
berth exec two /bin/busybox true
berth pause two && grep -q "frozen 1" $cgroup/cgroup.events && berth resume two
test "$(berth ps two | wc -l)" = 2
berth delete --force two
test ! -e $cgroup && test -z "$(ls /run/b)"
"#;

#[test]
fn slow_a_container_of_runcs_command_line_is_in_a_scope_of_systemds() {
    let berth = env!("CARGO_BIN_EXE_berth");
    let outcome = Guest::new(Cgroups::V2)
        .systemd()
        .program(Path::new(berth))
        .run(&format!("set -x\n{}", SCOPE.replace("BERTH", berth)));
    outcome.passed();
}

const LIMITS: &str = "--exact daily::privileged_limits_reach_the_kernel";
/// What a cgroup layout can break of `berth runtime`.
const RUNTIME: &str = "--test-threads=2 runtime::commands runtime::exec runtime::cgroups";

/// Runs tests of this suite in a guest.
fn check(cgroups: Cgroups, tests: &str) {
    let suite = std::env::current_exe().unwrap();
    let outcome = Guest::new(cgroups)
        .program(&suite)
        .program(Path::new(env!("CARGO_BIN_EXE_berth")))
        .tool("busybox")
        .tool("docker")
        .run(&format!("{} {tests}", suite.display()));
    outcome.passed();
}

#[test]
fn slow_limits_hold_on_version_2_alone() {
    check(Cgroups::V2, LIMITS);
}

#[test]
fn slow_limits_hold_on_version_1_alone() {
    check(Cgroups::V1, LIMITS);
}

#[test]
fn slow_the_runtime_works_on_version_2_alone() {
    check(Cgroups::V2, RUNTIME);
}

#[test]
fn slow_the_runtime_works_on_version_1_alone() {
    check(Cgroups::V1, RUNTIME);
}
