//! The receive buffers of one core: provided to the kernel's ring, lent out as [`Buf`] only while bytes are pending.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// Bytes of one buffer: a receive never returns more. A short message touches the first page only.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// The same, as the kernel takes it.
#[expect(clippy::cast_possible_truncation, reason = "65,536")]
pub(crate) const BUFFER_BYTES_U32: u32 = BUFFER_BYTES as u32;
/// Buffers that circulate at first. The ring is first in, first out: each of them is touched sooner or later, and few stay in cache.
const AT_FIRST: u32 = 16;
/// So many more do when those are lent.
const STEP: u32 = 64;
/// What is returned when so many are free circulates no more.
const FREE_MAX: u32 = 128;
/// Buffers there may be at most: 256 MiB a core, touched only when lent at the same time.
/// At the limit receives wait until a buffer comes back.
const BUFFERS_MAX: u16 = 4096;

/// Bytes received, in place. Dropping it returns the buffer to the kernel; parts share one buffer.
///
/// It belongs to its core: not `Send`.
pub struct Buf {
    store: Rc<Buffers>,
    id: u16,
    start: u32,
    end: u32,
}

impl Buf {
    /// Forgets the first `count` bytes; more than there are empties it.
    pub fn advance(&mut self, count: usize) {
        self.start = self.offset(count);
    }

    /// Splits off the first `count` bytes (at most all), leaving the rest here. Nothing is copied.
    #[must_use]
    pub fn split_to(&mut self, count: usize) -> Buf {
        let at = self.offset(count);
        let holders = &self.store.holders[usize::from(self.id)];
        holders.set(holders.get() + 1);
        let first = Buf {
            store: Rc::clone(&self.store),
            id: self.id,
            start: self.start,
            end: at,
        };
        self.start = at;
        first
    }

    /// The bytes, and the rest of their buffer behind them.
    ///
    /// Only for a `Buf` that shares its buffer with no other, as a receive makes it.
    pub(crate) fn with_room(&mut self) -> (&[u8], &mut [u8]) {
        let holders = self.store.holders[usize::from(self.id)].get();
        assert_eq!(holders, 1, "a buffer that others read is not written");
        let at = usize::from(self.id) * BUFFER_BYTES;
        let (start, end) = (self.start as usize, self.end as usize);
        // SAFETY: `start <= end <= BUFFER_BYTES` and `id < BUFFERS_MAX`, so both ranges are inside the mapping, which
        // lives as long as `store`, and they do not overlap. The kernel has given the buffer to us, and we are its
        // only holder, so nobody else reads or writes there while `self` is borrowed.
        unsafe {
            let memory = self.store.memory.as_ptr().add(at);
            (
                std::slice::from_raw_parts(memory.add(start), end - start),
                std::slice::from_raw_parts_mut(memory.add(end), BUFFER_BYTES - end),
            )
        }
    }

    /// Forgets the bytes for the first `count` of those behind them.
    pub(crate) fn into_room(mut self, count: usize) -> Buf {
        let room = BUFFER_BYTES_U32 - self.end;
        self.start = self.end;
        self.end += u32::try_from(count).unwrap_or(u32::MAX).min(room);
        self
    }

    /// Takes in `next` if it begins where this one ends, in the same buffer; gives it back if not.
    pub(crate) fn join(&mut self, next: Buf) -> Result<(), Buf> {
        if next.id != self.id || next.start != self.end || !Rc::ptr_eq(&next.store, &self.store) {
            return Err(next);
        }
        self.end = next.end;
        Ok(())
    }

    fn offset(&self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.start.saturating_add(count).min(self.end)
    }
}

impl Deref for Buf {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let at = usize::from(self.id) * BUFFER_BYTES + self.start as usize;
        // SAFETY: `start <= end <= BUFFER_BYTES` and `id < BUFFERS_MAX`, so the range is inside the mapping, which
        // lives as long as `store`. The kernel wrote it before the completion we read, and does not write it again
        // until the last `Buf` of this id is dropped.
        unsafe {
            std::slice::from_raw_parts(
                self.store.memory.as_ptr().add(at),
                (self.end - self.start) as usize,
            )
        }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let holders = &self.store.holders[usize::from(self.id)];
        holders.set(holders.get() - 1);
        if holders.get() == 0 {
            self.store.returned(self.id);
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len())
    }
}

/// The memory behind all [`Buf`]s of a core and the kernel's ring of free ones.
///
/// ```text
/// id:      0 .. provided                 provided .. BUFFERS_MAX
///          with the kernel | lent        never touched, or retired
/// ```
pub(crate) struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    tail: Cell<u16>,
    /// How many `Buf`s share each buffer.
    holders: Box<[Cell<u16>]>,
    /// Buffers lent out or with the kernel.
    circulating: Cell<u32>,
    lent: Cell<u32>,
    /// Not in circulation. Filled lazily: ids from `untouched` up have never been used.
    retired: RefCell<Vec<u16>>,
    untouched: Cell<u16>,
}

impl Buffers {
    pub(crate) const ENTRIES: u16 = BUFFERS_MAX;

    pub(crate) fn new() -> io::Result<Self> {
        let entries = map(usize::from(BUFFERS_MAX) * size_of::<BufRingEntry>())?.cast();
        let memory = map(usize::from(BUFFERS_MAX) * BUFFER_BYTES)?;
        let store = Self {
            entries,
            memory,
            tail: Cell::new(0),
            holders: vec![Cell::new(0); usize::from(BUFFERS_MAX)].into_boxed_slice(),
            circulating: Cell::new(0),
            lent: Cell::new(0),
            retired: RefCell::new(Vec::new()),
            untouched: Cell::new(0),
        };
        store.grow_by(AT_FIRST);
        Ok(store)
    }

    /// Where the kernel finds the ring of free buffers.
    pub(crate) fn ring_address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// The received bytes of a completion.
    pub(crate) fn lend(self: &Rc<Self>, id: u16, bytes: usize) -> Buf {
        self.holders[usize::from(id)].set(1);
        self.lent.set(self.lent.get() + 1);
        let end = u32::try_from(bytes.min(BUFFER_BYTES)).unwrap_or(0);
        Buf {
            store: Rc::clone(self),
            id,
            start: 0,
            end,
        }
    }

    /// Buffers in circulation, and how many of them are lent.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.circulating.get() as usize, self.lent.get() as usize)
    }

    /// Are there buffers for the kernel to fill?
    pub(crate) fn any_free(&self) -> bool {
        self.lent.get() < self.circulating.get()
    }

    /// Puts more buffers into circulation; false when all there may be are.
    pub(crate) fn grow(&self) -> bool {
        self.grow_by(STEP)
    }

    fn grow_by(&self, count: u32) -> bool {
        let before = self.circulating.get();
        for _ in 0..count {
            let id = match self.retired.borrow_mut().pop() {
                Some(id) => id,
                None if self.untouched.get() < BUFFERS_MAX => {
                    self.untouched.set(self.untouched.get() + 1);
                    self.untouched.get() - 1
                }
                None => break,
            };
            self.circulating.set(self.circulating.get() + 1);
            self.provide(id);
        }
        self.circulating.get() > before
    }

    fn returned(&self, id: u16) {
        self.lent.set(self.lent.get() - 1);
        if self.circulating.get() - self.lent.get() <= FREE_MAX {
            return self.provide(id);
        }
        self.circulating.set(self.circulating.get() - 1);
        self.retired.borrow_mut().push(id);
        // SAFETY: the range is one whole buffer inside our private anonymous mapping, and nobody holds it.
        unsafe {
            let at = self.memory.as_ptr().add(usize::from(id) * BUFFER_BYTES);
            libc::madvise(at.cast(), BUFFER_BYTES, libc::MADV_DONTNEED);
        }
    }

    fn provide(&self, id: u16) {
        let tail = self.tail.get();
        let at = usize::from(tail & (BUFFERS_MAX - 1));
        // SAFETY: `at` is below BUFFERS_MAX, the length of the mapping in entries; the kernel reads an entry only
        // after the tail passes it, and at most BUFFERS_MAX ids exist, so this entry is not one it still reads.
        // The tail lies in the reserved field of entry 0 and is shared with the kernel, hence the atomic store.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(at);
            entry.set_addr(self.memory.as_ptr().add(usize::from(id) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES_U32);
            entry.set_bid(id);
            let shared = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(shared).store(tail.wrapping_add(1), Ordering::Release);
        }
        self.tail.set(tail.wrapping_add(1));
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both were mapped with these lengths by `map`; the ring that used them is closed (it holds an `Rc`
        // to us and is dropped first), and no `Buf` is left, since each holds an `Rc` too.
        unsafe {
            libc::munmap(
                self.entries.as_ptr().cast(),
                usize::from(BUFFERS_MAX) * size_of::<BufRingEntry>(),
            );
            libc::munmap(
                self.memory.as_ptr().cast(),
                usize::from(BUFFERS_MAX) * BUFFER_BYTES,
            );
        }
    }
}

/// Fresh zeroed pages, touched when used.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(at.cast()).expect("mmap never maps page zero"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_buffer_become_one_again() {
        let store = Rc::new(Buffers::new().unwrap());
        let mut rest = store.lend(0, 10);
        let (mut first, second) = (rest.split_to(3), rest.split_to(4));
        assert!(first.join(rest).is_err(), "there is a gap");
        assert!(first.join(second).is_ok());
        assert_eq!((first.len(), store.lent.get()), (7, 1));
        assert!(first.join(store.lend(1, 5)).is_err(), "another buffer");
        drop(first);
        assert_eq!(store.lent.get(), 0);
    }

    #[test]
    fn parts_share_a_buffer_until_the_last_is_dropped() {
        let store = Rc::new(Buffers::new().unwrap());
        let mut buf = store.lend(3, 100);
        let first = buf.split_to(40);
        assert_eq!((first.len(), buf.len(), store.lent.get()), (40, 60, 1));
        drop(buf);
        assert_eq!(store.lent.get(), 1);
        drop(first);
        assert_eq!(store.lent.get(), 0);
    }

    #[test]
    fn advancing_past_the_end_empties() {
        let store = Rc::new(Buffers::new().unwrap());
        let mut buf = store.lend(0, 10);
        buf.advance(4);
        assert_eq!(buf.len(), 6);
        buf.advance(1 << 20);
        assert!(buf.is_empty());
        assert!(buf.split_to(5).is_empty());
    }

    #[test]
    fn a_buffer_is_written_behind_its_bytes_by_its_only_holder() {
        let store = Rc::new(Buffers::new().unwrap());
        let mut buf = store.lend(3, 10);
        let (bytes, room) = buf.with_room();
        assert_eq!((bytes.len(), room.len()), (10, BUFFER_BYTES - 10));
        room[..3].copy_from_slice(b"abc");
        let plain = buf.into_room(3);
        assert_eq!(&*plain, b"abc");
        drop(plain);
        assert_eq!(store.lent.get(), 0);

        let mut shared = store.lend(4, 10);
        let _part = shared.split_to(4);
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            shared.with_room();
        }));
        assert!(written.is_err());
    }

    #[test]
    fn circulation_grows_under_pressure_to_its_limit_and_shrinks_again() {
        let store = Rc::new(Buffers::new().unwrap());
        let mut lent = Vec::new();
        for id in 0..BUFFERS_MAX {
            if !store.any_free() {
                assert!(store.grow());
            }
            lent.push(store.lend(id, 1));
        }
        assert!(!store.any_free());
        assert!(!store.grow());
        drop(lent);
        assert!(store.circulating.get() <= FREE_MAX + 1);
        assert!(store.any_free());
    }
}
