//! Where a pull goes: mirrors, proxies, certificates.

use std::fs;
use std::path::Path;

use registry::{Client, Config, Proxies};
use testkit::image::{Compression, Image, tar};
use testkit::registry::{CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY};
use testkit::{Fault, FaultProxy, Registry};
use vocab::Platform;

use crate::{Ask, Scratch, client_with, failed, pull, worked};

fn image() -> Image {
    Image::new(
        &[(tar(&[("a", b"a")]), Compression::Gzip)],
        &Platform::host(),
    )
}

async fn check_pulled(config: Config, name: &str) {
    let scratch = Scratch::new();
    let (pulled, _) = worked(pull(&client_with(config), &scratch, name, Ask::default()).await);
    assert_eq!(pulled.id, image().id(), "{name}");
    scratch.store.find_image(name).unwrap();
}

fn rule(pattern: &str, address: &str) -> (String, String) {
    (pattern.to_owned(), address.to_owned())
}

#[tokio::test]
async fn any_registry_may_have_a_mirror() {
    let registry = Registry::start();
    registry.push("team/app", "latest", &image());
    registry.push("cache/team/app", "latest", &image());
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let mirror = format!("http://{}", proxy.address());
    let config = Config {
        mirrors_of: vec![
            rule("*.example.com", &mirror),
            rule("docker.io/team/*", &format!("{mirror}/v2/cache")),
            // Nobody is there: the next one of the same pattern is asked.
            rule("ghcr.test", "http://127.0.0.1:1"),
            rule("ghcr.test", &mirror),
        ],
        ..Config::default()
    };
    for name in ["a.example.com/team/app", "team/app", "ghcr.test/team/app"] {
        check_pulled(config.clone(), name).await;
    }
    let asked = proxy.asked();
    let manifests: Vec<&str> = asked
        .iter()
        .map(|asked| asked.target.as_str())
        .filter(|target| target.contains("/manifests/latest"))
        .collect();
    assert_eq!(
        manifests,
        [
            "/v2/team/app/manifests/latest?ns=a.example.com",
            "/v2/cache/team/app/manifests/latest?ns=docker.io",
            "/v2/team/app/manifests/latest?ns=ghcr.test",
        ]
    );
}

#[tokio::test]
async fn a_mirror_that_fails_half_way_is_no_failure() {
    let registry = Registry::start();
    registry.push("team/app", "latest", &image());
    let (layer, config) = (image().layers[0].digest.clone(), image().id());
    let faults: [fn() -> Fault; 4] = [
        || Fault::status(404),
        || Fault::status(500),
        || Fault::CorruptAnswer(0),
        || Fault::CutAnswer(10),
    ];
    for fault in faults {
        for blob in [&layer, &config] {
            let blob = blob.clone();
            let mirror = FaultProxy::start(registry.address(), move |asked| {
                match asked.path().ends_with(&blob.to_string()) {
                    true => fault(),
                    false => Fault::None,
                }
            });
            let name = format!("{}/team/app", registry.address());
            let config = Config {
                mirrors_of: vec![rule("*", &format!("http://{}", mirror.address()))],
                ..Config::default()
            };
            check_pulled(config, &name).await;
            assert!(!mirror.asked().is_empty());
        }
    }
}

/// The name of a registry on loopback that is not what berth calls so, and how `certs.d` spells it.
fn elsewhere(registry: &Registry) -> (String, String) {
    let (_, port) = registry.address().split_once(':').unwrap();
    (
        format!("[::ffff:127.0.0.1]:{port}"),
        format!("[::ffff:7f00:1]:{port}"),
    )
}

#[tokio::test]
async fn a_proxy_is_used_where_one_is_named() {
    let registry = Registry::start();
    registry.push("team/app", "latest", &image());
    let (domain, host) = elsewhere(&registry);
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    let address = format!("http://ann:secret@{}", proxy.address());
    let config = |none_for: Option<&str>| Config {
        insecure: vec![host.clone()],
        proxies: Proxies {
            http: Some(address.clone()),
            https: Some(address.clone()),
            none_for: none_for.map(str::to_owned),
        },
        ..Config::default()
    };
    let name = format!("{domain}/team/app");
    check_pulled(config(None), &name).await;
    let asked = proxy.asked();
    let plain = asked.iter().find(|asked| asked.method == "GET").unwrap();
    assert!(
        plain.target.starts_with(&format!("http://{host}/v2/")),
        "{plain:?}"
    );
    assert!(
        plain.headers.contains_key("proxy-authorization"),
        "{plain:?}"
    );
    // Both schemes went there, since TLS is tried first.
    assert!(asked.iter().any(|asked| asked.method == "CONNECT"));

    let before = proxy.asked().len();
    check_pulled(config(Some("::ffff:127.0.0.1,example.com")), &name).await;
    // And what never leaves the host needs none.
    check_pulled(config(None), &format!("{}/team/app", registry.address())).await;
    assert_eq!(proxy.asked().len(), before);
}

#[tokio::test]
async fn tls_goes_through_a_proxy_as_it_is() {
    let registry = Registry::start();
    registry.push("team/app", "latest", &image());
    let registry = registry.into_tls();
    let proxy = FaultProxy::start(registry.address(), |_| Fault::None);
    // Nobody here knows where that is; the proxy does.
    let domain = "registry.test:5000";
    let config = Config {
        insecure: vec![domain.to_owned()],
        proxies: Proxies {
            https: Some(format!("http://{}", proxy.address())),
            ..Proxies::default()
        },
        ..Config::default()
    };
    check_pulled(config, &format!("{domain}/team/app")).await;
    let asked = proxy.asked();
    assert!(
        asked
            .iter()
            .all(|asked| asked.method == "CONNECT" && asked.target == domain),
        "{asked:?}"
    );
}

fn certificates(directory: &Path, host: &str, files: &[(&str, &str)]) {
    let of_host = directory.join(host);
    fs::create_dir_all(&of_host).unwrap();
    for (name, content) in files {
        fs::write(of_host.join(name), content).unwrap();
    }
}

#[tokio::test]
async fn a_registry_may_want_a_certificate_of_its_clients() {
    let registry = Registry::start();
    registry.push("team/app", "latest", &image());
    let registry = registry.into_mutual_tls();
    let (domain, host) = elsewhere(&registry);
    let name = format!("{domain}/team/app");
    let client = |certs: &Path| -> Client {
        let nowhere = certs.join("nowhere");
        client_with(Config {
            certs_dirs: vec![nowhere, certs.to_owned()],
            max_attempts: 1,
            ..Config::default()
        })
    };
    let certs = tempfile::tempdir().unwrap();
    certificates(certs.path(), &host, &[("ca.crt", CERTIFICATE)]);
    let scratch = Scratch::new();
    failed(pull(&client(certs.path()), &scratch, &name, Ask::default()).await);

    certificates(certs.path(), &host, &[("client.cert", CLIENT_CERTIFICATE)]);
    let (_, text) = failed(pull(&client(certs.path()), &scratch, &name, Ask::default()).await);
    assert!(
        text.contains("set up TLS for") && text.contains("client.key"),
        "{text}"
    );

    certificates(certs.path(), &host, &[("client.key", CLIENT_KEY)]);
    let known = client(certs.path());
    let (pulled, _) = worked(pull(&known, &scratch, &name, Ask::default()).await);
    assert_eq!(pulled.id, image().id());
    // The other way, too.
    let image = scratch.store.find_image(&name).unwrap();
    let (sender, _told) = tokio::sync::mpsc::channel(64);
    let copy = format!("{domain}/team/copy:1").parse().unwrap();
    let store = std::sync::Arc::clone(&scratch.store);
    let pushed = known.push(store, image, &copy, false, None, sender).await;
    assert_eq!(pushed.unwrap(), pulled.digest);
}
