//! Images: names, pulls and removals, thin over `store` and `registry`.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use registry::{Credentials, Progress, Pulled};
use store::MetadataError;
pub use store::Progress as LoadProgress;
use tokio::sync::{mpsc, watch};
use vocab::image::ImageConfig;
use vocab::time::{parse_rfc3339, parse_when};
use vocab::{Digest, Failure, Kind, Platform, Reference};

use crate::containers::{Prune, Pruned};
use crate::events::{EventKind, has_label};
use crate::manifests::{self, Target};
use crate::shared::{Shared, lock};
use crate::{Engine, FilterError, Filters};

/// An image that is here.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// What berth reads in the configuration.
    pub config: ImageConfig,
    /// The configuration as it came.
    pub config_json: Vec<u8>,
    /// Its names with tags, as users type them.
    pub tags: Vec<String>,
    /// Its names with digests, as users type them.
    pub digests: Vec<String>,
    /// Bytes of its layers, uncompressed.
    pub size_bytes: u64,
    /// Those of them that other images have too, where that was asked.
    pub shared_bytes: Option<u64>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// When a name was last given to it here.
    pub last_tagged: Option<SystemTime>,
    /// Containers made of it.
    pub containers: usize,
    /// What its names point at, where that was asked.
    pub target: Option<Target>,
}

/// One step in an image's history, newest first.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// The image's id for the newest; absent (`<missing>`) for the others.
    pub id: Option<Digest>,
    /// When.
    pub created: Option<SystemTime>,
    /// By which command.
    pub created_by: String,
    /// Names of that image.
    pub tags: Vec<String>,
    /// Bytes it added.
    pub size_bytes: u64,
    /// Why.
    pub comment: String,
}

/// Which images a list shows.
#[derive(Clone, Debug, Default)]
pub struct ListImages {
    /// Intermediate ones, too.
    pub all: bool,
    /// What must match.
    pub filters: Filters,
    /// Whether to tell the bytes that images share.
    pub shared: bool,
    /// Whether to tell what their names point at.
    pub targets: bool,
}

/// One thing that a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedImage {
    /// A name was taken away.
    Untagged(String),
    /// An image was deleted: its id.
    Deleted(String),
}

/// How a root file system becomes an image.
#[derive(Clone, Debug, Default)]
pub struct ImportImage {
    /// Comment of the new layer.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    /// The platform it is for; the host's when absent.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: Option<Reference>,
}

/// Something that a load met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadedImage {
    /// An image that has a name.
    Named(String),
    /// An image without one: its id.
    Unnamed(String),
}

/// Why an image was not found.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct FindImageError(#[from] pub store::FindError);

impl Failure for FindImageError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Why an image did not get a name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// The image is not here.
    #[error(transparent)]
    Find(#[from] store::FindError),
    /// The name was not put down.
    #[error(transparent)]
    Tag(#[from] store::TagError),
}

impl Failure for TagError {
    fn kind(&self) -> Kind {
        match self {
            Self::Find(error) => error.kind(),
            Self::Tag(error) => error.kind(),
        }
    }
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RemoveImageError(#[from] pub store::RemoveError);

impl Failure for RemoveImageError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LoadError(#[from] pub store::LoadError);

impl Failure for LoadError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ImportError(#[from] pub store::ImportError);

impl Failure for ImportError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Why nothing was saved.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SaveError(#[from] pub store::SaveError);

impl Failure for SaveError {
    fn kind(&self) -> Kind {
        self.0.kind()
    }
}

/// Why images were not listed.
#[derive(Debug, thiserror::Error)]
pub enum ListImagesError {
    /// A filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The store.
    #[error("list images")]
    Store(#[source] MetadataError),
}

impl Failure for ListImagesError {
    fn kind(&self) -> Kind {
        match self {
            Self::Filter(error) => error.kind(),
            Self::Store(_) => Kind::Internal,
        }
    }
}

/// Why an image was not pulled. All who shared the download get the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The registry or the store.
    #[error(transparent)]
    Registry(Arc<registry::PullError>),
    /// The pull that was shared was given up.
    #[error("the pull of {0} was given up")]
    GivenUp(String),
}

impl Failure for PullError {
    fn kind(&self) -> Kind {
        match self {
            Self::Registry(error) => error.kind(),
            Self::GivenUp(_) => Kind::Unavailable,
        }
    }
}

/// Steps of progress that a slow client may be behind.
const PROGRESS: usize = 256;

type PullKey = (Reference, Option<Platform>, Option<Credentials>);
type PullOutcome = Option<Result<Pulled, PullError>>;

/// Pulls under way: one for each reference, platform and login.
#[derive(Debug, Default)]
pub(crate) struct Pulls {
    flights: Mutex<Vec<Flight>>,
}

/// Whoever waits for the pull holds a receiver of `outcome`.
#[derive(Clone, Debug)]
struct Flight {
    key: PullKey,
    outcome: watch::Sender<PullOutcome>,
    listeners: Arc<Mutex<Listeners>>,
}

impl Pulls {
    fn forget(&self, gone: &Flight) {
        lock(&self.flights).retain(|flight| !flight.outcome.same_channel(&gone.outcome));
    }
}

/// Takes a flight out of the table when its task ends, however it ends.
struct Landing {
    shared: Arc<Shared>,
    flight: Flight,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.pulls.forget(&self.flight);
    }
}

/// Those who want to see the progress, and the last word about each layer for those who come late.
#[derive(Debug, Default)]
struct Listeners {
    senders: Vec<mpsc::Sender<Progress>>,
    said: Vec<Progress>,
}

impl Listeners {
    fn tell(&mut self, progress: Progress) {
        // A client that is too slow misses counts, not the end: that is the outcome.
        self.senders.retain(|sender| {
            !matches!(
                sender.try_send(progress.clone()),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        });
        let same = |said: &Progress| match (said, &progress) {
            (Progress::Layer { id, .. }, Progress::Layer { id: new, .. }) => id == new,
            (said, new) => said == new,
        };
        match self.said.iter_mut().find(|said| same(said)) {
            Some(said) => *said = progress,
            None => self.said.push(progress),
        }
    }

    fn join(&mut self, sender: mpsc::Sender<Progress>) {
        for progress in &self.said {
            // As many as there are layers; what does not fit is only display.
            let _ = sender.try_send(progress.clone());
        }
        self.senders.push(sender);
    }
}

impl Engine {
    /// Pulls an image. Callers of the same reference at the same time share one download.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled, PullError> {
        let key = (reference.clone(), platform.cloned(), credentials.cloned());
        let mut outcome = self.join_pull(key, progress);
        let over = outcome.wait_for(Option::is_some).await;
        match over.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            _ => Err(PullError::GivenUp(reference.familiar())),
        }
    }

    /// Pulls every tag of a repository, one after the other; answers whether all were here before.
    pub async fn pull_all(
        &self,
        repository: &Reference,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<bool, PullError> {
        let names = self.shared.registry.tags(repository, credentials).await;
        let names = names.map_err(|error| PullError::Registry(Arc::new(error)))?;
        let mut up_to_date = true;
        for name in &names {
            let pulled = self
                .pull(name, platform, credentials, progress.clone())
                .await?;
            up_to_date &= pulled.up_to_date;
        }
        Ok(up_to_date)
    }

    /// Joins a pull that is under way, or begins one.
    fn join_pull(
        &self,
        key: PullKey,
        progress: mpsc::Sender<Progress>,
    ) -> watch::Receiver<PullOutcome> {
        let mut flights = lock(&self.shared.pulls.flights);
        if let Some(flight) = flights.iter().find(|flight| flight.key == key) {
            lock(&flight.listeners).join(progress);
            return flight.outcome.subscribe();
        }
        let (sender, outcome) = watch::channel(None);
        let flight = Flight {
            key,
            outcome: sender,
            listeners: Arc::default(),
        };
        lock(&flight.listeners).join(progress);
        flights.push(flight.clone());
        let landing = Landing {
            shared: Arc::clone(&self.shared),
            flight,
        };
        self.shared.tasks.spawn("pull", async move {
            let pulled = fly(&landing.shared, &landing.flight).await;
            let outcome = landing.flight.outcome.clone();
            // Late comers begin another one, which finds everything there.
            drop(landing);
            outcome.send_replace(pulled);
        });
        outcome
    }

    /// The image that was named: reference, id or prefix of an id.
    pub async fn inspect_image(
        &self,
        typed: &str,
        platform: Option<&Platform>,
    ) -> Result<Image, FindImageError> {
        let image = self.find_image_for(typed, platform).await?;
        Ok(self.shared.image(image))
    }

    pub(crate) async fn find_image_for(
        &self,
        typed: &str,
        platform: Option<&Platform>,
    ) -> Result<store::Image, store::FindError> {
        let Some(platform) = platform.cloned() else {
            return self.find_image(typed).await;
        };
        let (store, typed) = (Arc::clone(&self.shared.store), typed.to_owned());
        tasks::blocking(move || store.find_image_for(&typed, &platform)).await
    }

    async fn find_image(&self, typed: &str) -> Result<store::Image, store::FindError> {
        let (store, typed) = (Arc::clone(&self.shared.store), typed.to_owned());
        tasks::blocking(move || store.find_image(&typed)).await
    }

    /// Images, newest first.
    pub async fn list_images(&self, options: ListImages) -> Result<Vec<Image>, ListImagesError> {
        let sieve = ImageSieve::new(self, &options.filters).await?;
        let store = Arc::clone(&self.shared.store);
        let shared = options.shared;
        let (images, mut shared_bytes) = tasks::blocking(move || {
            let shared_bytes = shared.then(|| store.shared_bytes()).transpose()?;
            Ok((store.images()?, shared_bytes))
        })
        .await
        .map_err(ListImagesError::Store)?;
        let shared = Arc::clone(&self.shared);
        let images = match options.targets {
            true => tasks::blocking(move || shared.with_targets(images)).await,
            false => images.into_iter().map(|image| (image, None)).collect(),
        };
        Ok(images
            .into_iter()
            .filter_map(|(image, target)| {
                let image = Image {
                    target,
                    shared_bytes: shared_bytes
                        .as_mut()
                        .map(|bytes| bytes.remove(&image.id).unwrap_or(0)),
                    ..self.shared.image(image)
                };
                sieve.pass(image)
            })
            .collect())
    }

    /// How the image came to be.
    pub async fn image_history(
        &self,
        typed: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<HistoryEntry>, FindImageError> {
        let image = self.find_image_for(typed, platform).await?;
        let (store, diff_ids) = (
            Arc::clone(&self.shared.store),
            image.config.rootfs.diff_ids.clone(),
        );
        let sizes = tasks::blocking(move || {
            let of = |diff_id: &Digest| {
                let layer = store.find_layer(diff_id).ok().flatten();
                layer.map_or(0, |layer| layer.size_bytes())
            };
            diff_ids.iter().map(of).collect::<Vec<u64>>()
        })
        .await;
        let mut sizes = sizes.into_iter();
        let mut history: Vec<HistoryEntry> = image
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: None,
                created: step.created.as_deref().and_then(parse_rfc3339),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size_bytes: match step.empty_layer {
                    true => 0,
                    false => sizes.next().unwrap_or(0),
                },
                comment: step.comment.clone(),
            })
            .collect();
        if let Some(newest) = history.last_mut() {
            newest.id = Some(image.id.clone());
            newest.tags = image.names.iter().map(Reference::familiar).collect();
        }
        history.reverse();
        Ok(history)
    }

    /// Gives an image another name.
    pub async fn tag_image(&self, typed: &str, name: &Reference) -> Result<(), TagError> {
        let image = self.find_image(typed).await?;
        let (store, id, name) = (
            Arc::clone(&self.shared.store),
            image.id.clone(),
            name.clone().or_latest(),
        );
        let familiar = name.familiar();
        tasks::blocking(move || store.tag(&id, &name)).await?;
        self.shared
            .announce_image("tag", &image.id.to_string(), &familiar, &labels_of(&image));
        Ok(())
    }

    /// Takes a name away, and deletes the image when it was the last one.
    pub async fn remove_image(
        &self,
        typed: &str,
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<RemovedImage>, RemoveImageError> {
        self.remove_image_for(typed, &[], force, no_prune).await
    }

    /// The same; if platforms are given, only what is for those.
    pub async fn remove_image_for(
        &self,
        typed: &str,
        platforms: &[Platform],
        force: bool,
        no_prune: bool,
    ) -> Result<Vec<RemovedImage>, RemoveImageError> {
        let platforms = platforms.to_vec();
        let asked = typed.to_owned();
        let (shared, typed) = (Arc::clone(&self.shared), typed.to_owned());
        let (found, removed) = tasks::blocking(move || {
            let found = shared.store.find_image_or_torn(&typed)?;
            let users = |image: &Digest| shared.image_users(image);
            let store = &shared.store;
            let removed = match platforms.as_slice() {
                [] => store.remove_image(&typed, force, no_prune, &users),
                platforms => store.remove_platforms(&typed, platforms, force, &users),
            };
            Ok::<_, store::RemoveError>((found, removed?))
        })
        .await?;
        let id = found.id.to_string();
        let labels = labels_of(&found);
        let none = BTreeMap::new();
        // Digests that go along with the last tag of their repository are told to the client alone.
        let alone = match removed.first() {
            Some(store::Removed::Untagged(name)) => means(&asked, name),
            _ => false,
        };
        let mut told = false;
        Ok(removed
            .into_iter()
            .map(|removed| match removed {
                store::Removed::Untagged(name) => {
                    if !(alone && told) {
                        self.shared.announce_image("untag", &id, &id, &labels);
                    }
                    told = true;
                    RemovedImage::Untagged(name)
                }
                store::Removed::Deleted(digest) => {
                    self.shared.cache.forget(&digest);
                    let digest = digest.to_string();
                    if digest == id {
                        self.shared
                            .announce_image("delete", &digest, &digest, &none);
                    }
                    RemovedImage::Deleted(digest)
                }
            })
            .collect())
    }

    /// Loads a `docker save` or OCI tar; if platforms are given, only what is for those. The reader
    /// blocks; it is read on the blocking pool. What `progress` has no room for is left out.
    pub async fn load_images(
        &self,
        mut tar: Box<dyn Read + Send>,
        platforms: Vec<Platform>,
        progress: mpsc::Sender<LoadProgress>,
    ) -> Result<Vec<LoadedImage>, LoadError> {
        let store = Arc::clone(&self.shared.store);
        let mut tell = move |step| {
            // Nobody waits for what is only display.
            let _ = progress.try_send(step);
        };
        let load = move || {
            let loaded = store.load_for(&mut tar, &platforms, &mut tell);
            loaded.map_err(Box::new)
        };
        let loaded = tasks::blocking(load)
            .await
            .map_err(|error| LoadError(*error))?;
        let mut answers = Vec::new();
        for image in loaded {
            let id = image.id.to_string();
            self.shared.announce_image("load", &id, &id, &image.labels);
            if image.names.is_empty() {
                answers.push(LoadedImage::Unnamed(id));
                continue;
            }
            for name in image.names.iter().map(Reference::familiar) {
                // Images of several platforms have it in common.
                let name = LoadedImage::Named(name);
                if !answers.contains(&name) {
                    answers.push(name);
                }
            }
        }
        Ok(answers)
    }

    /// Makes an image of a root file system tar.
    pub async fn import_image(
        &self,
        mut tar: Box<dyn Read + Send>,
        options: ImportImage,
    ) -> Result<Digest, ImportError> {
        let store = Arc::clone(&self.shared.store);
        let name = options.name.map(Reference::or_latest);
        let familiar = name.as_ref().map(Reference::familiar);
        let import = store::Import {
            message: options.message,
            changes: options.changes,
            platform: options.platform.unwrap_or_else(Platform::host),
        };
        let id = tasks::blocking(move || store.import(&mut tar, &import, name.as_ref())).await?;
        let text = id.to_string();
        let none = BTreeMap::new();
        if let Some(name) = familiar {
            self.shared.announce_image("tag", &text, &name, &none);
        }
        self.shared.announce_image("import", &text, &text, &none);
        Ok(id)
    }

    /// Writes images as a `docker save` tar; if platforms are given, only what is for those.
    pub async fn save_images(
        &self,
        typed: &[String],
        platforms: Vec<Platform>,
        mut out: Box<dyn Write + Send>,
    ) -> Result<(), SaveError> {
        let (store, names) = (Arc::clone(&self.shared.store), typed.to_vec());
        let saved = tasks::blocking(move || store.save_for(&names, &platforms, &mut out)).await?;
        for (id, labels) in saved {
            let id = id.to_string();
            self.shared.announce_image("save", &id, &id, &labels);
        }
        Ok(())
    }

    /// Removes images that no container uses: unnamed ones, or with `dangling=false` all.
    pub async fn prune_images(
        &self,
        filters: Filters,
    ) -> Result<(Vec<RemovedImage>, Pruned), FilterError> {
        let mut rest = filters;
        // Docker's client says `true` besides what was typed.
        let values = rest.remove("dangling").unwrap_or_default();
        let is = |wanted: [&str; 2]| values.iter().any(|value| wanted.contains(&value.as_str()));
        let dangling = match (is(["true", "1"]), is(["false", "0"])) {
            (true, false) => true,
            (false, true) => false,
            _ if values.is_empty() => true,
            _ => {
                return Err(FilterError::Value {
                    key: "dangling".to_owned(),
                    value: format!("[{}]", values.join(" ")),
                });
            }
        };
        let prune = Prune::new(&rest)?;
        let images = self
            .list_images(ListImages::default())
            .await
            .unwrap_or_default();
        let all: Vec<Digest> = images.iter().map(|image| image.id.clone()).collect();
        let before = self.image_bytes(all.clone()).await;
        let mut removed = Vec::new();
        for image in images {
            let config = image.config.config.as_ref();
            let labels = config
                .and_then(|config| config.labels.clone())
                .unwrap_or_default();
            let created = image.created.unwrap_or(SystemTime::UNIX_EPOCH);
            let named = !image.tags.is_empty();
            if image.containers > 0 || named && dangling || !prune.takes(&labels, created) {
                continue;
            }
            let names = match image.tags.as_slice() {
                [] => vec![image.id.to_string()],
                tags => tags.to_vec(),
            };
            for name in names {
                // One that a container took meanwhile refuses, and stays.
                if let Ok(gone) = self.remove_image(&name, false, false).await {
                    removed.extend(gone);
                }
            }
        }
        let store = Arc::clone(&self.shared.store);
        if let Err(error) = tasks::blocking(move || store.collect()).await {
            tracing::warn!(error = vocab::failure::chain(&error), "collect layers");
        }
        let left = self.list_images(ListImages::default()).await;
        let left = left.unwrap_or_default().into_iter().map(|image| image.id);
        let left = self.image_bytes(left.filter(|id| all.contains(id)).collect());
        let pruned = Pruned {
            removed: Vec::new(),
            reclaimed_bytes: before.saturating_sub(left.await),
        };
        self.shared.events.publish(
            EventKind::Image,
            "prune".to_owned(),
            String::new(),
            BTreeMap::from([("reclaimed".to_owned(), pruned.reclaimed_bytes.to_string())]),
        );
        Ok((removed, pruned))
    }

    /// Bytes on the disk that these images take, what they share counted once.
    async fn image_bytes(&self, images: Vec<Digest>) -> u64 {
        let store = Arc::clone(&self.shared.store);
        let bytes = tasks::blocking(move || store.disk_bytes_of(&images)).await;
        bytes.unwrap_or_else(|error| {
            tracing::warn!(error = vocab::failure::chain(&error), "not measured");
            0
        })
    }
}

/// Runs one pull until it is over or nobody waits for it any more.
async fn fly(shared: &Arc<Shared>, flight: &Flight) -> PullOutcome {
    let (reference, platform, credentials) = &flight.key;
    let (steps, mut heard) = mpsc::channel(PROGRESS);
    let pull = shared.registry.pull(
        Arc::clone(&shared.store),
        reference,
        platform.as_ref(),
        credentials.as_ref(),
        steps,
    );
    let tell = async {
        while let Some(progress) = heard.recv().await {
            lock(&flight.listeners).tell(progress);
        }
    };
    let both = async { tokio::join!(pull, tell).0 };
    let pulled = tokio::select! {
        pulled = both => pulled,
        () = deserted(shared, flight) => return None,
    };
    // The last listener sees the end of its progress before the outcome.
    lock(&flight.listeners).senders.clear();
    if let Ok(pulled) = &pulled {
        let name = reference.clone().or_latest().familiar();
        let labels = shared.labels_by_id(&pulled.id).await;
        shared.announce_image("pull", &name, &reference.familiar_name(), &labels);
    }
    Some(pulled.map_err(|error| PullError::Registry(Arc::new(error))))
}

/// Comes back when nobody waits for the flight, which has then left the table: nobody can join a
/// pull that is about to be given up.
async fn deserted(shared: &Shared, flight: &Flight) {
    loop {
        flight.outcome.closed().await;
        let mut flights = lock(&shared.pulls.flights);
        // Joining takes the same lock.
        if flight.outcome.receiver_count() == 0 {
            flights.retain(|other| !other.outcome.same_channel(&flight.outcome));
            return;
        }
    }
}

/// Whether a text that was typed is this name.
fn means(typed: &str, name: &str) -> bool {
    let typed = typed.parse::<Reference>();
    typed.is_ok_and(|typed| typed.or_latest().familiar() == name)
}

impl Shared {
    pub(crate) fn image_users(&self, image: &Digest) -> Vec<store::User> {
        let views = self.index().views();
        views
            .iter()
            .filter(|view| view.record.image == *image)
            .map(|view| store::User {
                container: view.record.id,
                running: view.course.state().is_running(),
            })
            .collect()
    }

    /// Blocking.
    fn with_targets(&self, images: Vec<store::Image>) -> Vec<(store::Image, Option<Target>)> {
        let users = |id: &Digest| {
            let users = self.image_users(id).into_iter();
            users.map(|user| user.container.to_string()).collect()
        };
        let target = |image: &store::Image| manifests::target(&self.store, image, &users);
        let images = images.into_iter();
        images
            .map(|image| (target(&image), image))
            .map(|(target, image)| (image, Some(target)))
            .collect()
    }

    pub(crate) fn image(&self, image: store::Image) -> Image {
        Image {
            containers: self.image_users(&image.id).len(),
            id: image.id,
            config: image.config,
            config_json: image.raw_config,
            tags: image.names.iter().map(Reference::familiar).collect(),
            digests: image.digests.iter().map(Reference::familiar).collect(),
            size_bytes: image.size_bytes,
            shared_bytes: None,
            created: image.created,
            last_tagged: image.tagged,
            target: None,
        }
    }

    /// Something happened to an image; its labels come along.
    pub(crate) fn announce_image(
        &self,
        action: &str,
        id: &str,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) {
        let mut attributes = labels.clone();
        attributes.insert("name".to_owned(), name.to_owned());
        self.events.publish(
            EventKind::Image,
            action.to_owned(),
            id.to_owned(),
            attributes,
        );
    }
}

impl Shared {
    /// The labels of an image, if it is here.
    pub(crate) async fn labels_by_id(self: &Arc<Self>, id: &Digest) -> BTreeMap<String, String> {
        let (store, id) = (Arc::clone(&self.store), id.clone());
        let found = tasks::blocking(move || store.find_image_by_id(&id)).await;
        let image = found.ok().flatten();
        image.as_ref().map(labels_of).unwrap_or_default()
    }
}

pub(crate) fn labels_of(image: &store::Image) -> BTreeMap<String, String> {
    let config = image.config.config.as_ref();
    config
        .and_then(|config| config.labels.clone())
        .unwrap_or_default()
}

/// Which images a filter lets through.
struct ImageSieve {
    before: Option<SystemTime>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    dangling: Option<bool>,
    labels: Vec<String>,
    without: Vec<String>,
    references: Vec<globset::GlobMatcher>,
}

impl ImageSieve {
    async fn new(engine: &Engine, filters: &Filters) -> Result<Self, FilterError> {
        const KEYS: [&str; 7] = [
            "before",
            "dangling",
            "label",
            "label!",
            "reference",
            "since",
            "until",
        ];
        if let Some(key) = filters.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(FilterError::Unknown(key.clone()));
        }
        let first = |key: &str| filters.get(key).and_then(|values| values.first());
        let wrong = |key: &str, value: &str| FilterError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let mut moments = HashMap::new();
        for key in ["before", "since"] {
            if let Some(typed) = first(key) {
                let image = engine
                    .find_image(typed)
                    .await
                    .map_err(|error| FilterError::Image(error.to_string()))?;
                moments.insert(key, image.created.unwrap_or(SystemTime::UNIX_EPOCH));
            }
        }
        let until = match first("until") {
            Some(text) => Some(parse_when(text).ok_or_else(|| FilterError::Moment(text.clone()))?),
            None => None,
        };
        let dangling = match first("dangling").map(String::as_str) {
            None => None,
            Some("true" | "1") => Some(true),
            Some("false" | "0") => Some(false),
            Some(value) => return Err(wrong("dangling", &format!("[{value}]"))),
        };
        let list = |key: &str| filters.get(key).cloned().unwrap_or_default();
        let references = list("reference")
            .iter()
            .map(|pattern| {
                // As Go's `path.Match`: a star does not cross a slash.
                globset::GlobBuilder::new(pattern)
                    .literal_separator(true)
                    .build()
                    .map(|glob| glob.compile_matcher())
                    .map_err(|_| wrong("reference", pattern))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            before: moments.get("before").copied(),
            since: moments.get("since").copied(),
            until,
            dangling,
            labels: list("label"),
            without: list("label!"),
            references,
        })
    }

    /// The image, with those of its names that match.
    fn pass(&self, mut image: Image) -> Option<Image> {
        let created = image.created.unwrap_or(SystemTime::UNIX_EPOCH);
        let config = image.config.config.as_ref();
        let labels = config
            .and_then(|config| config.labels.clone())
            .unwrap_or_default();
        let fine = self.before.is_none_or(|before| created < before)
            && self.since.is_none_or(|since| created > since)
            && self.until.is_none_or(|until| created < until)
            && self
                .dangling
                .is_none_or(|dangling| image.tags.is_empty() == dangling)
            && self.labels.iter().all(|wanted| has_label(&labels, wanted))
            && !self
                .without
                .iter()
                .any(|unwanted| has_label(&labels, unwanted));
        if !fine {
            return None;
        }
        if !self.references.is_empty() {
            image.tags.retain(|name| self.named(name));
            image.digests.retain(|name| self.named(name));
            if image.tags.is_empty() && image.digests.is_empty() {
                return None;
            }
        }
        Some(image)
    }

    fn named(&self, name: &str) -> bool {
        let bare = name.split('@').next().unwrap_or(name);
        let bare = bare.rsplit_once(':').map_or(bare, |(bare, _)| bare);
        self.references
            .iter()
            .any(|pattern| pattern.is_match(name) || pattern.is_match(bare))
    }
}
