//! What containers use: rates without a wait, and all of them in one call.

use serde_json::Value;

use crate::host::Host;
use crate::interrupted::exchange;

fn get(host: &Host, path: &str) -> Value {
    let (status, body) = exchange(&host.socket(), &format!("GET {path}"), b"").unwrap();
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// The share of one processor, as clients compute it.
fn percent(stats: &Value) -> f64 {
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_f64).unwrap();
    let used =
        number("/cpu_stats/cpu_usage/total_usage") - number("/precpu_stats/cpu_usage/total_usage");
    let passed = number("/cpu_stats/system_cpu_usage") - number("/precpu_stats/system_cpu_usage");
    assert!(passed > 0.0, "{stats:#}");
    used / passed * number("/cpu_stats/online_cpus") * 100.0
}

#[test]
fn privileged_one_answer_tells_how_busy_a_container_is() {
    let host = Host::new();
    for (name, command) in [("busy", "while :; do :; done"), ("idle", "exec sleep 1000")] {
        host.docker(&["run", "-d", "--name", name, "busybox", "sh", "-c", command])
            .ok();
    }
    host.docker(&["create", "--name", "other", "busybox", "true"])
        .ok();
    // Of its whole life, then of the time since the sampler looked.
    for query in ["stream=0", "stream=0", "stream=0&one-shot=1"] {
        host.wait_until("the busy one has run for a while", || {
            percent(&get(&host, &format!("/containers/busy/stats?{query}"))) > 5.0
        });
        let idle = get(&host, &format!("/containers/idle/stats?{query}"));
        assert_ne!(idle["preread"], "0001-01-01T00:00:00Z", "{idle:#}");
    }
    host.wait_until("all of them tell", || {
        let all = get(&host, "/containers/stats");
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 2, "{all:#?}");
        let of = |name: &str| percent(all.iter().find(|one| one["name"] == name).unwrap());
        of("/busy") > 5.0 && of("/idle") < of("/busy")
    });
    let ended = get(&host, "/containers/other/stats?stream=0");
    assert_eq!(ended["read"], "0001-01-01T00:00:00Z");
    host.docker(&["rm", "-f", "busy"]).ok();
    assert_eq!(get(&host, "/containers/stats").as_array().unwrap().len(), 1);
}
