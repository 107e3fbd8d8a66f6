//! Volumes, bind mounts and tmpfs.

use std::collections::BTreeMap;
use std::path::Path;

use vocab::config::{
    BindOptions, DriverConfig, Empty, ImageOptions, Mount, Set, TmpfsOptions, VolumeOptions,
};

use super::csv;

/// What `-v` values say: `source:destination[:options]` for the daemon, and the destinations of
/// anonymous volumes.
pub fn volumes<'a>(
    specs: impl Iterator<Item = &'a str>,
    here: &Path,
) -> Result<(Vec<String>, Set), String> {
    let mut binds = Vec::new();
    let mut anonymous = Set::new();
    for spec in specs {
        let parts: Vec<&str> = spec.split(':').collect();
        if spec.is_empty() || parts.len() > 1 && parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "invalid spec: {spec}: empty section between colons"
            ));
        }
        if parts.len() == 1 {
            anonymous.insert(spec.to_owned(), Empty {});
            continue;
        }
        let source = parts[0];
        // As Docker does: relative paths are the client's, a bare word is a volume.
        let source = if source.starts_with('.') {
            absolute(here, source)
        } else if let Some(rest) = source.strip_prefix('~') {
            match std::env::var("HOME") {
                Ok(home) if rest.is_empty() || rest.starts_with('/') => format!("{home}{rest}"),
                _ => source.to_owned(),
            }
        } else {
            source.to_owned()
        };
        binds.push(format!("{source}:{}", parts[1..].join(":")));
    }
    Ok((binds, anonymous))
}

/// Joins and cleans as Go's `filepath.Abs`, without touching the file system.
pub fn absolute(here: &Path, path: &str) -> String {
    let joined = here.join(path);
    let mut clean: Vec<&str> = Vec::new();
    let text = joined.to_string_lossy();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    format!("/{}", clean.join("/"))
}

/// Whether a text is a `--mount` value.
pub fn check(spec: &str) -> Result<(), String> {
    mount(spec, Path::new("/")).map(drop)
}

/// Reads one `--mount` value.
pub fn mount(spec: &str, here: &Path) -> Result<Mount, String> {
    let mut mount = Mount {
        kind: "volume".to_owned(),
        ..Mount::default()
    };
    let mut bind: Option<BindOptions> = None;
    let mut volume: Option<VolumeOptions> = None;
    let mut image: Option<ImageOptions> = None;
    let mut tmpfs: Option<TmpfsOptions> = None;
    for field in csv::fields(spec)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        if value.is_none()
            && !matches!(
                key.as_str(),
                "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive" | "bind-create-src"
            )
        {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        }
        let text = value.unwrap_or("true");
        let truth = || {
            crate::flags::parse_truth(text).map_err(|_| format!("invalid value for {key}: {text}"))
        };
        match key.as_str() {
            "type" => mount.kind = text.to_lowercase(),
            "source" | "src" => {
                mount.source = if text.starts_with('.') {
                    absolute(here, text)
                } else {
                    text.to_owned()
                };
            }
            "target" | "dst" | "destination" => text.clone_into(&mut mount.target),
            "readonly" | "ro" => mount.read_only = truth()?,
            "consistency" => mount.consistency = text.to_lowercase(),
            "bind-propagation" => {
                bind.get_or_insert_default().propagation = text.to_lowercase();
            }
            "bind-nonrecursive" => {
                bind.get_or_insert_default().non_recursive = truth()?;
            }
            "bind-create-src" => {
                bind.get_or_insert_default().create_mountpoint = truth()?;
            }
            "bind-recursive" => {
                let bind = bind.get_or_insert_default();
                match text {
                    "enabled" => {}
                    "disabled" => bind.non_recursive = true,
                    "writable" => bind.read_only_non_recursive = true,
                    "readonly" => bind.read_only_force_recursive = true,
                    _ => {
                        return Err(format!(
                            "invalid value for bind-recursive: {text} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                        ));
                    }
                }
            }
            "map" => text.clone_into(&mut bind.get_or_insert_default().map),
            "volume-subpath" => text.clone_into(&mut volume.get_or_insert_default().subpath),
            "volume-nocopy" => volume.get_or_insert_default().no_copy = truth()?,
            "volume-label" => {
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                volume
                    .get_or_insert_default()
                    .labels
                    .get_or_insert_default()
                    .insert(key.to_owned(), value.to_owned());
            }
            "volume-driver" => {
                text.clone_into(
                    &mut volume
                        .get_or_insert_default()
                        .driver_config
                        .get_or_insert_with(DriverConfig::default)
                        .name,
                );
            }
            "volume-opt" => {
                let (key, value) = text.split_once('=').unwrap_or((text, ""));
                volume
                    .get_or_insert_default()
                    .driver_config
                    .get_or_insert_with(DriverConfig::default)
                    .options
                    .get_or_insert_with(BTreeMap::new)
                    .insert(key.to_owned(), value.to_owned());
            }
            "image-subpath" => text.clone_into(&mut image.get_or_insert_default().subpath),
            "tmpfs-size" => {
                tmpfs.get_or_insert_default().size_bytes = crate::human::parse_size(text)
                    .map_err(|_| format!("invalid value for {key}: {text}"))?;
            }
            "tmpfs-mode" => {
                tmpfs.get_or_insert_default().mode = u32::from_str_radix(text, 8)
                    .map_err(|_| format!("invalid value for {key}: {text}"))?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if mount.kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    for (given, prefix, kind) in [
        (volume.is_some(), "volume-*", "volume"),
        (bind.is_some(), "bind-*", "bind"),
        (tmpfs.is_some(), "tmpfs-*", "tmpfs"),
        (image.is_some(), "image-*", "image"),
    ] {
        if given && mount.kind != kind {
            return Err(format!(
                "cannot mix '{prefix}' options with mount type '{}'",
                mount.kind
            ));
        }
    }
    if let Some(bind) = &bind {
        if bind.read_only_non_recursive && !mount.read_only {
            return Err("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction".to_owned());
        }
        if bind.read_only_force_recursive {
            if !mount.read_only {
                return Err("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction".to_owned());
            }
            if bind.propagation != "rprivate" {
                return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction".to_owned());
            }
        }
    }
    mount.bind_options = bind;
    mount.volume_options = volume;
    mount.image_options = image;
    mount.tmpfs_options = tmpfs;
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_binds_names_or_anonymous() {
        let here = Path::new("/home/x");
        let specs = [
            "/a:/b",
            "./c:/d:ro",
            "..:/e",
            "data:/f:z,ro",
            "/only",
            "../y/z:/g",
        ];
        let (binds, anonymous) = volumes(specs.into_iter(), here).unwrap();
        assert_eq!(
            binds,
            [
                "/a:/b",
                "/home/x/c:/d:ro",
                "/home:/e",
                "data:/f:z,ro",
                "/home/y/z:/g"
            ]
        );
        assert_eq!(anonymous.keys().collect::<Vec<_>>(), ["/only"]);
        for spec in [":/b", "/a:", ""] {
            assert_eq!(
                volumes([spec].into_iter(), here).unwrap_err(),
                format!("invalid spec: {spec}: empty section between colons")
            );
        }
    }

    fn json(spec: &str) -> String {
        serde_json::to_string(&mount(spec, Path::new("/w")).unwrap()).unwrap()
    }

    #[test]
    fn mounts_are_understood() {
        for (spec, wanted) in [
            ("target=/x", r#"{"Type":"volume","Target":"/x"}"#),
            (
                "type=bind,src=./a,dst=/x,ro",
                r#"{"Type":"bind","Source":"/w/a","Target":"/x","ReadOnly":true}"#,
            ),
            (
                "type=bind,source=/a,target=/x,readonly=false,bind-propagation=rshared",
                r#"{"Type":"bind","Source":"/a","Target":"/x","BindOptions":{"Propagation":"rshared"}}"#,
            ),
            (
                "type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1777",
                r#"{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"SizeBytes":1048576,"Mode":1023}}"#,
            ),
            (
                "source=v,target=/x,volume-nocopy,volume-label=a=b,volume-opt=o=p,volume-driver=d,volume-subpath=s",
                r#"{"Type":"volume","Source":"v","Target":"/x","VolumeOptions":{"NoCopy":true,"Labels":{"a":"b"},"Subpath":"s","DriverConfig":{"Name":"d","Options":{"o":"p"}}}}"#,
            ),
            (
                "type=bind,source=/a,target=/x,ro,bind-recursive=writable",
                r#"{"Type":"bind","Source":"/a","Target":"/x","ReadOnly":true,"BindOptions":{"ReadOnlyNonRecursive":true}}"#,
            ),
            (
                "type=image,source=i,target=/x,image-subpath=s",
                r#"{"Type":"image","Source":"i","Target":"/x","ImageOptions":{"Subpath":"s"}}"#,
            ),
            (
                r#"type=volume,source=v,target=/x,"volume-opt=o=a,b""#,
                r#"{"Type":"volume","Source":"v","Target":"/x","VolumeOptions":{"DriverConfig":{"Options":{"o":"a,b"}}}}"#,
            ),
        ] {
            assert_eq!(json(spec), wanted, "{spec}");
        }
    }

    #[test]
    fn mistakes_are_told_as_docker_tells_them() {
        for (spec, wanted) in [
            ("", "EOF"),
            ("foo", "invalid field 'foo' must be a key=value pair"),
            ("source=x", "target is required"),
            (
                "type=bind,src=x,target=/y,foo=1",
                "unexpected key 'foo' in 'foo=1'",
            ),
            (
                "type=tmpfs,tmpfs-size=x,target=/t",
                "invalid value for tmpfs-size: x",
            ),
            (
                "type=volume,target=/y,bind-propagation=shared",
                "cannot mix 'bind-*' options with mount type 'volume'",
            ),
            (
                "type=bind,src=/x,target=/y,ro=maybe",
                "invalid value for ro: maybe",
            ),
            (
                "type=bind,src=/a,target=/x,bind-recursive=readonly",
                "option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction",
            ),
        ] {
            assert_eq!(
                mount(spec, Path::new("/")),
                Err(wanted.to_owned()),
                "{spec}"
            );
        }
    }
}
