//! Addresses of hosts, from the resolver of the system. Each name is looked up by a thread of its own, once at a time for all who
//! ask: a name server that does not answer holds up nobody who asks for another name.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{bounded, select, unbounded, Receiver, Sender};

use crate::blocking::{slot, Answer, Lost, Slot};
use crate::placement::CpuMask;

/// Names looked up at a time, each by a thread.
const LOOKUPS_MAX: usize = 64;
/// Who may wait for one name.
const WAITING_MAX: usize = 4096;

/// A handle on the look-ups, cloned into every core.
#[derive(Clone)]
pub struct Names {
    asked: Sender<Asked>,
}

struct Asked {
    host: Box<str>,
    slot: Slot<Found>,
}

/// What has become of a look-up, for each who waits for it.
type Found = Result<Arc<[IpAddr]>, Failed>;

#[derive(Clone, Debug)]
enum Failed {
    /// It has failed, or found nothing.
    Lookup(io::ErrorKind, Arc<str>),
    /// It was not begun: too many are under way.
    Refused,
}

impl Names {
    /// Starts the thread that keeps account of them, allowed on all CPUs of the main thread, as are those that look up.
    ///
    /// Errors: it cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::looked_up_by(|host| {
            let addresses = (host, 0).to_socket_addrs()?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }

    fn looked_up_by(
        look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let process = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
        let cpus = CpuMask::of_thread(process)?;
        let (asked, requests) = bounded(WAITING_MAX);
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || {
                if let Err(error) = cpus.apply() {
                    tracing::warn!(%error, "names are looked up on the CPUs of the thread that has started this one");
                }
                serve(&requests, &Arc::new(look_up));
            })?;
        Ok(Self { asked })
    }

    /// Addresses of a host, in the resolver's order; never empty. An IP address is answered without a look-up.
    ///
    /// Errors: the look-up has failed, has found nothing (`NotFound`), or is none: too many are under way ([`Lost`]).
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let found = match self.ask(host).await? {
            Ok(found) => found,
            Err(Failed::Lookup(kind, text)) => return Err(io::Error::new(kind, &*text)),
            Err(Failed::Refused) => return Err(Lost::QueueFull.into()),
        };
        if found.is_empty() {
            let text = format!("{host} has no address");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
        Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }

    fn ask(&self, host: &str) -> Answer<Found> {
        let (slot, answer) = slot();
        let host = host.into();
        match self.asked.try_send(Asked { host, slot }) {
            Ok(()) => answer,
            Err(_) => Answer::refused(),
        }
    }
}

/// Until the last handle is dropped.
fn serve<F>(requests: &Receiver<Asked>, look_up: &Arc<F>)
where
    F: Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
{
    let (done, results) = unbounded(); // one for each look-up, so LOOKUPS_MAX at most
    let mut waiting: HashMap<Box<str>, Vec<Slot<Found>>> = HashMap::new();
    loop {
        select! {
            recv(requests) -> asked => {
                let Ok(Asked { host, slot }) = asked else {
                    return;
                };
                if let Some(others) = waiting.get_mut(&host) {
                    match others.len() < WAITING_MAX {
                        true => others.push(slot),
                        false => slot.fill(Err(Failed::Refused)),
                    }
                } else if waiting.len() >= LOOKUPS_MAX || !begin(&host, &done, look_up) {
                    slot.fill(Err(Failed::Refused));
                } else {
                    waiting.insert(host, vec![slot]);
                }
            }
            recv(results) -> result => {
                let Ok((host, found)) = result else {
                    return; // never: we hold a sender
                };
                let slots = waiting.remove(&host).unwrap_or_default();
                slots.into_iter().for_each(|slot| slot.fill(Found::clone(&found)));
            }
        }
    }
}

/// Has a thread look a name up. False: there is none to be had.
fn begin<F>(host: &str, done: &Sender<(Box<str>, Found)>, look_up: &Arc<F>) -> bool
where
    F: Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
{
    let (host, done, look_up) = (Box::from(host), done.clone(), Arc::clone(look_up));
    let looks = move || {
        // Whoever waits is told in any case.
        let looked = catch_unwind(AssertUnwindSafe(|| look_up(&host)));
        let looked = looked.unwrap_or_else(|_| Err(io::Error::other("the look-up panicked")));
        let found: Found = match looked {
            Ok(found) => Ok(found.into()),
            Err(error) => Err(Failed::Lookup(error.kind(), error.to_string().into())),
        };
        let _ = done.send((host, found)); // or nobody asks any more
    };
    let thread = thread::Builder::new().name("lookup".to_owned());
    thread.spawn(looks).is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::blocking::tests::block_on;

    #[test]
    fn addresses() {
        let names = Names::start().unwrap();
        let resolve = |host: &str| block_on(names.resolve(host, 5432));
        assert_eq!(
            resolve("127.0.0.1").unwrap(),
            ["127.0.0.1:5432".parse().unwrap()]
        );
        assert_eq!(resolve("::1").unwrap(), ["[::1]:5432".parse().unwrap()]);
        let local = resolve("localhost").unwrap();
        let is_local = |a: &SocketAddr| a.ip().is_loopback() && a.port() == 5432;
        assert!(local.iter().all(is_local), "{local:?}");
        assert!(resolve("no such host").is_err());
    }

    #[test]
    fn a_name_that_takes_its_time_holds_up_no_other_and_is_looked_up_once() {
        let (open, door) = bounded::<()>(0);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let names = Names::looked_up_by(move |host| {
            counted.fetch_add(1, Ordering::SeqCst);
            if host == "slow" {
                let _ = door.recv();
            }
            Ok(vec!["127.0.0.7".parse().unwrap()])
        })
        .unwrap();
        let slow: Vec<_> = (0..10).map(|_| names.ask("slow")).collect();
        for host in ["a", "b", "c"] {
            assert_eq!(block_on(names.resolve(host, 1)).unwrap().len(), 1);
        }
        drop(open);
        for found in block_on(join_all(slow)) {
            assert_eq!(found.unwrap().unwrap().len(), 1);
        }
        assert_eq!(count.load(Ordering::SeqCst), 4);
    }

    #[test]
    fn too_many_at_a_time_are_refused() {
        let (open, door) = bounded::<()>(0);
        let names = Names::looked_up_by(move |_| {
            let _ = door.recv();
            Ok(Vec::new())
        })
        .unwrap();
        let some: Vec<_> = (0..LOOKUPS_MAX)
            .map(|n| names.ask(&n.to_string()))
            .collect();
        let refused = block_on(names.resolve("one more", 1)).unwrap_err();
        assert!(
            refused.get_ref().is_some_and(|lost| lost.is::<Lost>()),
            "{refused}"
        );
        drop(open);
        assert!(block_on(join_all(some))
            .into_iter()
            .all(|found| found.is_ok()));
        let nothing = block_on(names.resolve("one more", 1)).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }
}
