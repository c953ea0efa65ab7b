//! Sending zeros through ringwire, as any program would, and counting what was copied.
//!
//! Neighbours: `live.rs` sends into the perfect wire, `path.rs` to the destination. Ends by itself
//! when its patience has ended, and leaves nothing behind: a connection with bytes under way is
//! broken then.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringwire::{Arena, Block, Event, Events, OnDeadline, Payload, Ring, Stats};
use ringwire_core::running::Patience;

use crate::facts::{ArenaFacts, Engine, Sample, Seen};

/// One payload: less where less is registered, but far above what is copied for being small, and
/// never merged into another send's packet, so that the kernel's report can be believed.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
const PAYLOAD_BYTES_MIN: usize = 64 << 10;

/// Payloads under way at a time. A block may be in several of them: nobody writes to it.
const WINDOW: usize = 12;

/// How long a ring that is done may take to get its last memory back.
const END: Duration = Duration::from_millis(300);

/// A ring and memory to send from.
pub(super) struct Sender {
    ring: Ring,
    blocks: Vec<Block>,
    events: Events,
}

/// Registered memory, as far as the host allows.
pub(super) fn arena(capacity_bytes: usize) -> Seen<(Arena, ArenaFacts)> {
    let arena = Arena::builder().capacity_bytes(capacity_bytes).build();
    let arena = arena.map_err(|error| error.to_string())?;
    let facts = ArenaFacts {
        asked_bytes: capacity_bytes as u64,
        registered_bytes: arena.registered_bytes() as u64,
        why: arena.why(),
    };
    Ok((arena, facts))
}

impl Sender {
    /// The best ring that this host gives.
    pub(super) fn new(arena: &Arena) -> Seen<Sender> {
        let ring = Ring::builder().arena(arena).build().map_err(|error| error.to_string())?;
        // Registered memory is handed out first. Where there is some, the rest is left alone: it
        // would count against RLIMIT_MEMLOCK while it is sent.
        let (payload_bytes, blocks_max) = match arena.registered_bytes() {
            0..PAYLOAD_BYTES_MIN => (PAYLOAD_BYTES_MAX, usize::MAX),
            registered => {
                let bytes = (registered / 4).clamp(PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX);
                (bytes, registered / bytes)
            }
        };
        let zeros = vec![0; payload_bytes];
        let mut blocks = Vec::new();
        while blocks.len() < blocks_max
            && let Ok(mut block) = arena.alloc(payload_bytes)
        {
            block.put(&zeros);
            blocks.push(block.freeze());
        }
        if blocks.is_empty() {
            return Err(format!("the arena has no block of {payload_bytes} bytes"));
        }
        Ok(Sender { ring, blocks, events: Events::new() })
    }

    /// Which engine it is.
    pub(super) fn engine(&self) -> Engine {
        Engine { name: self.ring.engine().name().into(), why: self.ring.why() }
    }

    /// Sends `greeting`, then `bytes` bytes, and waits until all memory is back, or the patience is
    /// over. Says what the kernel has taken to `wrote`. The stream is closed at the end.
    pub(super) fn send(
        &mut self,
        stream: TcpStream,
        greeting: &[u8],
        bytes: u64,
        patience: Patience,
        wrote: impl Fn(u64),
    ) -> Seen<Sample> {
        let sock = self.ring.attach(stream).map_err(|error| error.to_string())?;
        let sent = self.run(sock, greeting, bytes, patience, wrote);
        let ended = match &sent {
            Ok(sample) if sample.bytes == bytes => self.ring.close(sock),
            _ => self.ring.abort(sock),
        };
        sent.and_then(|sample| ended.map(|()| sample).map_err(|error| error.to_string()))
    }

    fn run(
        &mut self,
        sock: ringwire::Socket,
        greeting: &[u8],
        bytes: u64,
        mut patience: Patience,
        wrote: impl Fn(u64),
    ) -> Seen<Sample> {
        let mut sample = Sample { asked_bytes: bytes, ..Sample::default() };
        let (mut queued, mut under_way) = (0, 0);
        let before = self.ring.stats();
        let take = |ring: &mut Ring, payload: Payload| {
            ring.send(sock, payload).map_err(|refused| refused.why.to_string())
        };
        if !greeting.is_empty() {
            take(&mut self.ring, Payload::from(greeting.to_vec()))?;
            under_way += 1;
        }
        let greeting_bytes = greeting.len() as u64;
        let mut blocks = self.blocks.iter().cycle();
        while queued < bytes || under_way > 0 {
            while queued < bytes && under_way < WINDOW {
                let Some(block) = blocks.next() else { break };
                let take_bytes = (bytes - queued).min(block.len() as u64);
                take(&mut self.ring, Payload::from(block.slice(..take_bytes as usize)))?;
                queued += take_bytes;
                under_way += 1;
            }
            let slice = patience.slice(Instant::now());
            self.ring
                .turn(Some(slice.unwrap_or_default()), &mut self.events)
                .map_err(|error| error.to_string())?;
            for event in self.events.drain() {
                match event {
                    Event::Sent { bytes, .. } => wrote(bytes),
                    Event::Failed { error, .. } => {
                        return Err(format!("the connection broke: {error}"));
                    }
                    Event::Released { payload, .. } => {
                        under_way -= 1;
                        let bytes = payload.len() as u64;
                        if bytes != greeting_bytes {
                            sample.bytes += bytes;
                        }
                    }
                    _ => {}
                }
            }
            if slice.is_none() {
                break;
            }
        }
        if sample.bytes == 0 {
            return Err("nothing was acknowledged in time".into());
        }
        sample.take(&before, &self.ring.stats());
        Ok(sample)
    }

    /// Ends the ring, without leaving memory with the kernel if that can be helped.
    pub(super) fn end(self) {
        self.ring.shutdown(Some(END), OnDeadline::Abort);
    }
}

impl Sample {
    /// Takes in what a ring has counted between two moments.
    ///
    /// Not what was copied for being small, like a greeting, where others left without a copy: a
    /// socket takes what fits, and the rest of a payload can be a few bytes, which says nothing of
    /// the path.
    fn take(&mut self, before: &Stats, after: &Stats) {
        let copied = |stats: &Stats| {
            stats.kernel_copied_bytes + stats.copied_bytes.total() - stats.copied_bytes.small
        };
        self.copied_bytes = copied(after) - copied(before);
        self.uncopied_bytes = after.kernel_zero_copy_bytes - before.kernel_zero_copy_bytes;
        if self.uncopied_bytes == 0 && self.copied_bytes > 0 {
            // The rests are like all others.
            self.copied_bytes += after.copied_bytes.small - before.copied_bytes.small;
        }
        self.memlock_short_bytes =
            after.copied_bytes.memlock_short - before.copied_bytes.memlock_short;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_payload_that_is_copied_for_being_small_is_no_copy_on_the_way() {
        let mut before = Stats::default();
        before.kernel_zero_copy_bytes = 1_000;
        before.copied_bytes.path_copies = 10;
        let mut after = before.clone();
        after.kernel_zero_copy_bytes += 1_048_320;
        after.copied_bytes.small = 256;
        let mut sample = Sample::default();
        sample.take(&before, &after);
        assert_eq!((sample.uncopied_bytes, sample.copied_bytes), (1_048_320, 0));
        after.kernel_copied_bytes = 3;
        after.copied_bytes.path_copies += 5;
        after.copied_bytes.memlock_short = 7;
        sample.take(&before, &after);
        assert_eq!((sample.copied_bytes, sample.memlock_short_bytes), (15, 7));
        // Of a path that copies all of it.
        after.kernel_zero_copy_bytes = before.kernel_zero_copy_bytes;
        sample.take(&before, &after);
        assert_eq!((sample.uncopied_bytes, sample.copied_bytes), (0, 15 + 256));
    }
}
