//! The CPU quota that cgroups set, v2 or v1, in whole CPUs.

use std::fs;
use std::path::{Path, PathBuf};

/// CPUs' worth of time that this process may use, rounded up, at least 1. `None`: no limit was found.
pub(crate) fn of_this_process() -> Option<usize> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let groups = CpuGroups::parse(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
    groups.quota_cpus(&|path| fs::read_to_string(path).ok())
}

/// Directories that may hold a CPU quota for this process, innermost first.
///
/// With cgroup v2 and v1 mounted side by side the controller lives in one of them; both are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct CpuGroups {
    v2: Vec<PathBuf>,
    v1: Vec<PathBuf>,
}

impl CpuGroups {
    /// From the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    ///
    /// ```text
    /// 0::/system.slice/x.service                                       hierarchy 0: v2
    /// 4:cpu,cpuacct:/docker/1f                                         v1, controllers named
    /// 30 23 0:26 /root /sys/fs/cgroup rw - cgroup2 cgroup2 rw          root, mount point - type source options
    /// ```
    fn parse(cgroup: &str, mountinfo: &str) -> Self {
        let mut groups = Self::default();
        for line in cgroup.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(hierarchy), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if hierarchy == "0" && controllers.is_empty() {
                groups.v2 = ancestors(path, mountinfo, |kind, _| kind == "cgroup2");
            } else if controllers.split(',').any(|name| name == "cpu") {
                groups.v1 = ancestors(path, mountinfo, |kind, options| {
                    kind == "cgroup" && options.split(',').any(|option| option == "cpu")
                });
            }
        }
        groups
    }

    /// The smallest quota along the way up: every level binds.
    fn quota_cpus(&self, read: &dyn Fn(&Path) -> Option<String>) -> Option<usize> {
        let v2 = self
            .v2
            .iter()
            .filter_map(|dir| parse_quota(&read(&dir.join("cpu.max"))?));
        let v1 = self.v1.iter().filter_map(|dir| {
            let quota = read(&dir.join("cpu.cfs_quota_us"))?;
            let period = read(&dir.join("cpu.cfs_period_us"))?;
            parse_quota(&format!("{} {}", quota.trim(), period.trim()))
        });
        v2.chain(v1).min()
    }
}

/// The directory of cgroup `path` and those above it, up to the mount point.
fn ancestors(path: &str, mountinfo: &str, wanted: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else {
            continue;
        };
        let mut filesystem = filesystem.split(' ');
        let (kind, options) = (filesystem.next(), filesystem.nth(1));
        if !wanted(kind.unwrap_or_default(), options.unwrap_or_default()) {
            continue;
        }
        let mut mount = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (mount.next(), mount.next()) else {
            continue;
        };
        // A container without a cgroup namespace sees the host's path, but mounts its own group as the root.
        let below = path
            .strip_prefix(root.trim_end_matches('/'))
            .unwrap_or_default()
            .trim_start_matches('/');
        if below.split('/').any(|name| name == "..") {
            return vec![point.into()];
        }
        let inner = Path::new(point).join(below);
        let upwards = inner.ancestors().take_while(|dir| dir.starts_with(point));
        return upwards.map(Path::to_path_buf).collect();
    }
    Vec::new()
}

/// Whole CPUs in `quota period`, microseconds both, rounded up. `None`: `max`, -1, or not understood.
///
/// Source: <https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files>
fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota_us, period_us): (u64, u64) = (quota.parse().ok()?, period.trim().parse().ok()?);
    if period_us == 0 {
        return None;
    }
    usize::try_from(quota_us.div_ceil(period_us).max(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_rounded_up_to_whole_cpus() {
        assert_eq!(parse_quota("max 100000\n"), None);
        assert_eq!(parse_quota("-1 100000"), None);
        assert_eq!(parse_quota("10000 100000"), Some(1));
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("400000 100000"), Some(4));
        assert_eq!(parse_quota("1 0"), None);
        assert_eq!(parse_quota(""), None);
    }

    fn quota(cgroup: &str, mountinfo: &str, files: &[(&str, &str)]) -> Option<usize> {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| Path::new(name) == path)?;
            Some(file.1.to_owned())
        };
        CpuGroups::parse(cgroup, mountinfo).quota_cpus(&read)
    }

    #[test]
    fn the_tightest_level_of_a_v2_hierarchy_counts() {
        let mounts = "23 1 0:20 / /proc rw - proc proc rw\n\
                      30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let files = [
            ("/sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/a.slice/b.service/cpu.max", "max 100000\n"),
        ];
        assert_eq!(quota("0::/a.slice/b.service\n", mounts, &files), Some(2));
        assert_eq!(quota("0::/other\n", mounts, &files), None);
        assert_eq!(quota("0::/../../up\n", mounts, &files), None);
        assert_eq!(quota("", "", &files), None);
    }

    #[test]
    fn v1_in_a_container_that_sees_the_path_of_its_host() {
        let mounts =
            "32 31 0:29 /docker/1f /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n\
                      33 31 0:30 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let files = [
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ];
        let cgroup = "8:cpuset:/docker/1f\n4:cpu,cpuacct:/docker/1f\n0::/\n";
        assert_eq!(quota(cgroup, mounts, &files), Some(3));
        let unlimited = [(files[0].0, "-1\n"), files[1]];
        assert_eq!(quota(cgroup, mounts, &unlimited), None);
    }
}
