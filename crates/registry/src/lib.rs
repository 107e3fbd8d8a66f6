//! The distribution protocol: how images travel between a registry and the store.
//!
//! Today this is the client's half; the server comes to stand beside it (`server`). The crate speaks HTTP and the JSON documents of the distribution
//! specification and hides all of it behind [`Client`]: a [`Reference`] goes in, an image in the
//! store comes out, or goes to where the reference says. It decides nothing about whom to trust, keeps nothing on disk of its own, and
//! never writes a document again that it has read: digests are those of the exact bytes.
//!
//! ```text
//!  Client::pull ─▶ endpoints ─▶ session ─▶ transport ─▶ reqwest      bytes, redirects, TLS
//!        │         mirrors,      │ 401                               challenge ─▶ token
//!        │         schemes       └─▶ auth ─▶ transport
//!        └─▶ layer (one for each, bounded) ─▶ channel ─▶ store::LayerIngest on a blocking thread
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`client`] | the client: pull, push, resolve, check |
//!
//! **What `main` must do: nothing.** The TLS provider is aws-lc-rs. `reqwest` takes the process's
//! default provider if one is installed and brings aws-lc-rs itself otherwise, so this crate works
//! either way and installs nothing. Who builds a `rustls` configuration directly (the daemon's TLS
//! socket) installs aws-lc-rs once, first thing in `main`. The host's CA certificates are read when
//! the first verified HTTPS request is made, not before: a machine without any can still use
//! registries on loopback.
//!
//! [`Reference`]: vocab::Reference

pub mod client;

pub use client::{
    CheckError, Checked, Client, Config, Credentials, CredentialsError, FetchError, Fetched,
    LayerError, LayerState, NewClientError, Progress, Proxies, PullError, Pulled, PushError,
    Refusal, RequestError, ResolveError, Resolved,
};
