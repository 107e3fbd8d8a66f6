//! What both versions have in common on the way from limits to files.
//!
//! A plan is the files in the order in which they are to be written. It is made without looking at
//! the host; which controllers there are shows when it is applied.

use super::CgroupError;
use crate::oci;

/// One limit, as a file and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// Whose file it is.
    pub(super) controller: &'static str,
    pub(super) file: String,
    pub(super) value: String,
    /// What the user calls it.
    pub(super) limit: &'static str,
    pub(super) if_missing: IfMissing,
    /// Whether the kernel may refuse it until the others are written; then it is written again.
    pub(super) again: bool,
}

/// What it means that the file of a limit is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IfMissing {
    /// The limit cannot be had.
    Refuse,
    /// What is asked for is what there is without.
    Ignore,
    /// Another file of the same cgroup has it, in other words.
    Instead(&'static str, String),
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
}

impl Plan {
    /// Plans one file; the answer is for what is special about it.
    #[expect(clippy::needless_pass_by_value, reason = "numbers and new text alike")]
    pub(super) fn add(
        &mut self,
        file: impl Into<String>,
        value: impl ToString,
        limit: &'static str,
    ) -> &mut Write {
        let file = file.into();
        let controller = controller_of(&file);
        self.writes.push(Write {
            controller,
            file,
            value: value.to_string(),
            limit,
            if_missing: IfMissing::Refuse,
            again: false,
        });
        self.writes.last_mut().expect("one was added")
    }

    pub(super) fn pids(&mut self, resources: &oci::LinuxResources) {
        let limit = resources.pids().as_ref().map(oci::LinuxPids::limit);
        if let Some(limit) = limit.filter(|limit| *limit != 0) {
            self.add("pids.max", or_max(limit), "the process limit");
        }
    }

    pub(super) fn cpuset(&mut self, cpu: &oci::LinuxCpu) {
        for (file, set, limit) in [
            ("cpuset.cpus", cpu.cpus(), "the set of CPUs"),
            ("cpuset.mems", cpu.mems(), "the set of memory nodes"),
        ] {
            if let Some(set) = set.as_ref().filter(|set| !set.is_empty()) {
                self.add(file, set, limit);
            }
        }
    }

    /// `limit` and `reserved` end the names of the files.
    pub(super) fn huge_pages(
        &mut self,
        resources: &oci::LinuxResources,
        limit: &str,
        reserved: &str,
    ) -> Result<(), CgroupError> {
        for page in resources.hugepage_limits().iter().flatten() {
            let size = page.page_size();
            if !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(invalid("the huge page size", size));
            }
            let what = "the huge page limit";
            self.add(format!("hugetlb.{size}.{limit}"), page.limit(), what);
            // Linux 5.7: also what is promised and not yet used.
            self.add(format!("hugetlb.{size}.{reserved}"), page.limit(), what)
                .if_missing = IfMissing::Ignore;
        }
        Ok(())
    }

    pub(super) fn rdma(&mut self, resources: &oci::LinuxResources) {
        let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
        devices.sort_by_key(|(device, _)| *device);
        for (device, limits) in devices {
            let parts = [
                ("hca_handle", limits.hca_handles()),
                ("hca_object", limits.hca_objects()),
            ];
            let parts = parts.map(|(key, limit)| limit.map(|limit| format!(" {key}={limit}")));
            let parts: String = parts.into_iter().flatten().collect();
            if !parts.is_empty() {
                self.add("rdma.max", format!("{device}{parts}"), "the RDMA limits");
            }
        }
    }
}

/// The controller is the first part of a file's name, but for those of another time.
fn controller_of(file: &str) -> &'static str {
    let prefix = file.split('.').next().unwrap_or_default();
    let known = [
        "blkio", "cpu", "cpuset", "hugetlb", "io", "memory", "misc", "net_cls", "net_prio", "pids",
        "rdma",
    ];
    known
        .into_iter()
        .find(|name| *name == prefix)
        .unwrap_or("cgroup")
}

/// A number of which 0 means "not given".
pub(super) fn given<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|value| *value != T::default())
}

pub(super) fn or_max(limit: i64) -> String {
    if limit < 0 {
        String::from("max")
    } else {
        limit.to_string()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "numbers and new text alike")]
pub(super) fn invalid(limit: &'static str, value: impl ToString) -> CgroupError {
    CgroupError::Invalid {
        limit,
        value: value.to_string(),
    }
}

/// Memory and swap together, as the specification counts them, where 0 is "not given". Without a
/// limit on memory there is none on both, unless it is asked for.
pub(super) fn memory_and_swap(memory: &oci::LinuxMemory) -> Option<i64> {
    match (given(memory.limit()), given(memory.swap())) {
        (Some(-1), None) => Some(-1),
        (_, swap) => swap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_memory_is_limited_by_device() {
        let resources = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},
            "mlx4_0":{"hcaObjects":1000},"rxe3":{}}}"#;
        let mut plan = Plan::default();
        plan.rdma(&serde_json::from_str(resources).unwrap());
        let values: Vec<_> = plan.writes.iter().map(|w| w.value.as_str()).collect();
        assert_eq!(
            values,
            [
                "mlx4_0 hca_object=1000",
                "mlx5_1 hca_handle=3 hca_object=10000"
            ]
        );
    }

    #[test]
    fn a_huge_page_size_is_no_path() {
        let resources = r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#;
        let resources = serde_json::from_str(resources).unwrap();
        let planned = Plan::default().huge_pages(&resources, "max", "rsvd.max");
        assert!(matches!(planned, Err(CgroupError::Invalid { .. })));
    }
}
