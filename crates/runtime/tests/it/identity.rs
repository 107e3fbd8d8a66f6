//! As whom: users, groups, capabilities, limits, filters.

use serde_json::json;

use crate::kit::{Container, Step, Streaming, process};

#[test]
fn privileged_user_group_and_more_groups() {
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8]});
    let id = Container::sh("id -u; id -g; id -G").set("/process/user", user);
    assert_eq!(id.output(), "1000\n1001\n1001 7 8");
    assert_eq!(Container::sh("id -G").output(), "0", "none of the caller's");
}

/// The lines of `/proc/self/status` that begin so, as numbers.
fn capabilities(container: &Container) -> Vec<u64> {
    let out = container.output();
    out.lines()
        .map(|line| u64::from_str_radix(line.rsplit('\t').next().unwrap(), 16).unwrap())
        .collect()
}

const CAPS: &str = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb):' /proc/self/status";
/// Docker's default set.
const DEFAULT: u64 = 0xa804_25fb;

#[test]
fn privileged_root_has_dockers_capabilities() {
    assert_eq!(
        capabilities(&Container::sh(CAPS)),
        [0, DEFAULT, DEFAULT, DEFAULT, 0]
    );
}

#[test]
fn privileged_where_none_are_named_none_are_held() {
    let mut none = Container::sh(CAPS);
    none.spec["process"]
        .as_object_mut()
        .unwrap()
        .remove("capabilities");
    assert_eq!(capabilities(&none), [0; 5]);
}

#[test]
fn privileged_a_user_has_none_but_may_gain_the_bounding_ones() {
    let user = Container::sh(CAPS).set("/process/user", json!({"uid": 33, "gid": 33}));
    assert_eq!(capabilities(&user), [0, 0, 0, DEFAULT, 0]);
}

#[test]
fn privileged_ambient_capabilities_reach_a_user() {
    let net = json!(["CAP_NET_BIND_SERVICE"]);
    let all = json!({"bounding": net, "effective": net, "permitted": net, "inheritable": net,
                     "ambient": net});
    let user = Container::sh(CAPS)
        .set("/process/user", json!({"uid": 33, "gid": 33}))
        .set("/process/capabilities", all);
    assert_eq!(capabilities(&user), [0x400; 5]);
}

#[test]
fn privileged_a_filter_does_not_leave_more_capabilities_behind() {
    // Loading it needs CAP_SYS_ADMIN, which must be gone in the program: for root and for a user.
    let filter = serde_json::to_value(runtime::seccomp::docker_default(
        &[],
        runtime::seccomp::Machine::HOST,
    ));
    let filter = filter.unwrap();
    let root = Container::sh(CAPS).set("/linux/seccomp", filter.clone());
    assert_eq!(capabilities(&root), [0, DEFAULT, DEFAULT, DEFAULT, 0]);
    let user = Container::sh(CAPS)
        .set("/linux/seccomp", filter.clone())
        .set("/process/user", json!({"uid": 33, "gid": 33}));
    assert_eq!(capabilities(&user), [0, 0, 0, DEFAULT, 0]);
    let strict = Container::sh(CAPS)
        .set("/linux/seccomp", filter)
        .set("/process/noNewPrivileges", json!(true));
    assert_eq!(capabilities(&strict), [0, DEFAULT, DEFAULT, DEFAULT, 0]);
}

#[test]
fn privileged_all_capabilities_are_those_that_can_be_had() {
    let all = json!(runtime::capability::all());
    let sets = json!({"bounding": all, "effective": all, "permitted": all});
    let found = capabilities(&Container::sh(CAPS).set("/process/capabilities", sets));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:\t"))
        .unwrap();
    assert_eq!(found[2], u64::from_str_radix(own, 16).unwrap());
}

#[test]
fn privileged_no_new_privileges_is_set_only_if_asked_for() {
    let status = "grep NoNewPrivs /proc/self/status";
    assert_eq!(Container::sh(status).output(), "NoNewPrivs:\t0");
    let asked = Container::sh(status).set("/process/noNewPrivileges", json!(true));
    assert_eq!(asked.output(), "NoNewPrivs:\t1");
}

#[test]
fn privileged_limits_are_set() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let limited =
        Container::sh("ulimit -Sn; ulimit -Hn; ulimit -c").set("/process/rlimits", limits);
    assert_eq!(limited.output(), "100\n200\n0");
}

#[test]
fn privileged_the_oom_score_is_set() {
    let score =
        Container::sh("cat /proc/self/oom_score_adj").set("/process/oomScoreAdj", json!(321));
    assert_eq!(score.output(), "321");
}

#[test]
fn privileged_dockers_filter_refuses_what_it_should() {
    let filter = |capabilities: &[String]| {
        let machine = runtime::seccomp::Machine::HOST;
        serde_json::to_value(runtime::seccomp::docker_default(capabilities, machine)).unwrap()
    };
    // With every capability, only the filter stands between the container and mount(2).
    let all = json!(runtime::capability::all());
    let sets = json!({"bounding": all, "effective": all, "permitted": all});
    let script = "mount -t tmpfs x /tmp; echo $?; unshare -n true 2>/dev/null; grep Seccomp: /proc/self/status";
    let open = Container::sh(script).set("/process/capabilities", sets.clone());
    assert_eq!(open.output().lines().next(), Some("0"));
    let closed = Container::sh(script)
        .set("/process/capabilities", sets.clone())
        .set("/linux/seccomp", filter(&[]));
    let answer = closed.run();
    assert_eq!(answer.out, "1\nSeccomp:\t2\n");
    assert!(
        answer.err.contains("mount: permission denied") || answer.err.contains("not permitted"),
        "{}",
        answer.err
    );
    let admin = Container::sh(script)
        .set("/process/capabilities", sets)
        .set("/linux/seccomp", filter(&[String::from("CAP_SYS_ADMIN")]));
    assert_eq!(admin.output().lines().next(), Some("0"));
}

#[test]
fn privileged_a_compiled_filter_is_loaded_from_its_file() {
    let mut container = Container::sh("mkdir /x; echo $?; read end").with(Streaming::Input);
    let filter = serde_json::from_value(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]
    }));
    let program = runtime::seccomp::compile(&filter.unwrap()).unwrap();
    let path = container.dir.path().join("filter");
    std::fs::write(&path, program).unwrap();
    container.seccomp = Some(path.clone());
    let exec = Step::Exec(
        Box::new(process(&["/bin/mkdir", "/y"])),
        Streaming::Pipes,
        Some(path),
    );
    let steps = [
        Step::Start,
        Step::Until("1".into()),
        exec,
        Step::Input("\n".into()),
        Step::Wait,
    ];
    let answers = container.script(&steps).unwrap();
    assert!(
        answers[4].err.contains("No space left on device"),
        "{:?}",
        answers[4]
    );
    assert!(
        answers[2].err.contains("No space left on device"),
        "{:?}",
        answers[2]
    );
}

#[test]
fn privileged_a_filter_that_allows_next_to_nothing_lets_the_program_start() {
    // Between the filter and the program there is execve alone, so that a profile need not allow
    // what the runtime itself uses.
    let container = Container::new(&["/bin/true"]).set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"action": "SCMP_ACT_ALLOW", "names": [
                "execve", "exit_group", "arch_prctl", "brk", "mmap", "mprotect", "set_tid_address",
                "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom",
                "futex", "munmap", "getuid", "prctl"]}]
        }),
    );
    assert_eq!(container.run().code, 0);
}
