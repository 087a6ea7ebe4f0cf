//! Mail between cores: one bounded crossbeam channel per core, and a bell that wakes a core from its ring.
//!
//! A core about to wait says so (`sleeping`), then looks once more; a sender pushes first and rings after. One of
//! the two always sees the other, so no mail is left lying beside a sleeping core.

use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::executor::Core;

/// Wakes one core from its wait. Rings once per sleep, however often it is asked.
pub(crate) struct Bell {
    sleeping: AtomicBool,
    pipe: io::PipeWriter,
}

impl Bell {
    /// The bell, and the end of its pipe that the core's ring reads.
    pub(crate) fn new() -> io::Result<(Arc<Self>, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        Ok((
            Arc::new(Self {
                sleeping: AtomicBool::new(false),
                pipe: writer,
            }),
            OwnedFd::from(reader),
        ))
    }

    pub(crate) fn set_sleeping(&self, sleeping: bool) {
        self.sleeping.store(sleeping, Ordering::SeqCst);
    }

    pub(crate) fn ring(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // One byte fits: it is written at most once per wait of the core, which takes it out.
            let _ = (&self.pipe).write(&[1]);
        }
    }
}

/// A waker of this core that other threads may use: it rings the core's bell.
pub(crate) struct ForeignWaker {
    pub(crate) waker: Waker,
    pub(crate) queue: Sender<Waker>,
    pub(crate) bell: Arc<Bell>,
}

impl Wake for ForeignWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Unbounded, and bounded in fact by the number of futures that wait for other threads.
        let _ = self.queue.send(self.waker.clone());
        self.bell.ring();
    }
}

/// Sends mail to every core, from any thread.
pub struct PostOffice<M> {
    boxes: Arc<[(Sender<M>, Arc<Bell>)]>,
}

impl<M> Clone for PostOffice<M> {
    fn clone(&self) -> Self {
        Self {
            boxes: Arc::clone(&self.boxes),
        }
    }
}

impl<M: Send> PostOffice<M> {
    pub(crate) fn new(capacity: usize, bells: &[Arc<Bell>]) -> (Self, Vec<Receiver<M>>) {
        let (boxes, receivers): (Vec<_>, Vec<_>) = bells
            .iter()
            .map(|bell| {
                let (sender, receiver) = crossbeam_channel::bounded(capacity);
                ((sender, Arc::clone(bell)), receiver)
            })
            .unzip();
        (
            Self {
                boxes: boxes.into(),
            },
            receivers,
        )
    }

    /// How many cores there are to write to.
    pub fn cores(&self) -> usize {
        self.boxes.len()
    }

    /// Leaves news that can wait until core `to` wakes for something else: its bell does not ring. A box with more
    /// than half of its room taken is not filled up with news; the mail comes back.
    pub fn leave(&self, to: usize, mail: M) -> Result<(), M> {
        let Some((sender, _)) = self.boxes.get(to) else {
            return Err(mail);
        };
        if sender.len() > sender.capacity().unwrap_or(usize::MAX) / 2 {
            return Err(mail);
        }
        let sent = sender.try_send(mail);
        sent.map_err(TrySendError::into_inner)
    }

    /// Sends mail to core `to`. A full box or a core that is gone gives the mail back: the sender decides whether
    /// to keep it for later or to do without.
    pub fn send(&self, to: usize, mail: M) -> Result<(), M> {
        let Some((sender, bell)) = self.boxes.get(to) else {
            return Err(mail);
        };
        match sender.try_send(mail) {
            Ok(()) => {
                bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(mail) | TrySendError::Disconnected(mail)) => Err(mail),
        }
    }
}

/// The mail of one core; one task of it reads.
pub struct Mailbox<M> {
    receiver: Receiver<M>,
    core: Core,
}

impl<M: Send + 'static> Mailbox<M> {
    pub(crate) fn new(core: &Core, receiver: Receiver<M>) -> Self {
        let watched = receiver.clone();
        core.watch_inbox(Box::new(move || !watched.is_empty()));
        Self {
            receiver,
            core: core.clone(),
        }
    }

    /// The next mail, in each sender's order.
    pub async fn recv(&self) -> M {
        poll_fn(|cx| match self.receiver.try_recv() {
            Ok(mail) => Poll::Ready(mail),
            // The driver looks into the box before every wait, and wakes us if there is something.
            Err(_) => {
                self.core.wake_on_mail(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// The next mail if there is one now.
    pub fn try_recv(&self) -> Option<M> {
        self.receiver.try_recv().ok()
    }
}
