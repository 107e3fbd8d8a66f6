//! Dockerfile instructions applied to a container configuration: `--change` of import and commit.
//!
//! Only the instructions that change metadata are known: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
//! LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR. Escapes and quotes are those of the
//! Dockerfile's own word splitting; variables are not expanded.

use std::collections::BTreeMap;
use std::time::Duration;

use vocab::config::{ContainerConfig, Empty, Healthcheck};

/// The instructions that change metadata.
const INSTRUCTIONS: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Applies one instruction; the error says what is wrong with it.
pub fn apply(config: &mut ContainerConfig, change: &str) -> Result<(), String> {
    let change = change.trim();
    let (name, rest) = change
        .split_once(char::is_whitespace)
        .unwrap_or((change, ""));
    let rest = rest.trim();
    let typed = name;
    let name = name.to_ascii_uppercase();
    if !INSTRUCTIONS.contains(&name.as_str()) {
        return Err(format!("{typed} is not a valid change command"));
    }
    known(config, &name, rest).map_err(|reason| format!("{change}: {reason}"))
}

fn known(config: &mut ContainerConfig, name: &str, rest: &str) -> Result<(), String> {
    if rest.is_empty() {
        return Err(format!("{name} requires at least one argument"));
    }
    match name {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => {
            let env = config.env.get_or_insert_default();
            for (key, value) in pairs(rest)? {
                env.retain(|old| old.split('=').next() != Some(key.as_str()));
                env.push(format!("{key}={value}"));
            }
        }
        "EXPOSE" => {
            let ports = config.exposed_ports.get_or_insert_default();
            for word in words(rest)? {
                ports.extend(exposed(&word)?.into_iter().map(|port| (port, Empty {})));
            }
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        "LABEL" => {
            config
                .labels
                .get_or_insert_with(BTreeMap::new)
                .extend(pairs(rest)?);
        }
        "ONBUILD" => config
            .on_build
            .get_or_insert_default()
            .push(rest.to_owned()),
        "STOPSIGNAL" => config.stop_signal = single(rest)?,
        "USER" => config.user = single(rest)?,
        "VOLUME" => {
            let paths = match json_words(rest) {
                Some(paths) => paths,
                None => words(rest)?,
            };
            let volumes = config.volumes.get_or_insert_default();
            volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        }
        "WORKDIR" => {
            let path = single(rest)?;
            config.working_dir = match path.starts_with('/') {
                true => path,
                false => format!("{}/{path}", config.working_dir.trim_end_matches('/')),
            };
        }
        _ => unreachable!("it is none of the known instructions"),
    }
    Ok(())
}

/// The exec form as it is, the shell form under `/bin/sh -c`.
fn command(rest: &str) -> Vec<String> {
    json_words(rest).unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned(), rest.to_owned()])
}

fn json_words(rest: &str) -> Option<Vec<String>> {
    rest.starts_with('[')
        .then(|| serde_json::from_str(rest).ok())
        .flatten()
}

/// One word, or the whole rest as it stands.
fn single(rest: &str) -> Result<String, String> {
    Ok(words(rest)?.join(" "))
}

/// `key=value …`, or the old `key value`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, String> {
    let words = words(rest)?;
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("`{rest}` has no value"))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err(format!("`{word}` is not key=value")),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        })
        .collect()
}

/// Splits at white space outside quotes; quotes and escapes are taken off.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), c) if c == open => quote = None,
            (None, c @ ('"' | '\'')) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some('"') | None, '\\') => {
                let next = characters.next().ok_or("it ends in a backslash")?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(next, '"' | '\\' | '$') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

/// `80`, `80/udp`, `8000-8010/tcp`: each port with its protocol.
fn exposed(word: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{word}` is not port[-port][/protocol]");
    let (ports, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(wrong());
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let first: u16 = first.parse().map_err(|_| wrong())?;
    let last: u16 = last.parse().map_err(|_| wrong())?;
    if first == 0 || last < first {
        return Err(wrong());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

fn healthcheck(rest: &str) -> Result<Healthcheck, String> {
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option
            .split_once(char::is_whitespace)
            .unwrap_or((option, ""));
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| format!("--{option} has no value"))?;
        let nanoseconds =
            || duration(value).ok_or_else(|| format!("--{key}: `{value}` is no duration"));
        match key {
            "interval" => check.interval = nanoseconds()?,
            "timeout" => check.timeout = nanoseconds()?,
            "start-period" => check.start_period = nanoseconds()?,
            "start-interval" => check.start_interval = nanoseconds()?,
            "retries" => {
                check.retries = value
                    .parse()
                    .map_err(|_| format!("--retries: `{value}` is no number"))?;
            }
            _ => return Err(format!("--{key} is no option of HEALTHCHECK")),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = Some(match kind.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".to_owned()],
        "CMD" if command.is_empty() => return Err("CMD has no command".to_owned()),
        "CMD" => match json_words(command) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        other => return Err(format!("`{other}` is neither CMD nor NONE")),
    });
    Ok(check)
}

/// Nanoseconds of `1h30m`, `500ms`, `2.5s` as Go reads durations.
fn duration(text: &str) -> Option<i64> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let seconds = match &unit[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &unit[end..];
    }
    (!text.is_empty())
        .then(|| i64::try_from(total.as_nanos()).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> ContainerConfig {
        let mut config = ContainerConfig::default();
        for change in changes {
            apply(&mut config, change).unwrap_or_else(|error| panic!("{change}: {error}"));
        }
        config
    }

    #[test]
    fn instructions_change_the_configuration_as_a_dockerfile_would() {
        let config = changed(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint exec x",
            "ENV A=1 B=\"two words\" C=a\\ b",
            "ENV A 2 3",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL k=v",
            "USER 1000:1000",
            "VOLUME [\"/data\"]",
            "VOLUME /x /y",
            "WORKDIR /a",
            "WORKDIR b",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD true",
        ]);
        let strings =
            |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        assert_eq!(config.cmd, strings(&["a", "b c"]));
        assert_eq!(config.entrypoint, strings(&["/bin/sh", "-c", "exec x"]));
        assert_eq!(config.env, strings(&["B=two words", "C=a b", "A=2 3"]));
        let ports: Vec<_> = config.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(
            ports,
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
        );
        assert_eq!(config.labels.unwrap()["k"], "v");
        assert_eq!(config.user, "1000:1000");
        assert_eq!(
            config.volumes.unwrap().into_keys().collect::<Vec<_>>(),
            ["/data", "/x", "/y"]
        );
        assert_eq!(config.working_dir, "/a/b");
        assert_eq!(config.stop_signal, "SIGQUIT");
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
        assert_eq!(check.test, strings(&["CMD-SHELL", "true"]));
    }

    #[test]
    fn what_is_no_instruction_is_refused() {
        for change in [
            "",
            "CMD",
            "RUN x",
            "FROM y",
            "ENV A",
            "ENV =x",
            "ENV A='",
            "EXPOSE x",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "HEALTHCHECK --interval=x CMD y",
            "HEALTHCHECK TRUE",
        ] {
            assert!(
                apply(&mut ContainerConfig::default(), change).is_err(),
                "{change}"
            );
        }
    }
}
