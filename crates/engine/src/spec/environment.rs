//! Variables of the daemon, the image and the user.

/// Where programs are looked for when nobody says.
pub(crate) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The user's variables and those of the image that the user did not set.
pub(crate) fn merge(user: Option<Vec<String>>, image: &[String]) -> Vec<String> {
    let mut merged = user.unwrap_or_default();
    for variable in image {
        let key = key(variable);
        if !merged.iter().any(|own| self::key(own) == key) {
            merged.push(variable.clone());
        }
    }
    merged
}

/// What a container's first process gets.
pub(crate) fn of_container(
    wanted: &[String],
    hostname: &str,
    tty: bool,
    home: &str,
) -> Vec<String> {
    of_exec(&[], wanted, hostname, tty, home)
}

/// What a further process gets: the container's, then its own.
pub(crate) fn of_exec(
    container: &[String],
    wanted: &[String],
    hostname: &str,
    tty: bool,
    home: &str,
) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    replace(&mut env, container);
    replace(&mut env, wanted);
    with_home(env, home)
}

/// Sets what has a value and takes away what has none.
pub(crate) fn replace(env: &mut Vec<String>, wanted: &[String]) {
    for variable in wanted {
        let key = key(variable);
        let place = env.iter().position(|own| self::key(own) == key);
        match (place, variable.contains('=')) {
            (Some(place), true) => env[place].clone_from(variable),
            (Some(place), false) => drop(env.remove(place)),
            (None, true) => env.push(variable.clone()),
            (None, false) => {}
        }
    }
}

fn with_home(mut env: Vec<String>, home: &str) -> Vec<String> {
    if !env.iter().any(|own| key(own) == "HOME") {
        env.push(format!("HOME={home}"));
    }
    env
}

fn key(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[&str]) -> Vec<String> {
        text.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn the_user_wins_over_the_image() {
        let merged = merge(Some(list(&["A=1", "B"])), &list(&["A=2", "B=2", "C=3"]));
        assert_eq!(merged, ["A=1", "B", "C=3"]);
        assert_eq!(merge(None, &list(&["A=2"])), ["A=2"]);
    }

    #[test]
    fn a_bare_key_takes_a_variable_away() {
        let env = of_container(
            &list(&["PATH=/x", "HOSTNAME", "A=", "NONE"]),
            "h",
            true,
            "/r",
        );
        assert_eq!(env, ["PATH=/x", "TERM=xterm", "A=", "HOME=/r"]);
    }
}
