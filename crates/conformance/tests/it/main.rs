//! The cases against the reference runtimes, which proves what the cases expect.

mod runc {
    conformance::topics!(testkit::tool("runc"));
}

mod crun {
    conformance::topics!(testkit::tool("crun"));
}

#[test]
fn slow_the_cases_hold_on_version_2_alone() {
    let suite = std::env::current_exe().unwrap();
    let (runc, crun) = (testkit::tool("runc"), testkit::tool("crun"));
    conformance::suite::check_version_2(&suite, &[&runc, &crun]);
}
