//! `login` and `logout`.

use std::io::Read as _;

use api::types::{AuthConfig, AuthResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::termios::{self, LocalModes, OptionalActions};

use crate::attached::Stdin;
use crate::command::{Command, Invocation, Run};
use crate::credentials::{self, Auth, Config, HUB};
use crate::failure::{Failure, Result};
use crate::flags::{switch, text};
use crate::{output, terminal};

/// `login`.
pub const LOGIN: Command = Command {
    names: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Log in to a registry; Docker Hub if none is named",
    flags: &[&[
        text("password", "Password or token").short('p'),
        switch("password-stdin", "Read the password from standard input"),
        text("username", "User").short('u'),
    ]],
    words: (0, 1),
    stops: false,
    run: |invocation| Box::pin(login(invocation)) as Run,
};

/// `logout`.
pub const LOGOUT: Command = Command {
    names: &["logout"],
    usage: "[SERVER]",
    about: "Forget the credentials of a registry; of Docker Hub if none is named",
    flags: &[],
    words: (0, 1),
    stops: false,
    run: |invocation| Box::pin(logout(invocation)) as Run,
};

/// The longest password that is read from standard input.
const PASSWORD_BYTES: u64 = 64 * 1024;

/// The name under which a registry's credentials are kept.
fn key(server: Option<&String>) -> String {
    match server.map(String::as_str) {
        None | Some("" | "docker.io" | "index.docker.io" | "registry-1.docker.io") => {
            HUB.to_owned()
        }
        Some(server) => server
            .trim_start_matches("https://")
            .trim_start_matches("http://")
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned(),
    }
}

async fn login(invocation: Invocation) -> Result<u8> {
    let typed = &invocation.typed;
    let server = key(typed.words.first());
    let mut config = Config::load(&invocation.session);
    let known = config.find(if server == HUB { "docker.io" } else { &server });
    let password = if typed.on("password-stdin") {
        if typed.has("password") {
            return Err(Failure::new(
                "--password and --password-stdin are mutually exclusive",
            ));
        }
        if !typed.has("username") {
            return Err(Failure::new(
                "Must provide --username with --password-stdin",
            ));
        }
        let mut text = String::new();
        std::io::stdin()
            .take(PASSWORD_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::new(format!("read the password: {error}")))?;
        Some(text.trim_end_matches(['\r', '\n']).to_owned())
    } else {
        if typed.has("password") {
            output::error(
                "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
            );
        }
        typed.get("password").map(str::to_owned)
    };
    let client = invocation.session.client().await?;
    let mut auth = AuthConfig {
        serveraddress: server.clone(),
        ..AuthConfig::default()
    };
    match (typed.get("username"), password, known) {
        // What was used before is tried again unless something is said.
        (None, None, Some(known)) => auth = known,
        (username, password, known) => {
            auth.username = match username {
                Some(username) => username.to_owned(),
                None => {
                    let before = known.map(|known| known.username).unwrap_or_default();
                    let typed = ask(&prompt(&before), true).await?;
                    if typed.is_empty() { before } else { typed }
                }
            };
            auth.password = match password {
                Some(password) => password,
                None => ask("Password: ", false).await?,
            };
            if auth.username.is_empty() {
                return Err(Failure::new("username is required"));
            }
            if auth.password.is_empty() {
                return Err(Failure::new("password is required"));
            }
        }
    }
    let answer: AuthResponse = client.post("/auth").json(&auth).read().await?;
    if !answer.identity_token.is_empty() {
        auth.password = String::new();
        auth.identitytoken = answer.identity_token;
    }
    keep(&invocation, &mut config, &server, &auth)?;
    output::line(if answer.status.is_empty() {
        "Login Succeeded"
    } else {
        &answer.status
    })?;
    Ok(0)
}

fn prompt(before: &str) -> String {
    if before.is_empty() {
        "Username: ".to_owned()
    } else {
        format!("Username ({before}): ")
    }
}

/// Gives the credentials to the helper, or writes them down.
fn keep(invocation: &Invocation, config: &mut Config, server: &str, auth: &AuthConfig) -> Result {
    if let Some(helper) = config.helper(server).map(str::to_owned) {
        let (username, secret) = if auth.identitytoken.is_empty() {
            (auth.username.as_str(), &auth.password)
        } else {
            ("<token>", &auth.identitytoken)
        };
        let entry =
            serde_json::json!({"ServerURL": server, "Username": username, "Secret": secret});
        return credentials::ask_helper(&helper, "store", &entry.to_string())
            .map(drop)
            .ok_or_else(|| {
                Failure::new(format!(
                    "docker-credential-{helper} did not keep the credentials"
                ))
            });
    }
    config.auths.insert(
        server.to_owned(),
        Auth {
            auth: STANDARD.encode(format!("{}:{}", auth.username, auth.password)),
            identitytoken: auth.identitytoken.clone(),
            ..Auth::default()
        },
    );
    config.save(&invocation.session)?;
    output::error(format!(
        "WARNING! Your credentials are stored unencrypted in '{}'.",
        invocation
            .session
            .config_directory()
            .join("config.json")
            .display()
    ));
    Ok(())
}

/// Asks on the terminal; without `echo` what is typed is not shown.
async fn ask(question: &str, echo: bool) -> Result<String> {
    if !terminal::stdin_is_terminal() {
        return Err(Failure::new(
            "cannot perform an interactive login from a non-TTY device",
        ));
    }
    output::error_bytes(question.as_bytes());
    let _quiet = if echo { None } else { Quiet::enter() };
    let text = read_line().await?;
    if !echo {
        output::error("");
    }
    Ok(text)
}

/// One line of standard input.
async fn read_line() -> Result<String> {
    let stdin = Stdin::open()?;
    let mut text = Vec::new();
    let mut byte = [0];
    loop {
        let count = stdin
            .read(&mut byte)
            .await
            .map_err(|error| Failure::new(format!("read standard input: {error}")))?;
        if count == 0 || byte[0] == b'\n' || text.len() > 4096 {
            return Ok(String::from_utf8_lossy(&text).trim().to_owned());
        }
        text.push(byte[0]);
    }
}

/// The terminal without echo until dropped.
struct Quiet(termios::Termios);

impl Quiet {
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

async fn logout(invocation: Invocation) -> Result<u8> {
    let server = key(invocation.typed.words.first());
    let mut config = Config::load(&invocation.session);
    if let Some(helper) = config.helper(&server) {
        credentials::ask_helper(helper, "erase", &server);
    }
    if config.auths.remove(&server).is_some() {
        config.save(&invocation.session)?;
    }
    output::line(format!("Removing login credentials for {server}"))?;
    Ok(0)
}
