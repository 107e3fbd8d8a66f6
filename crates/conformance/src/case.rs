//! The form of a case in `cases/*.toml`.
//!
//! ```toml
//! [[case]]
//! name = "the working directory is where cwd says"
//! spec = "config.md#process"
//! config = '''{"process": {"cwd": "/tmp"}}'''   # changes base.json, see `merge`
//! inside = "pwd"                                # a script for the container's /bin/sh
//! stdout = "/tmp"
//! ```
//!
//! Without `step` the case is one `run`; with steps it is that story. In all texts `{id}`,
//! `{bundle}`, `{rootfs}`, `{state}`, `{runtime}`, `{busybox}`, `{pid}` (of the container), `{link}`
//! (a name for a network link), `{console}` and `{listener}` (sockets that a terminal, and the
//! listener of a system call filter, arrive on) are filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::runtime::Family;

/// A file of cases.
#[derive(Debug)]
pub struct Topic {
    /// The file's name without its ending.
    pub name: String,
    /// In the order of the file.
    pub cases: Vec<Case>,
}

/// A configuration, and what it does.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A sentence: what holds.
    pub name: String,
    /// Where the specification (or, for its command line, runc) says so.
    pub spec: String,
    /// What the host must have, or the case does not apply to it.
    #[serde(default)]
    pub needs: BTreeSet<Need>,
    /// Changes to `base.json`, as JSON.
    #[serde(default)]
    pub config: Option<String>,
    /// The text of the whole `config.json`, for what is no JSON.
    #[serde(default)]
    pub raw_config: Option<String>,
    /// What the container's process runs with `/bin/sh -c`.
    #[serde(default)]
    pub inside: Option<String>,
    /// Files in the bundle, by their path in it.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// A script of the host, before anything else.
    #[serde(default)]
    pub before: Option<String>,
    /// A script of the host, after everything else.
    #[serde(default)]
    pub after: Option<String>,
    /// The story, or nothing for one `run`.
    #[serde(default)]
    pub step: Vec<Step>,
    /// Arguments of `run` before the id.
    #[serde(default)]
    pub flags: Vec<String>,
    /// What is expected of `run`. Not with steps, which have their own.
    #[serde(flatten)]
    pub expect: Expect,
    /// How runtimes differ, by their family.
    #[serde(default)]
    pub differs: BTreeMap<Family, Difference>,
}

/// What a host may lack.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The controllers are in version 1 hierarchies.
    CgroupV1,
    /// The controllers are in the unified hierarchy.
    CgroupV2,
    /// A NUMA kernel.
    Numa,
    /// System calls with the numbers of x86-64.
    X86,
    /// AppArmor is on.
    Apparmor,
    /// No AppArmor in this kernel.
    NoApparmor,
    /// No SELinux in this kernel.
    NoSelinux,
    /// No resctrl file system.
    NoResctrl,
    /// No rdma controller.
    NoRdma,
    /// The caller has CAP_SYS_RESOURCE.
    SysResource,
}

/// One thing done, and what is seen then. Exactly one of the first five is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The runtime with these arguments (`--root` is put before them).
    #[serde(default)]
    pub runtime: Option<Words>,
    /// A script of the host.
    #[serde(default)]
    pub host: Option<String>,
    /// What the container printed so far, through the streams of the first step.
    #[serde(default)]
    pub output: bool,
    /// What arrives on the terminal until it ends.
    #[serde(default)]
    pub terminal: bool,
    /// What was sent to the listener of a system call filter; its descriptor is then closed.
    #[serde(default)]
    pub listener: bool,
    /// Repeated until it is as expected, for what the kernel does in its own time.
    #[serde(default)]
    pub eventually: bool,
    /// Given to the program's standard input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// What is expected.
    #[serde(flatten)]
    pub expect: Expect,
    /// How runtimes differ, by their family.
    #[serde(default)]
    pub differs: BTreeMap<Family, Difference>,
}

/// Arguments: words separated by blanks, or a list where a word has blanks.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Words {
    /// Separated by blanks.
    Line(String),
    /// As they are.
    List(Vec<String>),
}

impl Words {
    /// One by one.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => line.split_whitespace().map(ToOwned::to_owned).collect(),
            Self::List(list) => list.clone(),
        }
    }
}

/// What is expected of a program's run.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The exit code, 0 if nothing is said.
    #[serde(default)]
    pub exit: Option<i32>,
    /// Any exit code but 0.
    #[serde(default)]
    pub fails: bool,
    /// The configuration is refused before anything is made: no state, no cgroup, no mount, and an
    /// exit code other than 0. The text is the JSON path of the fault; who names it at all must
    /// name it so ([`Family::names_paths`]).
    #[serde(default)]
    pub refused: Option<String>,
    /// What is left on the host afterwards is not looked at: this runtime is known to leave things.
    #[serde(default)]
    pub leaves: bool,
    /// All of the standard output, but for line ends at its end.
    #[serde(default)]
    pub stdout: Option<String>,
    /// A regular expression found in the standard output (`^` and `$` are of lines).
    #[serde(default)]
    pub like: Option<String>,
    /// A regular expression not found in it.
    #[serde(default)]
    pub lacks: Option<String>,
    /// A regular expression found in the standard error.
    #[serde(default)]
    pub stderr: Option<String>,
    /// Members that the JSON document on the standard output has.
    #[serde(default)]
    pub json: Option<String>,
}

/// What a runtime does instead.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Why, in a sentence that stands in `docs/compat.md`.
    pub reason: String,
    /// What it does would harm the host, so the case is not run.
    #[serde(default)]
    pub not_run: bool,
    /// In place of everything the case expects.
    #[serde(flatten)]
    pub expect: Expect,
}

/// What this family is expected to do.
pub(crate) fn expected<'a>(
    common: &'a Expect,
    differs: &'a BTreeMap<Family, Difference>,
    family: Family,
) -> &'a Expect {
    differs
        .get(&family)
        .map_or(common, |difference| &difference.expect)
}

impl Step {
    /// What this family is expected to do.
    pub fn expected(&self, family: Family) -> &Expect {
        expected(&self.expect, &self.differs, family)
    }
}

/// A file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

/// The folder of the cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// Every topic of `folder`, by name.
pub fn load(folder: &Path) -> Result<Vec<Topic>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read `{}`", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    let topics: Vec<Topic> = paths
        .iter()
        .map(|path| topic(path))
        .collect::<Result<_>>()?;
    let mut names = BTreeSet::new();
    for case in topics.iter().flat_map(|topic| &topic.cases) {
        ensure!(
            names.insert(&case.name),
            "two cases are named {:?}",
            case.name
        );
    }
    Ok(topics)
}

fn topic(path: &Path) -> Result<Topic> {
    let at = || format!("`{}`", path.display());
    let text = fs::read_to_string(path).with_context(at)?;
    let file: File = toml::from_str(&text).with_context(at)?;
    for case in &file.case {
        case.check()
            .with_context(|| format!("{}: case {:?}", at(), case.name))?;
    }
    let name = path.file_stem().unwrap_or_default();
    Ok(Topic {
        name: name.to_string_lossy().into_owned(),
        cases: file.case,
    })
}

impl Case {
    /// The fragment as a document.
    pub fn fragment(&self) -> Result<Value> {
        let text = self.config.as_deref().unwrap_or("{}");
        serde_json::from_str(text).context("`config` is not JSON")
    }

    /// All differences: of the case and of its steps.
    pub fn differences(&self) -> impl Iterator<Item = (Family, &Difference)> {
        let of_steps = self.step.iter().flat_map(|step| &step.differs);
        let all = self.differs.iter().chain(of_steps);
        all.map(|(family, difference)| (*family, difference))
    }

    /// All that this family is expected to do, step by step.
    pub fn expected(&self, family: Family) -> impl Iterator<Item = &Expect> {
        let of_steps = self.step.iter().map(move |step| step.expected(family));
        std::iter::once(expected(&self.expect, &self.differs, family)).chain(of_steps)
    }

    /// What the form cannot say.
    fn check(&self) -> Result<()> {
        self.fragment()?;
        ensure!(!self.spec.is_empty(), "`spec` is empty");
        if !self.step.is_empty() {
            ensure!(
                self.expect == Expect::default()
                    && self.differs.is_empty()
                    && self.flags.is_empty(),
                "with steps, each step says what is expected"
            );
        }
        for step in &self.step {
            let kinds = [
                step.runtime.is_some(),
                step.host.is_some(),
                step.output,
                step.terminal,
                step.listener,
            ];
            if kinds.iter().filter(|given| **given).count() != 1 {
                bail!("a step is one of runtime, host, output, terminal and listener");
            }
        }
        for (family, difference) in self.differences() {
            ensure!(
                !difference.reason.is_empty(),
                "{family} differs without a reason"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_well_formed() {
        let topics = load(&folder()).unwrap();
        let cases = topics.iter().map(|topic| topic.cases.len()).sum::<usize>();
        assert!(cases >= 150, "{cases} cases");
    }

    #[test]
    fn a_misspelt_key_is_no_case() {
        let text = "[[case]]\nname = 'x'\nspec = 'y'\nstdoud = ''\n";
        toml::from_str::<File>(text).unwrap_err();
    }
}
