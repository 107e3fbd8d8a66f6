//! Network devices of the host that a container is given. Each test has a host of its own.

use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::kit::{Container, Step};

/// Runs `ip` of the host that this thread is on.
fn ip(arguments: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "a tool of the host")]
    let mut ip = std::process::Command::new(testkit::tool("ip"));
    let ran = ip.args(arguments.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "ip {arguments}: {said}");
    String::from_utf8(ran.stdout).unwrap()
}

/// A host with a pair of devices: `one` has addresses and is on, `two` is its other end.
fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let host = std::thread::spawn(|| {
        sys::namespace::unshare(UnshareFlags::NEWNET).unwrap();
        ip("link set lo up");
        ip("link add one type veth peer name two");
        ip("address add 10.9.8.7/24 dev one");
        ip("address add 10.9.8.8/32 dev one");
        ip("address add fd00:9::7/64 dev one nodad");
        ip("link set one up");
        ip("link set two up");
        test();
    });
    host.join().unwrap();
}

fn given(script: &str, devices: Value) -> Container {
    Container::sh(script).set("/linux/netDevices", devices)
}

/// Names of the devices of the host that this thread is on.
fn names() -> Vec<String> {
    let links = ip("-o link show");
    let names = links
        .lines()
        .map(|line| line.split([':', '@']).nth(1).unwrap().trim().to_owned());
    names.collect()
}

#[test]
fn privileged_a_device_is_moved_with_its_addresses_and_switched_on() {
    on_a_host(|| {
        let script = "ip -o address show one; cat /sys/class/net/one/flags";
        let out = given(script, json!({"one": {}})).output();
        for expected in [
            "inet 10.9.8.7/24 ",
            "inet 10.9.8.8/32 ",
            "inet6 fd00:9::7/64 ",
            "scope global",
            // IFF_UP; whether there is a carrier is known later.
            "0x1003",
        ] {
            assert!(out.contains(expected), "{expected}: {out}");
        }
        let tentative = |line: &str| line.contains("fd00") && line.contains("tentative");
        assert!(!out.lines().any(tentative), "{out}");
        // Its container is gone, and a pair with it.
        testkit::eventually(std::time::Duration::from_secs(20), || names() == ["lo"]);
    });
}

#[test]
fn privileged_a_device_may_have_another_name_inside_or_the_first_that_is_free() {
    on_a_host(|| {
        let script = "cd /sys/class/net; echo *; cat */ifalias";
        let devices = json!({"one": {"name": "eth%d"}, "two": {"name": "eth%d"}});
        assert_eq!(given(script, devices).output(), "eth0 eth1 lo");
    });
    on_a_host(|| {
        let script = "cd /sys/class/net; echo *";
        let devices = json!({"one": {"name": "net0"}, "two": {"name": "one"}});
        assert_eq!(given(script, devices).output(), "lo net0 one");
    });
}

#[test]
fn privileged_parameters_of_a_device_are_set_once_it_is_there() {
    on_a_host(|| {
        let container = given(
            "cat /proc/sys/net/ipv4/conf/net0/proxy_arp",
            json!({"one": {"name": "net0"}}),
        );
        let parameters = json!({"net/ipv4/conf/net0/proxy_arp": "1"});
        assert_eq!(container.set("/linux/sysctl", parameters).output(), "1");
    });
}

#[test]
fn privileged_devices_are_given_back_when_the_creation_fails() {
    on_a_host(|| {
        let before = ip("-o address show one");
        for (devices, hooks, expected) in [
            (
                json!({"one": {"name": "net0"}, "three": {}}),
                json!({}),
                "hand over linux.netDevices[\"three\"]: find it: no such device",
            ),
            (
                json!({"one": {"name": "net0"}, "two": {"name": "lo"}}),
                json!({}),
                "hand over linux.netDevices[\"two\"]: move it to `lo`: file exists",
            ),
            (
                json!({"one": {"name": "net0"}}),
                json!({"createRuntime": [{"path": "/bin/false"}]}),
                "run the hooks: error running createRuntime hook #0: `/bin/false`: exited with code 1",
            ),
        ] {
            let said = given("true", devices)
                .set("/hooks", hooks)
                .script(&[Step::Start]);
            assert_eq!(said.unwrap_err(), expected);
            assert_eq!(names(), ["lo", "two", "one"]);
            assert!(ip("link show one").contains(",UP"));
            let addresses = |text: &str| -> Vec<String> {
                let words = text.split_whitespace();
                words
                    .filter(|word| word.contains('/') && !word.starts_with("fe80"))
                    .map(str::to_owned)
                    .collect()
            };
            assert_eq!(addresses(&ip("-o address show one")), addresses(&before));
        }
    });
}
