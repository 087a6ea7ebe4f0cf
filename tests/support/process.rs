//! Processes, folders and ports of a test run, none of which outlives it.
//!
//! A reaper, a small shell script in a process group of its own, reads what to end from a pipe that only
//! this process holds. When the pipe closes, because we ended, panicked or were killed, it ends the rest.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const REAPER: &str = r#"
trap '' INT TERM HUP
kills= dirs=
while read -r what first second; do
  case $what in
    kill) kills="$kills $first:$second" ;;
    forget)
      left=
      for k in $kills; do [ "${k#*:}" = "$first" ] || left="$left $k"; done
      kills=$left ;;
    remove) dirs="$dirs $first" ;;
  esac
done
for k in $kills; do kill "-${k%:*}" "${k#*:}"; done
for k in $kills; do
  n=0
  while kill -0 "${k#*:}" && [ $n -lt 100 ]; do sleep 0.05; n=$((n + 1)); done
done
[ -z "$dirs" ] || rm -rf $dirs
"#;

/// Tells the reaper something: `kill SIGNAL PID`, `forget PID` or `remove FOLDER`.
#[expect(clippy::zombie_processes, reason = "the reaper outlives this process")]
fn tell_reaper(line: &str) {
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| {
        let mut reaper = Command::new("sh")
            .args(["-c", REAPER])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start the reaper");
        Mutex::new(reaper.stdin.take().expect("stdin is piped"))
    });
    writeln!(pipe.lock().expect("no panic while writing"), "{line}")
        .expect("the reaper lives as long as we do");
}

/// A child process that ends with this one at the latest.
pub(crate) struct Process {
    child: Child,
    name: &'static str,
}

impl Process {
    /// Starts `command`; `last_signal` ends it when it is dropped or this process goes away.
    pub(crate) fn start(name: &'static str, last_signal: &str, command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {name}: {error}"));
        tell_reaper(&format!("kill {last_signal} {}", child.id()));
        Self { child, name }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_process(self.id(), signal);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits until it has ended by itself, at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = self.name;
        poll(limit, &format!("{name} to end"), || {
            self.child.try_wait().expect("our own child")
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ignored: it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        tell_reaper(&format!("forget {}", self.id()));
    }
}

/// Sends a signal to any process, say a PostgreSQL backend.
pub(crate) fn signal_process(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not zero");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {signal:?}: {error}"));
}

/// A backend that the scheduler has forgotten, until this is dropped.
pub(crate) struct Stopped(u32);

impl Stopped {
    pub(crate) fn new(pid: u32) -> Self {
        signal_process(pid, Signal::STOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal_process(self.0, Signal::CONT);
    }
}

/// An empty folder that is removed when it is dropped or this process goes away.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(label: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "pgdog-test-{}-{number}-{label}",
            std::process::id()
        ));
        std::fs::create_dir(&path)
            .unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        tell_reaper(&format!("remove {}", path.display()));
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Ignored: the reaper removes what is left.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A loopback port nobody listens on and no other test of this run gets.
///
/// Below the ports that outgoing connections use, so that none of those can take it in between.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        // Taken on another loopback address for as long as this process runs: tests in other processes look there,
        // while pgdog would share a port with another pgdog (SO_REUSEPORT).
        let Ok(claim) = TcpListener::bind(("127.0.0.2", port)) else {
            continue;
        };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            std::mem::forget(claim);
            return port;
        }
    }
}

/// As [`free_port`], for somebody who listens on all addresses: nobody holds it on another one.
pub(crate) fn free_port_of_all_addresses() -> u16 {
    loop {
        let port = free_port() - 10_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until something accepts connections on `port`; `alive` says whether waiting makes sense.
pub(crate) fn wait_for_port(port: u16, mut alive: impl FnMut() -> bool) {
    poll(PATIENCE, &format!("a listener on port {port}"), || {
        assert!(
            alive(),
            "the process ended before it listened on port {port}"
        );
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
}

/// Asks `attempt` again and again until it has an answer; panics after `limit`.
#[track_caller]
pub(crate) fn poll<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = attempt() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Raises the soft limit of open files to the hard one, which must be at least `needed`.
pub(crate) fn allow_open_files(needed: u64) {
    use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        hard >= needed,
        "this test needs {needed} open files, the hard limit is {hard} (ulimit -Hn)"
    );
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .expect("up to the hard limit");
}
