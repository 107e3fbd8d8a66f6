//! The cases as tests, one for each topic and runtime: `conformance::topics!(path)` in a module.

use std::fs;
use std::path::Path;

use testkit::guest::{Cgroups, Guest};

use crate::{Runtime, Verdict, case, report, run};

/// Runs the topic `name` against the runtime at `path`.
///
/// # Panics
/// If a case fails; all that failed are told.
pub fn check(name: &str, path: &impl AsRef<Path>) {
    let runtime = Runtime::at(path.as_ref()).unwrap_or_else(|error| panic!("{error:#}"));
    let topics = case::load(&case::folder()).unwrap_or_else(|error| panic!("{error:#}"));
    let topic = topics
        .iter()
        .find(|topic| topic.name == name)
        .unwrap_or_else(|| panic!("there is no topic {name}"));
    let busybox = testkit::tool("busybox");
    let failed: Vec<String> = topic
        .cases
        .iter()
        .map(|case| (case, run(case, &runtime, &busybox)))
        .filter(|(_, verdict)| matches!(verdict, Verdict::Failed(_)))
        .map(|(case, verdict)| report::line(topic, case, &verdict))
        .collect();
    assert!(
        failed.is_empty(),
        "{}:\n{}",
        runtime.version,
        failed.join("\n")
    );
}

/// Runs the topic of control groups in the test program `suite` again where only version 2 of them is
/// mounted. `programs` are what else it runs.
///
/// # Panics
/// If a test of it fails.
pub fn check_version_2(suite: &Path, programs: &[&Path]) {
    let mut guest = Guest::new(Cgroups::V2).tool("busybox").program(suite);
    for program in programs {
        guest = guest.program(program);
    }
    for entry in fs::read_dir(case::folder()).expect("the cases are there") {
        guest = guest.file(&entry.expect("the cases are there").path());
    }
    let outcome = guest.run(&format!("{} conformance_cgroups", suite.display()));
    let (console, output) = (outcome.console, outcome.output);
    assert!(outcome.code == Some(0), "{console}\n{output}");
}

/// One test for each topic, against the runtime at `$path`.
#[macro_export]
macro_rules! topics {
    ($path:expr) => {
        $crate::topics! { $path;
            conformance_capabilities capabilities, conformance_cgroups cgroups,
            conformance_devices devices, conformance_exec exec, conformance_hooks hooks,
            conformance_kernel kernel, conformance_lifecycle lifecycle,
            conformance_mounts mounts, conformance_namespaces namespaces,
            conformance_paths paths, conformance_process process,
            conformance_propagation propagation, conformance_recursive recursive,
            conformance_refusals refusals, conformance_rlimits rlimits, conformance_root root,
            conformance_scheduling scheduling, conformance_seccomp seccomp,
            conformance_terminal terminal, conformance_user user, conformance_userns userns,
        }
    };
    ($path:expr; $($test:ident $topic:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $crate::suite::check(stringify!($topic), &$path);
            }
        )*

        #[test]
        fn every_topic_is_a_test() {
            let topics = $crate::case::load(&$crate::case::folder()).unwrap();
            let names: Vec<_> = topics.iter().map(|topic| topic.name.as_str()).collect();
            assert_eq!(names, [$(stringify!($topic)),*]);
        }
    };
}
