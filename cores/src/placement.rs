//! Which CPUs get a core: affinity, cgroup quota, SMT siblings, NUMA nodes, and what the operator asked for.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The CPUs to run on, in the order in which cores are numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Kernel CPU numbers, each allowed to this process, none twice, at least one.
    pub cpus: Vec<usize>,
    /// What the operator should know: a wish that could not be met in full.
    pub warnings: Vec<String>,
}

/// What the operator asked for. The default is every CPU that may be used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// At most this many cores; `None` and 0 mean as many as there are.
    pub workers: Option<usize>,
    /// Exactly these CPUs, in this order. Empty: choose.
    pub cpus: Vec<usize>,
}

/// A wish that cannot be met at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impossible {
    /// A listed CPU is outside the affinity mask (taskset, cpuset, or no such CPU).
    NotAllowed {
        /// The CPU asked for.
        cpu: usize,
        /// The CPUs that may be used.
        allowed: Vec<usize>,
    },
    /// A CPU is listed twice: two cores on it would only take time from each other.
    Twice(usize),
}

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed { cpu, allowed } => write!(
                f,
                "CPU {cpu} is not available to this process; available: {}",
                Ranges(allowed)
            ),
            Self::Twice(cpu) => write!(f, "CPU {cpu} is listed twice"),
        }
    }
}

impl std::error::Error for Impossible {}

/// What was found out about the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// CPUs of the affinity mask, ascending; never empty.
    pub cpus: Vec<Cpu>,
    /// CPU time allowed by the cgroups, in whole CPUs, rounded up, at least 1. `None`: no limit.
    pub quota_cpus: Option<usize>,
}

/// One CPU and its neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number.
    pub id: usize,
    /// NUMA node, 0 where unknown.
    pub node: usize,
    /// CPUs sharing the physical core, itself included; empty where unknown.
    pub siblings: Vec<usize>,
}

impl Placement {
    /// Looks at this machine and chooses.
    ///
    /// Call it from a thread that is not pinned. Errors: the affinity mask cannot be read, or the wish is
    /// [`Impossible`] (as `InvalidInput`). Unreadable files below `/sys` and `/proc` only cost quality.
    pub fn choose(wish: &Wish) -> io::Result<Self> {
        let host = Host::read()?;
        place(&host, wish).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
    }
}

/// Chooses CPUs of `host`: one per physical core before any SMT sibling, nodes in their order.
///
/// A list in the wish is followed as it stands, quota or not; a count above what there is gives a warning.
/// Errors: see [`Impossible`].
pub fn place(host: &Host, wish: &Wish) -> Result<Placement, Impossible> {
    let mut warnings = Vec::new();
    let quota = host.quota_cpus.unwrap_or(usize::MAX).max(1);
    let wanted = wish
        .workers
        .filter(|workers| *workers > 0)
        .unwrap_or(usize::MAX);

    let mut cpus = if wish.cpus.is_empty() {
        let mut cpus = ranked(host);
        cpus.truncate(quota);
        cpus
    } else {
        listed(host, &wish.cpus)?
    };
    if wanted != usize::MAX && wanted > cpus.len() {
        let reason = if !wish.cpus.is_empty() {
            "the list of CPUs"
        } else if quota < host.cpus.len() {
            "the cgroup's CPU quota"
        } else {
            "the affinity mask"
        };
        warnings.push(format!(
            "{wanted} workers wanted, {} started: {reason} allows no more",
            cpus.len()
        ));
    }
    cpus.truncate(wanted);
    if cpus.len() > quota {
        warnings.push(format!(
            "{} CPUs listed, but the cgroup's quota is worth {quota}: all cores will be throttled together",
            cpus.len()
        ));
    }
    Ok(Placement { cpus, warnings })
}

/// All CPUs, best first.
fn ranked(host: &Host) -> Vec<usize> {
    let allowed = |id: &usize| host.cpus.iter().any(|cpu| cpu.id == *id);
    let mut order: Vec<_> = host
        .cpus
        .iter()
        .map(|cpu| {
            let elder = |id: &&usize| **id < cpu.id && allowed(id);
            (cpu.siblings.iter().filter(elder).count(), cpu.node, cpu.id)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, id)| id).collect()
}

fn listed(host: &Host, list: &[usize]) -> Result<Vec<usize>, Impossible> {
    let mut cpus = Vec::with_capacity(list.len());
    for &cpu in list {
        if !host.cpus.iter().any(|known| known.id == cpu) {
            let allowed = host.cpus.iter().map(|known| known.id).collect();
            return Err(Impossible::NotAllowed { cpu, allowed });
        }
        if cpus.contains(&cpu) {
            return Err(Impossible::Twice(cpu));
        }
        cpus.push(cpu);
    }
    Ok(cpus)
}

impl Host {
    /// Reads the affinity mask of the calling thread, `/sys` and `/proc`.
    ///
    /// Errors: only the affinity mask is indispensable.
    pub fn read() -> io::Result<Self> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut cpus: Vec<Cpu> = CpuMask::of_thread(0)?
            .cpus()
            .map(|id| Cpu {
                id,
                node: 0,
                siblings: parse_cpu_list(&text(&format!(
                    "/sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list"
                )))
                .unwrap_or_default(),
            })
            .collect();
        for node in parse_cpu_list(&text("/sys/devices/system/node/online")).unwrap_or_default() {
            let list = text(&format!("/sys/devices/system/node/node{node}/cpulist"));
            let members = parse_cpu_list(&list).unwrap_or_default();
            for cpu in cpus.iter_mut().filter(|cpu| members.contains(&cpu.id)) {
                cpu.node = node;
            }
        }
        let groups = CpuGroups::parse(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let quota_cpus = groups.quota_cpus(&|path| fs::read_to_string(path).ok());
        Ok(Self { cpus, quota_cpus })
    }
}

/// Reads a kernel CPU list such as `0-3,8,10-11`. `None` for anything else, and above [`CPUS_MAX`].
///
/// Source: <https://man7.org/linux/man-pages/man7/cpuset.7.html>, "List format".
pub fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let text = text.trim();
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
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

/// Highest CPU number this module can name, plus one. The kernel's own limit is 8,192.
pub const CPUS_MAX: usize = 8192;

const WORD_BITS: usize = usize::BITS as usize;

/// A set of CPUs as the scheduler takes it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CpuMask([usize; CPUS_MAX / WORD_BITS]);

impl CpuMask {
    /// The mask of a thread by kernel id; 0 is the caller, and the process id its main thread.
    pub(crate) fn of_thread(tid: libc::pid_t) -> io::Result<Self> {
        let mut mask = [0; CPUS_MAX / WORD_BITS];
        // SAFETY: the kernel writes at most `size_of_val(&mask)` bytes, zeroed integers of any value are valid.
        let result =
            unsafe { libc::sched_getaffinity(tid, size_of_val(&mask), mask.as_mut_ptr().cast()) };
        if result == 0 {
            Ok(Self(mask))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Lets the calling thread run on these CPUs only.
    pub(crate) fn apply(&self) -> io::Result<()> {
        // SAFETY: the kernel reads `size_of_val` bytes of a live array.
        let result =
            unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), self.0.as_ptr().cast()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// This set without `cpus`, or unchanged if nothing would be left.
    pub(crate) fn without(&self, cpus: &[usize]) -> Self {
        let mut left = self.clone();
        for cpu in cpus {
            if let Some(word) = left.0.get_mut(cpu / WORD_BITS) {
                *word &= !(1 << (cpu % WORD_BITS));
            }
        }
        if left.cpus().next().is_some() {
            left
        } else {
            self.clone()
        }
    }

    /// Members, ascending.
    pub(crate) fn cpus(&self) -> impl Iterator<Item = usize> + '_ {
        (0..CPUS_MAX).filter(|cpu| self.0[cpu / WORD_BITS] & 1 << (cpu % WORD_BITS) != 0)
    }
}

/// Ascending numbers as the kernel writes them: `0-3,8`.
struct Ranges<'a>(&'a [usize]);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match run {
                [first, .., last] => write!(f, "{first}-{last}")?,
                only => only.iter().try_for_each(|cpu| write!(f, "{cpu}"))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes, two physical cores each; siblings are n and n + 4, as on most Intel machines.
    fn two_nodes() -> Host {
        let cpu = |id: usize| Cpu {
            id,
            node: id % 4 / 2,
            siblings: vec![id % 4, id % 4 + 4],
        };
        Host {
            cpus: (0..8).map(cpu).collect(),
            quota_cpus: None,
        }
    }

    fn check(host: &Host, workers: usize, cpus: &[usize], expected: &[usize], warnings: usize) {
        let wish = Wish {
            workers: Some(workers),
            cpus: cpus.to_vec(),
        };
        let placement = place(host, &wish).unwrap();
        assert_eq!(placement.cpus, expected, "{workers} workers of {cpus:?}");
        let found = &placement.warnings;
        assert_eq!(found.len(), warnings, "{workers} of {cpus:?}: {found:?}");
    }

    #[test]
    fn physical_cores_come_before_siblings_and_nodes_stay_in_order() {
        let host = two_nodes();
        check(&host, 0, &[], &[0, 1, 2, 3, 4, 5, 6, 7], 0);
        check(&host, 3, &[], &[0, 1, 2], 0);
        check(&host, 9, &[], &[0, 1, 2, 3, 4, 5, 6, 7], 1);

        // Siblings next to each other, as on many AMD machines and clouds.
        let adjacent = |id: usize| Cpu {
            id,
            node: 0,
            siblings: vec![id / 2 * 2, id / 2 * 2 + 1],
        };
        let host = Host {
            cpus: (0..6).map(adjacent).collect(),
            quota_cpus: None,
        };
        check(&host, 4, &[], &[0, 2, 4, 1], 0);
    }

    #[test]
    fn a_sibling_outside_the_mask_does_not_count() {
        let mut host = two_nodes();
        host.cpus.retain(|cpu| [1, 4, 6].contains(&cpu.id));
        check(&host, 0, &[], &[1, 4, 6], 0);
    }

    #[test]
    fn nodes_are_filled_in_their_order_even_when_numbered_crosswise() {
        let cpu = |id: usize| Cpu {
            id,
            node: 1 - id % 2,
            siblings: vec![id],
        };
        let host = Host {
            cpus: (0..6).map(cpu).collect(),
            quota_cpus: None,
        };
        check(&host, 0, &[], &[1, 3, 5, 0, 2, 4], 0);
    }

    #[test]
    fn quota_limits_the_count_but_not_an_explicit_list() {
        let host = Host {
            quota_cpus: Some(2),
            ..two_nodes()
        };
        check(&host, 0, &[], &[0, 1], 0);
        check(&host, 4, &[], &[0, 1], 1);
        check(&host, 0, &[7, 3, 1], &[7, 3, 1], 1);
        check(&host, 2, &[7, 3, 1], &[7, 3], 0);
        check(&host, 4, &[7, 3, 1], &[7, 3, 1], 2);
    }

    #[test]
    fn impossible_lists_are_refused_with_what_would_do() {
        let mut host = two_nodes();
        host.cpus.retain(|cpu| cpu.id != 4);
        let wish = |cpus: &[usize]| Wish {
            workers: None,
            cpus: cpus.to_vec(),
        };
        let error = place(&host, &wish(&[1, 4])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "CPU 4 is not available to this process; available: 0-3,5-7"
        );
        assert_eq!(place(&host, &wish(&[1, 1])), Err(Impossible::Twice(1)));
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(
            parse_cpu_list("0-3,8,10-11\n"),
            Some(vec![0, 1, 2, 3, 8, 10, 11])
        );
        assert_eq!(parse_cpu_list("5"), Some(vec![5]));
        assert_eq!(parse_cpu_list("\n"), Some(vec![]));
        for bad in ["a", "3-1", "1,", "-1", "0-9999999999", "8192"] {
            assert_eq!(parse_cpu_list(bad), None, "{bad:?}");
        }
    }

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

    #[test]
    fn a_mask_never_becomes_empty() {
        let mut mask = CpuMask([0; CPUS_MAX / WORD_BITS]);
        mask.0[0] = 0b110;
        mask.0[1] = 1;
        let list = |mask: CpuMask| mask.cpus().collect::<Vec<_>>();
        assert_eq!(list(mask.without(&[1, 3, 99_999])), [2, WORD_BITS]);
        assert_eq!(list(mask.without(&[1, 2, WORD_BITS])), [1, 2, WORD_BITS]);
    }

    #[test]
    fn this_machine_has_a_placement_that_can_be_applied() {
        let placement = Placement::choose(&Wish::default()).unwrap();
        let mask = CpuMask::of_thread(0).unwrap();
        assert!(!placement.cpus.is_empty());
        assert!(placement
            .cpus
            .iter()
            .all(|cpu| mask.cpus().any(|c| c == *cpu)));
        mask.apply().unwrap();
    }
}
