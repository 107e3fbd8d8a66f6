//! `Config` and `HostConfig` become an OCI specification.
