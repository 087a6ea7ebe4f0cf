//! Is io_uring usable here? Asked once in `main`, before any core exists, and answered in one message.
//!
//! Without this check glommio panics inside a core's thread and the operator learns nothing.

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io;
use std::ptr;
use std::time::Duration;

use io_uring::IoUring;

use crate::limits::{Limits, RingSize};

/// How rings are set up on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingMode {
    /// 6.1 and later: completions are processed only when we ask (SINGLE_ISSUER, DEFER_TASKRUN).
    Deferred,
    /// 5.19 and 6.0: processed at the next system call (COOP_TASKRUN, TASKRUN_FLAG).
    Cooperative,
}

impl RingMode {
    /// Makes a ring of this mode. Creating and using it must happen on the same thread.
    ///
    /// Errors: those of io_uring_setup(2) and mmap(2).
    pub fn build(self, size: &RingSize) -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder
            .setup_clamp()
            .setup_submit_all()
            .setup_cqsize(size.completions);
        match self {
            Self::Deferred => builder.setup_single_issuer().setup_defer_taskrun(),
            Self::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
        };
        // Rings of a process that has ended give their locked memory back some moments later, and a restart is in a
        // hurry.
        for _ in 0..MEMORY_TRIES {
            match builder.build(size.submissions) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    std::thread::sleep(MEMORY_PAUSE);
                }
                built => return built,
            }
        }
        builder.build(size.submissions)
    }
}

/// Tries to get memory for a ring, and the pause between two: a second in all, at start only.
const MEMORY_TRIES: u32 = 20;
const MEMORY_PAUSE: Duration = Duration::from_millis(50);

/// io_uring cannot be used; displayed as one sentence of cause and one of remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// The error number of the failing system call.
    pub errno: i32,
    message: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unusable {}

/// Sets up one ring of this size with its ring of provided buffers, and takes both down again.
///
/// Every core will need as much; [`crate::limits::Demand`] counts them all. Errors: [`Unusable`].
pub fn check(size: &RingSize) -> Result<RingMode, Unusable> {
    try_setup(size).map_err(|(step, errno)| Unusable {
        errno,
        message: explain(step, errno, &Facts::read(size)),
    })
}

/// What was tried when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Setup,
    BufferRing,
}

fn try_setup(size: &RingSize) -> Result<RingMode, (Step, i32)> {
    let errno = |error: &io::Error| error.raw_os_error().unwrap_or(libc::EIO);
    let mut mode = RingMode::Deferred;
    let mut ring = mode.build(size);
    if matches!(&ring, Err(e) if errno(e) == libc::EINVAL) {
        mode = RingMode::Cooperative;
        ring = mode.build(size);
    }
    let ring = ring.map_err(|e| (Step::Setup, errno(&e)))?;
    register_buffers(&ring, size.buffers).map_err(|e| (Step::BufferRing, errno(&e)))?;
    Ok(mode)
}

/// Registers an empty ring of provided buffers and removes it.
fn register_buffers(ring: &IoUring, entries: u16) -> io::Result<()> {
    /// Size of one entry, `struct io_uring_buf`.
    const ENTRY_BYTES: usize = 16;
    let bytes = usize::from(entries) * ENTRY_BYTES;
    // SAFETY: a new anonymous mapping touches no memory of ours.
    let list = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if list == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `list` is page-aligned, holds `entries` entries and is unmapped only below, after it has been
    // unregistered. No buffer is ever put into it, so the kernel has nothing to write to.
    let result = unsafe {
        ring.submitter()
            .register_buf_ring_with_flags(list as u64, entries, 0, 0)
    };
    let result = result.and_then(|()| ring.submitter().unregister_buf_ring(0));
    // SAFETY: mapped above with this length. The kernel holds its own reference to the pages, if any.
    unsafe { libc::munmap(list, bytes) };
    result
}

/// What the message is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// As `uname -r` prints it.
    release: String,
    /// `kernel.io_uring_disabled`, since 6.6: 0 for all, 1 needs privilege or a group, 2 for nobody.
    io_uring_disabled: Option<u32>,
    /// A seccomp filter is in force: the usual sign of a container.
    seccomp: bool,
    memlock_soft_bytes: u64,
    memlock_hard_bytes: u64,
    ring_bytes: u64,
}

impl Facts {
    fn read(size: &RingSize) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let limits = Limits::read();
        Self {
            release: release(),
            io_uring_disabled: text("/proc/sys/kernel/io_uring_disabled")
                .trim()
                .parse()
                .ok(),
            seccomp: filtered(&text("/proc/self/status")),
            memlock_soft_bytes: limits.memlock.soft,
            memlock_hard_bytes: limits.memlock.hard,
            ring_bytes: size.memlock_bytes(),
        }
    }
}

/// Whether the text of `/proc/self/status` shows a seccomp filter (mode 2).
fn filtered(status: &str) -> bool {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

fn release() -> String {
    // SAFETY: all-zero is a valid utsname: arrays of characters.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills in the struct that the pointer names.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return "unknown".to_owned();
    }
    // SAFETY: uname terminates each field with a zero byte inside its array, which was zeroed before.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}

/// Major and minor version in a release such as `5.15.0-91-generic`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The message for one failure: what is wrong, then how to put it right.
fn explain(step: Step, errno: i32, facts: &Facts) -> String {
    let tried = match step {
        Step::Setup => "io_uring_setup",
        Step::BufferRing => "io_uring_register (buffer ring)",
    };
    let release = &facts.release;
    let old = version(release).is_some_and(|version| version < (5, 19));
    let profile = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile \
                   (docker: --security-opt seccomp=PROFILE.json; Kubernetes: securityContext.seccompProfile)";
    let kernel = "run on Linux 6.1 or later (5.19 at least)";
    let (cause, remedy) = match (errno, facts.io_uring_disabled) {
        (libc::EPERM, Some(2)) => (
            "io_uring is switched off on this host by kernel.io_uring_disabled = 2".to_owned(),
            "as root: sysctl -w kernel.io_uring_disabled=0".to_owned(),
        ),
        (libc::EPERM, Some(1)) => (
            "io_uring is reserved for privileged processes by kernel.io_uring_disabled = 1".to_owned(),
            "as root: sysctl -w kernel.io_uring_disabled=0, or add this process's group as \
             kernel.io_uring_group"
                .to_owned(),
        ),
        (libc::EPERM | libc::EACCES, _) if facts.seccomp => (
            "a seccomp filter forbids io_uring (the default profiles of Docker 25 and containerd 2 do)".to_owned(),
            profile.to_owned(),
        ),
        (libc::EPERM | libc::EACCES, _) => (
            "the kernel forbids io_uring to this process".to_owned(),
            "look for a denial by a security module (SELinux, AppArmor) in the kernel's audit log".to_owned(),
        ),
        (libc::ENOSYS, _) if facts.seccomp => (
            format!("io_uring is hidden by a seccomp filter or missing from kernel {release}"),
            format!("{profile}; under gVisor choose another runtime"),
        ),
        (libc::ENOSYS | libc::EINVAL, _) if old => (
            format!("kernel {release} is too old"),
            kernel.to_owned(),
        ),
        (libc::ENOSYS, _) => (
            format!("kernel {release} has no io_uring (built without it, or emulated, as by gVisor)"),
            kernel.to_owned(),
        ),
        (libc::ENOMEM, _) => (
            format!(
                "one ring needs {} KiB of locked memory, and the limit is {} (hard limit {}), shared by all \
                 processes of this user",
                facts.ring_bytes.div_ceil(1024),
                kib(facts.memlock_soft_bytes),
                kib(facts.memlock_hard_bytes)
            ),
            "raise it: ulimit -l, systemd LimitMEMLOCK=infinity, docker --ulimit memlock=-1; or give CAP_IPC_LOCK"
                .to_owned(),
        ),
        (libc::EINVAL, _) => (
            format!("the io_uring of kernel {release} is incomplete"),
            kernel.to_owned(),
        ),
        (libc::EMFILE | libc::ENFILE, _) => (
            "no file descriptors are left".to_owned(),
            "raise the limit of open files (ulimit -n, LimitNOFILE=)".to_owned(),
        ),
        _ => (
            format!("unexpected error on kernel {release}"),
            kernel.to_owned(),
        ),
    };
    let error = io::Error::from_raw_os_error(errno);
    format!("io_uring cannot be used: {cause}. Remedy: {remedy}. ({tried}: {error})")
}

fn kib(bytes: u64) -> String {
    if bytes == libc::RLIM_INFINITY {
        "unlimited".to_owned()
    } else {
        format!("{} KiB", bytes / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: RingSize = RingSize {
        submissions: 64,
        completions: 256,
        buffers: 64,
    };

    fn facts() -> Facts {
        Facts {
            release: "6.1.0-18-amd64".to_owned(),
            io_uring_disabled: Some(0),
            seccomp: false,
            memlock_soft_bytes: 65_536,
            memlock_hard_bytes: libc::RLIM_INFINITY,
            ring_bytes: 90_112,
        }
    }

    fn check_message(errno: i32, change: impl Fn(&mut Facts), words: &[&str]) {
        let mut facts = facts();
        change(&mut facts);
        let message = explain(Step::Setup, errno, &facts);
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn each_cause_has_its_remedy() {
        use libc::{EINVAL, EMFILE, ENOMEM, ENOSYS, EPERM};
        check_message(
            EPERM,
            |f| f.io_uring_disabled = Some(2),
            &["sysctl -w kernel.io_uring_disabled=0"],
        );
        check_message(
            EPERM,
            |f| f.io_uring_disabled = Some(1),
            &["privileged", "io_uring_group"],
        );
        check_message(
            EPERM,
            |f| f.seccomp = true,
            &["--security-opt seccomp=", "Docker 25"],
        );
        check_message(EPERM, |f| f.io_uring_disabled = None, &["SELinux"]);
        check_message(
            ENOSYS,
            |f| f.seccomp = true,
            &["seccomp", "gVisor", "6.1.0-18-amd64"],
        );
        check_message(
            ENOSYS,
            |f| f.release = "5.0.1".into(),
            &["5.0.1 is too old", "6.1 or later"],
        );
        check_message(ENOSYS, |_| (), &["built without it", "gVisor"]);
        check_message(
            ENOMEM,
            |_| (),
            &["88 KiB", "64 KiB", "unlimited", "LimitMEMLOCK"],
        );
        check_message(
            EINVAL,
            |f| f.release = "5.15.0-91-generic".into(),
            &["5.15.0-91-generic is too old", "5.19 at least"],
        );
        check_message(EMFILE, |_| (), &["LimitNOFILE"]);
        check_message(libc::EFAULT, |_| (), &["unexpected", "6.1.0-18-amd64"]);
        // The sysctl explains EPERM before the filter does: without it the filter is not reached.
        let both = |f: &mut Facts| (f.seccomp, f.io_uring_disabled) = (true, Some(2));
        check_message(EPERM, both, &["sysctl"]);
    }

    #[test]
    fn versions() {
        assert_eq!(version("5.15.0-91-generic"), Some((5, 15)));
        assert_eq!(version("6.18"), Some((6, 18)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn seccomp_mode() {
        assert!(filtered("Seccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filtered("Seccomp:\t0\nSeccomp_filters:\t2\n"));
    }

    #[test]
    fn facts_of_this_host_are_found() {
        let facts = Facts::read(&SIZE);
        assert!(version(&facts.release).is_some(), "{facts:?}");
        assert!(facts.memlock_soft_bytes <= facts.memlock_hard_bytes);
    }

    #[test]
    fn a_ring_is_possible_here_or_the_reason_is_known() {
        match check(&SIZE) {
            Ok(mode) => drop(mode.build(&SIZE).unwrap()),
            Err(unusable) => assert_ne!(unusable.errno, libc::EFAULT, "{unusable}"),
        }
    }

    #[test]
    fn impossible_sizes_fail_in_the_step_they_belong_to() {
        if check(&SIZE).is_ok() {
            let odd = RingSize { buffers: 3, ..SIZE };
            assert_eq!(try_setup(&odd), Err((Step::BufferRing, libc::EINVAL)));
            let none = RingSize {
                submissions: 0,
                ..SIZE
            };
            assert_eq!(try_setup(&none), Err((Step::Setup, libc::EINVAL)));
        }
    }
}
