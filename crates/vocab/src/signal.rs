//! Signals as people name them.

/// The number of a signal given by number or by name, with or without `SIG`.
pub fn parse(text: &str) -> Option<i32> {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV",
        "USR2", "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU",
        "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    // As glibc numbers them: two below 34 are its own.
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = NAMES
        .iter()
        .position(|known| *known == name && !name.is_empty())
    {
        return i32::try_from(number).ok();
    }
    match name {
        "IOT" => Some(6),
        "CLD" => Some(17),
        "POLL" => Some(29),
        "RTMIN" => Some(RTMIN),
        "RTMAX" => Some(RTMAX),
        _ => {
            let number = if let Some(offset) = name.strip_prefix("RTMIN+") {
                RTMIN + offset.parse::<i32>().ok()?
            } else {
                RTMAX - name.strip_prefix("RTMAX-")?.parse::<i32>().ok()?
            };
            (RTMIN..=RTMAX).contains(&number).then_some(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_docker_reads_them() {
        for (typed, number) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("", None),
            ("SIG", None),
            ("NOPE", None),
        ] {
            assert_eq!(parse(typed), number, "{typed}");
        }
    }
}
