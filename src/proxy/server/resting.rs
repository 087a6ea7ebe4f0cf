//! What servers say while they rest.

use std::task::{Context, Poll, Waker};

use super::{Collector, Lost, Server};

impl Server {
    /// Arms the receive, so that whoever has the connection next notices that it has gone.
    pub(crate) fn rest(&self) {
        self.stream.has_received();
    }

    /// Has something come while it was at rest?
    pub(crate) fn has_heard(&self) -> bool {
        self.stream.has_received()
    }

    /// Takes what came while the connection was at rest: reported parameters and notices are fine.
    pub(crate) fn take_unprompted(&mut self) -> Result<(), Lost> {
        let taken = self.take_waiting();
        taken.inspect_err(|_| self.link.meter.lost())
    }

    fn take_waiting(&mut self) -> Result<(), Lost> {
        let mut replies = Collector::default();
        while self.stream.has_received() {
            let mut cx = Context::from_waker(Waker::noop());
            match self.poll_take(&mut replies, &mut cx) {
                Poll::Ready(taken) => taken?,
                Poll::Pending => break,
            }
        }
        if self.exchange.said_farewell() || replies.warns_of_the_end() {
            return Err(Lost::Closed(None));
        }
        Ok(())
    }
}
