//! Which CPUs get a core: affinity, cgroup quota, SMT siblings, NUMA nodes, and what the operator asked for.

use std::fmt;
use std::fs;
use std::io;

use crate::quota;

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
        Ok(Self {
            cpus,
            quota_cpus: quota::of_this_process(),
        })
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
