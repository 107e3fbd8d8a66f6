//! Contexts: both command lines do the same, in the same files.

use std::path::Path;

use crate::client::{CLIENTS, Client, Run};
use crate::host::Host;

/// Runs with a configuration directory of its own and nothing in the environment that names a
/// daemon.
fn run(host: &Host, client: Client, config: &Path, arguments: &[&str]) -> Run {
    let mut command = client.command(host, arguments);
    command
        .env_remove("DOCKER_HOST")
        .env("DOCKER_CONFIG", config)
        .current_dir(config);
    client.feed_command(command, arguments, b"")
}

#[test]
fn privileged_both_command_lines_do_the_same_with_contexts() {
    let host = Host::empty();
    let [theirs, ours] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut differences = Vec::new();
    for line in [
        "context create one --description first --docker host=tcp://1.2.3.4:2375",
        "context create two --docker host=unix:///tmp/x.sock",
        "context create one",
        "context create default",
        "context create x",
        "context create three --from two",
        "context ls -q",
        "context show",
        "context use one",
        "context show",
        "context inspect",
        "context inspect one two",
        "context inspect nope",
        "context inspect -f {{.Endpoints.docker.Host}} one",
        "context update two --description changed",
        "context inspect two",
        "context update nope --description changed",
        "context export two",
        "context import four two.dockercontext",
        "context import four two.dockercontext",
        "context inspect four",
        "context export nope",
        "context rm one",
        "context rm default",
        "context rm nope",
        "context rm two three",
        "context rm -f one",
        "context show",
        "context use nope",
        "context use default",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let told = |client, config: &tempfile::TempDir| {
            let said = run(&host, client, config.path(), &arguments);
            let here = config.path().to_str().unwrap();
            let text = |text: &str| text.replace(here, "HERE");
            (said.code, text(&said.stdout), text(&said.stderr))
        };
        let docker = told(Client::Docker, &theirs);
        let berth = told(Client::Berth, &ours);
        if berth != docker {
            differences.push((line, docker, berth));
        }
    }
    assert_eq!(differences, []);
}

#[test]
fn privileged_a_context_leads_to_its_daemon() {
    let host = Host::empty();
    let config = tempfile::tempdir().unwrap();
    let endpoint = format!("host={}", host.url());
    let create = ["context", "create", "here", "--docker", &endpoint];
    run(&host, Client::Berth, config.path(), &create).ok();
    let nowhere = [
        "context",
        "create",
        "nowhere",
        "--docker",
        "host=unix:///nowhere.sock",
    ];
    run(&host, Client::Docker, config.path(), &nowhere).ok();
    for client in CLIENTS {
        let run = |arguments: &[&str]| run(&host, client, config.path(), arguments);
        run(&["--context", "here", "ps"]).ok();
        assert_eq!(run(&["--context", "nowhere", "ps"]).code, Some(1));
        let said = run(&["--context", "nope", "ps"]);
        assert!(
            said.fails(1)
                .contains("context \"nope\": context not found"),
            "{said:?}"
        );
        run(&["context", "use", "here"]).ok();
        run(&["ps"]).ok();
        let mut command = client.command(&host, &["ps"]);
        command
            .env_remove("DOCKER_HOST")
            .env("DOCKER_CONFIG", config.path())
            .env("DOCKER_CONTEXT", "nowhere");
        assert_eq!(client.feed_command(command, &["ps"], b"").code, Some(1));
        run(&["context", "use", "default"]).ok();
    }
}
