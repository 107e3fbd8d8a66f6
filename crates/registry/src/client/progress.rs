//! What a pull or a push tells while it runs, in the steps that Docker's clients draw.

use std::fmt;

use tokio::sync::mpsc;
use vocab::Digest;
use vocab::manifest::Descriptor;

/// One step of a pull or a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The transfer begins (`Pulling from library/nginx`, with the tag as id).
    PullingFrom {
        /// The repository's path in its registry.
        repository: String,
        /// The tag, or the digest where none was named.
        tag: String,
    },
    /// Something happened to a layer.
    Layer {
        /// Twelve digits of the digest of the layer's blob, or of its diff id in a push.
        id: String,
        /// What it is doing now.
        state: LayerState,
    },
    /// Everything is in the store (`Digest: sha256:…`).
    Digest(Digest),
    /// An entry of the index that led to the image was not kept, so that the index cannot go
    /// anywhere from here.
    LeftOut {
        /// The entry.
        digest: Digest,
        /// Why.
        reason: String,
    },
    /// Of an index that is not here as a whole, only one image went.
    PushedInstead {
        /// The index.
        index: Box<Descriptor>,
        /// The image's manifest.
        manifest: Box<Descriptor>,
    },
    /// Everything is in the registry (`latest: digest: sha256:… size: 528`).
    Pushed {
        /// Under which tag.
        tag: String,
        /// The manifest.
        digest: Digest,
        /// Bytes of the manifest.
        size_bytes: u64,
    },
}

/// What a layer is doing. It prints Docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// It is wanted.
    Pending,
    /// It is wanted, and as many as may are in transfer.
    Waiting,
    /// Bytes are coming.
    Downloading {
        /// Bytes that have come.
        current: u64,
        /// Bytes that there will be.
        total: u64,
    },
    /// All bytes are here.
    VerifyingChecksum,
    /// All bytes are here and are what was announced.
    DownloadComplete,
    /// The store is finishing it.
    Extracting {
        /// Bytes that are done.
        current: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// The store holds it.
    PullComplete,
    /// The store held it before.
    AlreadyExists,
    /// It is to be sent.
    Preparing,
    /// Bytes are going.
    Pushing {
        /// Bytes that have gone.
        current: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// The registry holds it.
    Pushed,
    /// The registry held it before.
    LayerExists,
    /// The registry held it in another repository, from which it was taken.
    Mounted {
        /// Which.
        from: String,
    },
    /// The transfer broke and goes on after a pause.
    Retrying {
        /// How long, rounded up.
        seconds: u64,
    },
}

impl fmt::Display for LayerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading { .. } => "Downloading",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Preparing => "Preparing",
            Self::Pushing { .. } => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerExists => "Layer already exists",
            Self::Mounted { from } => return write!(f, "Mounted from {from}"),
            Self::Retrying { seconds: 1 } => "Retrying in 1 second",
            Self::Retrying { seconds } => return write!(f, "Retrying in {seconds} seconds"),
        })
    }
}

/// Tells whoever listens.
#[derive(Debug)]
pub(super) struct Teller(pub(super) mpsc::Sender<Progress>);

impl Teller {
    pub(super) async fn tell(&self, progress: Progress) {
        // Who no longer listens does not undo what was asked for.
        let _ = self.0.send(progress).await;
    }

    pub(super) async fn layer(&self, id: &str, state: LayerState) {
        let id = id.to_owned();
        self.tell(Progress::Layer { id, state }).await;
    }

    /// For what may be left out while the listener is busy.
    pub(super) fn layer_if_listened(&self, id: &str, state: LayerState) {
        let id = id.to_owned();
        let _ = self.0.try_send(Progress::Layer { id, state });
    }
}
