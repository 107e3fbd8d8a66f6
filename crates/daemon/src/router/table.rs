//! Every operation of the Engine API as data: the 108 of the definition in its order, then those
//! that Docker serves beyond it.
//!
//! This is where a new route is written down; `docs/compat.md` is made of it. Docker's
//! `OPTIONS` (any path, 200) is in the router, and its seven `/debug` routes are not here, as
//! they are not in a daemon without debug mode: 404.

use http::Method;

use super::Does::{self, NotYet, Partly};
use super::{Operation, operation};
use crate::routes;

macro_rules! works {
    ($route:path) => {
        Does::Works(|call| Box::pin($route(call)))
    };
}

macro_rules! partly {
    ($route:path, $lacks:literal) => {
        Partly(|call| Box::pin($route(call)), $lacks)
    };
}

/// All operations.
#[rustfmt::skip]
pub(crate) const OPERATIONS: &[Operation] = &[
    operation(Method::POST, "/auth", "Check registry credentials", works!(routes::system::auth)),
    operation(Method::GET, "/info", "Everything about the daemon and host", works!(routes::system::info)),
    operation(Method::GET, "/version", "Engine version, API range, component list", works!(routes::system::version)),
    operation(Method::GET, "/_ping", "Liveness", works!(routes::system::ping)),
    operation(Method::HEAD, "/_ping", "Liveness without a body", works!(routes::system::ping)),
    operation(Method::GET, "/system/df", "Disk usage by images, containers, volumes, build cache", works!(routes::system::disk_usage)),
    operation(Method::GET, "/events", "Stream of daemon events, past and future", works!(routes::events::events)),
    operation(Method::GET, "/containers/json", "List containers", works!(routes::containers::list)),
    operation(Method::POST, "/containers/create", "Create a container from Config + HostConfig + NetworkingConfig", works!(routes::containers::create)),
    operation(Method::GET, "/containers/{id}/json", "Full low-level description of one container", works!(routes::containers::inspect)),
    operation(Method::GET, "/containers/{id}/top", "Process table of the container, as titles + rows from host ps", works!(routes::containers::top)),
    operation(Method::GET, "/containers/{id}/logs", "Read or follow stdout/stderr through the log driver", works!(routes::logs::logs)),
    operation(Method::GET, "/containers/{id}/changes", "Paths changed/added/deleted against the image", works!(routes::archive::changes)),
    operation(Method::GET, "/containers/{id}/export", "Tar of the merged root filesystem", works!(routes::transfer::export)),
    operation(Method::GET, "/containers/stats", "Berth's own: the latest sample of every running container", works!(routes::stats::all_stats)),
    operation(Method::GET, "/containers/{id}/stats", "CPU/memory/network/blkio samples, one per second or one shot", works!(routes::stats::stats)),
    operation(Method::POST, "/containers/{id}/resize", "Set TTY rows h and columns w", works!(routes::containers::resize)),
    operation(Method::POST, "/containers/{id}/start", "Start", partly!(routes::containers::start, "checkpoints")),
    operation(Method::POST, "/containers/{id}/stop", "Stop signal, then SIGKILL after t seconds", works!(routes::containers::stop)),
    operation(Method::POST, "/containers/{id}/restart", "Stop then start", works!(routes::containers::restart)),
    operation(Method::POST, "/containers/{id}/kill", "Send a signal by name or number", works!(routes::containers::kill)),
    operation(Method::POST, "/containers/{id}/update", "Change resource limits and restart policy in place", works!(routes::containers::update)),
    operation(Method::POST, "/containers/{id}/rename", "Give the container a new name", works!(routes::containers::rename)),
    operation(Method::POST, "/containers/{id}/pause", "Freeze all processes with the cgroup freezer", works!(routes::containers::pause)),
    operation(Method::POST, "/containers/{id}/unpause", "Thaw a paused container", works!(routes::containers::unpause)),
    operation(Method::POST, "/containers/{id}/attach", "Bidirectional stdio of PID 1", works!(routes::attach::attach)),
    operation(Method::GET, "/containers/{id}/attach/ws", "Attach over a websocket", works!(routes::websocket::attach)),
    operation(Method::POST, "/containers/{id}/wait", "Block until not-running / next-exit / removed", works!(routes::containers::wait)),
    operation(Method::DELETE, "/containers/{id}", "Remove", works!(routes::containers::remove)),
    operation(Method::HEAD, "/containers/{id}/archive", "Stat one path in the container", works!(routes::archive::head)),
    operation(Method::GET, "/containers/{id}/archive", "Tar of one path in the container", works!(routes::archive::get)),
    operation(Method::PUT, "/containers/{id}/archive", "Unpack a tar into a directory in the container", works!(routes::archive::put)),
    operation(Method::POST, "/containers/prune", "Remove stopped containers", works!(routes::containers::prune)),
    operation(Method::POST, "/containers/{id}/exec", "Register an exec instance", works!(routes::exec::create)),
    operation(Method::POST, "/exec/{id}/start", "Run the exec instance, attached or detached", works!(routes::exec::start)),
    operation(Method::POST, "/exec/{id}/resize", "Resize the exec TTY", works!(routes::exec::resize)),
    operation(Method::GET, "/exec/{id}/json", "State of an exec instance: Running, ExitCode, Pid", works!(routes::exec::inspect)),
    operation(Method::GET, "/images/json", "List images", works!(routes::images::list)),
    operation(Method::POST, "/images/create", "Pull", works!(routes::transfer::create)),
    operation(Method::GET, "/images/{name}/json", "Full description of one image", works!(routes::images::inspect)),
    operation(Method::GET, "/images/{name}/attestations", "In-toto attestation statements attached to an image", works!(routes::images::attestations)),
    operation(Method::GET, "/images/{name}/history", "Layer history, newest first", works!(routes::images::history)),
    operation(Method::GET, "/images/{name}/explain", "Berth's own: what is in an image, and what of it is in vain", works!(routes::images::explain)),
    operation(Method::POST, "/images/{name}/verify", "Berth's own: compare every byte of an image with its digests", works!(routes::images::verify)),
    operation(Method::POST, "/images/{name}/push", "Upload to a registry", works!(routes::push::push)),
    operation(Method::POST, "/images/{name}/tag", "Add a repo:tag name to an image", works!(routes::images::tag)),
    operation(Method::DELETE, "/images/{name}", "Untag and/or delete", works!(routes::images::remove)),
    operation(Method::GET, "/images/search", "Search the default registry index", NotYet),
    operation(Method::POST, "/images/prune", "Remove dangling", works!(routes::images::prune)),
    operation(Method::POST, "/commit", "Make an image from a container", works!(routes::images::commit)),
    operation(Method::GET, "/images/{name}/get", "Save one image as a tar", works!(routes::transfer::save_one)),
    operation(Method::GET, "/images/get", "Save several images", works!(routes::transfer::save_several)),
    operation(Method::POST, "/images/load", "Load images from a saved tar", works!(routes::load::load)),
    operation(Method::POST, "/build", "Classic or BuildKit build from a tar body, a URL/git remote, or a session", NotYet),
    operation(Method::POST, "/build/prune", "Trim the build cache", NotYet),
    operation(Method::POST, "/session", "Reverse gRPC channel the builder calls back on", NotYet),
    operation(Method::GET, "/distribution/{name}/json", "Registry descriptor and platforms of an image reference, without pulling", works!(routes::images::distribution)),
    operation(Method::GET, "/volumes", "List volumes", works!(routes::volumes::list)),
    operation(Method::POST, "/volumes/create", "Create, or return the existing volume of that name", works!(routes::volumes::create)),
    operation(Method::GET, "/volumes/{name}", "Inspect one volume", works!(routes::volumes::inspect)),
    operation(Method::PUT, "/volumes/{name}", "Change a Swarm cluster", NotYet),
    operation(Method::DELETE, "/volumes/{name}", "Remove", works!(routes::volumes::remove)),
    operation(Method::POST, "/volumes/prune", "Remove unused anonymous volumes", works!(routes::volumes::prune)),
    operation(Method::GET, "/networks", "List networks", works!(routes::networks::list)),
    operation(Method::GET, "/networks/{id}", "Inspect by id, name or id prefix", works!(routes::networks::inspect)),
    operation(Method::DELETE, "/networks/{id}", "Remove", works!(routes::networks::remove)),
    operation(Method::POST, "/networks/create", "Create a network", works!(routes::networks::create)),
    operation(Method::POST, "/networks/{id}/connect", "Attach a container with endpoint settings", works!(routes::networks::connect)),
    operation(Method::POST, "/networks/{id}/disconnect", "Detach a container", works!(routes::networks::disconnect)),
    operation(Method::POST, "/networks/prune", "Remove networks with no endpoints", works!(routes::networks::prune)),
    operation(Method::GET, "/plugins", "List managed plugins", partly!(routes::plugins::list, "there are no plugins")),
    operation(Method::GET, "/plugins/privileges", "Privileges a remote plugin asks for", NotYet),
    operation(Method::POST, "/plugins/pull", "Install a plugin", NotYet),
    operation(Method::GET, "/plugins/{name}/json", "Inspect a plugin", partly!(routes::plugins::inspect, "there are no plugins")),
    operation(Method::DELETE, "/plugins/{name}", "Remove a plugin", NotYet),
    operation(Method::POST, "/plugins/{name}/enable", "Enable", NotYet),
    operation(Method::POST, "/plugins/{name}/disable", "Disable", NotYet),
    operation(Method::POST, "/plugins/{name}/upgrade", "Replace with another remote version", NotYet),
    operation(Method::POST, "/plugins/create", "Create from a tar with config.json + rootfs", NotYet),
    operation(Method::POST, "/plugins/{name}/push", "Push a plugin to a registry", NotYet),
    operation(Method::POST, "/plugins/{name}/set", "Set plugin variables", NotYet),
    operation(Method::GET, "/swarm", "Inspect the cluster", NotYet),
    operation(Method::POST, "/swarm/init", "Start a new cluster on this node", NotYet),
    operation(Method::POST, "/swarm/join", "Join an existing cluster with a token", NotYet),
    operation(Method::POST, "/swarm/leave", "Leave", NotYet),
    operation(Method::POST, "/swarm/update", "Change cluster spec and/or rotate tokens and keys", NotYet),
    operation(Method::GET, "/swarm/unlockkey", "Current manager unlock key", NotYet),
    operation(Method::POST, "/swarm/unlock", "Unlock a locked manager after restart", NotYet),
    operation(Method::GET, "/nodes", "List swarm nodes", NotYet),
    operation(Method::GET, "/nodes/{id}", "Inspect a node", NotYet),
    operation(Method::DELETE, "/nodes/{id}", "Remove a node", NotYet),
    operation(Method::POST, "/nodes/{id}/update", "Change role, availability, labels", NotYet),
    operation(Method::GET, "/services", "List services", NotYet),
    operation(Method::POST, "/services/create", "Create a service", NotYet),
    operation(Method::GET, "/services/{id}", "Inspect a service", NotYet),
    operation(Method::DELETE, "/services/{id}", "Remove a service", NotYet),
    operation(Method::POST, "/services/{id}/update", "Update, or roll back with rollback=previous", NotYet),
    operation(Method::GET, "/services/{id}/logs", "Logs of all tasks of a service", NotYet),
    operation(Method::GET, "/tasks", "List tasks", NotYet),
    operation(Method::GET, "/tasks/{id}", "Inspect a task", NotYet),
    operation(Method::GET, "/tasks/{id}/logs", "Logs of one task", NotYet),
    operation(Method::GET, "/secrets", "List secrets", NotYet),
    operation(Method::POST, "/secrets/create", "Create a secret", NotYet),
    operation(Method::GET, "/secrets/{id}", "Inspect a secret", NotYet),
    operation(Method::DELETE, "/secrets/{id}", "Remove a secret", NotYet),
    operation(Method::POST, "/secrets/{id}/update", "Change labels only", NotYet),
    operation(Method::GET, "/configs", "List configs", NotYet),
    operation(Method::POST, "/configs/create", "Create a config", NotYet),
    operation(Method::GET, "/configs/{id}", "Inspect a config", NotYet),
    operation(Method::DELETE, "/configs/{id}", "Remove a config", NotYet),
    operation(Method::POST, "/configs/{id}/update", "Change labels only", NotYet),
    operation(Method::POST, "/build/cancel", "Cancel a running build", NotYet),
    operation(Method::POST, "/grpc", "Serve the BuildKit control API over an upgraded connection", NotYet),
    operation(Method::GET, "/containers/{id}/checkpoints", "List checkpoints", NotYet),
    operation(Method::POST, "/containers/{id}/checkpoints", "Create a checkpoint", NotYet),
    operation(Method::DELETE, "/containers/{id}/checkpoints/{checkpoint}", "Delete a checkpoint", NotYet),
    operation(Method::GET, "/networks/", "The same as /networks, for old clients", works!(routes::networks::list)),
];
