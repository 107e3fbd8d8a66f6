//! What the daemon was told: dockerd's flags and the keys of `daemon.json`, read into the settings
//! of every part.
//!
//! ```text
//! command line ┐
//!              ├─ values: one value for each option ─▶ Settings: typed, with defaults
//! daemon.json  ┘
//! ```

mod hosts;
pub(crate) mod options;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use vocab::config::Ulimit;

pub use hosts::{Host, Listen};
pub use values::ConfigError;
use values::{Value, Values};

/// Where state is kept unless said otherwise.
pub const DATA_ROOT: &str = "/var/lib/berth";
/// Where sockets and the state of this boot are kept unless said otherwise.
pub const EXEC_ROOT: &str = "/run/berth";
/// Where the daemon listens unless said otherwise.
pub const SOCKET: &str = "/run/berth.sock";
/// Where programs that know nothing of berth look for a daemon.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// What is read unless said otherwise.
pub const CONFIG_FILE: &str = "/etc/berth/daemon.json";
/// Who may use the socket besides root, if there is such a group.
pub const GROUP: &str = "berth";
/// The same for docker's socket.
pub const DOCKER_GROUP: &str = "docker";
/// Where certificates for registries are looked for, berth's own before those of dockerd.
const CERTS_DIRS: [&str; 2] = ["/etc/berth/certs.d", "/etc/docker/certs.d"];
/// Seconds that requests under way have at the end (dockerd's default).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// What the daemon was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For the engine.
    pub engine: engine::Config,
    /// Where to listen.
    pub hosts: Vec<Host>,
    /// TLS on those of TCP.
    pub tls: Option<Tls>,
    /// Group of the unix socket; one that was named must exist.
    pub group: Option<String>,
    /// Where to write the process id.
    pub pidfile: PathBuf,
    /// The daemon's own log.
    pub log: Log,
    /// Time that requests under way have at the end.
    pub shutdown_timeout: Duration,
    /// Where metrics are told, `address:port`.
    pub metrics: Option<String>,
    /// What was said to no effect.
    pub warnings: Vec<String>,
    /// All that was said.
    pub(crate) values: Values,
}

/// TLS on TCP sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The daemon's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who issues the certificates that clients must have; any client may come when absent.
    pub clients: Option<PathBuf>,
}

/// The daemon's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// From which level on.
    pub level: tracing::Level,
    /// As JSON.
    pub json: bool,
    /// With colours, where a terminal is.
    pub colours: bool,
}

/// What the command line asks for.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, at the start"
)]
pub enum Wanted {
    /// To run.
    Run(Settings),
    /// To say that the configuration is fine.
    Validated,
    /// To print the version.
    Version,
    /// To print this: help, which is no failure.
    Print(String),
}

/// Reads the command line (without the program's name) and the file it names.
pub fn read(args: &[OsString]) -> Result<Wanted, ConfigError> {
    let flags = match values::from_command_line(args) {
        Ok(flags) => flags,
        Err(error) if error.use_stderr() => {
            return Err(ConfigError::CommandLine(
                error.to_string().trim().to_owned(),
            ));
        }
        Err(help) => return Ok(Wanted::Print(help.to_string())),
    };
    if flags.get("version") == Some(&Value::Switch(true)) {
        return Ok(Wanted::Version);
    }
    let validate = flags.get("validate") == Some(&Value::Switch(true));
    let (path, must) = match flags.get("config-file") {
        Some(Value::Text(path)) => (PathBuf::from(path), true),
        _ => (PathBuf::from(CONFIG_FILE), false),
    };
    let in_file = |source| ConfigError::File {
        path: path.clone(),
        source: Box::new(source),
    };
    let file = values::from_file(&path, must).map_err(in_file)?;
    let merged = values::merge(flags, file).map_err(|error| match error {
        // What a flag says is no fault of the file.
        ConfigError::Refused { ref option, .. } if option.starts_with("--") => error,
        error => in_file(error),
    })?;
    let settings = settings(&merged)?;
    Ok(if validate {
        Wanted::Validated
    } else {
        Wanted::Run(settings)
    })
}

/// Typed access to the values, with errors that name the option.
struct Reader<'v>(&'v Values);

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn switch(&self, name: &str) -> Option<bool> {
        match self.0.get(name) {
            Some(Value::Switch(on)) => Some(*on),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> &[String] {
        match self.0.get(name) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    fn parsed<T: FromStr>(
        &self,
        name: &str,
        wanted: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        text.parse()
            .map(Some)
            .map_err(|_| wrong(name, text, wanted))
    }

    fn choice(
        &self,
        name: &str,
        choices: &[&str],
        wanted: &'static str,
    ) -> Result<Option<String>, ConfigError> {
        match self.text(name) {
            Some(text) if !choices.contains(&text) => Err(wrong(name, text, wanted)),
            text => Ok(text.map(str::to_owned)),
        }
    }

    fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ConfigError> {
        let items = self.list(name).iter();
        items
            .map(|text| text.parse().map_err(|_| wrong(name, text, "an IP address")))
            .collect()
    }

    fn path(&self, name: &str, default: impl Into<PathBuf>) -> Result<PathBuf, ConfigError> {
        match self.text(name) {
            None => Ok(default.into()),
            Some(text) if text.starts_with('/') => Ok(PathBuf::from(text)),
            Some(text) => Err(wrong(name, text, "an absolute path")),
        }
    }
}

fn wrong(option: &str, given: &str, wanted: &'static str) -> ConfigError {
    ConfigError::Value {
        option: option.to_owned(),
        given: given.to_owned(),
        wanted,
    }
}

fn settings(values: &Values) -> Result<Settings, ConfigError> {
    let said = Reader(values);
    let data_root = said.path("data-root", DATA_ROOT)?;
    let exec_root = said.path("exec-root", EXEC_ROOT)?;
    let instance = instance(&data_root);
    // The running program: it becomes the monitors.
    let program = PathBuf::from("/proc/self/exe");
    // Beside the run root, `/run/berth.pid`: what is inside belongs to the engine.
    let pidfile = said.path("pidfile", exec_root.with_extension("pid"))?;
    let mut engine = engine::Config::new(data_root, exec_root, instance, program);

    engine.storage_driver = said.text("storage-driver").map(str::to_owned);
    if let Some(driver) = said.text("log-driver") {
        driver.clone_into(&mut engine.log.kind);
    }
    if let Some(Value::Map(options)) = values.get("log-opt") {
        engine.log.config = Some(options.clone());
    }
    engine.ulimits = said
        .list("default-ulimit")
        .iter()
        .map(|text| ulimit(text))
        .collect::<Result<_, _>>()?;
    if let Some(bytes) = said.number("default-shm-size") {
        engine.shm_bytes = bytes;
    }
    engine.cgroup_parent = said.text("cgroup-parent").map(str::to_owned);
    engine.cgroupns_mode = said.choice(
        "default-cgroupns-mode",
        &["private", "host"],
        "private or host",
    )?;
    engine.ipc_mode = said.choice(
        "default-ipc-mode",
        &["private", "shareable"],
        "private or shareable",
    )?;
    engine.seccomp_profile = match said.text("seccomp-profile") {
        None | Some("" | "builtin") => None,
        Some(_) => Some(said.path("seccomp-profile", "")?),
    };
    engine.no_new_privileges = said.switch("no-new-privileges").unwrap_or(false);
    engine.init = said.switch("init").unwrap_or(false);
    engine.dns = said.addresses("dns")?;
    if !said.list("cdi-spec-dir").is_empty() {
        engine.cdi_directories = said
            .list("cdi-spec-dir")
            .iter()
            .map(PathBuf::from)
            .collect();
    }
    engine.dns_search = said.list("dns-search").to_vec();
    engine.dns_options = said.list("dns-opt").to_vec();
    engine.host_gateway = said.addresses("host-gateway-ip")?;
    engine.labels = said.list("label").to_vec();
    engine.address_pools = said
        .list("default-address-pool")
        .iter()
        .map(|text| pool(text))
        .collect::<Result<_, _>>()?;
    engine.bridge = bridge(&said)?;
    engine.registry.insecure = said.list("insecure-registry").to_vec();
    engine.registry.mirrors = said.list("registry-mirror").to_vec();
    engine.registry.mirrors_of = said
        .list("mirror")
        .iter()
        .map(|text| mirror(text))
        .collect::<Result<_, _>>()?;
    engine.registry.proxies = proxies(&said)?;
    engine.registry.certs_dirs = match said.text("registry-certs") {
        Some(_) => vec![said.path("registry-certs", "")?],
        None => CERTS_DIRS.map(PathBuf::from).to_vec(),
    };
    if let Some(number) = at_a_time(&said, "max-concurrent-downloads")? {
        engine.registry.max_concurrent_downloads = number;
    }
    if let Some(number) = at_a_time(&said, "max-concurrent-uploads")? {
        engine.registry.max_concurrent_uploads = number;
    }
    if let Some(number) = said.number("max-download-attempts") {
        let number = u32::try_from(number).ok().filter(|number| *number > 0);
        engine.registry.max_attempts =
            number.ok_or_else(|| wrong("max-download-attempts", "0", "a number above 0"))?;
    }

    engine.image_gc = image_gc(&said)?;

    let mut hosts = said
        .list("host")
        .iter()
        .map(|text| text.parse())
        .collect::<Result<Vec<Host>, _>>()?;
    if hosts.is_empty() {
        hosts.push(Listen::Unix(PathBuf::from(SOCKET)).into());
    }
    if said.switch("docker-socket") == Some(true) {
        hosts.push(Listen::Unix(PathBuf::from(DOCKER_SOCKET)).into());
    }
    let (tls, warnings) = tls(&said)?;
    Ok(Settings {
        engine,
        hosts,
        tls,
        metrics: said.text("metrics-addr").map(str::to_owned),
        warnings,
        values: values.clone(),
        group: said.text("group").map(str::to_owned),
        pidfile,
        log: log(&said)?,
        shutdown_timeout: said
            .number("shutdown-timeout")
            .map_or(SHUTDOWN_TIMEOUT, Duration::from_secs),
    })
}

/// As dockerd has it: `tlsverify` implies `tls`, and files that are not named are those of
/// `$DOCKER_CERT_PATH` or `~/.docker`.
fn tls(said: &Reader<'_>) -> Result<(Option<Tls>, Vec<String>), ConfigError> {
    const FILES: [&str; 3] = ["tlscacert", "tlscert", "tlskey"];
    let verify = said.switch("tlsverify") == Some(true);
    if !verify && said.switch("tls") != Some(true) {
        let idle = FILES.iter().filter(|name| said.text(name).is_some());
        let warn = |name| format!("{name} has no effect without tls or tlsverify");
        return Ok((None, idle.map(warn).collect()));
    }
    let directory = std::env::var_os("DOCKER_CERT_PATH").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
        PathBuf::from,
    );
    Ok((
        Some(Tls {
            certificate: said.path("tlscert", directory.join("cert.pem"))?,
            key: said.path("tlskey", directory.join("key.pem"))?,
            clients: verify
                .then(|| said.path("tlscacert", directory.join("ca.pem")))
                .transpose()?,
        }),
        Vec::new(),
    ))
}

fn mirror(text: &str) -> Result<(String, String), ConfigError> {
    let pair = text.split_once('=');
    let (pattern, address) = pair.ok_or_else(|| wrong("mirror", text, "pattern=address"))?;
    Ok((pattern.to_owned(), address.to_owned()))
}

/// What the flags name, or the members of `proxies` in the file.
fn proxies(said: &Reader<'_>) -> Result<registry::Proxies, ConfigError> {
    const NAMES: [&str; 3] = ["http-proxy", "https-proxy", "no-proxy"];
    let nothing = BTreeMap::new();
    let members = match said.0.get("proxies") {
        Some(Value::Map(members)) => members,
        _ => &nothing,
    };
    let strangers = members.keys().filter(|key| !NAMES.contains(&key.as_str()));
    let strangers: Vec<String> = strangers.map(|key| format!("proxies.{key}")).collect();
    if !strangers.is_empty() {
        return Err(ConfigError::Unknown(strangers));
    }
    let both = |name: &&&str| said.text(name).is_some() && members.contains_key(**name);
    let twice: Vec<String> = NAMES.iter().filter(both).map(ToString::to_string).collect();
    if !twice.is_empty() {
        return Err(ConfigError::Twice(twice));
    }
    let [http, https, none_for] = NAMES.map(|name| {
        let flag = said.text(name).map(str::to_owned);
        flag.or_else(|| members.get(name).cloned())
    });
    Ok(registry::Proxies {
        http,
        https,
        none_for,
    })
}

fn image_gc(said: &Reader<'_>) -> Result<Option<engine::config::ImageGc>, ConfigError> {
    const DAY: u64 = 24 * 60 * 60;
    if said.switch("image-gc") == Some(false) {
        return Ok(None);
    }
    let mut gc = engine::config::ImageGc::default();
    if let Some(percent) = said.number("image-gc-high") {
        gc.high_percent = percent;
        gc.low_percent = gc.low_percent.min(percent);
    }
    if let Some(percent) = said.number("image-gc-low") {
        gc.low_percent = percent;
    }
    if gc.high_percent > 100 {
        let value = gc.high_percent.to_string();
        return Err(wrong("image-gc-high", &value, "at most 100 percent"));
    }
    if gc.low_percent > gc.high_percent {
        let value = gc.low_percent.to_string();
        return Err(wrong("image-gc-low", &value, "no more than image-gc-high"));
    }
    if let Some(days) = said.number("image-gc-keep") {
        let seconds = days.checked_mul(DAY);
        let seconds = seconds.ok_or_else(|| wrong("image-gc-keep", &days.to_string(), "days"))?;
        gc.keep = Duration::from_secs(seconds);
    }
    Ok(Some(gc))
}

fn at_a_time(said: &Reader<'_>, name: &str) -> Result<Option<usize>, ConfigError> {
    let Some(number) = said.number(name) else {
        return Ok(None);
    };
    let number = usize::try_from(number).ok().filter(|number| *number > 0);
    let number = number.ok_or_else(|| wrong(name, "0", "a number above 0"))?;
    Ok(Some(number))
}

fn bridge(said: &Reader<'_>) -> Result<engine::config::Bridge, ConfigError> {
    let device = said.text("bridge").filter(|name| !name.is_empty());
    let mtu = match said.number("mtu") {
        None => None,
        Some(mtu) => match u32::try_from(mtu) {
            Ok(mtu @ 68..=65535) => Some(mtu),
            _ => return Err(wrong("mtu", &mtu.to_string(), "a number from 68 to 65535")),
        },
    };
    Ok(engine::config::Bridge {
        enabled: device != Some("none"),
        device: device.filter(|name| *name != "none").map(str::to_owned),
        address: said.text("bip").map(str::to_owned),
        fixed_cidr: said.text("fixed-cidr").map(str::to_owned),
        mtu,
        icc: said.switch("icc").unwrap_or(true),
        masquerade: said.switch("ip-masq").unwrap_or(true),
        publish_address: said
            .parsed("ip", "an IPv4 address")?
            .unwrap_or(Ipv4Addr::UNSPECIFIED),
    })
}

fn log(said: &Reader<'_>) -> Result<Log, ConfigError> {
    let level = match said.text("log-level").unwrap_or("info") {
        _ if said.switch("debug") == Some(true) => tracing::Level::DEBUG,
        "trace" => tracing::Level::TRACE,
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" | "warning" => tracing::Level::WARN,
        "error" | "fatal" | "panic" => tracing::Level::ERROR,
        other => {
            return Err(wrong(
                "log-level",
                other,
                "debug, info, warn, error or fatal",
            ));
        }
    };
    let format = said.choice("log-format", &["text", "json"], "text or json")?;
    Ok(Log {
        level,
        json: format.as_deref() == Some("json"),
        colours: !said.switch("raw-logs").unwrap_or(false),
    })
}

fn ulimit(text: &str) -> Result<Ulimit, ConfigError> {
    let refuse = || wrong("default-ulimit", text, "name=soft[:hard]");
    let (name, limits) = text.split_once('=').ok_or_else(refuse)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok(Ulimit {
        name: name.to_owned(),
        soft: soft.parse().map_err(|_| refuse())?,
        hard: hard.parse().map_err(|_| refuse())?,
    })
}

fn pool(text: &str) -> Result<(String, u8), ConfigError> {
    let refuse = || wrong("default-address-pool", text, "base=10.10.0.0/16,size=24");
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=').ok_or_else(refuse)? {
            ("base", value) => base = Some(value.to_owned()),
            ("size", value) => size = value.parse().ok(),
            _ => return Err(refuse()),
        }
    }
    base.zip(size).ok_or_else(refuse)
}

/// Six hexadecimal digits that tell daemons side by side apart; empty for the default data root.
fn instance(data_root: &Path) -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "the data root is the administrator's path, no container's"
    )]
    let canonical = std::fs::canonicalize(data_root).unwrap_or_else(|_| data_root.to_owned());
    if canonical == Path::new(DATA_ROOT) {
        return String::new();
    }
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(canonical.as_os_str());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref()[..3]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use vocab::failure::chain;

    use super::*;

    fn settings_of(words: &[&str]) -> Result<Settings, String> {
        settings_of_file("", words)
    }

    #[test]
    fn nothing_said_means_the_default_places() {
        let settings = settings_of(&[]).unwrap();
        assert_eq!(settings.engine.data_root, Path::new(DATA_ROOT));
        assert_eq!(settings.engine.instance, "");
        assert_eq!(settings.hosts, [Listen::Unix(SOCKET.into()).into()]);
        assert_eq!(settings.pidfile, Path::new("/run/berth.pid"));
        assert_eq!(settings.log.level, tracing::Level::INFO);
    }

    fn settings_of_file(json: &str, words: &[&str]) -> Result<Settings, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, json.as_bytes()).unwrap();
        let mut args: Vec<OsString> = words.iter().map(OsString::from).collect();
        args.push("--config-file".into());
        args.push(file.path().into());
        match read(&args).map_err(|error| chain(&error))? {
            Wanted::Run(settings) => Ok(settings),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mirrors_and_proxies_stand_in_the_file_or_on_the_command_line() {
        let json = r#"{
            "mirrors": {"*.b": ["https://one", "https://two"], "c": "https://three"},
            "proxies": {"http-proxy": "http://p", "no-proxy": "x,y"}
        }"#;
        let settings = settings_of_file(json, &["--https-proxy=http://q"]).unwrap();
        let registry = settings.engine.registry;
        let rule = |pattern: &str, address: &str| (pattern.to_owned(), address.to_owned());
        assert_eq!(
            registry.mirrors_of,
            [
                rule("*.b", "https://one"),
                rule("*.b", "https://two"),
                rule("c", "https://three")
            ]
        );
        let proxies = registry::Proxies {
            http: Some("http://p".to_owned()),
            https: Some("http://q".to_owned()),
            none_for: Some("x,y".to_owned()),
        };
        assert_eq!(registry.proxies, proxies);
        let flags = ["--mirror", "a=https://b", "--mirror=c=https://d"];
        let registry = settings_of(&flags).unwrap().engine.registry;
        assert_eq!(
            registry.mirrors_of,
            [rule("a", "https://b"), rule("c", "https://d")]
        );
    }

    #[test]
    fn wrong_mirrors_and_proxies_are_refused() {
        for (json, words, complaint) in [
            (
                r#"{"mirrors": ["https://x"]}"#,
                &[][..],
                "mirrors: an object such as",
            ),
            (
                "{}",
                &["--mirror", "https://x"],
                "pattern=address is wanted",
            ),
            (
                r#"{"proxies": {"ftp-proxy": "x"}}"#,
                &[],
                "proxies.ftp-proxy",
            ),
            (
                r#"{"proxies": {"http-proxy": "x"}}"#,
                &["--http-proxy", "y"],
                "both as a flag and in the configuration file: http-proxy",
            ),
        ] {
            let refusal = settings_of_file(json, words).unwrap_err();
            assert!(refusal.contains(complaint), "{refusal}");
        }
    }

    #[test]
    fn daemons_side_by_side_have_names_of_their_own() {
        let instance = |root: &str| settings_of(&["--data-root", root]).unwrap().engine.instance;
        assert_eq!(instance("/tmp/a").len(), 6);
        assert_ne!(instance("/tmp/a"), instance("/tmp/b"));
    }

    #[test]
    fn options_reach_the_part_that_they_are_for() {
        let settings = settings_of(&[
            "--bip=10.1.0.1/24",
            "--icc=false",
            "--mtu",
            "1400",
            "--default-ulimit",
            "nofile=10:20",
            "--default-address-pool=base=10.0.0.0/8,size=24",
            "--insecure-registry",
            "r:5000",
            "--registry-mirror",
            "http://m",
            "--max-concurrent-downloads=7",
            "-H",
            "tcp://:2375",
            "-l",
            "warn",
            "--shutdown-timeout",
            "3",
            "--dns=1.1.1.1",
            "--log-opt",
            "max-size=1m",
        ])
        .unwrap();
        assert_eq!(
            settings.engine.bridge.address.as_deref(),
            Some("10.1.0.1/24")
        );
        assert!(!settings.engine.bridge.icc);
        assert_eq!(settings.engine.bridge.mtu, Some(1400));
        assert_eq!(
            (
                settings.engine.ulimits[0].soft,
                settings.engine.ulimits[0].hard
            ),
            (10, 20)
        );
        assert_eq!(
            settings.engine.address_pools,
            [("10.0.0.0/8".to_owned(), 24)]
        );
        assert_eq!(settings.engine.registry.insecure, ["r:5000"]);
        assert_eq!(settings.engine.registry.max_concurrent_downloads, 7);
        assert_eq!(
            settings.hosts,
            [Listen::Tcp("0.0.0.0:2375".to_owned()).into()]
        );
        assert_eq!(settings.log.level, tracing::Level::WARN);
        assert_eq!(settings.shutdown_timeout, Duration::from_secs(3));
        assert_eq!(settings.engine.log.config.unwrap()["max-size"], "1m");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_name() {
        for (words, said) in [
            (&["-H", "fd://1"][..], "fd://1"),
            (&["-H", "unix://relative"], "host"),
            (&["-H", "tcp://x"], "host"),
            (&["--data-root", "relative"], "data-root"),
            (&["--dns", "nobody"], "dns"),
            (&["--default-ulimit", "nofile"], "default-ulimit"),
            (&["--mtu", "5"], "mtu"),
            (&["--log-level", "loud"], "log-level"),
            (&["--default-ipc-mode", "host"], "default-ipc-mode"),
            (
                &["--max-concurrent-downloads", "0"],
                "max-concurrent-downloads",
            ),
        ] {
            let refusal = settings_of(words).unwrap_err();
            assert!(refusal.contains(said), "{words:?}: {refusal}");
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let args = ["--config-file".into(), "/nonexistent/daemon.json".into()];
        let refusal = read(&args).unwrap_err();
        let text = chain(&refusal);
        let wanted = "file /nonexistent/daemon.json: read it: no such file";
        assert!(text.contains(wanted), "{text}");
    }
}
