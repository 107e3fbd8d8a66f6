//! Containers with a terminal: in the foreground, and handed over through a socket.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use super::bundle::Bundle;
use crate::terminal::Session;

/// What is sent with a descriptor, and the descriptor.
pub(super) fn receive(socket: &UnixStream) -> (String, OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let mut packet = [std::io::IoSliceMut::new(&mut bytes)];
    let got = recvmsg(socket, &mut packet, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (
        String::from_utf8_lossy(&bytes[..got.bytes]).into_owned(),
        fd.unwrap(),
    )
}

fn with_terminal(script: &str) -> Bundle {
    Bundle::sh(script).with(|spec| spec["process"]["terminal"] = json!(true))
}

#[test]
fn privileged_a_terminal_is_handed_over_through_a_socket() {
    let bundle = with_terminal("tty; stty size; read line; echo got $line")
        .with(|spec| spec["process"]["consoleSize"] = json!({"height": 33, "width": 77}));
    let without = bundle.run(&["create", &bundle.id]);
    let said = "cannot allocate tty if runc will detach without setting console socket";
    assert!(without.fails(1).contains(said));
    let path = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    bundle
        .run(&[
            "create",
            "--console-socket",
            path.to_str().unwrap(),
            &bundle.id,
        ])
        .ok();
    let (connection, _) = listener.accept().unwrap();
    let (_, master) = receive(&connection);
    bundle.run(&["start", &bundle.id]).ok();
    let mut master = File::from(master);
    master.write_all(b"word\n").unwrap();
    let mut seen = Vec::new();
    // A terminal whose other side is closed ends with an error.
    let _ = master.read_to_end(&mut seen);
    let seen = String::from_utf8_lossy(&seen);
    // The input is shown as soon as it comes, before or between these.
    assert!(seen.contains("/dev/pts/0\r\n"), "{seen}");
    assert!(seen.contains("33 77\r\n"), "{seen}");
    assert!(seen.contains("got word\r\n"), "{seen}");
    bundle.wait_for("stopped");
}

#[test]
fn privileged_a_foreground_terminal_is_that_of_the_caller() {
    let bundle = with_terminal(
        "stty size; trap 'echo interrupted; exit 4' INT; echo ready; \
        read line; echo got $line; read line || echo end; while :; do sleep 0.1; done",
    );
    let mut session = Session::of(&bundle.command(&["run", &bundle.id]));
    session.expect("24 80\r\n");
    session.expect("ready\r\n");
    session.type_in(b"word\n");
    session.expect("got word\r\n");
    session.type_in(b"\x04");
    session.expect("end\r\n");
    // Not while the shell reads: busybox's sometimes spins after a trap there.
    session.type_in(b"\x03");
    session.expect("interrupted");
    assert_eq!(session.finish().0, Some(4));
    bundle.is_gone();
}

#[test]
fn privileged_exec_gives_a_terminal_where_that_is_asked_for() {
    let bundle = Bundle::sh("exec sleep 1000");
    bundle.run(&["run", "-d", &bundle.id]).ok();
    let mut session = Session::of(&bundle.command(&["exec", "-t", &bundle.id, "sh"]));
    session.type_in(b"tty; stty size\n");
    session.expect("/dev/pts/");
    session.expect("24 80");
    session.resize(50, 132);
    session
        .type_in(b"until [ \"$(stty size)\" = '50 132' ]; do sleep 0.01; done; echo re''sized\n");
    session.expect("resized");
    session.type_in(b"exit 5\n");
    assert_eq!(session.finish().0, Some(5));
    // Nobody's terminal is needed: what is piped in is typed.
    let run = bundle.run(&["exec", "-t", &bundle.id, "tty"]);
    assert!(run.ok().starts_with("/dev/pts/"), "{run:#?}");
}
