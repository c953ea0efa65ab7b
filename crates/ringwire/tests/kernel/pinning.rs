//! Memory that can be sent, but not referred to (K53).

use crate::support::needs::{Feature, needs};
use ringwire_wire::{Family, loopback, skip};

use crate::rig::{Memory, Message, Outcome, Request, Ring};
use crate::support::memory::{
    ENDS, Kind, PAGE, PINNABLE, UNPINNABLE, bytes_in, bytes_that_end, drivers_page,
};
use crate::support::read_exactly;

const FAULT: Outcome = Outcome { result: -libc::EFAULT, notification: Some(0) };

#[test]
fn memory_that_cannot_be_referred_to_can_be_copied() {
    let test = "memory_that_cannot_be_referred_to_can_be_copied";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    let mut ring = Ring::new();
    ring.sparse_buffers(1);
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let contents: Vec<u8> = (0..4 * PAGE).map(|at| (at / 7) as u8).collect();
    for kind in UNPINNABLE.into_iter().chain(PINNABLE) {
        let bytes = match bytes_in(kind, &contents) {
            Ok(bytes) => bytes,
            Err(why) => {
                skip(test, &why);
                continue;
            }
        };
        let span = (bytes.as_ptr().expose_provenance(), bytes.len());
        let sent = ring.run(Request::send(&near, span));
        if UNPINNABLE.contains(&kind) {
            assert_eq!(sent, FAULT, "{kind:?}");
            if kind == Kind::Secret {
                assert_eq!(ring.try_register(0, span), Err(libc::EFAULT), "{kind:?}");
            }
            // A copy takes all of it.
            let copied = ring.run(Request::copy(&near, span));
            assert_eq!(copied, Outcome { result: 4 * PAGE as i32, notification: None }, "{kind:?}");
        } else {
            assert_eq!(sent, Outcome { result: 4 * PAGE as i32, notification: Some(0) });
        }
        assert_eq!(read_exactly(&mut far, contents.len()).unwrap(), contents, "{kind:?}");
    }
    match drivers_page() {
        None => skip(test, "the kernel has no performance events for this user"),
        Some(page) => {
            let span = (page.as_ptr().expose_provenance(), page.len());
            let sent = ring.run(Request::send(&near, span));
            // Before 6.15 these pages could be referred to.
            assert!(sent == FAULT || sent.result == PAGE as i32, "{sent:?}");
            let copied = ring.run(Request::copy(&near, span));
            assert_eq!(copied, Outcome { result: PAGE as i32, notification: None });
        }
    }
}

/// Nothing of a packet is taken of which one page is refused, be the others good, and be they of
/// another piece.
#[test]
fn a_refusal_does_not_say_what_was_good() {
    let Some(()) = needs("a_refusal_does_not_say_what_was_good", Feature::SendZc) else { return };
    let mut ring = Ring::new();
    let (near, mut far) = loopback::tcp_pair(Family::V4).unwrap();
    let good = Memory::new(PAGE);
    for end in ENDS {
        let bytes = bytes_that_end(end, &[7; PAGE], PAGE);
        let bad = (bytes.as_ptr().expose_provenance(), bytes.len());
        for request in [Request::send, Request::copy] {
            assert_eq!(ring.run(request(&near, bad)).result, -libc::EFAULT, "{end:?}");
        }
        let message = Message::new([good.all(), bad]);
        assert_eq!(ring.run(Request::message(&near, &message)), FAULT, "{end:?}");
    }
    // Packets before that one are.
    let bytes = bytes_that_end(ENDS[0], &[7; 64 * PAGE], PAGE);
    let long = (bytes.as_ptr().expose_provenance(), bytes.len());
    ring.push(Request::send(&near, long).flags(libc::MSG_WAITALL).data(1));
    ring.submit();
    let taken = ring.result_of(1);
    assert!((1..=64 * PAGE as i32).contains(&taken), "{taken}");
    assert_eq!(read_exactly(&mut far, taken as usize).unwrap(), bytes[..taken as usize]);
    ring.notification_of(1);
}
