//! Must move bytes unharmed: every socket set-up × memory × pieces × size, with both kinds of ring.
//!
//! The table is that of liburing's `test/send-zerocopy.c` (kernel.md §9), through the public API:
//! 16 socket set-ups; registered, normal and mixed memory; 1, 4 and 32 pieces, all of one byte but
//! the second; from one byte to 32 MiB, at odd offsets, and from and to 13 bytes inside a
//! registration. Everything a message should be is a range of one pattern, so that no transfer is
//! compared with what the sender says it sent. Asserted for each: all bytes, one `Sent`, one
//! `Released` with the payload in it, the route that was taken, and what was said about copying:
//! loopback copies, so never `No`.

mod edges;
mod memory;
mod reader;

use crate::contract::{assert_registered, runs_here};
use crate::support::needs::{Feature, has};
use std::borrow::Cow;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::builder;
use crate::ENGINE;
use crate::support::{
    BOTH_TASK_RUNS, Driver, PATIENCE, ZERO_COPY, assert_same, hear, is_child, noise, run_child,
};
use bytes::Bytes;
use ringwire::{
    Arena, Block, Copied, Error, Payload, Piece, Registration, Ring, Socket, TaskRun, Thresholds,
};
use ringwire_wire::{Family, loopback, set_zerocopy, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use memory::Stock;
use reader::Reader;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    /// Blocks of the arena.
    Block,
    /// Owners of ordinary memory.
    Normal,
    /// A header of up to 100 ordinary bytes, and blocks.
    HeaderThenBlock,
    /// Blocks, and as many ordinary bytes.
    BlockThenForeign,
}

const MEMORIES: [Memory; 4] =
    [Memory::Block, Memory::Normal, Memory::HeaderThenBlock, Memory::BlockThenForeign];

/// How many pieces the main part of a message has: all of one byte but the second.
const SPLITS: [usize; 3] = [1, 4, 32];

/// Where in a page a message begins, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    offset: usize,
    bytes: usize,
}

const SMALL_SIZES: [Size; 4] = [
    Size { offset: 1, bytes: 1 },
    Size { offset: 3, bytes: 137 },
    Size { offset: 41, bytes: 2 * PAGE - 54 },
    Size { offset: 0, bytes: PAGE },
];
const DATAGRAM: Size = Size { offset: 7, bytes: 32 * KIB };
const LARGE: Size = Size { offset: 5, bytes: MIB };
const HUGE: Size = Size { offset: 0, bytes: 32 * MIB };

/// What every message is a range of.
fn pattern() -> &'static Arc<[u8]> {
    static PATTERN: OnceLock<Arc<[u8]>> = OnceLock::new();
    PATTERN.get_or_init(|| noise(1, 32 * MIB).into())
}

enum Peer {
    Stream(Reader),
    /// The address to give, if the socket is not connected; and who receives.
    Datagrams(Option<SocketAddr>, UdpSocket),
}

/// One of the 16 set-ups, attached to a ring.
struct Link {
    name: String,
    sock: Socket,
    peer: Peer,
    /// Our end as its owner has it, who set `SO_ZEROCOPY` on it.
    owner: Option<OwnedFd>,
}

impl Link {
    fn is_udp(&self) -> bool {
        matches!(self.peer, Peer::Datagrams(..))
    }
}

fn links(ring: &mut Ring) -> Vec<Link> {
    let mut links = Vec::new();
    for family in Family::BOTH {
        for zerocopy in [false, true] {
            for from_connecting in [true, false] {
                let (near, far) = loopback::tcp_pair(family).unwrap();
                let (us, peer) = if from_connecting { (near, far) } else { (far, near) };
                // One message at a time: each would wait for the delayed ACK of the last.
                us.set_nodelay(true).unwrap();
                let owner = zerocopy.then(|| {
                    set_zerocopy(&us).unwrap();
                    OwnedFd::from(us.try_clone().unwrap())
                });
                let end = if from_connecting { "connecting" } else { "accepted" };
                let name = format!("TCP {family:?} {end} end, SO_ZEROCOPY {zerocopy}");
                let sock = ring.attach(us).unwrap();
                links.push(Link { name, sock, peer: Peer::Stream(Reader::new(peer)), owner });
            }
            for connected in [true, false] {
                let (us, peer) = loopback::udp_pair(family).unwrap();
                let (us, to) = if connected {
                    (us, None)
                } else {
                    let us = UdpSocket::bind((peer.local_addr().unwrap().ip(), 0)).unwrap();
                    // From now on it hears others than the one it was connected to.
                    let peer_address = peer.local_addr().unwrap();
                    peer.connect(us.local_addr().unwrap()).unwrap();
                    (us, Some(peer_address))
                };
                let owner = zerocopy.then(|| {
                    set_zerocopy(&us).unwrap();
                    OwnedFd::from(us.try_clone().unwrap())
                });
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
                // Room for five that nobody has read yet.
                SockRef::from(&peer).set_recv_buffer_size(MIB).unwrap();
                let name = format!("UDP {family:?} connected {connected}, SO_ZEROCOPY {zerocopy}");
                let sock = ring.attach(us).unwrap();
                links.push(Link { name, sock, peer: Peer::Datagrams(to, peer), owner });
            }
        }
    }
    assert_eq!(links.len(), 16);
    links
}

/// The way that a message is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Registered,
    Normal,
    CopiedAsSmall,
    CopiedAsManyPieces,
    /// By an engine that does nothing else.
    CopiedByEngine,
    /// Because others may send without copying on the same socket, once it was asked for.
    CopiedForOthers,
}

fn way(link: &Link, memory: Memory, split: usize, bytes: usize, forced: bool) -> Way {
    let udp = link.is_udp();
    if !ENGINE.zero_copy {
        return Way::CopiedByEngine;
    }
    // More pieces than a packet has fragments.
    if udp && split == 32 && bytes >= 137 {
        return Way::CopiedAsManyPieces;
    }
    let registered = match memory {
        Memory::Block => true,
        Memory::Normal => false,
        // A header of a byte is all there is.
        Memory::HeaderThenBlock => bytes > 100,
        // Up to 4 KiB are copied beside the blocks.
        Memory::BlockThenForeign => bytes <= 2 * PAGE,
    };
    // A message of one piece that needs no header, which an address does.
    let one_piece = bytes == 1 || split == 1 && memory == Memory::Block;
    let addressed = matches!(link.peer, Peer::Datagrams(Some(_), _));
    let plain = one_piece && !addressed;
    let registered = registered && (plain || has(Feature::VectoredRegistered));
    match (registered, forced) {
        (true, true) => Way::Registered,
        (false, true) => Way::Normal,
        (true, false) if bytes >= 4 * KIB => Way::Registered,
        (false, false) if bytes >= 16 * KIB => Way::Normal,
        (_, false) => Way::CopiedAsSmall,
    }
}

struct Matrix {
    stock: Stock,
    driver: Driver,
    forced: bool,
    transfers: usize,
    buffer: Vec<u8>,
}

impl Matrix {
    /// Sends one message and checks everything about it.
    fn transfer(&mut self, link: &Link, memory: Memory, split: usize, size: Size) {
        let spread = if size == HUGE { 0 } else { self.transfers % 16 * PAGE };
        let start = spread + size.offset;
        let range = start..start + size.bytes;
        if memory != Memory::Normal && range.end > self.stock.block_bytes() {
            return;
        }
        self.transfers += 1;
        let what =
            format!("{}: {memory:?}, {split} pieces, {size:?}, forced {}", link.name, self.forced);
        let before = self.driver.ring.stats();
        let payload = self.stock.payload(memory, split, range.clone());
        let id = match &link.peer {
            Peer::Stream(reader) => {
                reader.expect(&range);
                self.driver.send(link.sock, payload)
            }
            Peer::Datagrams(Some(to), _) => self.driver.send_to(link.sock, *to, payload),
            Peer::Datagrams(None, _) => self.driver.send(link.sock, payload),
        };
        self.driver.told.clear();
        self.driver.until(&what, |driver| driver.is_released(id));
        match &link.peer {
            Peer::Stream(reader) => reader.judge(),
            Peer::Datagrams(_, peer) => {
                let bytes = peer.recv(&mut self.buffer).expect(&what);
                assert_same(&self.buffer[..bytes], &pattern()[range.clone()]);
            }
        }

        let fate = self.driver.take(id);
        assert_eq!((fate.sent, fate.failed), (Some(size.bytes as u64), None), "{what}");
        let (payload, copied) = fate.released.expect("released");
        self.stock.take_back(payload, range);
        self.check_way(link, memory, split, size, copied, &before, &what);
    }

    #[expect(clippy::too_many_arguments, reason = "the row of the table, and what was seen")]
    fn check_way(
        &self,
        link: &Link,
        memory: Memory,
        split: usize,
        size: Size,
        copied: Copied,
        before: &ringwire::Stats,
        what: &str,
    ) {
        let after = self.driver.ring.stats();
        let bytes = size.bytes as u64;
        let requests = after.requests - before.requests;
        let registered = after.registered_requests - before.registered_requests;
        let small = after.copied_bytes.small - before.copied_bytes.small;
        let many_pieces = after.copied_bytes.many_pieces - before.copied_bytes.many_pieces;
        // Not everybody may register even a small arena.
        let registers = self.stock.is_registered() && ENGINE.registers;
        let memory = if registers { memory } else { Memory::Normal };
        let way = match link.owner {
            Some(_) if !ENGINE.shares_zero_copy => Way::CopiedForOthers,
            _ => way(link, memory, split, size.bytes, self.forced),
        };
        let (chosen, before_chosen) = (&after.copied_bytes, &before.copied_bytes);
        let by_engine = chosen.engine_copies - before_chosen.engine_copies;
        let for_others = chosen.unsure_notifications - before_chosen.unsure_notifications;
        let memlock_short = after.copied_bytes.memlock_short - before.copied_bytes.memlock_short;
        if memlock_short > 0 {
            // Which may be known before it is found out that others have the socket, too.
            let may = matches!(way, Way::Normal | Way::CopiedForOthers);
            assert!(self.stock.limited.is_some() && may, "{what}");
            // What is left when memory comes back goes without a copy, blocks as registered.
            assert!(registered == 0 || memory != Memory::Normal, "{what}");
            let all = memlock_short == bytes && copied == Copied::Yes;
            let some = memlock_short < bytes && ENGINE.says_copied(copied);
            assert!(all || some, "{what}: {copied:?}");
            return;
        }
        let path_copies = after.copied_bytes.path_copies - before.copied_bytes.path_copies;
        if path_copies > 0 {
            // Both ends are here, so every path copies: known at once, or soon found out.
            let may = matches!(way, Way::Registered | Way::Normal | Way::CopiedForOthers);
            assert!(!self.forced && may, "{what}");
            // One that began before that was known, or as a probe, may have been refused.
            let path_copies = path_copies + for_others;
            assert_eq!((registered, path_copies, copied), (0, bytes, Copied::Yes), "{what}");
            return;
        }
        let route = (requests > 0, registered, small, many_pieces);
        match way {
            Way::Registered => assert_eq!(route, (true, requests, 0, 0), "{what}"),
            // Where so much cannot be pinned at once it goes in parts, and a part that is all block
            // goes registered.
            Way::Normal if self.stock.limited.is_some() && requests > 1 => {
                assert!(registered < requests || memory == Memory::Block, "{what}: {route:?}");
                assert!(registered == 0 || memory != Memory::Normal, "{what}: {route:?}");
                assert_eq!((small, many_pieces), (0, 0), "{what}");
            }
            Way::Normal => assert_eq!(route, (true, 0, 0, 0), "{what}"),
            Way::CopiedAsSmall => assert_eq!((registered, small), (0, bytes), "{what}"),
            Way::CopiedAsManyPieces => assert_eq!(route, (false, 0, 0, bytes), "{what}"),
            Way::CopiedByEngine => {
                assert_eq!((registered, small, many_pieces, by_engine), (0, 0, 0, bytes), "{what}");
            }
            Way::CopiedForOthers => {
                assert_eq!((registered, small + many_pieces + for_others), (0, bytes), "{what}");
            }
        }
        match (way, link.is_udp()) {
            // Less than a packet may have joined an earlier one, and then nobody can say.
            (Way::Registered | Way::Normal, false) if size.bytes < 64 * KIB => {
                assert_ne!(copied, Copied::No, "{what}");
            }
            (Way::Registered | Way::Normal, _) => {
                assert!(ENGINE.says_copied(copied), "{what}: {copied:?}");
            }
            _ => assert_eq!(copied, Copied::Yes, "{what}"),
        }
    }

    /// Sends five messages that wait together, so that a stream gathers them: each of another
    /// memory, the first of `memory`.
    fn transfer_together(&mut self, link: &Link, memory: usize, split: usize, size: Size) {
        let what = format!("{}: 5 together, {split} pieces, {size:?}", link.name);
        let mut messages = Vec::new();
        for at in 0..5 {
            let start = self.transfers % 16 * PAGE + size.offset;
            let range = start..start + size.bytes;
            self.transfers += 1;
            let memory = MEMORIES[(memory + at) % MEMORIES.len()];
            let payload = self.stock.payload(memory, split, range.clone());
            let id = match &link.peer {
                Peer::Stream(reader) => {
                    reader.expect(&range);
                    self.driver.send(link.sock, payload)
                }
                Peer::Datagrams(Some(to), _) => self.driver.send_to(link.sock, *to, payload),
                Peer::Datagrams(None, _) => self.driver.send(link.sock, payload),
            };
            messages.push((id, range));
        }
        self.driver.told.clear();
        self.driver.until(&what, |driver| messages.iter().all(|(id, _)| driver.is_released(*id)));
        for (id, range) in messages {
            match &link.peer {
                Peer::Stream(reader) => reader.judge(),
                Peer::Datagrams(_, peer) => {
                    let bytes = peer.recv(&mut self.buffer).expect(&what);
                    assert_same(&self.buffer[..bytes], &pattern()[range.clone()]);
                }
            }
            let fate = self.driver.take(id);
            assert_eq!((fate.sent, fate.failed), (Some(size.bytes as u64), None), "{what}");
            let (payload, copied) = fate.released.expect("released");
            assert_ne!(copied, Copied::No, "{what}");
            self.stock.take_back(payload, range);
        }
    }

    /// Everything on every link, with thresholds that force zero copy or the default ones.
    fn run(&mut self) {
        let links = links(&mut self.driver.ring);
        let mut streams = Vec::new();
        for link in links {
            let sizes: &[Size] = match (link.is_udp(), self.forced) {
                (true, _) => &[DATAGRAM],
                (false, true) => &[LARGE, HUGE],
                // Far above every threshold 32 MiB show nothing that 1 MiB does not.
                (false, false) => &[LARGE],
            };
            for size in SMALL_SIZES.iter().chain(sizes) {
                for memory in MEMORIES {
                    for split in SPLITS {
                        self.transfer(&link, memory, split, *size);
                    }
                }
            }
            let fits = |size: &&Size| size.bytes + 16 * PAGE <= self.stock.block_bytes();
            let together: Vec<Size> =
                SMALL_SIZES.iter().chain(sizes).filter(fits).copied().collect();
            for size in together.into_iter().filter(|size| *size != HUGE) {
                for memory in 0..MEMORIES.len() {
                    for split in SPLITS {
                        self.transfer_together(&link, memory, split, size);
                    }
                }
            }
            if let Some(owner) = &link.owner {
                let fds = &mut [PollFd::new(owner, PollFlags::empty())];
                assert_eq!(poll(fds, Some(&Timespec::default())), Ok(0), "{}: errors", link.name);
            }
            self.driver.ring.close(link.sock).unwrap();
            match link.peer {
                Peer::Stream(reader) => streams.push(reader),
                Peer::Datagrams(_, peer) => {
                    peer.set_nonblocking(true).unwrap();
                    let more = peer.recv(&mut self.buffer).map_err(|why| why.kind());
                    assert_eq!(more, Err(std::io::ErrorKind::WouldBlock), "nobody sent that");
                }
            }
        }
        self.driver.until("all sockets closed", |driver| driver.ring.stats().sockets == 0);
        streams.into_iter().for_each(Reader::end);
        self.driver.assert_at_rest();
        let stats = self.driver.ring.stats();
        assert_eq!(stats.failed_payloads, 0);
        assert_eq!(stats.payloads as usize, self.transfers);
        let copied = &stats.copied_bytes;
        assert_eq!((copied.socket_refuses, copied.over_mtu, copied.kernel_lacks), (0, 0, 0));
        assert_eq!(stats.kernel_zero_copy_bytes, 0, "on loopback");
    }
}

/// In a process of its own. Where locked memory is limited it asks for more than there is, and what
/// a process's rings may pin is learned together: the tests behind it would be bound by it.
fn matrix(test: &str, task_run: TaskRun) {
    if !is_child(test) {
        let output = run_child(module_path!(), test, &[]);
        // Past the harness's capture, so that it shows for a passing test.
        let _ = std::io::stderr().lock().write_all(&output.stderr);
        return;
    }
    let started = Instant::now();
    let mut said = Vec::new();
    for (forced, thresholds) in [(true, ZERO_COPY), (false, Thresholds::default())] {
        let stock = Stock::new();
        if let Some(needs) = stock.limited.as_ref().filter(|_| forced) {
            skip(test, &format!("needs root: no blocks of 32 MiB here: {needs}"));
        }
        let builder = builder().arena(&stock.arena).task_run(task_run);
        let driver = Driver::build(builder.thresholds(thresholds));
        if stock.is_registered() && ENGINE.registers {
            // Another test may have found the limit that leaves no room for the largest blocks.
            let why = driver.ring.why().unwrap_or_default();
            let limit = stock.limited.is_some() && why.contains("RLIMIT_MEMLOCK");
            let lacks = !has(Feature::VectoredRegistered) && why.contains("several pieces");
            let fine = why.is_empty() || limit || lacks;
            assert!(fine, "all that the test is about works here: {why}");
        }
        let mut matrix = Matrix { stock, driver, forced, transfers: 0, buffer: vec![0; 64 * KIB] };
        matrix.run();
        // 8 TCP set-ups × 12 × 6 sizes (5), and 8 of UDP × 12 × 5; and fives of 16 × 12 × 5.
        let transfers = if forced { 1056 + 4800 } else { 960 + 4800 };
        // 32 MiB of or with blocks: 8 × 9.
        let left_out = if matrix.stock.limited.is_some() && forced { 72 } else { 0 };
        assert_eq!(matrix.transfers, transfers - left_out);
        let stats = matrix.driver.ring.stats();
        said.push(format!(
            "{} transfers {} ({} registered requests, {} others, {} direct copies)",
            matrix.transfers,
            if forced { "by zero copy" } else { "by default thresholds" },
            stats.registered_requests,
            stats.requests - stats.registered_requests,
            stats.direct_copies,
        ));
    }
    eprintln!("{test}: {}, {:.1} s", said.join(", "), started.elapsed().as_secs_f64());
}

#[test]
fn every_message_arrives_whole_interrupt() {
    let Some(()) = runs_here("every_message_arrives_whole_interrupt") else { return };
    matrix("every_message_arrives_whole_interrupt", TaskRun::Interrupt);
}

#[test]
fn every_message_arrives_whole_deferred() {
    let Some(()) = runs_here("every_message_arrives_whole_deferred") else { return };
    matrix("every_message_arrives_whole_deferred", TaskRun::Deferred);
}
