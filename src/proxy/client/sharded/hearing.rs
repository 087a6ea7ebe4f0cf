//! What servers say unasked: a notification, for one, or that they are going.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::sharding::hash::Hasher;
use crate::sharding::Key;

use super::super::{End, Session};
use super::{lost, Leg};

impl Session {
    /// Passes on what servers say while the client has not asked them anything. Errors: one is gone, and with it what it
    /// kept of the session, or the open transaction.
    pub(in super::super) fn hear_kept(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(sharded) = &mut self.sharded else {
            return Ok(());
        };
        let mut legs = std::mem::take(&mut sharded.legs);
        let heard = self.hear_each(&mut legs, cx);
        self.sharded().legs = legs;
        heard
    }

    /// The same of these servers, as far as it has come.
    pub(super) async fn hear_now(&mut self, legs: &mut [Leg]) -> Result<(), End> {
        poll_fn(|cx| Poll::Ready(self.hear_each(legs, cx))).await
    }

    fn hear_each(&mut self, legs: &mut [Leg], cx: &mut Context<'_>) -> Result<(), End> {
        for leg in legs {
            while leg.held.exchange.is_resting() {
                match leg.held.poll_take(self, cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(lost)) => return Err(lost::amid(leg, &lost, false)),
                    Poll::Pending => break,
                }
                if leg.held.exchange.said_farewell() {
                    return Err(End::Silent); // the client has the server's own words
                }
            }
        }
        Ok(())
    }
}

/// The shard of a channel's notifications: the same for every session and instance.
pub(super) fn shard_of_channel(channel: &str, shards: usize) -> usize {
    let key = Key::Text(channel.as_bytes().into());
    let count = u32::try_from(shards).unwrap_or(u32::MAX);
    Hasher::Postgres
        .shard(&key, count)
        .map_or(0, |shard| shard as usize)
}
