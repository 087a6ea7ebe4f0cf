//! Open files and locked memory: what the cores will need, and the soft limits raised as far as allowed.

use std::fs;
use std::io;

/// What is going to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Cores, each with a ring and an executor.
    pub cores: usize,
    /// Size of one core's ring.
    pub ring: RingSize,
    /// Submission entries of each of an executor's three own rings.
    pub executor_entries: u32,
    /// Sockets expected at the same time: clients and servers together.
    pub sockets: u64,
}

/// Size of one io_uring instance and its ring of provided buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSize {
    /// Submission queue entries, a power of two.
    pub submissions: u32,
    /// Completion queue entries, a power of two.
    pub completions: u32,
    /// Provided buffers, a power of two, at most 32,768. Their bytes are not locked, only their list is.
    pub buffers: u16,
}

/// A resource limit in its unit, files or bytes. Unlimited is `u64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// How far an unprivileged process may raise `soft`.
    pub hard: u64,
}

/// The limits after raising, and what is still too low.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open files.
    pub files: Limit,
    /// Locked memory in bytes.
    pub memlock: Limit,
    /// The process has CAP_IPC_LOCK: `memlock` does not bind it.
    pub memlock_exempt: bool,
    /// One sentence each, with numbers and remedy.
    pub warnings: Vec<String>,
}

impl Limits {
    /// Raises the soft limits of this process to the hard ones, then compares them with `demand`.
    ///
    /// Never fails: a limit that cannot be raised is used as it is. Call it before [`crate::preflight`].
    pub fn raise(demand: &Demand) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mut limits = Self {
            files: raise(libc::RLIMIT_NOFILE),
            memlock: raise(libc::RLIMIT_MEMLOCK),
            memlock_exempt: has_capability(&status, CAP_IPC_LOCK),
            warnings: Vec::new(),
        };
        limits.warnings = limits.judge(demand);
        limits
    }

    /// The soft limits as they are.
    pub fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self {
            files: get(libc::RLIMIT_NOFILE),
            memlock: get(libc::RLIMIT_MEMLOCK),
            memlock_exempt: has_capability(&status, CAP_IPC_LOCK),
            warnings: Vec::new(),
        }
    }

    fn judge(&self, demand: &Demand) -> Vec<String> {
        let mut warnings = Vec::new();
        let files = demand.files();
        if self.files.soft < files {
            warnings.push(format!(
                "open files are limited to {}, but {} sockets on {} cores need {files}: connections above that \
                 are refused; raise it (ulimit -n, LimitNOFILE=, --ulimit nofile=) or expect fewer clients",
                self.files.soft, demand.sockets, demand.cores
            ));
        }
        let bytes = demand.memlock_bytes();
        if !self.memlock_exempt && self.memlock.soft < bytes {
            warnings.push(format!(
                "locked memory is limited to {} KiB, but the rings of {} cores need about {} KiB: cores may fail \
                 to start; raise it (ulimit -l, LimitMEMLOCK=, --ulimit memlock=) or use fewer workers",
                self.memlock.soft / 1024,
                demand.cores,
                bytes / 1024
            ));
        }
        warnings
    }
}

/// Files besides sockets and cores: standard streams, log, configuration, libraries, a margin.
const FILES_RESERVE: u64 = 64;
/// Per core: three executor rings and its eventfd, our ring and its eventfd, a wake-up pipe (2), a duplicate
/// to park on, two listeners, and one socket being handed over.
const FILES_PER_CORE: u64 = 12;
/// glommio refuses to start below this, whatever it needs.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// One executor's smallest store of registered buffers (64 KiB), counted by each of its three rings.
const EXECUTOR_BYTES: u64 = 3 * 64 * 1024;
const PAGE_BYTES: u64 = 4096;

impl Demand {
    /// File descriptors needed.
    pub fn files(&self) -> u64 {
        FILES_RESERVE + FILES_PER_CORE * self.cores as u64 + self.sockets
    }

    /// Memory the kernel will charge against the memlock limit, in bytes.
    ///
    /// An estimate for kernels that charge the rings themselves (6.x); measured needs were within 10% of it.
    pub fn memlock_bytes(&self) -> u64 {
        let executor = EXECUTOR_BYTES
            + 3 * RingSize {
                submissions: self.executor_entries,
                completions: self.executor_entries * 2,
                buffers: 0,
            }
            .memlock_bytes();
        let all = (executor + self.ring.memlock_bytes()) * self.cores as u64;
        (all + all / 10).max(MEMLOCK_BYTES_MIN)
    }
}

impl RingSize {
    /// Locked memory of one ring in bytes: 64 per submission and 4 for its index, 16 per completion, 16 per
    /// provided buffer, each area in whole pages.
    ///
    /// Source: <https://man7.org/linux/man-pages/man2/io_uring_setup.2.html>
    pub fn memlock_bytes(&self) -> u64 {
        const HEADER_BYTES: u64 = 320;
        let pages = |bytes: u64| bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES;
        let (submissions, completions) = (u64::from(self.submissions), u64::from(self.completions));
        pages(submissions * 64)
            + pages(HEADER_BYTES + completions * 16 + submissions * 4)
            + pages(u64::from(self.buffers) * 16)
    }
}

/// <https://man7.org/linux/man-pages/man7/capabilities.7.html>
const CAP_IPC_LOCK: u32 = 14;

/// Whether the effective set in the text of `/proc/self/status` has a capability.
fn has_capability(status: &str, capability: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set & 1 << capability != 0)
}

#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn get(resource: Resource) -> Limit {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills in the struct that the pointer names.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    debug_assert_eq!(result, 0, "getrlimit fails only for bad arguments");
    Limit {
        soft: limit.rlim_cur,
        hard: limit.rlim_max,
    }
}

fn raise(resource: Resource) -> Limit {
    let now = get(resource);
    if now.soft < now.hard {
        let wanted = libc::rlimit {
            rlim_cur: now.hard,
            rlim_max: now.hard,
        };
        // SAFETY: the kernel reads the struct that the pointer names.
        if unsafe { libc::setrlimit(resource, &raw const wanted) } != 0 {
            let error = io::Error::last_os_error();
            tracing::debug!(resource, %error, "soft limit not raised");
        }
    }
    get(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        cores: 4,
        ring: RingSize {
            submissions: 256,
            completions: 4096,
            buffers: 256,
        },
        executor_entries: 128,
        sockets: 10_000,
    };

    fn limits(files: u64, memlock: u64, memlock_exempt: bool) -> Limits {
        let limit = |soft| Limit { soft, hard: soft };
        Limits {
            files: limit(files),
            memlock: limit(memlock),
            memlock_exempt,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn estimates_agree_with_what_was_measured_at_8_mib() {
        // Rings alone, as many as fitted: 93, 45 and 23.
        for (submissions, completions, fitted) in
            [(256, 4096, 93), (512, 8192, 45), (1024, 16_384, 23)]
        {
            let ring = RingSize {
                submissions,
                completions,
                buffers: 256,
            };
            let estimate = (8 << 20) / ring.memlock_bytes();
            assert!(
                (fitted..=fitted * 11 / 10).contains(&estimate),
                "{estimate}"
            );
        }
        // Executors alone, by depth: 34, 24 and 16.
        for (executor_entries, fitted) in [(128, 34), (512, 24), (1024, 16)] {
            let none = RingSize {
                submissions: 0,
                completions: 0,
                buffers: 0,
            };
            let demand = Demand {
                cores: 100,
                ring: none,
                executor_entries,
                sockets: 0,
            };
            let estimate = (8 << 20) / (demand.memlock_bytes() / 100);
            assert!(
                (fitted * 9 / 10..=fitted * 11 / 10).contains(&estimate),
                "{estimate}"
            );
        }
    }

    #[test]
    fn low_limits_are_named_with_the_need() {
        assert!(limits(20_000, 8 << 20, false).judge(&DEMAND).is_empty());
        let few = limits(1024, 8 << 20, false).judge(&DEMAND);
        assert_eq!(few.len(), 1);
        assert!(
            few[0].contains("limited to 1024,") && few[0].contains("need 10112"),
            "{few:?}"
        );
        let small = limits(20_000, 64 << 10, false).judge(&DEMAND);
        assert_eq!(small.len(), 1);
        assert!(small[0].contains("limited to 64 KiB"), "{small:?}");
        assert!(limits(u64::MAX, 0, true).judge(&DEMAND).is_empty());
    }

    #[test]
    fn capabilities() {
        let status = "Name:\tx\nCapEff:\t0000000000004000\nSeccomp:\t0\n";
        assert!(has_capability(status, CAP_IPC_LOCK));
        assert!(!has_capability(status, 15));
        assert!(!has_capability("", CAP_IPC_LOCK));
    }
}
