//! One block of memory, sent to many connections, and one event when it is free again.
//!
//! ```text
//!                      ┌─ clone ─▶ connection 0 ─┐
//!  Arena ─▶ Block ─────┼─ clone ─▶ connection 1 ─┼─ notifier, flush ──▶ one Notified
//!           (1 MiB)    └─ …                      ┘
//! ```
//!
//! A clone of a [`Block`] shares its memory. All of them are attached to one notifier, and are
//! *quiet*: they have no events of their own. So however many connections there are, one event says
//! that the kernel has let go of the memory, and by then it has gone back to its arena.
//!
//! For your own program: fill the block with what is to go out (`BlockMut` is a `Write`), attach
//! your own connections, and keep one notifier for each thing that is sent. Memory that is lent to
//! many sockets counts for each of them: beyond 1 GiB altogether raise `Limits::ring_bytes`.

use std::error::Error;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use ringwire::{Arena, Block, Event, Events, Ring, SendOptions};

const BLOCK_BYTES: usize = 1 << 20;
const CONNECTIONS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::builder().capacity_bytes(2 * BLOCK_BYTES).build()?;
    let mut ring = Ring::builder().arena(&arena).build()?;
    let notifier = ring.notifier(7)?;

    let block = filled(&arena)?;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        let (stream, peer) = connect()?;
        peers.push(peer);
        let sock = ring.attach(stream)?;
        ring.send_with(sock, block.clone(), SendOptions::new().on(notifier).quiet())?;
        // FIN behind it. The ring keeps the socket until the last byte is acknowledged.
        ring.close(sock)?;
    }
    ring.flush(notifier)?;

    // From here on only the ring holds the memory, all of it in one block.
    drop(block);
    let blocks_lent = arena.stats().allocated_blocks;

    // Each turn waits for something to happen; the last peer's acknowledgement is what we want.
    let mut events = Events::new();
    let mut told = Vec::new();
    while told.is_empty() {
        ring.turn(None, &mut events)?;
        told.extend(events.drain());
    }
    // Anything else is a connection that broke, say.
    let [Event::Notified { payloads, bytes, failed: 0, copied, .. }] = told[..] else {
        return Err(format!("not as it should be: {told:?}").into());
    };
    let blocks_left = arena.stats().allocated_blocks;
    if (blocks_lent, blocks_left) != (1, 0) {
        return Err(format!("{blocks_lent} blocks were lent, {blocks_left} still are").into());
    }
    if (payloads, bytes) != (CONNECTIONS as u64, (CONNECTIONS * BLOCK_BYTES) as u64) {
        return Err(format!("released: {payloads} payloads, {bytes} bytes").into());
    }
    for peer in peers {
        peer.join().map_err(|_| "a peer panicked")??;
    }
    println!("one block of 1 MiB: {CONNECTIONS} connections have it, and every byte is right");
    println!("released once, with one event; copied: {copied:?} (over loopback the kernel copies)");
    Ok(())
}

/// A block with bytes to recognise. Frozen, it can be sent, sliced, shared, and not written.
fn filled(arena: &Arena) -> Result<Block, ringwire::Error> {
    let mut block = arena.alloc(BLOCK_BYTES)?;
    block.put(&pattern());
    Ok(block.freeze())
}

fn pattern() -> Vec<u8> {
    (0..BLOCK_BYTES).map(|at| (at % 251) as u8).collect()
}

/// A connection over loopback, and the thread of its peer, which checks all it gets.
fn connect() -> io::Result<(TcpStream, JoinHandle<io::Result<()>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut peer, _) = listener.accept()?;
    let checks = thread::spawn(move || {
        let mut received = Vec::new();
        peer.read_to_end(&mut received)?;
        if received == pattern() { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
    });
    Ok((stream, checks))
}
