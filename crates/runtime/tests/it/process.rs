//! The process: exit codes, identity, environment, streams.

use crate::kit::{Container, Step};

#[test]
fn privileged_a_container_exits_with_its_programs_code() {
    assert_eq!(Container::sh("exit 42").run().code, 42);
    assert_eq!(
        Container::sh("kill -9 $$").run().code,
        0,
        "pid 1 is not killed from inside"
    );
}

#[test]
fn privileged_the_program_is_pid_1() {
    assert_eq!(Container::sh("echo $$; hostname").output(), "1\nbox");
}

#[test]
fn privileged_a_signal_ends_it() {
    let sleeper = Container::sh("echo ready; exec sleep 1000");
    let steps = [
        Step::Start,
        Step::Until("ready".into()),
        Step::Signal(9),
        Step::Wait,
    ];
    assert_eq!(sleeper.script(&steps).unwrap()[3].code, 137);
}
