//! An engine on roots of its own, with the image `busybox`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use engine::attach::{Attached, Source};
use engine::config::ImageGc;
use engine::containers::{CreateContainer, ListOptions, RemoveOptions, WaitCondition, WaitOutcome};
use engine::images::ImportImage;
use engine::logs::{LogOptions, LogRecord};
use engine::{Config, Engine};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use vocab::config::{ContainerConfig, HostConfig};

/// Far beyond what anything here takes, on a machine that is busy with everything else too.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// The program that becomes a monitor, and an engine to be killed.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_engine-alone");

/// An engine on roots of its own. Its containers and its bridge go with it.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) instance: String,
    network: Option<String>,
    /// Whether the data root is a small disk of its own.
    disk: bool,
    /// When images make room, from the next time that the engine is opened.
    pub(crate) image_gc: Option<ImageGc>,
    engine: Option<Arc<Engine>>,
}

impl Place {
    /// Without networks, with the image.
    pub(crate) async fn new() -> Self {
        Self::open(None, None).await
    }

    /// With a bridge of this address.
    pub(crate) async fn with_bridge(address: &str) -> Self {
        Self::open(Some(address.to_owned()), None).await
    }

    /// Whose data root has this much space.
    pub(crate) async fn on_disk_of(bytes: u64) -> Self {
        Self::open(None, Some(bytes)).await
    }

    async fn open(network: Option<String>, disk_bytes: Option<u64>) -> Self {
        let id = vocab::ContainerId::random().to_string();
        let mut place = Self {
            dir: tempfile::tempdir().unwrap(),
            instance: id[..6].to_owned(),
            network,
            disk: disk_bytes.is_some(),
            image_gc: None,
            engine: None,
        };
        if let Some(bytes) = disk_bytes {
            let data = place.dir.path().join("data");
            fs::create_dir(&data).unwrap();
            let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", &data, "tmpfs", flags, options.as_c_str()).unwrap();
        }
        fs::write(place.dir.path().join("instance"), &place.instance).unwrap();
        place.reopen().await;
        let tar = testkit::image::busybox_tar();
        let import = ImportImage {
            changes: vec!["CMD [\"sh\"]".to_owned(), "ENV FROM=image".to_owned()],
            name: Some("busybox".parse().unwrap()),
            ..ImportImage::default()
        };
        let tar = Box::new(std::io::Cursor::new(tar));
        place.engine().import_image(tar, import).await.unwrap();
        place
    }

    pub(crate) fn config(&self) -> Config {
        let dir = self.dir.path();
        let mut config = Config::new(
            dir.join("data"),
            dir.join("run"),
            self.instance.clone(),
            PathBuf::from(PROGRAM),
        );
        config.image_gc = self.image_gc.or(config.image_gc);
        config.bridge.enabled = self.network.is_some();
        config.bridge.address.clone_from(&self.network);
        config
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().unwrap()
    }

    /// Lets the engine go as a crash would, but for what the process itself holds.
    pub(crate) async fn drop_engine(&mut self) {
        self.engine = None;
    }

    /// Opens the engine again, or says why it cannot be opened.
    pub(crate) async fn try_open(&self) -> Result<(), engine::OpenError> {
        try_open(self.config()).await.map(drop)
    }

    /// Where the monitor of a container is found.
    pub(crate) fn run_dir(&self, id: &str) -> PathBuf {
        self.config().exec_root.join("containers").join(id)
    }

    /// Opens the engine again.
    pub(crate) async fn reopen(&mut self) {
        self.engine = None;
        self.engine = Some(open(self.config()).await);
    }

    /// Makes a container that runs `words`.
    pub(crate) async fn create(&self, name: &str, words: &[&str]) -> String {
        self.create_as(name, words, |_, _| {}).await
    }

    /// The same, with something about it changed.
    pub(crate) async fn create_as(
        &self,
        name: &str,
        words: &[&str],
        change: impl FnOnce(&mut ContainerConfig, &mut HostConfig),
    ) -> String {
        let wanted = wanted(name, words, change);
        let created = self.engine().create(wanted).await;
        created
            .unwrap_or_else(|error| panic!("{}", vocab::failure::chain(&error)))
            .id
            .to_string()
    }

    pub(crate) async fn start(&self, name: &str) {
        let started = self.engine().start(name).await;
        started.unwrap_or_else(|error| panic!("{}", vocab::failure::chain(&error)));
    }

    /// Starts it and waits for its end.
    pub(crate) async fn run(&self, name: &str) -> WaitOutcome {
        let engine = self.engine();
        let wait = engine.wait(name, WaitCondition::NextExit).await.unwrap();
        self.start(name).await;
        tokio::time::timeout(LONG, wait.outcome()).await.unwrap()
    }

    pub(crate) async fn remove(&self, name: &str) {
        let force = RemoveOptions {
            force: true,
            volumes: true,
            link: false,
        };
        self.engine().remove(name, force).await.unwrap();
    }

    /// What it has logged on both streams.
    pub(crate) async fn logged(&self, name: &str) -> String {
        let both = LogOptions {
            stdout: true,
            stderr: true,
            ..LogOptions::default()
        };
        let lines = self.lines(name, both).await;
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// What its log holds of that, and from where.
    pub(crate) async fn lines(&self, name: &str, options: LogOptions) -> Vec<(Source, String)> {
        let logs = self.engine().logs(name, options, keep).await.unwrap();
        let batches: Vec<_> = logs.collect().await;
        batches.into_iter().flat_map(Result::unwrap).collect()
    }
}

/// Collects lines.
pub(crate) fn keep(lines: &mut Vec<(Source, String)>, record: &LogRecord<'_>) {
    let line = std::str::from_utf8(record.line).unwrap().to_owned();
    lines.push((record.source, line));
}

async fn open(config: Config) -> Arc<Engine> {
    match try_open(config).await {
        Ok(engine) => engine,
        Err(error) => panic!("{}", vocab::failure::chain(&error)),
    }
}

/// Opens an engine; waits until the one before has let go of the store.
async fn try_open(config: Config) -> Result<Arc<Engine>, engine::OpenError> {
    let end = tokio::time::Instant::now() + LONG;
    loop {
        match Engine::open(config.clone()).await {
            Err(engine::OpenError::Store(store::OpenError::Locked(_)))
                if tokio::time::Instant::now() < end =>
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            other => return other,
        }
    }
}

/// A container that is wanted.
pub(crate) fn wanted(
    name: &str,
    words: &[&str],
    change: impl FnOnce(&mut ContainerConfig, &mut HostConfig),
) -> CreateContainer {
    let mut config = ContainerConfig {
        image: "busybox".to_owned(),
        cmd: Some(words.iter().map(|&word| word.to_owned()).collect()),
        ..ContainerConfig::default()
    };
    let mut host = HostConfig::default();
    change(&mut config, &mut host);
    CreateContainer {
        name: Some(name.to_owned()),
        config,
        host,
        ..CreateContainer::default()
    }
}

/// Everything of one source until the end.
pub(crate) async fn read_all(mut attached: Attached) -> (String, String) {
    let (mut out, mut err) = (BytesMut::new(), BytesMut::new());
    drop(attached.input.take());
    while let Some(chunk) = tokio::time::timeout(LONG, attached.output.next())
        .await
        .unwrap()
    {
        let chunk = chunk.unwrap();
        match chunk.source {
            Source::Stdout => out.extend_from_slice(&chunk.bytes),
            Source::Stderr => err.extend_from_slice(&chunk.bytes),
        }
    }
    let text = |bytes: BytesMut| String::from_utf8(bytes.to_vec()).unwrap();
    (text(out), text(err))
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !condition().await {
        assert!(
            tokio::time::Instant::now() < end,
            "did not come true in {LONG:?}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let engine = self.engine.take();
        let config = self.config();
        let bridge = self.network.is_some();
        // The test's own runtime may be the one that is unwinding.
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(clean(engine, config, bridge));
        });
        let cleaned = cleaned.join();
        if self.disk {
            let flags = rustix::mount::UnmountFlags::DETACH;
            rustix::mount::unmount(self.dir.path().join("data"), flags).unwrap();
        }
        if cleaned.is_err() && !std::thread::panicking() {
            panic!("the place was not left clean");
        }
    }
}

async fn clean(engine: Option<Arc<Engine>>, config: Config, bridge: bool) {
    let engine = match engine {
        Some(engine) => engine,
        None => open(config.clone()).await,
    };
    let everything = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    let force = RemoveOptions {
        force: true,
        volumes: true,
        link: false,
    };
    for container in engine.list(everything).await.unwrap() {
        // One that removes itself is as good.
        let _ = engine.remove(&container.id.to_string(), force).await;
    }
    let networks = engine.list_networks(engine::Filters::new()).await.unwrap();
    engine.shutdown(LONG).await;
    let root = format!("berth-{}", config.instance);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(&root));
    }
    if bridge {
        let own = network::Config::new(&config.instance);
        let links = network::Networks::open(own.clone()).unwrap();
        for found in networks.iter().filter(|network| network.driver == "bridge") {
            let subnet = found.subnets[0].subnet.parse().unwrap();
            let device = found
                .options
                .get("com.docker.network.bridge.name")
                .cloned()
                .unwrap_or_else(|| network::Bridge::device_of(&found.id));
            let bridge = network::Bridge {
                id: found.id,
                name: found.name.clone(),
                device,
                subnet,
                gateway: found.subnets[0].gateway.parse().unwrap(),
                mtu: None,
                internal: found.internal,
                icc: true,
                masquerade: true,
                ipv6: None,
            };
            links.ensure_bridge(&bridge).await.unwrap();
            links.remove_bridge(&bridge.id).await.unwrap();
        }
    }
}
