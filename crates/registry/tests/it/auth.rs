//! Proofs: who gets them, and who must not.

use std::sync::atomic::{AtomicUsize, Ordering};

use registry::{Config, Credentials};
use testkit::image::{Compression, Image, tar};
use vocab::failure::chain;
use vocab::{Failure, Kind, Platform};

use crate::stub::{Answer, Shelf, Stub};
use crate::{Ask, Scratch, client, client_with, failed, pull, worked};

fn image() -> Image {
    let layer = (tar(&[("a", b"b")]), Compression::Gzip);
    Image::new(&[layer], &Platform::host())
}

fn ann() -> Credentials {
    Credentials::password("ann", "secret")
}

fn as_ann(credentials: &Credentials) -> Ask<'_> {
    Ask {
        credentials: Some(credentials),
        ..Ask::default()
    }
}

const BASIC_ANN: &str = "Basic YW5uOnNlY3JldA==";

/// A token server that counts its tokens: `t1`, `t2`, …
fn token_server() -> Stub {
    let issued = AtomicUsize::new(0);
    Stub::start(move |asked| {
        let known = match asked.header("authorization") {
            None => true,
            Some(given) => given == BASIC_ANN,
        };
        if !known {
            return Answer::new(401, r#"{"details":"incorrect username or password"}"#);
        }
        let number = issued.fetch_add(1, Ordering::SeqCst) + 1;
        let refresh = if asked.target.contains("offline_token=true") {
            r#","refresh_token":"kept""#
        } else {
            ""
        };
        Answer::new(200, format!(r#"{{"token":"t{number}"{refresh}}}"#))
    })
}

/// A registry that wants a token of that server and takes those that `fine` says.
fn token_registry(realm: &Stub, fine: impl Fn(&str) -> bool + Send + Sync + 'static) -> Stub {
    let shelf = Shelf::new(&image());
    let challenge = format!(
        r#"Bearer realm="http://{}/token",service="stub",scope="repository:app:pull""#,
        realm.address()
    );
    Stub::start(move |asked| match asked.header("authorization") {
        Some(given) if fine(given) => {
            if asked.target == "/v2/" {
                Answer::new(200, "{}")
            } else {
                shelf.answer(asked)
            }
        }
        _ => Answer::new(401, "").with("WWW-Authenticate", challenge.clone()),
    })
}

#[tokio::test]
async fn a_token_is_got_once_and_shown_with_every_request() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |given| given == "Bearer t1");
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (asked[0].method.as_str(), asked[0].target.as_str()),
        ("GET", "/token?service=stub&scope=repository%3Aapp%3Apull")
    );
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn a_password_goes_to_the_token_server_and_nowhere_else() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |given| given == "Bearer t1");
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let ann = ann();
    worked(pull(&client, &scratch, &name, as_ann(&ann)).await);
    let asked = tokens.asked();
    assert_eq!(asked[0].header("authorization"), Some(BASIC_ANN));
    assert!(asked[0].target.ends_with("&account=ann"), "{asked:?}");
    for asked in registry.asked() {
        assert_ne!(asked.header("authorization"), Some(BASIC_ANN));
    }
}

#[tokio::test]
async fn a_token_that_ran_out_is_renewed_in_the_middle() {
    let tokens = token_server();
    let uses = AtomicUsize::new(0);
    // Each token is good for one request.
    let registry = token_registry(&tokens, move |given| {
        let number: usize = given.strip_prefix("Bearer t").unwrap().parse().unwrap();
        uses.fetch_max(number, Ordering::SeqCst) < number
    });
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    worked(pull(&client, &scratch, &name, Ask::default()).await);
    // Manifest, configuration, layer.
    assert_eq!(tokens.asked().len(), 3);
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |given| given == "Bearer t1");
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let kept = Credentials {
        username: "<token>".to_owned(),
        identity_token: "kept&safe".to_owned(),
        ..Credentials::default()
    };
    worked(pull(&client, &scratch, &name, as_ann(&kept)).await);
    let asked = tokens.asked();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].target.as_str()),
        ("POST", "/token")
    );
    assert_eq!(
        asked[0].body,
        "grant_type=refresh_token&service=stub&client_id=docker&refresh_token=kept%26safe\
         &scope=repository%3Aapp%3Apull"
    );
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |given| given == "Bearer mine");
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let mine = Credentials {
        registry_token: "mine".to_owned(),
        ..Credentials::default()
    };
    worked(pull(&client, &scratch, &name, as_ann(&mine)).await);
    assert_eq!(tokens.asked().len(), 0);
}

#[tokio::test]
async fn a_wrong_password_is_told_by_the_token_server() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |_| true);
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let wrong = Credentials::password("ann", "wrong");
    let (error, text) = failed(pull(&client, &scratch, &name, as_ann(&wrong)).await);
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(
        text.ends_with("/token: unauthorized: incorrect username or password"),
        "{text}"
    );
    let error = client.check(&registry.address(), &wrong).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert!(chain(&error).contains("failed with status: 401"), "{error}");
}

#[tokio::test]
async fn a_login_brings_a_token_to_keep() {
    let tokens = token_server();
    let registry = token_registry(&tokens, |given| given == "Bearer t1");
    let checked = client().check(&registry.address(), &ann()).await.unwrap();
    assert_eq!(checked.identity_token.as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_token_that_is_not_enough_means_denied() {
    let tokens = token_server();
    let challenge = format!(r#"Bearer realm="http://{}/",service="s""#, tokens.address());
    let registry = Stub::start(move |asked| {
        let challenge = match asked.header("authorization") {
            Some(_) => format!(r#"{challenge},error="insufficient_scope""#),
            None => challenge.clone(),
        };
        Answer::new(
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        )
        .with("WWW-Authenticate", challenge)
    });
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let (error, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(
        text,
        format!(
            "pull access denied for {name}, repository does not exist or may require \
             'docker login': denied: requested access to the resource is denied"
        )
    );
    // No second token after a fresh one was not enough.
    assert_eq!(tokens.asked().len(), 1);
}

#[tokio::test]
async fn strange_token_servers_get_nothing() {
    let (scratch, client) = (Scratch::new(), client());
    for (realm, reason) in [
        ("ftp://127.0.0.1/", "where berth sends no password"),
        ("not an address", "where berth sends no password"),
        ("http://u:p@127.0.0.1/", "where berth sends no password"),
    ] {
        let registry = Stub::start(move |_| {
            Answer::new(401, "").with("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
        });
        let name = format!("{}/app", registry.address());
        let ann = ann();
        let (_, text) = failed(pull(&client, &scratch, &name, as_ann(&ann)).await);
        assert!(text.contains(reason), "{text}");
    }
    for (reply, reason) in [
        ("{}", "holds no token"),
        ("<html>", "holds no token"),
        (r#"{"token":"a\nb"}"#, "holds no token"),
    ] {
        let tokens = Stub::start(move |_| Answer::new(200, reply));
        let registry = token_registry(&tokens, |_| false);
        let name = format!("{}/app", registry.address());
        let (_, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn an_unknown_kind_of_proof_is_named() {
    let registry =
        Stub::start(|_| Answer::new(401, "").with("WWW-Authenticate", "Negotiate abc=="));
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let (error, text) = failed(pull(&client, &scratch, &name, Ask::default()).await);
    assert_eq!(error.kind(), Kind::NotImplemented);
    assert!(text.contains("(`negotiate`)"), "{text}");
}

/// A registry with a password whose blobs are elsewhere.
fn redirecting_registry(to: impl Fn(&str) -> String + Send + Sync + 'static) -> Stub {
    let shelf = Shelf::new(&image());
    Stub::start(move |asked| {
        if asked.header("authorization") != Some(BASIC_ANN) {
            return Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"stub\"");
        }
        if asked.is_blob() && !asked.target.starts_with("/moved") {
            return Answer::redirect(to(&asked.target));
        }
        shelf.answer(asked)
    })
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_proof() {
    let shelf = Shelf::new(&image());
    let storage = Stub::start(move |asked| shelf.answer(asked));
    let elsewhere = storage.address();
    let registry = redirecting_registry(move |target| format!("http://{elsewhere}{target}"));
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let ann = ann();
    worked(pull(&client, &scratch, &name, as_ann(&ann)).await);
    let asked = storage.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    for asked in asked {
        assert_eq!(asked.header("authorization"), None);
    }
}

#[tokio::test]
async fn a_redirect_within_the_registry_keeps_the_proof() {
    let registry = redirecting_registry(|target| format!("/moved{target}"));
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let ann = ann();
    worked(pull(&client, &scratch, &name, as_ann(&ann)).await);
}

#[tokio::test]
async fn another_host_cannot_ask_for_the_proof() {
    let tokens = token_server();
    let challenge = format!("Bearer realm=\"http://{}/\"", tokens.address());
    let storage =
        Stub::start(move |_| Answer::new(401, "").with("WWW-Authenticate", challenge.clone()));
    let elsewhere = storage.address();
    let registry = redirecting_registry(move |target| format!("http://{elsewhere}{target}"));
    let (scratch, client) = (Scratch::new(), client());
    let name = format!("{}/app", registry.address());
    let ann = ann();
    let (error, _) = failed(pull(&client, &scratch, &name, as_ann(&ann)).await);
    assert_eq!(error.kind(), Kind::Unauthorized);
    assert_eq!(tokens.asked().len(), 0);
}

#[tokio::test]
async fn redirects_end_somewhere() {
    let (scratch, client) = (Scratch::new(), client());
    let ann = ann();
    for (to, reason) in [
        ("/v2/app/blobs/x", "redirected more than 5 times"),
        ("file:///etc/passwd", "where berth does not follow"),
        ("http://u:p@127.0.0.1:1/", "where berth does not follow"),
        ("http://[", "where berth does not follow"),
    ] {
        let registry = redirecting_registry(move |_| to.to_owned());
        let name = format!("{}/app", registry.address());
        let (_, text) = failed(pull(&client, &scratch, &name, as_ann(&ann)).await);
        assert!(text.contains(reason), "{text}");
    }
    scratch.check_no_debris();
}

#[tokio::test]
async fn mirrors_are_asked_in_their_order_and_see_no_proof() {
    let broken = Stub::start(|_| Answer::new(500, ""));
    let shelf = Shelf::new(&image());
    let mirror = Stub::start(move |asked| shelf.answer(asked));
    let config = Config {
        mirrors: vec![
            format!("http://{}", broken.address()),
            format!("http://{}/", mirror.address()),
        ],
        ..Config::default()
    };
    let (scratch, client) = (Scratch::new(), client_with(config));
    let ann = ann();
    let (pulled, _) = worked(pull(&client, &scratch, "app", as_ann(&ann)).await);
    assert_eq!(pulled.id, image().id());
    assert!(!broken.asked().is_empty());
    let found = scratch.store.find_image("app:latest").unwrap();
    assert_eq!(found.names[0].to_string(), "docker.io/library/app:latest");
    for asked in mirror.asked() {
        assert_eq!(asked.header("authorization"), None);
        assert!(asked.target.starts_with("/v2/library/app/"), "{asked:?}");
    }
}
