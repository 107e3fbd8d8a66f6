//! From a filter to classic BPF, as `seccomp(2)` loads it.
//!
//! ```text
//! load arch ─┬─ x86_64 ─ load nr ─┬─ bit 30: x32 ─ search ─ leaves
//!            │                    └─ search ─ leaves
//!            ├─ x86 ─ load nr ─ search ─ leaves
//!            └─ anything else: kill
//! ```
//!
//! The search is a binary one over runs of numbers with the same verdict, so a call costs about
//! eight comparisons. A leaf is a verdict, or a chain of tests of arguments that ends in the default.
//!
//! The rules of the field, taken over: a rule without arguments beats those with; several conditions
//! on one argument are alternatives (runc); what x86 multiplexes (`socketcall`, `ipc`) has the rules
//! of the calls that it stands for (libseccomp); a rule that says what the default says is none (runc);
//! the machine's own instruction set is always among those of the filter (libseccomp), and others
//! that it cannot run are left out, since no call could be theirs; a number beyond all that the filter names is answered
//! with ENOSYS where it would have been refused, so that new C libraries fall back (runc).

use std::collections::BTreeMap;

use super::table::Abi;
use super::{CompileError, Machine};
use crate::oci;
use oci::{LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op};

/// `BPF_MAXINSNS` (linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;
/// `MAX_ERRNO` (linux/err.h).
const MAX_ERRNO: u32 = 4095;
/// `SECCOMP_RET_DATA`: what is left of an answer beside the action.
const MAX_TRACE_DATA: u32 = 0xffff;
/// System calls have six arguments.
const MAX_ARGUMENT: usize = 5;
/// Bit 30 of an x32 system call's number (asm/unistd.h, `__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

/// Answers (linux/seccomp.h, `SECCOMP_RET_*`); the low 16 bits are data.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0x0000_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
/// `SECCOMP_RET_USER_NOTIF`.
const NOTIFY: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// Instructions (linux/bpf_common.h, linux/filter.h).
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insn {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

const fn insn(code: u16, yes: u8, no: u8, value: u32) -> Insn {
    Insn {
        code,
        yes,
        no,
        value,
    }
}

/// What happens to one system call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// Tried in order: all conditions of one must hold.
    conditional: Vec<(Vec<Condition>, u32)>,
    /// For all that is left; `None` is the default.
    rest: Option<u32>,
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    index: u32,
    op: Op,
    value: u64,
    /// The wanted value under the mask `value`, for [`Op::ScmpCmpMaskedEq`].
    masked: u64,
}

/// Compiles a filter.
pub(super) fn compile(
    filter: &oci::LinuxSeccomp,
    machine: Machine,
) -> Result<Vec<u8>, CompileError> {
    let default = answer(filter.default_action(), filter.default_errno_ret())
        .map_err(|reason| invalid("defaultErrnoRet", reason))?;
    let abis = abis(filter, machine);
    let mut program = vec![insn(LOAD_WORD, 0, 0, ARCH_AT)];
    let plain: Vec<Abi> = abis
        .iter()
        .copied()
        .filter(|abi| *abi != Abi::X32)
        .collect();
    for abi in plain {
        let mut section = vec![insn(LOAD_WORD, 0, 0, NUMBER_AT)];
        if abi == Abi::X86_64 {
            let x32 = if abis.contains(&Abi::X32) {
                body(filter, Abi::X32, default)?
            } else {
                // -1 is no call of x32 but what a tracer makes of a call that it skips.
                let mut none = branch(
                    JUMP_EQUAL,
                    u32::MAX,
                    vec![insn(RETURN, 0, 0, beyond(filter, default))],
                );
                none.push(insn(RETURN, 0, 0, KILL_THREAD));
                none
            };
            section.extend(branch(JUMP_SET, X32_BIT, x32));
        }
        section.extend(body(filter, abi, default)?);
        program.extend(branch(JUMP_EQUAL, abi.audit(), section));
    }
    // Another architecture could be used to say something else by the same number.
    program.push(insn(RETURN, 0, 0, KILL_THREAD));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(program.len()));
    }
    Ok(program.into_iter().flat_map(encode).collect())
}

fn encode(
    Insn {
        code,
        yes,
        no,
        value,
    }: Insn,
) -> [u8; 8] {
    let ([c0, c1], [v0, v1, v2, v3]) = (code.to_ne_bytes(), value.to_ne_bytes());
    [c0, c1, yes, no, v0, v1, v2, v3]
}

fn invalid(path: impl Into<String>, reason: impl Into<String>) -> CompileError {
    CompileError::Invalid {
        path: path.into(),
        reason: reason.into(),
    }
}

/// The instruction sets of a filter that the machine runs, its own first. x32 comes with x86_64 only.
fn abis(filter: &oci::LinuxSeccomp, machine: Machine) -> Vec<Abi> {
    let mut abis = vec![Abi::of(machine)];
    for arch in filter.architectures().iter().flatten() {
        match Abi::new(*arch) {
            Some(abi) if machine.runs(abi) && !abis.contains(&abi) => abis.push(abi),
            _ => {}
        }
    }
    abis
}

/// `then` if the comparison holds, else what follows it. `then` does not fall through.
fn branch(code: u16, value: u32, then: Vec<Insn>) -> Vec<Insn> {
    let mut all = Vec::with_capacity(then.len() + 2);
    match u8::try_from(then.len()) {
        Ok(length) => all.push(insn(code, 0, length, value)),
        // Conditional jumps reach 255 instructions, others any number.
        Err(_) => {
            let length = u32::try_from(then.len()).expect("a program is short");
            all.push(insn(code, 1, 0, value));
            all.push(insn(JUMP, 0, 0, length));
        }
    }
    all.extend(then);
    all
}

/// What the kernel is to return. An errno may be given only where one is told.
fn answer(action: Action, errno: Option<u32>) -> Result<u32, String> {
    let eperm = libc::EPERM.cast_unsigned();
    let plain = match action {
        Action::ScmpActErrno => match errno.unwrap_or(eperm) {
            errno if errno <= MAX_ERRNO => return Ok(ERRNO | errno),
            errno => return Err(format!("{errno} is no errno, the largest is {MAX_ERRNO}")),
        },
        Action::ScmpActTrace => match errno.unwrap_or(eperm) {
            data if data <= MAX_TRACE_DATA => return Ok(TRACE | data),
            data => {
                return Err(format!(
                    "a tracer is told at most {MAX_TRACE_DATA}, not {data}"
                ));
            }
        },
        Action::ScmpActKill | Action::ScmpActKillThread => KILL_THREAD,
        Action::ScmpActKillProcess => KILL_PROCESS,
        Action::ScmpActTrap => TRAP,
        Action::ScmpActLog => LOG,
        Action::ScmpActAllow => ALLOW,
        Action::ScmpActNotify => NOTIFY,
    };
    match errno {
        None => Ok(plain),
        Some(_) => Err(format!("{action} returns no errno")),
    }
}

/// The part for one instruction set, entered with the number loaded.
fn body(filter: &oci::LinuxSeccomp, abi: Abi, default: u32) -> Result<Vec<Insn>, CompileError> {
    let verdicts = verdicts(filter, abi, default)?;
    let bias = if abi == Abi::X32 { X32_BIT } else { 0 };
    // Runs of numbers: where each begins, and what it comes to.
    let mut runs: Vec<(u32, Verdict)> = Vec::new();
    let refuse = Verdict::default();
    let mut next = 0;
    let mut push = |start: u32, verdict: Verdict| {
        if runs
            .last()
            .is_none_or(|(_, last)| *last != verdict || !verdict.conditional.is_empty())
        {
            runs.push((start, verdict));
        }
    };
    for (number, verdict) in verdicts {
        if number > next {
            push(next + bias, refuse.clone());
        }
        push(number + bias, verdict);
        next = number + 1;
    }
    let beyond = beyond(filter, default);
    push(
        next + bias,
        Verdict {
            conditional: Vec::new(),
            rest: Some(beyond),
        },
    );
    if let Some(first) = runs.first_mut() {
        first.0 = 0;
    }
    Ok(search(&runs, abi, default))
}

/// What calls get that are newer than the filter.
fn beyond(filter: &oci::LinuxSeccomp, default: u32) -> u32 {
    match filter.default_action() {
        Action::ScmpActErrno
        | Action::ScmpActKill
        | Action::ScmpActKillThread
        | Action::ScmpActKillProcess
        | Action::ScmpActTrap => ERRNO | libc::ENOSYS.cast_unsigned(),
        _ => default,
    }
}

fn verdicts(
    filter: &oci::LinuxSeccomp,
    abi: Abi,
    default: u32,
) -> Result<BTreeMap<u32, Verdict>, CompileError> {
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for (i, rule) in filter.syscalls().iter().flatten().enumerate() {
        let action = answer(rule.action(), rule.errno_ret())
            .map_err(|reason| invalid(format!("syscalls[{i}].errnoRet"), reason))?;
        let args = rule.args().as_deref().unwrap_or_default();
        if let Some(j) = args.iter().position(|arg| arg.index() > MAX_ARGUMENT) {
            let path = format!("syscalls[{i}].args[{j}].index");
            let index = args[j].index();
            return Err(invalid(
                path,
                format!("there is no argument {index}, the last is 5"),
            ));
        }
        if action == default {
            continue;
        }
        for name in rule.names() {
            if let Some((via, call)) = abi.multiplexed(name) {
                let verdict = verdicts.entry(via).or_default();
                verdict.conditional.extend(through(call, args, action));
            }
            // A name that this instruction set does not know (or nobody does) matches nothing.
            let Some(number) = abi.number(name) else {
                continue;
            };
            let verdict = verdicts.entry(number).or_default();
            if args.is_empty() {
                verdict.rest.get_or_insert(action);
            } else {
                verdict
                    .conditional
                    .extend(alternatives(args).map(|all| (all, action)));
            }
        }
    }
    for verdict in verdicts
        .values_mut()
        .filter(|verdict| verdict.rest.is_some())
    {
        verdict.conditional.clear();
    }
    Ok(verdicts)
}

/// The rule for a call that is made through another one, whose first argument is its number. Its own
/// arguments are then in memory, where a filter cannot look: what is allowed only with some is not
/// allowed this way, and what is refused with some is refused with any.
fn through(call: u64, args: &[LinuxSeccompArg], action: u32) -> Option<(Vec<Condition>, u32)> {
    let lets_pass = matches!(action, ALLOW | LOG);
    let first = Condition {
        index: 0,
        op: Op::ScmpCmpEq,
        value: call,
        masked: 0,
    };
    (args.is_empty() || !lets_pass).then(|| (vec![first], action))
}

/// All conditions together, or, if an argument has several, each alone.
fn alternatives(args: &[LinuxSeccompArg]) -> impl Iterator<Item = Vec<Condition>> {
    let conditions = args.iter().map(|arg| Condition {
        index: u32::try_from(arg.index()).expect("checked to be at most 5"),
        op: arg.op(),
        value: arg.value(),
        masked: arg.value_two().unwrap_or(0),
    });
    let conditions: Vec<Condition> = conditions.collect();
    let repeated = conditions.iter().enumerate().any(|(place, one)| {
        conditions[..place]
            .iter()
            .any(|other| other.index == one.index)
    });
    let split = if repeated {
        conditions.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![conditions]
    };
    split.into_iter()
}

fn search(runs: &[(u32, Verdict)], abi: Abi, default: u32) -> Vec<Insn> {
    match runs {
        [] => vec![insn(RETURN, 0, 0, default)],
        [(_, verdict)] => leaf(verdict, abi, default),
        _ => {
            let (low, high) = runs.split_at(runs.len() / 2);
            let mut all = branch(JUMP_GREATER_EQUAL, high[0].0, search(high, abi, default));
            all.extend(search(low, abi, default));
            all
        }
    }
}

fn leaf(verdict: &Verdict, abi: Abi, default: u32) -> Vec<Insn> {
    let mut all = Vec::new();
    for (conditions, action) in &verdict.conditional {
        let mut block = vec![insn(RETURN, 0, 0, *action)];
        // Built from the end, so that each test knows how far the next alternative is.
        for condition in conditions.iter().rev() {
            let mut tests = test(*condition, abi, block.len());
            tests.extend(block);
            block = tests;
        }
        all.extend(block);
    }
    all.push(insn(RETURN, 0, 0, verdict.rest.unwrap_or(default)));
    all
}

/// Where a comparison goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    /// To the comparison after it.
    Next,
    /// The condition holds.
    Holds,
    /// It does not.
    Fails,
}

/// Tests one argument; falls through to `rest` instructions if it holds, jumps behind them if not.
fn test(condition: Condition, abi: Abi, rest: usize) -> Vec<Insn> {
    use Go::{Fails, Holds, Next};
    let Condition {
        index,
        op,
        value,
        masked,
    } = condition;
    let halves = |value: u64| {
        let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
        (
            u32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
        )
    };
    let (low_at, high_at) = if cfg!(target_endian = "big") {
        (4, 0)
    } else {
        (0, 4)
    };
    let (low_at, high_at) = (
        ARGUMENTS_AT + 8 * index + low_at,
        ARGUMENTS_AT + 8 * index + high_at,
    );
    let (high, low) = halves(value);
    // Comparisons of a word: how, with what, where to if so and if not.
    let mut steps: Vec<(u32, Option<u32>, u16, u32, Go, Go)> = Vec::new();
    match op {
        Op::ScmpCmpEq => {
            steps.push((high_at, None, JUMP_EQUAL, high, Next, Fails));
            steps.push((low_at, None, JUMP_EQUAL, low, Holds, Fails));
        }
        Op::ScmpCmpNe => {
            steps.push((high_at, None, JUMP_EQUAL, high, Next, Holds));
            steps.push((low_at, None, JUMP_EQUAL, low, Fails, Holds));
        }
        Op::ScmpCmpGt | Op::ScmpCmpGe => {
            let code = if op == Op::ScmpCmpGt {
                JUMP_GREATER
            } else {
                JUMP_GREATER_EQUAL
            };
            steps.push((high_at, None, JUMP_GREATER, high, Holds, Next));
            steps.push((high_at, None, JUMP_EQUAL, high, Next, Fails));
            steps.push((low_at, None, code, low, Holds, Fails));
        }
        Op::ScmpCmpLt | Op::ScmpCmpLe => {
            let code = if op == Op::ScmpCmpLt {
                JUMP_GREATER_EQUAL
            } else {
                JUMP_GREATER
            };
            steps.push((high_at, None, JUMP_GREATER, high, Fails, Next));
            steps.push((high_at, None, JUMP_EQUAL, high, Next, Holds));
            steps.push((low_at, None, code, low, Fails, Holds));
        }
        Op::ScmpCmpMaskedEq => {
            let (masked_high, masked_low) = halves(masked & value);
            steps.push((high_at, Some(high), JUMP_EQUAL, masked_high, Next, Fails));
            steps.push((low_at, Some(low), JUMP_EQUAL, masked_low, Holds, Fails));
        }
    }
    if !abi.is_wide() {
        // The upper half is not part of the argument there.
        steps.retain(|step| step.0 == low_at);
    }
    let lengths: Vec<usize> = steps
        .iter()
        .map(|step| 2 + usize::from(step.1.is_some()))
        .collect();
    let total: usize = lengths.iter().sum();
    let (mut all, mut end) = (Vec::with_capacity(total), 0);
    for ((at, mask, code, value, yes, no), length) in steps.into_iter().zip(lengths) {
        end += length;
        let distance = |go| {
            let distance = match go {
                Next => 0,
                Holds => total - end,
                Fails => total - end + rest,
            };
            u8::try_from(distance).expect("six arguments take fewer than 255 instructions")
        };
        all.push(insn(LOAD_WORD, 0, 0, at));
        all.extend(mask.map(|mask| insn(AND, 0, 0, mask)));
        all.push(insn(code, distance(yes), distance(no), value));
    }
    all
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD as BASE64;
    use proptest::prelude::*;

    use super::*;
    use crate::seccomp::docker_default;

    /// Runs a program as the kernel does.
    fn run(program: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0_u64.to_ne_bytes());
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let word = |at: usize| u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
        let (mut a, mut at) = (0_u32, 0_usize);
        loop {
            let i = &program[at * 8..at * 8 + 8];
            let code = u16::from_ne_bytes([i[0], i[1]]);
            let value = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
            at += 1;
            let holds = match code {
                LOAD_WORD => {
                    a = word(value as usize);
                    continue;
                }
                AND => {
                    a &= value;
                    continue;
                }
                JUMP => {
                    at += value as usize;
                    continue;
                }
                RETURN => return value,
                JUMP_EQUAL => a == value,
                JUMP_GREATER => a > value,
                JUMP_GREATER_EQUAL => a >= value,
                JUMP_SET => a & value != 0,
                other => panic!("unknown instruction {other:#x}"),
            };
            at += usize::from(if holds { i[2] } else { i[3] });
        }
    }

    fn compiled(json: &str) -> Vec<u8> {
        compile(&serde_json::from_str(json).unwrap(), Machine::HOST).unwrap()
    }

    fn call(program: &[u8], abi: Abi, name: &str, args: [u64; 6]) -> u32 {
        let bias = if abi == Abi::X32 { X32_BIT } else { 0 };
        run(program, abi.audit(), abi.number(name).unwrap() + bias, args)
    }

    const NONE: [u64; 6] = [0; 6];
    const EPERM: u32 = ERRNO | 1;
    const ENOSYS: u32 = ERRNO | 38;

    #[test]
    fn dockers_profile_answers_as_it_says() {
        let program = compile(&docker_default(&[], Machine::X86_64), Machine::X86_64).unwrap();
        assert!(
            program.len() / 8 < 800,
            "{} instructions",
            program.len() / 8
        );
        for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
            for (name, expected) in [
                ("read", ALLOW),
                ("execve", ALLOW),
                ("mount", EPERM),
                ("keyctl", EPERM),
                ("bpf", EPERM),
                ("clone3", ENOSYS),
                ("unshare", EPERM),
            ] {
                assert_eq!(call(&program, abi, name, NONE), expected, "{abi:?} {name}");
            }
            let clone = |flags| call(&program, abi, "clone", [flags, 0, 0, 0, 0, 0]);
            assert_eq!(clone(0x11), ALLOW);
            assert_eq!(clone(0x1000_0000), EPERM, "a user namespace");
            let persona = |persona| call(&program, abi, "personality", [persona, 0, 0, 0, 0, 0]);
            assert_eq!(
                (persona(0), persona(0xffff_ffff), persona(4)),
                (ALLOW, ALLOW, EPERM)
            );
            let socket = |family| call(&program, abi, "socket", [family, 0, 0, 0, 0, 0]);
            // 38 is AF_ALG, 40 AF_VSOCK.
            let families = [2, 38, 39, 40, 41].map(socket);
            assert_eq!(families, [ALLOW, EPERM, ALLOW, EPERM, ALLOW]);
        }
        let future = run(&program, Abi::X86_64.audit(), 1000, NONE);
        assert_eq!(future, ENOSYS, "a call newer than the profile");
        assert_eq!(run(&program, Abi::Arm.audit(), 3, NONE), KILL_THREAD);
    }

    #[test]
    fn dockers_profile_is_for_arm_too() {
        let program = compile(&docker_default(&[], Machine::Aarch64), Machine::Aarch64).unwrap();
        for abi in [Abi::Aarch64, Abi::Arm] {
            assert_eq!(call(&program, abi, "read", NONE), ALLOW);
            assert_eq!(call(&program, abi, "mount", NONE), EPERM);
        }
        assert_eq!(call(&program, Abi::Arm, "set_tls", NONE), ALLOW);
        assert_eq!(run(&program, Abi::X86_64.audit(), 0, NONE), KILL_THREAD);
    }

    #[test]
    fn x32_is_killed_where_it_is_not_listed() {
        let program =
            compiled(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"]}"#);
        assert_eq!(call(&program, Abi::X86_64, "read", NONE), ALLOW);
        assert_eq!(call(&program, Abi::X32, "read", NONE), KILL_THREAD);
    }

    #[test]
    fn each_rule_has_its_own_errno() {
        let program = compiled(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":5},
                {"names":["write"],"action":"SCMP_ACT_ERRNO","errnoRet":28},
                {"names":["open"],"action":"SCMP_ACT_KILL_PROCESS"},
                {"names":["close"],"action":"SCMP_ACT_TRAP"},
                {"names":["nonsense"],"action":"SCMP_ACT_KILL"},
                {"names":["stat"],"action":"SCMP_ACT_LOG"}]}"#,
        );
        let answers = ["read", "write", "open", "close", "stat", "lstat"]
            .map(|name| call(&program, Abi::X86_64, name, NONE));
        assert_eq!(
            answers,
            [ERRNO | 5, ERRNO | 28, KILL_PROCESS, TRAP, LOG, ALLOW]
        );
        assert_eq!(run(&program, Abi::X86_64.audit(), 1000, NONE), ALLOW);
    }

    #[test]
    fn a_rule_without_arguments_beats_those_with() {
        let program = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {"names":["read"],"action":"SCMP_ACT_KILL",
                 "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
                {"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#,
        );
        assert_eq!(
            call(&program, Abi::X86_64, "read", [1, 0, 0, 0, 0, 0]),
            ALLOW
        );
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives_and_on_several_all_must_hold() {
        let program = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
                {"names":["read"],"action":"SCMP_ACT_ALLOW","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                    {"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
                {"names":["write"],"action":"SCMP_ACT_ALLOW","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                    {"index":5,"value":2,"op":"SCMP_CMP_GT"}]}]}"#,
        );
        let read = |value| call(&program, Abi::X86_64, "read", [value, 0, 0, 0, 0, 0]);
        assert_eq!([1, 2, 3].map(read), [ALLOW, ALLOW, EPERM]);
        let write = |(a, b)| call(&program, Abi::X86_64, "write", [a, 0, 0, 0, 0, b]);
        assert_eq!([(1, 3), (1, 2), (2, 3)].map(write), [ALLOW, EPERM, EPERM]);
    }

    #[test]
    fn what_cannot_be_done_is_said_with_its_place() {
        let rule = |rule: &str| {
            let filter = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {{"names":["a"],"action":"SCMP_ACT_ERRNO"}}, {rule}]}}"#
            );
            let filter = serde_json::from_str(&filter).unwrap();
            compile(&filter, Machine::HOST).unwrap_err().to_string()
        };
        assert_eq!(
            rule(
                r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[
                    {"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                    {"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#
            ),
            "seccomp profile: syscalls[1].args[1].index: there is no argument 6, the last is 5"
        );
        assert_eq!(
            rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}"#),
            "seccomp profile: syscalls[1].errnoRet: 4096 is no errno, the largest is 4095"
        );
        assert_eq!(
            rule(r#"{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":65536}"#),
            "seccomp profile: syscalls[1].errnoRet: a tracer is told at most 65535, not 65536"
        );
        assert_eq!(
            rule(r#"{"names":["read"],"action":"SCMP_ACT_KILL_PROCESS","errnoRet":1}"#),
            "seccomp profile: syscalls[1].errnoRet: SCMP_ACT_KILL_PROCESS returns no errno"
        );
        let default = r#"{"defaultAction":"SCMP_ACT_LOG","defaultErrnoRet":1}"#;
        let error = compile(&serde_json::from_str(default).unwrap(), Machine::HOST).unwrap_err();
        assert_eq!(
            error.to_string(),
            "seccomp profile: defaultErrnoRet: SCMP_ACT_LOG returns no errno"
        );
    }

    #[test]
    fn every_action_is_what_the_kernel_calls_it() {
        for (action, errno, expected) in [
            ("KILL", "", 0),
            ("KILL_THREAD", "", 0),
            ("KILL_PROCESS", "", 0x8000_0000),
            ("TRAP", "", 0x0003_0000),
            ("ERRNO", "", 0x0005_0001),
            ("ERRNO", r#","errnoRet":0"#, 0x0005_0000),
            ("ERRNO", r#","errnoRet":4095"#, 0x0005_0fff),
            ("TRACE", "", 0x7ff0_0001),
            ("TRACE", r#","errnoRet":65535"#, 0x7ff0_ffff),
            ("LOG", "", 0x7ffc_0000),
            ("NOTIFY", "", 0x7fc0_0000),
        ] {
            let program = compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
                    {{"names":["read"],"action":"SCMP_ACT_{action}"{errno}}}]}}"#
            ));
            assert_eq!(
                call(&program, Abi::X86_64, "read", NONE),
                expected,
                "{action}"
            );
            assert_eq!(call(&program, Abi::X86_64, "write", NONE), ALLOW);
        }
    }

    #[test]
    fn the_machines_own_instruction_set_is_always_there_and_foreign_ones_do_no_harm() {
        // Every architecture of the specification.
        let all = crate::seccomp::ARCHITECTURES.map(|arch| serde_json::to_value(arch).unwrap());
        let rules = r#"[{"names":["read"],"action":"SCMP_ACT_ERRNO"}]"#;
        let with = |architectures: &str| {
            compiled(&format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","architectures":{architectures},
                    "syscalls":{rules}}}"#
            ))
        };
        let program = with(&serde_json::to_string(&all).unwrap());
        for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
            assert_eq!(call(&program, abi, "read", NONE), EPERM);
        }
        assert_eq!(
            program,
            with(r#"["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"]"#)
        );
        assert_eq!(with(r#"["SCMP_ARCH_S390X"]"#), with("[]"));
        assert_eq!(with(r#"["SCMP_ARCH_NATIVE"]"#), with("[]"));
    }

    #[test]
    fn a_rule_that_says_what_the_default_says_is_none() {
        let program = compiled(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
                {"names":["socket"],"action":"SCMP_ACT_ERRNO",
                 "args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]},
                {"names":["socket"],"action":"SCMP_ACT_ALLOW",
                 "args":[{"index":0,"value":40,"op":"SCMP_CMP_LE"}]}]}"#,
        );
        let socket = |family| call(&program, Abi::X86_64, "socket", [family, 0, 0, 0, 0, 0]);
        assert_eq!([40, 41].map(socket), [ALLOW, EPERM]);
    }

    #[test]
    fn a_call_that_a_tracer_skips_is_not_one_of_x32() {
        let program = compiled(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
        assert_eq!(run(&program, Abi::X86_64.audit(), u32::MAX, NONE), ENOSYS);
    }

    fn holds(op: Op, argument: u64, value: u64, two: u64) -> bool {
        match op {
            Op::ScmpCmpNe => argument != value,
            Op::ScmpCmpLt => argument < value,
            Op::ScmpCmpLe => argument <= value,
            Op::ScmpCmpEq => argument == value,
            Op::ScmpCmpGe => argument >= value,
            Op::ScmpCmpGt => argument > value,
            Op::ScmpCmpMaskedEq => argument & value == two & value,
        }
    }

    /// Filters that libseccomp compiled (`testdata/libseccomp.py`), and what it made of them.
    const LIBSECCOMP: &str = include_str!("../../testdata/libseccomp.jsonl");

    /// Calls around everything that a filter compares with.
    fn arguments(filter: &oci::LinuxSeccomp) -> Vec<[u64; 6]> {
        let rules = filter.syscalls().iter().flatten();
        let all: Vec<_> = rules
            .flat_map(|rule| rule.args().iter().flatten())
            .collect();
        let mut values = vec![0, 1, 13, u64::MAX];
        for arg in &all {
            let (value, two) = (arg.value(), arg.value_two().unwrap_or(0));
            let masked = two & value;
            let near = [value, masked, two, masked | (1 << 40), value ^ (1 << 33)];
            values.extend(
                near.into_iter()
                    .flat_map(|v| [v, v.wrapping_sub(1), v.wrapping_add(1)]),
            );
        }
        values.sort_unstable();
        values.dedup();
        let mut calls: Vec<[u64; 6]> = values.iter().map(|value| [*value; 6]).collect();
        for arg in all {
            for value in &values {
                let mut call = [arg.value(); 6];
                call[arg.index()] = *value;
                calls.push(call);
            }
        }
        calls
    }

    #[test]
    fn it_answers_as_libseccomp_does() {
        let mut compared = 0;
        for line in LIBSECCOMP.lines() {
            let made: serde_json::Value = serde_json::from_str(line).unwrap();
            let filter: oci::LinuxSeccomp =
                serde_json::from_value(made["profile"].clone()).unwrap();
            let ours = compile(&filter, Machine::X86_64).unwrap();
            let calls = arguments(&filter);
            let rules = filter.syscalls().iter().flatten();
            let mut args = rules.flat_map(|rule| rule.args().iter().flatten());
            let narrow = args.all(|arg| arg.value().max(arg.value_two().unwrap_or(0)) >> 32 == 0);
            for (abi, name) in [
                (Abi::X86_64, "SCMP_ARCH_X86_64"),
                (Abi::X86, "SCMP_ARCH_X86"),
                (Abi::X32, "SCMP_ARCH_X32"),
            ] {
                let Some(theirs) = made["programs"][name].as_str() else {
                    continue;
                };
                let theirs = BASE64.decode(theirs).unwrap();
                if !narrow && !abi.is_wide() {
                    // Of what an argument can never be libseccomp makes now this and now that.
                    continue;
                }
                let bias = if abi == Abi::X32 { X32_BIT } else { 0 };
                // Beyond what the filter names the two differ on purpose.
                let named = verdicts(&filter, abi, 0).unwrap();
                let last = named.keys().next_back().copied().unwrap_or(0);
                let after = named.keys().map(|number| number + 1);
                let mut numbers: Vec<u32> = named.keys().copied().chain(after).collect();
                numbers.retain(|number| *number <= last);
                numbers.sort_unstable();
                numbers.dedup();
                for number in numbers {
                    for call in &calls {
                        let [ours, theirs] = [&ours, &theirs]
                            .map(|program| run(program, abi.audit(), number + bias, *call));
                        assert_eq!(ours, theirs, "{abi:?} {number} {call:x?}: {filter:?}");
                        compared += 1;
                    }
                }
            }
        }
        assert!(compared > 100_000, "{compared}");
    }

    proptest! {
        /// Values near each other in both halves, where comparisons go wrong.
        #[test]
        fn every_operator_compares_64_bits(
            op in prop::sample::select(vec!["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]),
            numbers in prop::array::uniform3(prop::sample::select(vec![
                0, 1, 2, 0xffff_ffff, 1 << 32, (1 << 32) + 1, (2 << 32) + 1, u64::MAX - 1, u64::MAX,
            ])),
        ) {
            let [argument, value, two] = numbers;
            let filter: oci::LinuxSeccomp = serde_json::from_value(serde_json::json!({
                "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                    {"index": 3, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")}]}]
            })).unwrap();
            let op = filter.syscalls().as_ref().unwrap()[0].args().as_ref().unwrap()[0].op();
            let found = call(&compile(&filter, Machine::HOST).unwrap(), Abi::X86_64, "read",
                [7, 7, 7, argument, 7, 7]);
            prop_assert_eq!(found == ALLOW, holds(op, argument, value, two));
        }
    }
}
