//! Limits again, end to end, on hosts that mount cgroups differently from the one at hand.

use std::path::Path;

use testkit::guest::{Cgroups, Guest};

/// A bundle whose container is to be in a scope of systemd's.
const BUNDLE: &str = r#"
set -e
berth() { BERTH runtime --systemd-cgroup --root /run/b "$@"; }
mkdir -p /b/rootfs/bin && cp /bin/busybox /b/rootfs/bin
cd /b && berth spec
sed -i 's|"terminal": true|"terminal": false|; s|"sh"|"/bin/busybox", "sleep", "1000"|
        s|"linux": {|"linux": {"cgroupsPath": "berth-e2e.slice:box:two",|' config.json
"#;

/// A container in a scope of systemd's, by runc's command line.
const SCOPE: &str = r#"
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

/// The same where version 1 has the controllers. SIGHUP has systemd reload, and write again what it
/// knows of the container's cgroup.
const SCOPE_OF_VERSION_1: &str = r#"
cgroups=/sys/fs/cgroup scope=berth.slice/berth-e2e.slice/box-two.scope
limits() { cat $cgroups/pids/$scope/pids.max $cgroups/memory/$scope/memory.limit_in_bytes | xargs; }
devices() { sort $cgroups/devices/$scope/devices.list; }
berth create --pid-file /run/pid --bundle /b two && berth start two
joined=0
for hierarchy in $cgroups/*/; do
  grep -qx "$(cat /run/pid)" $hierarchy/$scope/cgroup.procs
  joined=$((joined + 1))
done
test $joined -gt 8
devices > /run/before
grep -qx 'c 1:3 rwm' /run/before && ! grep -q '^a' /run/before
berth update --pids-limit 7 --memory 33554432 two
test "$(limits)" = "7 33554432"
kill -HUP 1
berth update --pids-limit 8 two
test "$(limits)" = "8 33554432"
devices | diff /run/before -
berth exec two /bin/busybox true
berth pause two && berth state two | grep -q '"status": "paused"' && berth resume two
test "$(berth ps two | wc -l)" = 2
berth delete --force two
test -z "$(find $cgroups/*/ -name box-two.scope)" && test -z "$(ls /run/b)"
"#;

/// An ordinary user's, made by the manager of that user.
const SCOPE_OF_A_USER: &str = r#"
set -e
berth() { BERTH runtime --systemd-cgroup --root $XDG_RUNTIME_DIR/b "$@"; }
mkdir -p /tmp/b/rootfs/bin && cp /bin/busybox /tmp/b/rootfs/bin
cd /tmp/b && berth spec --rootless
sed -i 's|"terminal": true|"terminal": false|; s|"sh"|"/bin/busybox", "sleep", "1000"|
        s|"linux": {|&"cgroupsPath": "user.slice:box:three", "resources": LIMITS,|
        s|LIMITS|{"pids": {"limit": 9}, "memory": {"limit": 67108864}}|' config.json
cgroup=/sys/fs/cgroup/user.slice/user-1000.slice/manager.service/user.slice/box-three.scope
limits() { cat $cgroup/pids.max $cgroup/memory.max | xargs; }
berth create --pid-file $XDG_RUNTIME_DIR/pid --bundle /tmp/b three && berth start three
test "$(id -u)" = 1000
grep -qx "$(cat $XDG_RUNTIME_DIR/pid)" $cgroup/cgroup.procs
test "$(limits)" = "9 67108864"
berth update --pids-limit 7 three
test "$(limits)" = "7 67108864"
berth exec three /bin/busybox true
berth pause three && grep -q "frozen 1" $cgroup/cgroup.events && berth resume three
berth delete --force three
test ! -e $cgroup && test -z "$(ls $XDG_RUNTIME_DIR/b)"
"#;

fn with_systemd(cgroups: Cgroups) -> Guest {
    Guest::new(cgroups)
        .systemd()
        .program(Path::new(env!("CARGO_BIN_EXE_berth")))
}

fn traced(script: &str) -> String {
    let script = script.replace("BERTH", env!("CARGO_BIN_EXE_berth"));
    format!("set -x\n{script}")
}

#[test]
fn slow_a_container_of_runcs_command_line_is_in_a_scope_of_systemds() {
    with_systemd(Cgroups::V2)
        .run(&traced(&[BUNDLE, SCOPE].concat()))
        .passed();
}

#[test]
fn slow_a_scope_of_systemds_is_in_every_hierarchy_of_version_1() {
    let guest = with_systemd(Cgroups::V1);
    guest
        .run(&traced(&[BUNDLE, SCOPE_OF_VERSION_1].concat()))
        .passed();
}

#[test]
fn slow_a_scope_of_systemds_is_in_every_hierarchy_of_both_versions() {
    let guest = with_systemd(Cgroups::Hybrid);
    guest
        .run(&traced(&[BUNDLE, SCOPE_OF_VERSION_1].concat()))
        .passed();
}

#[test]
fn slow_a_container_of_an_ordinary_user_is_in_a_scope_of_the_users_manager() {
    let guest = with_systemd(Cgroups::V2);
    guest.run_as_user(&traced(SCOPE_OF_A_USER)).passed();
}

const LIMITS: &str = "--exact daily::privileged_limits_reach_the_kernel";
/// What a cgroup layout can break of `berth runtime`.
const RUNTIME: &str = "--test-threads=2 runtime::commands runtime::exec runtime::cgroups";

/// What it can break of saving and restoring.
const CHECKPOINT: &str = "--test-threads=1 --skip killed runtime::checkpoint::";

/// Runs tests of this suite in a guest.
fn check(cgroups: Cgroups, tests: &str) {
    check_in(Guest::new(cgroups).tool("docker"), tests);
}

fn check_in(guest: Guest, tests: &str) {
    let suite = std::env::current_exe().unwrap();
    let outcome = guest
        .program(&suite)
        .program(Path::new(env!("CARGO_BIN_EXE_berth")))
        .tool("busybox")
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

/// One with CRIU, and with the tar that it packs a tmpfs with.
fn with_criu(cgroups: Cgroups) -> Guest {
    let guest = Guest::new(cgroups).tool("criu");
    guest.program(Path::new("/usr/bin/tar"))
}

#[test]
fn slow_containers_are_saved_and_restored_on_version_2_alone() {
    check_in(with_criu(Cgroups::V2), CHECKPOINT);
}

#[test]
fn slow_containers_are_saved_and_restored_on_version_1_alone() {
    check_in(with_criu(Cgroups::V1), CHECKPOINT);
}

/// A container that counts in a file, keeps what it has in memory, and starts no program meanwhile.
const COUNTER: &str = r#"
set -e
export PATH=CRIU:/usr/bin:$PATH
counted() { tail -n 1 /tmp/b/rootfs/count; }
goes_on() { was=$(counted); until [ "$(counted)" -gt "$was" ]; do :; done; }
pages() { du -kc $(ls /tmp/$1/pages-*.img) | tail -n 1 | cut -f 1; }
mkdir -p /tmp/b/rootfs/bin && cp /bin/busybox /tmp/b/rootfs/bin
cd /tmp/b && BERTH runtime spec
cat > rootfs/program << 'END'
x=$(/bin/busybox head -c 2000000 /dev/zero | /bin/busybox tr '\0' x)
i=0
while [ ! -e /enough ]; do i=$((i+1)); echo $i >> /count; done
echo "$x" > /memory
END
sed -i 's|"terminal": true|"terminal": false|; s|"readonly": true|"readonly": false|
        s|"sh"|"/bin/busybox", "sh", "/program"|' config.json
start() {
  # Its streams are the container's.
  berth --log /tmp/said "$@" < /dev/null > /dev/null 2>&1 || { cat /tmp/said /tmp/images/*.log; exit 1; }
  until [ -s rootfs/count ]; do :; done
  goes_on
}
"#;

/// Memory that is saved ahead, and memory that follows later: neither can be had on every kernel.
const MEMORY: &str = r#"
berth() { BERTH runtime --root /run/b "$@"; }
start run --detach one
berth checkpoint --pre-dump --image-path /tmp/first one
goes_on
berth checkpoint --pre-dump --image-path /tmp/second --parent-path ../first one
goes_on
first=$(pages first) second=$(pages second)
test $first -gt 2000 && test $second -lt 1000
berth checkpoint --auto-dedup --image-path /tmp/third --parent-path ../second one
test $(pages third) -lt 1000
# What the third has anew is not kept twice.
test $(($(pages first) + $(pages second))) -lt $((first + second))
start restore --detach --image-path /tmp/third two
mkfifo /tmp/status
berth checkpoint --lazy-pages --page-server 127.0.0.1:7777 --status-fd 7 --image-path /tmp/lazy two 7> /tmp/status &
saving=$!
head -c 1 /tmp/status
mkdir /tmp/work
criu lazy-pages --page-server --address 127.0.0.1 --port 7777 -D /tmp/lazy -W /tmp/work -o pages.log &
serving=$!
until [ -e /tmp/work/lazy-pages.socket ]; do :; done
sed -i 's|"linux": {|"linux": {"cgroupsPath": "/three",|' config.json
start restore --detach --lazy-pages --image-path /tmp/lazy --work-path /tmp/work three
wait $saving && wait $serving
goes_on
true > rootfs/enough
until berth state three | grep -q stopped; do :; done
test $(tr -d x < rootfs/memory | wc -c) = 1 && test $(wc -c < rootfs/memory) = 2000001
berth delete three
"#;

/// Into a scope of systemd's, each time a new one.
const SAVED_SCOPE: &str = r#"
berth() { BERTH runtime --systemd-cgroup --root /run/b "$@"; }
sed -i 's|"linux": {|"linux": {"cgroupsPath": "berth-e2e.slice:box:two",|' config.json
cgroup=HIERARCHY/berth.slice/berth-e2e.slice/box-two.scope
start run --detach two
berth checkpoint --image-path /tmp/images two
test ! -e $cgroup
start restore --detach --pid-file /tmp/pid --image-path /tmp/images two
test "$(cat $cgroup/cgroup.procs)" = "$(cat /tmp/pid)"
test -e /run/systemd/transient/box-two.scope
berth pause two && berth resume two
berth delete --force two
test ! -e $cgroup && test -z "$(ls /run/b)"
"#;

/// A profile of AppArmor comes back, or another in its place.
const PROFILE: &str = r#"
berth() { BERTH runtime --root /run/b "$@"; }
mount -t securityfs securityfs /sys/kernel/security
cat PROFILE > /sys/kernel/security/apparmor/.load
sed -i 's|"args": \[|"apparmorProfile": "berth-test", &|' config.json
confined() { test "$(cat /proc/$(cat /tmp/pid)/attr/current)" = "$1"; }
start run --detach --pid-file /tmp/pid one
confined "berth-test (enforce)"
berth checkpoint --image-path /tmp/images one
start restore --detach --pid-file /tmp/pid --image-path /tmp/images one
confined "berth-test (enforce)"
berth checkpoint --image-path /tmp/images one
start restore --detach --pid-file /tmp/pid --lsm-profile apparmor:unconfined --image-path /tmp/images one
confined unconfined
berth delete --force one
"#;

/// Runs a script of this suite with CRIU at hand.
fn check_saving(guest: Guest, script: &str) {
    let berth = env!("CARGO_BIN_EXE_berth");
    let tools = testkit::tool("criu");
    let script = format!("set -x\n{COUNTER}{script}")
        .replace("BERTH", berth)
        .replace("CRIU", tools.parent().unwrap().to_str().unwrap());
    guest.program(Path::new(berth)).run(&script).passed();
}

#[test]
fn slow_memory_is_saved_ahead_and_restored_later() {
    check_saving(with_criu(Cgroups::V2), MEMORY);
}

#[test]
fn slow_a_saved_container_is_restored_into_a_scope_of_systemds() {
    let script = SAVED_SCOPE.replace("HIERARCHY", "/sys/fs/cgroup");
    check_saving(with_criu(Cgroups::V2).systemd(), &script);
}

#[test]
fn slow_a_saved_container_is_restored_into_a_scope_of_systemds_on_version_1_alone() {
    let script = SAVED_SCOPE.replace("HIERARCHY", "/sys/fs/cgroup/pids");
    check_saving(with_criu(Cgroups::V1).systemd(), &script);
}

#[test]
fn slow_a_saved_container_is_restored_with_its_profile_of_apparmor() {
    let profile = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../runtime/testdata/apparmor-profile.bin")
        .canonicalize()
        .unwrap();
    let script = PROFILE.replace("PROFILE", profile.to_str().unwrap());
    check_saving(with_criu(Cgroups::V2).file(&profile), &script);
}
