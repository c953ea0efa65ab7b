//! What `release_delay.rs` would show with io_uring alone, so that its figures are known to mean
//! something: one `SEND_ZC` after the other, and no `MSG_EOR`.

use std::time::{Duration, Instant};

use io_uring::{IoUring, cqueue, opcode, types};
use ringwire_wire::Veth;

use crate::release_delay::{Acks, Case, Delays, Pacing, connect, wire};

/// What the plain kernel takes at least, of the two seconds that the stream takes.
const HELD_AT_LEAST: Duration = Duration::from_millis(500);

/// The same with the kernel's means alone: one `SEND_ZC` after the other, no `MSG_EOR`.
#[expect(unsafe_code, reason = "the raw interface, to compare with")]
fn plain(wire: &Veth, case: Case) -> Delays {
    let Case { payload_bytes, payloads, .. } = case;
    let mut ring = IoUring::new(256).unwrap();
    let payload = vec![7_u8; payload_bytes];
    let (near, peer) = connect(wire, case);
    let mut acks = Acks::new(&near);
    let mut released = vec![None; payloads];
    let (mut sent, mut outstanding, mut left) = (0, false, payloads);
    while left > 0 {
        if !outstanding && sent < payloads {
            let fd = types::Fd(std::os::fd::AsRawFd::as_raw_fd(&near));
            let entry = opcode::SendZc::new(fd, payload.as_ptr(), payload_bytes as u32)
                .flags(0x100) // MSG_WAITALL
                .build()
                .user_data(sent as u64);
            // SAFETY: `payload` is dropped after the loop, which ends with the last notification.
            unsafe { ring.submission().push(&entry) }.unwrap();
            (sent, outstanding) = (sent + 1, true);
        }
        let timeout = types::Timespec::new().nsec(1_000_000);
        let args = types::SubmitArgs::new().timespec(&timeout);
        match ring.submitter().submit_with_args(1, &args) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.raw_os_error(), Some(62), "{error}"), // ETIME
        }
        acks.look();
        for entry in ring.completion() {
            if cqueue::notif(entry.flags()) {
                released[entry.user_data() as usize] = Some(Instant::now());
                left -= 1;
            } else {
                assert_eq!(entry.result(), payload_bytes as i32);
                outstanding = false;
            }
        }
    }
    let released: Vec<Instant> = released.into_iter().map(Option::unwrap).collect();
    let delays = acks.delays(payload_bytes, &released);
    drop((near, acks));
    peer.join().unwrap();
    delays
}

#[test]
fn the_plain_kernel_holds_a_paced_stream_until_its_end() {
    let Some(wire) = wire("the_plain_kernel_holds_a_paced_stream_until_its_end") else { return };
    let case = Case {
        pacing: Pacing::Sender,
        bytes_per_s: 20_000_000,
        payload_bytes: 1 << 20,
        payloads: 40,
    };
    // A thread that is kept from sending lets the stream run dry, which ends the chain: so the
    // worst of a few tries counts.
    let mut worst = Duration::ZERO;
    for _ in 0..5 {
        let delays = plain(&wire, case);
        worst = worst.max(delays.max()).max(delays.first_max());
        if worst >= HELD_AT_LEAST {
            break;
        }
    }
    println!("plain kernel, {case:?}: release delay max {worst:?}");
    // If this fails, the kernel has learned to bound its chains (K4), and MSG_EOR may go.
    assert!(worst >= HELD_AT_LEAST, "{worst:?}");
}
