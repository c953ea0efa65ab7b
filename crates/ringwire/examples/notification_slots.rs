//! Many sends, two notifications.
//!
//! A *notifier* is a notification slot: attach as many payloads as you like to it, on as many
//! sockets as you like, registered and normal memory mixed; then flush it. One flush brings exactly
//! one `Notified`, once the kernel has let go of every byte that was attached. That is how a
//! program that hands the same 10,000 blocks to 50 clients learns that it may use them again: from
//! one event, not from 500,000.
//!
//! ```text
//!              socket "left"                    socket "right"
//!   tag 7      block, static text               [header, block]           flush ──▶ Notified{7, 0}
//!   tag 8      Bytes                            Vec, [header, block]      flush ──▶ Notified{8, 0}
//! ```
//!
//! Run it with `cargo run -p ringwire --example notification_slots`. It exits 0 if exactly these
//! two notifications came, and 1 if anything else did.

use std::error::Error;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringwire::{Arena, Event, Events, Piece, Ring, SendOptions};

const KIB: usize = 1 << 10;

/// A notification, as far as it is known beforehand: tag, sequence, payloads, bytes, failed.
type Expected = (u64, u32, u64, u64, u64);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // Memory that the kernel knows. Blocks of it are sent without a look at page tables. By default
    // as much is registered as RLIMIT_MEMLOCK allows, and the rest goes as normal memory.
    let arena = Arena::builder().capacity_bytes(1 << 20).build()?;
    if let Some(why) = arena.why() {
        println!("note: {why}");
    }
    let mut ring = Ring::builder().arena(&arena).build()?;

    // Two connections, each to a peer that reads all it gets. The ring takes any TCP or UDP socket
    // that std, socket2 or somebody else has set up, and changes none of its options.
    let (left, left_peer) = connect()?;
    let (right, right_peer) = connect()?;
    let left = ring.attach(left)?;
    let right = ring.attach(right)?;

    // The slots. The tag is yours; it comes back in the notification.
    let seven = ring.notifier(7)?;
    let eight = ring.notifier(8)?;

    // A *quiet* payload has no events of its own, no `Sent` and no `Released`: the notification
    // stands for all that are attached. Without `quiet` each would have its own events besides.
    let quiet = |notifier| SendOptions::new().on(notifier).quiet();

    // A clone of a block shares its memory. A payload of pieces may have some of both kinds.
    let text = &b"text that is part of the program"[..];
    let block = block(&arena, 64 * KIB, b'a')?;
    ring.send_with(left, block.clone(), quiet(seven))?; // registered
    ring.send_with(left, text, quiet(seven))?; // 32 bytes, 'static
    ring.send_with(right, with_header(b"HDR1", block.clone()), quiet(seven))?;

    ring.send_with(left, Bytes::from(vec![b'b'; 48 * KIB]), quiet(eight))?; // normal memory
    ring.send_with(right, vec![b'c'; 16 * KIB], quiet(eight))?;
    ring.send_with(right, with_header(b"HDR2", block.slice(..32 * KIB)), quiet(eight))?;

    // A flush detaches what is attached by now and numbers it. The slot is fresh at once: what is
    // attached from here on belongs to sequence 1.
    let flushed = [(7, ring.flush(seven)?), (8, ring.flush(eight)?)];

    // FIN behind all of it. The ring keeps the sockets until the last byte is acknowledged.
    ring.close(left)?;
    ring.close(right)?;

    // Nothing has left yet: `turn` submits everything, waits, and collects what has happened.
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut events = Events::new();
    let mut notifications = Vec::new();
    let mut others = 0;
    while notifications.len() < flushed.len() && Instant::now() < deadline {
        // The answer is for those who sleep on the ring's descriptor instead; this waits inside.
        let _ = ring.turn(Some(deadline.saturating_duration_since(Instant::now())), &mut events)?;
        others += take(&mut events, &mut notifications);
    }
    // One more look: nothing may follow.
    let _ = ring.turn(Some(Duration::ZERO), &mut events)?;
    others += take(&mut events, &mut notifications);

    // Notifications come in any order, also those of one notifier: sort before comparing.
    notifications.sort_unstable();
    let expected: [Expected; 2] = [(7, 0, 3, 131_108, 0), (8, 0, 3, 98_308, 0)];
    if notifications != expected || others > 0 || flushed != [(7, 0), (8, 0)] {
        println!(
            "expected exactly {expected:?}, got {notifications:?}, {others} other events, and \
             flushes {flushed:?}"
        );
        return Ok(ExitCode::FAILURE);
    }
    let received = (left_peer.join(), right_peer.join());
    if !matches!(received, (Ok(Ok(114_720)), Ok(Ok(114_696)))) {
        println!("the peers should have 114720 and 114696 bytes, and have {received:?}");
        return Ok(ExitCode::FAILURE);
    }
    println!("exactly two notifications for 6 payloads on 2 sockets");
    Ok(ExitCode::SUCCESS)
}

/// Prints and takes the notifications among the events. Returns how many others there were.
fn take(events: &mut Events, notifications: &mut Vec<Expected>) -> usize {
    let mut others = 0;
    for event in events.drain() {
        match event {
            Event::Notified { tag, seq, payloads, bytes, copied, failed } => {
                // Over loopback the kernel always copies, for the receiver's sake, and its report
                // about requests under 64 KiB cannot be believed: so `Yes`, or `Unknown`, here.
                println!(
                    "notified: tag {tag}, sequence {seq}, {payloads} payloads, {bytes} bytes, \
                     {failed} failed, copied: {copied:?}"
                );
                notifications.push((tag, seq, payloads, bytes, failed));
            }
            event => {
                println!("not asked for: {event:?}");
                others += 1;
            }
        }
    }
    others
}

/// A block of arena memory, filled. Frozen, it can be sent, sliced, shared, and not written.
fn block(arena: &Arena, bytes: usize, fill: u8) -> Result<ringwire::Block, ringwire::Error> {
    let mut block = arena.alloc(bytes)?;
    block.spare_mut()[..bytes].fill(fill);
    block.advance(bytes);
    Ok(block.freeze())
}

/// One payload of two pieces: they leave one after the other, and nothing comes between them.
fn with_header(header: &'static [u8; 4], body: ringwire::Block) -> [Piece; 2] {
    [header.into(), body.into()]
}

/// A connection over loopback, and the thread of its peer, which counts what it reads.
fn connect() -> io::Result<(TcpStream, thread::JoinHandle<io::Result<u64>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut peer, _) = listener.accept()?;
    let reads = thread::spawn(move || {
        let mut buffer = vec![0; 64 * KIB];
        let mut total = 0;
        loop {
            match peer.read(&mut buffer)? {
                0 => return Ok(total),
                bytes => total += bytes as u64,
            }
        }
    });
    Ok((stream, reads))
}
