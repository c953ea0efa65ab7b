//! Bytes of memory a socket and a payload: what there is before and while many of them are held.
//!
//! The process's own memory is that of its anonymous pages (`/proc/self/smaps_rollup`, which walks
//! them), so what the allocator rounds up is in it, and no allocator has to count. Whatever was
//! held stays until all is measured: memory that was freed would be used again, and not be seen.

use std::fs;

use super::bare::Bare;
use super::lanes::Lane;
use super::ours::{Memory, Ours};
use super::sender::{QUIET, Sender, Share, Slots, until_released};
use crate::error::{Error, STUCK_AFTER};
use crate::kernel_memory::KernelMemory;
use crate::measure::Clock;
use crate::report::scale::BARE;

/// Payloads that are in flight at once, and the sockets that hold them: as many as one send buffer
/// takes of 4 KiB, four times over.
pub(super) const PAYLOADS: u32 = 16 << 10;
pub(super) const SOCKETS_OF_PAYLOADS: u32 = 4;

/// What this process and the kernel hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    process_bytes: u64,
    kernel: KernelMemory,
}

/// Bytes for each of some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes {
    pub(super) memory: f64,
    pub(super) slab: f64,
    pub(super) tcp: f64,
}

impl Held {
    fn now() -> Result<Held, Error> {
        const PATH: &str = "/proc/self/smaps_rollup";
        let text = fs::read_to_string(PATH).map_err(|error| Error::io(PATH, error))?;
        let kib = anonymous_kib(&text)
            .ok_or_else(|| Error::Unavailable(format!("{PATH} has no anonymous pages")))?;
        Ok(Held { process_bytes: kib * 1024, kernel: KernelMemory::read()? })
    }

    /// What each of `count` takes, of what there is more than `before`.
    fn each(self, before: Held, count: u32) -> Bytes {
        let each = |bytes: u64| bytes as f64 / f64::from(count.max(1));
        let kernel = self.kernel.since(before.kernel);
        Bytes {
            memory: each(self.process_bytes.saturating_sub(before.process_bytes)),
            slab: each(kernel.slab_bytes),
            tcp: each(kernel.tcp_bytes),
        }
    }
}

/// KiB of anonymous pages, of the text of smaps_rollup.
fn anonymous_kib(smaps: &str) -> Option<u64> {
    let line = smaps.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Senders that were measured, and their memory.
#[derive(Default)]
pub(super) struct Kept(Vec<Box<dyn Sender>>);

/// What a ring takes for a socket when it takes all of `lanes`. Quiet payloads make no difference
/// to it, so there is nothing to be said of them.
pub(super) fn of_sockets(
    method: &str,
    lanes: &[Lane],
    slots: Slots,
    memory: &Memory,
    kept: &mut Kept,
) -> Result<Bytes, Error> {
    let share = Share { first: 0, sockets: lanes.len(), window: 1 };
    let count = lanes.len() as u32;
    if method == BARE {
        let before = Held::now()?;
        kept.0.push(Box::new(Bare::new(lanes, share, slots)?));
        return Ok(Held::now()?.each(before, count));
    }
    let ring = Ours::new(share, memory, false)?;
    let before = Held::now()?;
    kept.0.push(Box::new(ring.attach(lanes)?));
    Ok(Held::now()?.each(before, count))
}

/// What is taken for a payload when the kernel has accepted [`PAYLOADS`] of them on these `lanes`,
/// whose peers acknowledge none.
pub(super) fn of_payloads(
    method: &str,
    lanes: &[Lane],
    slots: Slots,
    memory: &Memory,
    kept: &mut Kept,
) -> Result<Bytes, Error> {
    let share = Share { first: 0, sockets: lanes.len(), window: u64::from(PAYLOADS) };
    let sender: Box<dyn Sender> = match method {
        BARE => Box::new(Bare::new(lanes, share, slots)?),
        _ => Box::new(Ours::new(share, memory, method == QUIET)?.attach(lanes)?),
    };
    let mut senders = [sender];
    lanes.iter().for_each(|lane| lane.flow.hold(true));
    let looked = while_held(&mut *senders[0], lanes);
    // Whatever came of it: what follows needs its acknowledgements.
    lanes.iter().for_each(|lane| lane.flow.hold(false));
    let bytes = looked?;
    until_released(&mut senders, lanes)?;
    kept.0.extend(senders);
    Ok(bytes)
}

fn while_held(sender: &mut dyn Sender, lanes: &[Lane]) -> Result<Bytes, Error> {
    let before = Held::now()?;
    sender.fill()?;
    let mut waits = Clock::start(STUCK_AFTER);
    while sender.unaccepted() > 0 {
        sender.turn(lanes)?;
        if !waits.runs() {
            return Err(Error::Unavailable("send buffers have no room for so many".into()));
        }
    }
    Ok(Held::now()?.each(before, PAYLOADS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_pages_are_the_processs_own() {
        let text = "Rss:    1234 kB\nPrivate_Dirty:  5 kB\nAnonymous:           567 kB\n";
        assert_eq!(anonymous_kib(text), Some(567));
        assert_eq!(anonymous_kib("Rss: 1 kB\n"), None);
    }

    #[test]
    fn what_is_held_is_told_for_each() {
        let held = |process_bytes, slab_bytes| Held {
            process_bytes,
            kernel: KernelMemory { tcp_bytes: 0, slab_bytes },
        };
        let bytes = held(9_000, 500).each(held(1_000, 700), 10);
        // What others give back meanwhile is not counted.
        assert_eq!((bytes.memory, bytes.slab, bytes.tcp), (800.0, 0.0, 0.0));
    }
}
