//! Docker's own Compose over berth: a project of five services as people write them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;
use testkit::tool;

use crate::client::{Client, Run};
use crate::host::Host;

const PROJECT: &str = r#"
name: shop
services:
  db:
    image: busybox
    command: sh -c "sleep 0.3; touch /data/ready; exec sleep 1000"
    volumes: [data:/data]
    networks: [back]
    healthcheck:
      test: ["CMD", "test", "-f", "/data/ready"]
      interval: 200ms
      retries: 100
  migrate:
    image: busybox
    command: sh -c "cat /data/ready && echo migrated > /data/schema"
    volumes: [data:/data]
    networks: [back]
    depends_on:
      db: {condition: service_healthy}
  api:
    image: busybox
    command: sh -c "mkdir -p /www && cp /data/schema /www/ && exec httpd -f -p 80 -h /www"
    volumes: ["data:/data:ro"]
    networks: [front, back]
    environment: {MODE: test}
    depends_on:
      migrate: {condition: service_completed_successfully}
    healthcheck:
      test: wget -q -O /dev/null http://127.0.0.1/schema
      interval: 200ms
      retries: 100
  web:
    image: busybox
    command: sh -c "echo web begins; exec sleep 1000"
    networks: [front]
    ports: ["127.0.0.1::80"]
    configs: [{source: note, target: /etc/note}]
    depends_on:
      api: {condition: service_healthy}
  worker:
    image: busybox
    command: sh -c "echo worker begins; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    networks: [back]
    restart: unless-stopped
    deploy: {replicas: 2}
configs:
  note:
    content: written by compose
volumes:
  data:
networks:
  front:
  back:
"#;

struct Project<'a> {
    host: &'a Host,
}

impl<'a> Project<'a> {
    fn new(host: &'a Host) -> Self {
        let plugins = host.path().join("docker-config/cli-plugins");
        fs::create_dir_all(&plugins).unwrap();
        symlink(tool("docker-compose"), plugins.join("docker-compose")).unwrap();
        fs::write(host.path().join("compose.yaml"), PROJECT).unwrap();
        Self { host }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let file = self.host.path().join("compose.yaml");
        let whole = [
            &["compose", "--progress", "quiet", "-f", path(&file)],
            arguments,
        ]
        .concat();
        Client::Docker.run(self.host, &whole)
    }

    /// `service state health` of each container, sorted.
    fn services(&self) -> Vec<String> {
        let said = self.run(&["ps", "-a", "--format", "json"]);
        let mut services: Vec<String> = said
            .ok()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|one| {
                let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
                let whole = [text("Service"), text("State"), text("Health")].join(" ");
                whole.trim_end().to_owned()
            })
            .collect();
        services.sort();
        services
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn privileged_a_project_of_five_services_lives_its_life() {
    let host = Host::new();
    let project = Project::new(&host);
    project.run(&["up", "-d", "--wait"]).ok();
    let up = [
        "api running healthy",
        "db running healthy",
        "migrate exited",
        "web running",
        "worker running",
        "worker running",
    ];
    assert_eq!(project.services(), up);

    // Volumes, configurations, environment, networks.
    let exec = |service: &str, script: &str| {
        let all = ["exec", "-T", service, "sh", "-c", script];
        project.run(&all).ok().to_owned()
    };
    assert_eq!(exec("api", "cat /www/schema; echo $MODE"), "migrated\ntest");
    assert_eq!(exec("web", "cat /etc/note"), "written by compose");
    assert_eq!(exec("web", "wget -q -O - http://api/schema"), "migrated");
    assert_eq!(exec("api", "ip -o -4 addr show | wc -l"), "3");
    let logs = project.run(&["logs", "--no-color", "--no-log-prefix", "worker"]);
    assert_eq!(logs.ok(), "worker begins\nworker begins");
    assert!(
        project
            .run(&["port", "web", "80"])
            .ok()
            .starts_with("127.0.0.1:")
    );

    // A second `up` changes nothing; a restart and another scale do what they say.
    let ids = project.run(&["ps", "-q"]).ok().to_owned();
    project.run(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.run(&["ps", "-q"]).ok(), ids);
    project.run(&["restart", "worker"]).ok();
    project
        .run(&["up", "-d", "--scale", "worker=3", "--no-recreate"])
        .ok();
    let workers = |services: &[String]| {
        let running = services.iter().filter(|one| *one == "worker running");
        running.count()
    };
    assert_eq!(workers(&project.services()), 3);
    project.run(&["scale", "worker=1"]).ok();
    assert_eq!(workers(&project.services()), 1);
    let logs = project.run(&["logs", "--no-color", "--no-log-prefix", "worker"]);
    assert_eq!(logs.ok(), "worker begins\nworker begins");

    // Files, processes, commands of their own.
    let copied = host.path().join("copied");
    project.run(&["cp", "api:/www/schema", path(&copied)]).ok();
    assert_eq!(fs::read_to_string(&copied).unwrap(), "migrated\n");
    assert!(project.run(&["top", "db"]).ok().contains("sleep 1000"));
    let once = project.run(&["run", "--rm", "-T", "migrate", "echo", "once"]);
    assert_eq!(once.ok().lines().last(), Some("once"));

    project.run(&["stop"]).ok();
    assert!(project.services().iter().all(|one| one.contains("exited")));
    project.run(&["start"]).ok();
    project.run(&["down", "-v"]).ok();
    assert_eq!(host.berth(&["ps", "-aq"]).ok(), "");
    assert_eq!(host.berth(&["volume", "ls", "-q"]).ok(), "");
    let networks = host.berth(&["network", "ls", "--format", "{{.Name}}"]);
    assert!(!networks.ok().contains("shop"));
}
