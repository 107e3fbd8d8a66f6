//! Input, its end, and terminals.

use monitor::protocol::{FailureKind, Request};

use crate::harness::{command, refused, script};

#[test]
fn privileged_with_stdin_once_the_end_of_input_reaches_the_container() {
    let mut wanted = command(&["cat"]).with_stdin();
    wanted.stdin_once = true;
    let container = wanted.create();
    let client = container.attach();
    client.write("before the start ");
    container.start();
    client.write("and after");
    client.end();
    assert_eq!(client.rest(), ["before the start and after", ""]);
    assert_eq!(container.exit().code, 0);
}

#[test]
fn privileged_without_stdin_once_the_next_client_goes_on() {
    let container = command(&["cat"]).with_stdin().start();
    let first = container.attach();
    first.write("one\n");
    first.read_until("one\n");
    first.end();
    let second = container.attach();
    second.write("two\n");
    second.read_until("two\n");
    container.must(&Request::CloseStdin { exec: None });
    assert_eq!(container.exit().code, 0);
    assert_eq!(container.logged("stdout"), "one\ntwo\n");
}

#[test]
fn privileged_a_client_that_vanishes_does_not_end_the_input() {
    let mut wanted = command(&["cat"]).with_stdin();
    wanted.stdin_once = true;
    let container = wanted.start();
    let first = container.attach();
    first.write("one\n");
    first.read_until("one\n");
    drop(first);
    let second = container.attach();
    second.write("two\n");
    second.read_until("two\n");
}

#[test]
fn privileged_input_that_was_sent_before_vanishing_arrives() {
    let container = script("head -c 3000000 | wc -c").with_stdin().create();
    let client = container.attach();
    let sender = std::thread::spawn(move || {
        client.write(&"x".repeat(3_000_000));
        drop(client);
    });
    container.start();
    sender.join().unwrap();
    container.exit();
    assert_eq!(container.logged("stdout"), "3000000\n");
}

#[test]
fn privileged_without_stdin_the_container_reads_an_empty_file() {
    let container = command(&["cat"]).create();
    let client = container.attach();
    client.write("to nobody");
    container.start();
    assert_eq!(client.rest(), ["", ""]);
    assert_eq!(container.exit().code, 0);
}

#[test]
fn privileged_a_program_that_reads_no_input_holds_nobody_up() {
    let container = script("exec <&-; sleep 1000").with_stdin().start();
    let client = container.attach();
    // More than pipe and sockets hold: it has to go somewhere.
    client.write(&"x".repeat(2_000_000));
    container.signal(9);
    assert_eq!(container.exit().code, 137);
}

#[test]
fn privileged_a_terminal_has_the_size_it_was_given_and_takes_another() {
    let container = script("stty size; read x; stty size")
        .with_terminal(24, 80)
        .create();
    let client = container.attach();
    container.start();
    client.read_until("24 80\r\n");
    container.must(&Request::Resize {
        exec: None,
        rows: 40,
        columns: 132,
    });
    client.write("\n");
    let [out, err] = client.rest();
    assert!(out.ends_with("40 132\r\n"), "{out:?}");
    assert_eq!(err, "");
    container.exit();
    assert!(container.logged("stdout").ends_with("40 132\r\n"));
}

#[test]
fn privileged_a_resize_reaches_the_program_as_a_signal() {
    let container = script("trap 'stty size; exit 0' WINCH; echo ready; while :; do read x; done")
        .with_terminal(24, 80)
        .create();
    let client = container.attach();
    container.start();
    client.read_until("ready\r\n");
    container.must(&Request::Resize {
        exec: None,
        rows: 50,
        columns: 100,
    });
    client.read_until("50 100\r\n");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn privileged_interrupt_and_end_of_file_are_characters_on_a_terminal() {
    let container = script("trap 'echo interrupted' INT; cat; echo over; exit 5")
        .with_terminal(24, 80)
        .create();
    let client = container.attach();
    container.start();
    client.write("line\n");
    client.read_until("line\r\nline\r\n");
    client.write("\x03");
    client.read_until("over");
    client.end();
    client.rest();
    assert_eq!(container.exit().code, 5);
}

#[test]
fn privileged_a_container_that_closes_its_terminal_for_a_while_goes_on() {
    let script =
        "exec >/dev/null 2>&1 </dev/null; exec </dev/pts/0 >/dev/pts/0 2>&1; echo back; read x";
    let container = crate::harness::script(script)
        .with_terminal(24, 80)
        .create();
    let client = container.attach();
    container.start();
    client.read_until("back\r\n");
    client.write("\n");
    assert_eq!(container.exit().code, 0);
}

#[test]
fn privileged_pipes_have_no_size() {
    let container = command(&["sleep", "1000"]).start();
    let resize = Request::Resize {
        exec: None,
        rows: 1,
        columns: 1,
    };
    refused(container.ask(&resize), FailureKind::Other);
}
