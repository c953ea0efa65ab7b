//! How long the kernel chains what it has let go of, on a stream that never runs dry (K4).

use crate::support::needs::{Feature, needs};
use std::io::Read as _;
use std::time::Instant;

use ringwire_wire::acknowledged_bytes;

use crate::rig::{MORE, Memory, NOTIF, PAGE, Request, Ring, before, pair};
use crate::support::PATIENCE;

/// Sends, one after the other.
const SENDS: u64 = 40;
/// What each carries: never what fills a packet to its end, which would end a chain too.
const BYTES: usize = 50_000;
/// What the peer reads at once: less than waits.
const STEP: usize = 8 << 10;
/// Bytes that a [`pair`] holds on their way, at most.
const HELD_MAX: usize = 6 * BYTES;

/// If this fails without `MSG_EOR`, the kernel has learned to bound its chains, and it may go.
#[test]
fn the_plain_kernel_holds_a_stream_that_never_runs_dry_until_its_end() {
    let test = "the_plain_kernel_holds_a_stream_that_never_runs_dry_until_its_end";
    let Some(()) = needs(test, Feature::SendZc) else { return };
    if before(test, 6, 10) {
        return;
    }
    for cut in [false, true] {
        let memory = Memory::new(16 * PAGE);
        let (near, mut far) = pair();
        // Its SYN counts.
        let first = acknowledged_bytes(&near).unwrap();
        let mut ring = Ring::new();
        let flags = libc::MSG_WAITALL | if cut { libc::MSG_EOR } else { 0 };
        let submit = |ring: &mut Ring, data| {
            ring.push(Request::send(&near, memory.span(0..BYTES)).flags(flags).data(data));
            ring.submit();
        };
        // Each is handed over when the one before it is accepted, and the peer takes a step only
        // while one waits for room.
        let (mut accepted, mut released, mut read) = (0, 0, 0);
        submit(&mut ring, 1);
        while accepted < SENDS {
            while let Some(done) = ring.visible() {
                if done.flags == NOTIF {
                    released += 1;
                    continue;
                }
                accepted += 1;
                assert_eq!((done.data, done.result, done.flags), (accepted, BYTES as i32, MORE));
                if accepted < SENDS {
                    submit(&mut ring, accepted + 1);
                }
            }
            if accepted < SENDS {
                read += far.read(&mut [0; STEP]).unwrap();
            }
        }
        let all = SENDS as usize * BYTES;
        assert!(all - read <= HELD_MAX, "{read} of {all} bytes are read");
        let deadline = Instant::now() + PATIENCE;
        while acknowledged_bytes(&near).unwrap() - first < read as u64 {
            assert!(Instant::now() < deadline, "what is read is not acknowledged");
            std::thread::yield_now();
        }
        if cut {
            while released < (read / BYTES) as u64 {
                assert_eq!(ring.next().flags, NOTIF);
                released += 1;
            }
        } else {
            ring.silent_while_held(&near);
            assert_eq!(released, 0, "of {SENDS}, with {read} of {all} bytes acknowledged");
        }

        std::io::copy(&mut far.take((all - read) as u64), &mut std::io::sink()).unwrap();
        while released < SENDS {
            assert_eq!(ring.next().flags, NOTIF);
            released += 1;
        }
    }
}
