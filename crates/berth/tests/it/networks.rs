//! Networks of users, with both command lines.

use crate::client::CLIENTS;
use crate::host::Host;

#[test]
fn privileged_containers_join_leave_and_find_each_other() {
    let host = Host::new();
    for client in CLIENTS {
        let run = |args: &[&str]| client.run(&host, args).ok().to_owned();
        for network in ["front", "back"] {
            run(&["network", "create", "--ipv6", network]);
        }
        let sleeps = ["busybox", "sleep", "1000"];
        run(&[
            &["run", "-d", "--name", "db", "--network", "back"][..],
            &sleeps,
        ]
        .concat());
        run(&[
            &["run", "-d", "--name", "web", "--network", "front"][..],
            &sleeps,
        ]
        .concat());
        run(&["network", "connect", "--alias", "database", "front", "db"]);
        let ask = "nslookup -type=a database | grep -A1 Name: | tail -1";
        let found = run(&["exec", "web", "sh", "-c", ask]);
        let format = "{{.NetworkSettings.Networks.front.IPAddress}}";
        let address = run(&["inspect", "-f", format, "db"]);
        assert_eq!(found, format!("Address: {address}"), "{client:?}");
        let listed = run(&[
            "network",
            "inspect",
            "-f",
            "{{len .Containers}} {{.EnableIPv6}}",
            "front",
        ]);
        assert_eq!(listed, "2 true", "{client:?}");

        let twice = client.run(&host, &["network", "connect", "front", "db"]);
        let said = "endpoint with name db already exists in network front";
        assert!(twice.fails(1).contains(said), "{twice:?}");
        let used = client.run(&host, &["network", "rm", "front"]);
        assert!(used.fails(1).contains("has active endpoints"), "{used:?}");

        run(&["network", "disconnect", "front", "db"]);
        let gone = "nslookup -type=a database >/dev/null || echo gone";
        assert_eq!(run(&["exec", "web", "sh", "-c", gone]), "gone");
        run(&["rm", "-f", "db", "web"]);
        run(&["network", "rm", "front", "back"]);
    }
}
