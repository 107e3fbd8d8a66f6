//! The client against a real registry, and against servers that do what no real one should.

#![expect(
    clippy::unwrap_used,
    reason = "tests panic; the message and the line are what they tell"
)]

mod auth;
mod faults;
mod kinds;
mod places;
mod push;
mod real;
mod resume;
mod spoilt;
mod stub;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::{Client, Config, Credentials, LayerState, Progress, PullError, Pulled};
use store::{Options, Store};
use tempfile::TempDir;
use tokio::sync::mpsc;
use vocab::failure::chain;
use vocab::{Digest, Platform, Reference};

/// A store of its own in a scratch directory.
struct Scratch {
    store: Arc<Store>,
    root: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let root = tempfile::Builder::new()
            .prefix("berth-registry-test-")
            .tempdir()
            .unwrap();
        let store = Store::open(
            &root.path().join("store"),
            &root.path().join("run"),
            &Options::default(),
        );
        Self {
            store: Arc::new(store.unwrap()),
            root,
        }
    }

    /// Nothing of a pull that failed is there: no image, no half layer.
    #[track_caller]
    fn check_no_debris(&self) {
        assert_eq!(self.store.images().unwrap().len(), 0);
        assert_eq!(self.ingests(), 0);
    }

    /// The same directory, opened anew, as a restarted daemon does.
    fn reopened(self) -> Self {
        let Self { store, root } = self;
        drop(store);
        let store = Store::open(
            &root.path().join("store"),
            &root.path().join("run"),
            &Options::default(),
        );
        Self {
            store: Arc::new(store.unwrap()),
            root,
        }
    }

    /// Where the first bytes of a blob wait for the rest.
    fn partial(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        self.root.path().join("store/partial").join(name)
    }

    /// How many of them there are.
    fn partial_bytes(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.partial(digest))
            .ok()
            .map(|found| found.len())
    }

    /// How much is on its way into the store.
    fn ingests(&self) -> usize {
        let ingests = self.root.path().join("store/ingest");
        std::fs::read_dir(ingests).unwrap().count()
    }
}

/// One that does not keep a test waiting.
fn client() -> Client {
    client_with(Config::default())
}

fn client_with(config: Config) -> Client {
    Client::new(Config {
        first_pause: Duration::from_millis(1),
        ..config
    })
    .unwrap()
}

/// What a pull is asked for, beside the name.
#[derive(Default)]
struct Ask<'a> {
    platform: Option<&'a str>,
    credentials: Option<&'a Credentials>,
}

/// Pulls and keeps what was told on the way.
async fn pull(
    client: &Client,
    scratch: &Scratch,
    name: &str,
    ask: Ask<'_>,
) -> (Result<Pulled, PullError>, Vec<Progress>) {
    let reference: Reference = name.parse().unwrap();
    let platform: Option<Platform> = ask.platform.map(|text| text.parse().unwrap());
    let (sender, mut receiver) = mpsc::channel(4);
    let pulling = client.pull(
        Arc::clone(&scratch.store),
        &reference,
        platform.as_ref(),
        ask.credentials,
        sender,
    );
    let listening = async {
        let mut told = Vec::new();
        while let Some(progress) = receiver.recv().await {
            told.push(progress);
        }
        told
    };
    tokio::join!(pulling, listening)
}

/// The same with nothing special, for pulls that work.
#[track_caller]
fn worked(outcome: (Result<Pulled, PullError>, Vec<Progress>)) -> (Pulled, Vec<Progress>) {
    match outcome {
        (Ok(pulled), told) => (pulled, told),
        (Err(error), _) => panic!("{}", chain(&error)),
    }
}

/// What users would read, for pulls that fail.
#[track_caller]
fn failed(outcome: (Result<Pulled, PullError>, Vec<Progress>)) -> (PullError, String) {
    let error = outcome.0.unwrap_err();
    let text = chain(&error);
    (error, text)
}

/// The steps of a layer, without the counts in between.
fn steps(told: &[Progress], layer: &str) -> Vec<String> {
    let mut steps: Vec<String> = told
        .iter()
        .filter_map(|progress| match progress {
            Progress::Layer { id, state } if id == layer => match state {
                LayerState::Downloading { .. } | LayerState::Waiting => None,
                state => Some(state.to_string()),
            },
            _ => None,
        })
        .collect();
    steps.dedup();
    steps
}
