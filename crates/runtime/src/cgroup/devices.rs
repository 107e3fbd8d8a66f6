//! Which devices a cgroup may use: a list of exceptions on version 1, a program on version 2.
//!
//! Both mean the same, which is what the kernel's version 1 controller does with the rules in
//! their order: a rule for all devices sets the default and forgets what was said before; a rule
//! against the default is an exception; a rule with the default takes from an exception.
//! What every container needs is allowed at the end.

use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{CgroupError, files};
use crate::oci;

/// Access bits (linux/bpf.h `BPF_DEVCG_ACC_*`).
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;

/// A rule of the list, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `a`, `b` or `c`.
    kind: u8,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

/// What runc, too, allows every container: making any node, and using the harmless ones.
const ALWAYS: [(Option<u32>, Option<u32>, u8, u8); 10] = [
    (None, None, b'c', MKNOD),
    (None, None, b'b', MKNOD),
    (Some(1), Some(3), b'c', MKNOD | READ | WRITE),
    (Some(1), Some(5), b'c', MKNOD | READ | WRITE),
    (Some(1), Some(7), b'c', MKNOD | READ | WRITE),
    (Some(1), Some(8), b'c', MKNOD | READ | WRITE),
    (Some(1), Some(9), b'c', MKNOD | READ | WRITE),
    (Some(5), Some(0), b'c', MKNOD | READ | WRITE),
    (Some(5), Some(2), b'c', MKNOD | READ | WRITE),
    (Some(136), None, b'c', MKNOD | READ | WRITE),
];

fn checked(rules: Option<&[oci::LinuxDeviceCgroup]>) -> Result<Vec<Rule>, CgroupError> {
    let deny = Rule {
        allow: false,
        kind: b'a',
        major: None,
        minor: None,
        access: 7,
    };
    let mut all = vec![deny];
    for rule in rules.unwrap_or_default() {
        all.push(check(rule)?);
    }
    all.extend(ALWAYS.map(|(major, minor, kind, access)| Rule {
        allow: true,
        kind,
        major,
        minor,
        access,
    }));
    Ok(all)
}

fn check(rule: &oci::LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let invalid = |value: String| CgroupError::Invalid {
        limit: "the device rules",
        value,
    };
    let kind = match rule.typ().unwrap_or(oci::LinuxDeviceType::A) {
        oci::LinuxDeviceType::A => b'a',
        oci::LinuxDeviceType::B => b'b',
        oci::LinuxDeviceType::C | oci::LinuxDeviceType::U => b'c',
        oci::LinuxDeviceType::P => return Err(invalid(String::from("a pipe is no device"))),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| invalid(format!("device number {number}"))),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(invalid(format!("access {letter:?}"))),
        };
    }
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    Ok(Rule {
        allow: rule.allow(),
        kind,
        major,
        minor,
        access,
    })
}

/// Writes the rules, one by one, as version 1 takes them.
pub(super) fn write_v1(
    directory: &Path,
    rules: Option<&[oci::LinuxDeviceCgroup]>,
) -> Result<(), CgroupError> {
    let rules = checked(rules)?;
    let open = |name: &str| {
        let path = directory.join(name);
        files::open(&path).map(|file| (file, path))
    };
    // One open file takes any number of rules, each with a write of its own.
    let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
    for rule in effective(&rules) {
        let (file, path) = if rule.allow { &allow } else { &deny };
        files::write_to(file, path, &v1_line(rule))?;
    }
    Ok(())
}

/// From the last rule about everything on; with everything allowed there is nothing to add.
fn effective(rules: &[Rule]) -> &[Rule] {
    let start = rules
        .iter()
        .rposition(|rule| rule.kind == b'a')
        .unwrap_or(0);
    match &rules[start..] {
        [all, rest @ ..] if all.allow && rest.iter().all(|rule| rule.allow) => {
            &rules[start..=start]
        }
        all => all,
    }
}

fn v1_line(rule: &Rule) -> String {
    if rule.kind == b'a' {
        return String::from("a");
    }
    let number = |n: Option<u32>| n.map_or_else(|| String::from("*"), |n| n.to_string());
    format!(
        "{} {}:{} {}",
        char::from(rule.kind),
        number(rule.major),
        number(rule.minor),
        letters(rule.access)
    )
}

fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

/// The rules as systemd has them: `DevicePolicy`, and the devices and accesses of `DeviceAllow`.
pub(super) type ForSystemd = (&'static str, Vec<(String, String)>);

/// `drivers` is what `/proc/devices` says. What systemd cannot say is not allowed, as runc has it.
pub(super) fn for_systemd(
    rules: Option<&[oci::LinuxDeviceCgroup]>,
    drivers: &str,
) -> Result<ForSystemd, CgroupError> {
    let policy = Policy::new(&checked(rules)?);
    if policy.allow {
        let all = policy.exceptions.is_empty();
        return Ok((if all { "auto" } else { "strict" }, Vec::new()));
    }
    let named = |rule: &Rule| Some((node(rule, drivers)?, letters(rule.access)));
    Ok((
        "strict",
        policy.exceptions.iter().filter_map(named).collect(),
    ))
}

/// A device, all of a driver, or all of a kind, as systemd names them.
fn node(rule: &Rule, drivers: &str) -> Option<String> {
    let kind = if rule.kind == b'b' { "block" } else { "char" };
    match (rule.major, rule.minor) {
        (None, None) => Some(format!("{kind}-*")),
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{kind}-{}", driver(drivers, kind, major)?)),
        (None, Some(_)) => None,
    }
}

/// The name by which `/proc/devices` has a major number.
fn driver<'a>(drivers: &'a str, kind: &str, major: u32) -> Option<&'a str> {
    let (characters, blocks) = drivers.split_once("Block devices:")?;
    let listed = if kind == "block" { blocks } else { characters };
    listed.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })
}

/// What the rules come to: a default, and exceptions from it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    allow: bool,
    exceptions: Vec<Rule>,
}

impl Policy {
    fn new(rules: &[Rule]) -> Self {
        let mut policy = Self {
            allow: true,
            exceptions: Vec::new(),
        };
        for rule in rules {
            if rule.kind == b'a' {
                policy = Self {
                    allow: rule.allow,
                    exceptions: Vec::new(),
                };
                continue;
            }
            let same = policy.exceptions.iter_mut().find(|known| {
                (known.kind, known.major, known.minor) == (rule.kind, rule.major, rule.minor)
            });
            match same {
                Some(known) if rule.allow == policy.allow => known.access &= !rule.access,
                Some(known) => known.access |= rule.access,
                None if rule.allow == policy.allow => {}
                None => policy.exceptions.push(*rule),
            }
        }
        policy.exceptions.retain(|exception| exception.access != 0);
        policy
    }
}

/// Has a program judge accesses, in place of those that judged before.
pub(super) fn attach_v2(
    directory: &Path,
    rules: Option<&[oci::LinuxDeviceCgroup]>,
) -> Result<(), CgroupError> {
    let policy = Policy::new(&checked(rules)?);
    let failed = |source: std::io::Error| CgroupError::Devices {
        path: directory.to_owned(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup =
        rustix::fs::open(directory, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
    let old = sys::bpf::device_program_ids(cgroup.as_fd()).map_err(failed)?;
    let new = sys::bpf::load_device_program(&program(&policy)).map_err(failed)?;
    sys::bpf::attach_device_program(cgroup.as_fd(), new.as_fd()).map_err(failed)?;
    // All attached programs must agree, so between the two calls the stricter one rules.
    for id in old {
        let program = sys::bpf::open_program(id).map_err(failed)?;
        sys::bpf::detach_device_program(cgroup.as_fd(), program.as_fd()).map_err(failed)?;
    }
    Ok(())
}

/// An eBPF instruction (linux/bpf.h, `struct bpf_insn`).
#[derive(Clone, Copy, Debug)]
struct Insn {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    value: i32,
}

/// `r<target> = *(u32 *)(r<source> + offset)`
const LOAD: u8 = 0x61;
/// 32-bit operations with a constant, and between registers.
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
/// Jumps on 32-bit equality with a constant.
const JUMP_EQUAL: u8 = 0x16;
const JUMP_UNEQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;

/// The program for a policy. It is called with r1 at `struct bpf_cgroup_dev_ctx`
/// (`access_type: access << 16 | type`, `major`, `minor`) and answers 1 for "allowed".
fn program(policy: &Policy) -> Vec<u8> {
    let op = |code, target, source, offset, value| Insn {
        code,
        target,
        source,
        offset,
        value,
    };
    let mut code = vec![
        op(LOAD, 2, 1, 0, 0), // r2: type
        op(AND, 2, 0, 0, 0xffff),
        op(LOAD, 3, 1, 0, 0), // r3: access
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD, 4, 1, 4, 0), // r4: major
        op(LOAD, 5, 1, 8, 0), // r5: minor
    ];
    for exception in &policy.exceptions {
        let kind = if exception.kind == b'b' { 1 } else { 2 };
        let mut tests = vec![op(JUMP_UNEQUAL, 2, 0, 0, kind)];
        let access = i32::from(exception.access);
        if policy.allow {
            // Denied if any of what is wanted is.
            tests.push(op(MOVE_REGISTER, 0, 3, 0, 0));
            tests.push(op(AND, 0, 0, 0, access));
            tests.push(op(JUMP_EQUAL, 0, 0, 0, 0));
        } else if exception.access != READ | WRITE | MKNOD {
            // Allowed if all of what is wanted is.
            tests.push(op(MOVE_REGISTER, 0, 3, 0, 0));
            tests.push(op(AND, 0, 0, 0, !access));
            tests.push(op(JUMP_UNEQUAL, 0, 0, 0, 0));
        }
        for (register, number) in [(4, exception.major), (5, exception.minor)] {
            if let Some(number) = number {
                tests.push(op(JUMP_UNEQUAL, register, 0, 0, number.cast_signed()));
            }
        }
        // Every test that fails jumps behind this block's two last instructions.
        let length = tests.len();
        for (place, test) in tests.iter_mut().enumerate() {
            if matches!(test.code, JUMP_EQUAL | JUMP_UNEQUAL) {
                test.offset = i16::try_from(length - place + 1).expect("a block is short");
            }
        }
        code.extend(tests);
        code.push(op(MOVE, 0, 0, 0, i32::from(!policy.allow)));
        code.push(op(EXIT, 0, 0, 0, 0));
    }
    code.push(op(MOVE, 0, 0, 0, i32::from(policy.allow)));
    code.push(op(EXIT, 0, 0, 0, 0));
    code.into_iter().flat_map(encode).collect()
}

fn encode(insn: Insn) -> [u8; 8] {
    let registers = if cfg!(target_endian = "big") {
        insn.target << 4 | insn.source
    } else {
        insn.source << 4 | insn.target
    };
    let [o0, o1] = insn.offset.to_ne_bytes();
    let [v0, v1, v2, v3] = insn.value.to_ne_bytes();
    [insn.code, registers, o0, o1, v0, v1, v2, v3]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Vec<oci::LinuxDeviceCgroup> {
        serde_json::from_str(json).unwrap()
    }

    /// Runs the program as the kernel would, far enough for the instructions that it is made of.
    fn judge(program: &[u8], kind: u8, access: u8, major: u32, minor: u32) -> bool {
        let context = [
            u32::from(access) << 16 | if kind == b'b' { 1 } else { 2 },
            major,
            minor,
        ];
        let (mut r, mut at) = ([0_u32; 6], 0);
        loop {
            let insn = &program[at * 8..at * 8 + 8];
            let (target, source) = ((insn[1] & 15) as usize, (insn[1] >> 4) as usize);
            let offset = i16::from_ne_bytes([insn[2], insn[3]]);
            let value = u32::from_ne_bytes([insn[4], insn[5], insn[6], insn[7]]);
            at += 1;
            let jump = usize::try_from(offset).unwrap();
            match insn[0] {
                LOAD => r[target] = context[jump / 4],
                AND => r[target] &= value,
                SHIFT_RIGHT => r[target] >>= value,
                MOVE => r[target] = value,
                MOVE_REGISTER => r[target] = r[source],
                JUMP_EQUAL if r[target] == value => at += jump,
                JUMP_UNEQUAL if r[target] != value => at += jump,
                JUMP_EQUAL | JUMP_UNEQUAL => {}
                EXIT => return r[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    const DOCKER: &str = r#"[
        {"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
        {"allow":true,"type":"b","major":8,"minor":0,"access":"r"}]"#;

    #[test]
    fn systemd_is_told_of_devices_by_number_or_driver() {
        let drivers = "Character devices:\n  1 mem\n136 pts\n\nBlock devices:\n  8 sd\n";
        let told = |rules: &str| {
            let rules: Vec<oci::LinuxDeviceCgroup> = serde_json::from_str(rules).unwrap();
            for_systemd(Some(&rules), drivers).unwrap()
        };
        let (policy, allowed) = told(
            r#"[{"allow":true,"type":"b","major":8,"access":"r"},
                {"allow":true,"type":"b","major":99,"access":"r"},
                {"allow":true,"type":"b","minor":3,"access":"r"}]"#,
        );
        let allowed: Vec<String> = allowed
            .iter()
            .map(|(node, access)| format!("{node} {access}"))
            .collect();
        assert_eq!(policy, "strict");
        assert_eq!(allowed[..2], ["block-sd r", "char-* m"]);
        assert!(
            allowed.contains(&String::from("char-pts rwm")),
            "{allowed:?}"
        );
        assert!(
            allowed.contains(&String::from("/dev/char/1:3 rwm")),
            "{allowed:?}"
        );
        assert_eq!(allowed.len(), 11);
        assert_eq!(told(r#"[{"allow":true}]"#), ("auto", Vec::new()));
        let (policy, allowed) =
            told(r#"[{"allow":true},{"allow":false,"type":"b","major":8,"access":"r"}]"#);
        assert_eq!((policy, allowed.len()), ("strict", 0));
    }

    #[test]
    fn the_program_judges_as_the_rules_say() {
        let program = program(&Policy::new(&checked(Some(&rules(DOCKER))).unwrap()));
        for (expected, kind, access, major, minor) in [
            (true, b'c', READ | WRITE, 1, 3),
            (true, b'c', READ | WRITE, 10, 229),
            (true, b'b', READ, 8, 0),
            (true, b'b', MKNOD, 8, 0),
            (false, b'b', WRITE, 8, 0),
            (false, b'b', READ | WRITE, 8, 0),
            (false, b'c', READ, 1, 1),
            (true, b'c', MKNOD, 1, 1),
            (true, b'c', READ, 136, 77),
            (false, b'c', READ, 10, 200),
        ] {
            let judged = judge(&program, kind, access, major, minor);
            assert_eq!(
                judged,
                expected,
                "{} {access} {major}:{minor}",
                char::from(kind)
            );
        }
    }

    #[test]
    fn all_but_a_few_can_be_allowed() {
        let rules = rules(
            r#"[{"allow":true,"access":"rwm"},
                {"allow":false,"type":"c","major":1,"minor":1,"access":"w"}]"#,
        );
        let program = program(&Policy::new(&checked(Some(&rules)).unwrap()));
        assert!(judge(&program, b'c', READ, 1, 1));
        assert!(!judge(&program, b'c', READ | WRITE, 1, 1));
        assert!(judge(&program, b'b', WRITE, 8, 0));
    }

    #[test]
    fn without_rules_only_the_harmless_are_allowed() {
        let program = program(&Policy::new(&checked(None).unwrap()));
        assert!(judge(&program, b'c', READ | WRITE, 1, 9));
        assert!(!judge(&program, b'b', READ, 8, 0));
    }

    #[test]
    fn version_1_gets_lines_from_the_last_word_about_everything_on() {
        let lines = |json: &str| -> Vec<String> {
            effective(&checked(Some(&rules(json))).unwrap())
                .iter()
                .map(v1_line)
                .collect()
        };
        assert_eq!(lines(r#"[{"allow":true}]"#), ["a"]);
        let docker = lines(DOCKER);
        assert_eq!(docker[..3], ["a", "c 10:229 rwm", "b 8:0 r"]);
        assert!(docker.contains(&String::from("c 136:* rwm")));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"[{"allow":true,"type":"c","access":"x"}]"#,
            r#"[{"allow":true,"type":"c","major":-7}]"#,
        ] {
            assert!(checked(Some(&rules(json))).is_err(), "{json}");
        }
    }
}
