//! `--systemd-cgroup` where it cannot be. With a real systemd it runs in a guest (`guest`).

use std::path::Path;

use serde_json::json;

use super::bundle::Bundle;

fn with_scope(path: &str) -> Bundle {
    Bundle::sh("exec sleep 1000").with(|spec| {
        spec["linux"]["cgroupsPath"] = json!(path);
        spec["linux"]["resources"]["pids"] = json!({"limit": 20});
    })
}

#[test]
fn privileged_a_scope_that_cannot_be_is_refused_before_anything_is_made() {
    let bundle = with_scope("/no/scope");
    let run = bundle.run(&["--systemd-cgroup", "create", &bundle.id]);
    assert!(run.fails(1).contains("linux.cgroupsPath"), "{run:#?}");
    bundle.is_gone();
    if !Path::new("/run/systemd/private").exists() {
        let bundle = with_scope("berth-test.slice:box:two");
        let run = bundle.run(&["--systemd-cgroup", "create", &bundle.id]);
        assert!(
            run.fails(1).contains("have systemd make the cgroup"),
            "{run:#?}"
        );
        bundle.is_gone();
    }
}
