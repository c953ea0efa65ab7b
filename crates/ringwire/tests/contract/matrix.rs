//! Must move bytes unharmed: every socket set-up × memory × pieces × size, with both kinds of ring.
//!
//! The table is that of liburing's `test/send-zerocopy.c` (kernel.md §9), through the public API:
//! 16 socket set-ups; registered, normal and mixed memory; 1, 4 and 32 pieces, all of one byte but
//! the second; from one byte to 32 MiB, at odd offsets, and from and to 13 bytes inside a
//! registration. Everything a message should be is a range of one pattern, so that no transfer is
//! compared with what the sender says it sent. Asserted for each: all bytes, one `Sent`, one
//! `Released` with the payload in it, the route that was taken, and what was said about copying:
//! loopback copies, so never `No`.
// length: the table, what makes its messages and what reads them, and the edges of registrations.
// length: one table and what it takes to run it, read as a whole

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
use crate::support::{Driver, PATIENCE, TASK_RUNS, ZERO_COPY, assert_same, hear, noise};
use bytes::Bytes;
use ringwire::{
    Arena, Block, Copied, Error, Payload, Piece, Registration, Ring, Socket, TaskRun, Thresholds,
};
use ringwire_wire::{Family, loopback, set_zerocopy, skip};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

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

/// Memory to make messages of.
struct Stock {
    arena: Arena,
    /// Copies of the pattern from its beginning, behind each other.
    blocks: Vec<Block>,
    /// Every byte value, 256 times, so that a single byte can lie anywhere.
    palette: Block,
    next_in_palette: usize,
    next_owner: usize,
    large_vec: Option<Vec<u8>>,
    /// RLIMIT_MEMLOCK is in the way: 32 MiB go from vectors only, and may be copied.
    limited: Option<Cow<'static, str>>,
}

impl Stock {
    /// With room for everything, or for what a user with little RLIMIT_MEMLOCK may register.
    fn new() -> Stock {
        let build =
            |capacity, wish| Arena::builder().capacity_bytes(capacity).registration(wish).build();
        let (arena, blocks, limited) = match build(36 * MIB, Registration::Require) {
            Ok(arena) => (arena, vec![16 * MIB, 16 * MIB], None),
            Err(Error::Unsupported { needs, .. }) => {
                let arena = build(2 * MIB, Registration::Require)
                    .or_else(|_| build(2 * MIB, Registration::Off));
                (arena.unwrap(), vec![MIB + 256 * KIB], Some(needs))
            }
            Err(why) => panic!("{why}"),
        };
        let mut start = 0;
        let blocks = blocks.into_iter().map(|bytes| {
            let mut block = arena.alloc(bytes).unwrap();
            assert_eq!(block.put(&pattern()[start..start + bytes]), bytes);
            start += bytes;
            block.freeze()
        });
        let blocks = blocks.collect();
        let mut palette = arena.alloc(64 * KIB).unwrap();
        for (at, byte) in palette.spare_mut().iter_mut().enumerate() {
            *byte = at as u8;
        }
        palette.advance(64 * KIB);
        let palette = palette.freeze();
        let (next_in_palette, next_owner, large_vec) = (0, 0, None);
        Stock { arena, blocks, palette, next_in_palette, next_owner, large_vec, limited }
    }

    /// How much of the pattern there is in blocks.
    fn block_bytes(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }

    /// Whether all blocks are registered; counted as missing where the host does not allow it.
    fn is_registered(&self) -> bool {
        self.arena.registered_bytes() == self.arena.capacity_bytes()
    }

    /// The payload that says `range` of the pattern.
    fn payload(&mut self, memory: Memory, split: usize, range: Range<usize>) -> Payload {
        let mut pieces = Vec::new();
        match memory {
            Memory::Block => self.split(&mut pieces, true, split, range),
            Memory::Normal => self.split(&mut pieces, false, split, range),
            Memory::HeaderThenBlock => {
                let header = range.start..range.end.min(range.start + 100);
                let rest = header.end..range.end;
                pieces.push(self.foreign(header));
                self.split(&mut pieces, true, split, rest);
            }
            Memory::BlockThenForeign => {
                let middle = range.start + range.len().div_ceil(2);
                self.split(&mut pieces, true, split, range.start..middle);
                pieces.push(self.foreign(middle..range.end));
            }
        }
        ringwire::IntoPayload::into_payload(pieces)
    }

    /// `count` pieces of one byte, but the second has what is left. Where there are fewer bytes,
    /// the last pieces are empty.
    fn split(&mut self, to: &mut Vec<Piece>, block: bool, count: usize, range: Range<usize>) {
        if count == 1 {
            match block {
                true => self.blocks_of(to, range),
                false => to.push(self.foreign(range)),
            }
            return;
        }
        let mut at = range.start;
        for piece in 0..count {
            let left = range.end - at;
            let bytes = match piece {
                1 if left >= count - 1 => left - (count - 2),
                _ => left.min(1),
            };
            match block {
                true if bytes > 1 => self.blocks_of(to, at..at + bytes),
                true => to.push(self.palette_piece(at..at + bytes)),
                false => to.push(self.foreign(at..at + bytes)),
            }
            at += bytes;
        }
        assert_eq!(at, range.end);
    }

    fn blocks_of(&self, to: &mut Vec<Piece>, range: Range<usize>) {
        let mut start = 0;
        for block in &self.blocks {
            let (from, end) = (range.start.max(start), range.end.min(start + block.len()));
            if from < end {
                to.push(block.slice(from - start..end - start).into());
            }
            start += block.len();
        }
        if range.is_empty() {
            to.push(self.blocks[0].slice(..0).into());
        }
    }

    /// At most one byte, which adjoins nothing that was asked for before.
    fn palette_piece(&mut self, range: Range<usize>) -> Piece {
        self.next_in_palette = (self.next_in_palette + 2 * 256) % (64 * KIB);
        let value = range.clone().map(|at| usize::from(pattern()[at])).sum::<usize>();
        let start = self.next_in_palette + value;
        self.palette.slice(start..start + range.len()).into()
    }

    /// Ordinary memory: large pieces in a vector that is used again, small ones in every owner.
    fn foreign(&mut self, range: Range<usize>) -> Piece {
        let bytes = &pattern()[range];
        if bytes.len() > 64 * KIB {
            let mut vec = self.large_vec.take().unwrap_or_default();
            vec.clear();
            vec.extend_from_slice(bytes);
            return vec.into();
        }
        self.next_owner += 1;
        match self.next_owner % 4 {
            0 => Bytes::copy_from_slice(bytes).into(),
            1 => Box::<[u8]>::from(bytes).into(),
            2 => Arc::<[u8]>::from(bytes).into(),
            _ => bytes.to_vec().into(),
        }
    }

    /// Checks a payload that came back, and keeps what can be used again.
    fn take_back(&mut self, payload: Payload, range: Range<usize>) {
        let mut at = range.start;
        for piece in payload.into_pieces() {
            let bytes = piece.as_slice();
            assert_same(bytes, &pattern()[at..at + bytes.len()]);
            at += bytes.len();
            if bytes.len() > 64 * KIB
                && let Ok(vec) = piece.into_vec()
            {
                self.large_vec = Some(vec);
            }
        }
        assert_eq!(at, range.end);
    }
}

/// Reads from a stream and compares, on a thread of its own.
struct Reader {
    ask: mpsc::Sender<Range<usize>>,
    verdict: mpsc::Receiver<Result<(), String>>,
    thread: JoinHandle<()>,
}

impl Reader {
    fn new(mut peer: TcpStream) -> Reader {
        let (ask, asked) = mpsc::channel::<Range<usize>>();
        let (say, verdict) = mpsc::channel();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 256 * KIB];
            for range in asked {
                let mut compare = || {
                    let mut at = range.start;
                    while at < range.end {
                        let most = buffer.len().min(range.end - at);
                        let read = peer.read(&mut buffer[..most]).map_err(|why| why.to_string())?;
                        if read == 0 {
                            return Err(format!("the stream ended at {at} of {range:?}"));
                        }
                        if buffer[..read] != pattern()[at..at + read] {
                            return Err(format!("wrong bytes in {at}..{} of {range:?}", at + read));
                        }
                        at += read;
                    }
                    Ok(())
                };
                say.send(compare()).unwrap();
            }
            assert_eq!(peer.read(&mut buffer).unwrap(), 0, "bytes that nobody sent");
        });
        Reader { ask, verdict, thread }
    }

    fn expect(&self, range: &Range<usize>) {
        self.ask.send(range.clone()).unwrap();
    }

    fn judge(&self) {
        self.verdict.recv_timeout(PATIENCE).expect("the reader").unwrap();
    }

    /// The peer sees the end, and nothing before it.
    fn end(self) {
        drop(self.ask);
        self.thread.join().unwrap();
    }
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

fn way(udp: bool, memory: Memory, split: usize, bytes: usize, forced: bool) -> Way {
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
            _ => way(link.is_udp(), memory, split, size.bytes, self.forced),
        };
        let (chosen, before_chosen) = (&after.copied_bytes, &before.copied_bytes);
        let by_engine = chosen.engine_copies - before_chosen.engine_copies;
        let for_others = chosen.unsure_notifications - before_chosen.unsure_notifications;
        let memlock_short = after.copied_bytes.memlock_short - before.copied_bytes.memlock_short;
        if memlock_short > 0 {
            assert!(self.stock.limited.is_some() && way == Way::Normal, "{what}");
            assert_eq!(registered, 0, "{what}");
            // What goes in many requests may find room for some of them.
            let all = memlock_short == bytes && copied == Copied::Yes;
            let some = memlock_short < bytes && ENGINE.says_copied(copied);
            assert!(all || some && !ENGINE.waits_in_the_kernel, "{what}: {copied:?}");
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

fn matrix(test: &str, task_run: TaskRun) {
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
            assert_eq!(driver.ring.why(), None, "all that the test is about works here");
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
    let said = said.join(", ");
    // Past the harness's capture, so that it shows for a passing test.
    let line = format!("{test}: {said}, {:.1} s\n", started.elapsed().as_secs_f64());
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

#[test]
fn every_message_arrives_whole_interrupt() {
    matrix("every_message_arrives_whole_interrupt", TaskRun::Interrupt);
}

#[test]
fn every_message_arrives_whole_deferred() {
    matrix("every_message_arrives_whole_deferred", TaskRun::Deferred);
}

/// An arena that is registered as a whole, and full of blocks of `block_bytes`, in the order of
/// their addresses: so the first begins where the first segment does, and the last ends with it.
fn full_arena(
    test: &str,
    capacity: usize,
    segment: usize,
    block_bytes: usize,
) -> Option<(Arena, Vec<Block>)> {
    let built = Arena::builder()
        .capacity_bytes(capacity)
        .segment_bytes(segment)
        .registration(Registration::Require)
        .build();
    let arena = match built {
        Ok(arena) => arena,
        Err(Error::Unsupported { needs, .. }) => {
            skip(test, &format!("needs root: {capacity} bytes: {needs}"));
            return None;
        }
        Err(why) => panic!("{why}"),
    };
    let mut blocks = Vec::new();
    for start in (0..capacity).step_by(block_bytes) {
        let mut block = arena.alloc(block_bytes).unwrap();
        assert_eq!(block.put(&pattern()[start..start + block_bytes]), block_bytes);
        blocks.push(block.freeze());
    }
    assert!(arena.alloc(1).is_err(), "full");
    Some((arena, blocks))
}

fn in_order_of_addresses(blocks: &mut [Block]) {
    blocks.sort_by_key(|block| block.as_ptr() as usize);
}

/// Sends pieces on a fresh stream and compares what comes with the same bytes, copied before.
fn send_all(driver: &mut Driver, family: Family, messages: Vec<Vec<Piece>>) {
    let (near, far) = loopback::tcp_pair(family).unwrap();
    let heard = hear(far);
    let sock = driver.ring.attach(near).unwrap();
    let mut expected = Vec::new();
    let mut ids = Vec::new();
    for pieces in messages {
        expected.extend(pieces.iter().flat_map(|piece| piece.as_slice().to_vec()));
        ids.push(driver.send(sock, pieces));
    }
    driver.until_released(&ids);
    driver.ring.close(sock).unwrap();
    driver.until("closed", |driver| driver.ring.stats().sockets == 0);
    let heard = heard.join().unwrap();
    assert_same(&heard.bytes, &expected);
    assert_eq!(heard.error, None);
    driver.assert_at_rest();
}

#[test]
fn messages_begin_and_end_13_bytes_inside_a_registration() {
    let test = "messages_begin_and_end_13_bytes_inside_a_registration";
    // Capacity and block: one block that is the segment; many that adjoin; the largest there is.
    let table = [(MIB, MIB), (MIB, 64 * KIB), (64 * KIB, 4 * KIB), (16 * MIB, 16 * MIB)];
    for task_run in TASK_RUNS {
        for (capacity, block_bytes) in table {
            let Some((arena, mut blocks)) = full_arena(test, capacity, capacity, block_bytes)
            else {
                continue;
            };
            in_order_of_addresses(&mut blocks);
            let (first, last) = (blocks[0].as_ptr() as usize, blocks[blocks.len() - 1].as_ptr());
            assert_eq!(last as usize + block_bytes - first, capacity, "they are the segment");
            let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
            let mut driver = Driver::build(builder);
            let ends = blocks.len() - 1;
            let inner = |(at, block): (usize, &Block)| {
                let from = if at == 0 { 13 } else { 0 };
                let end = if at == ends { block_bytes - 13 } else { block_bytes };
                Piece::from(block.slice(from..end))
            };
            for family in Family::BOTH {
                let all: Vec<Piece> = blocks.iter().enumerate().map(inner).collect();
                let bytes: usize = all.iter().map(|piece| piece.as_slice().len()).sum();
                assert_eq!(bytes, capacity - 26);
                let begin = vec![Piece::from(blocks[0].slice(13..1013))];
                let end = vec![Piece::from(blocks[ends].slice(block_bytes - 1013..))];
                let one_byte = vec![Piece::from(blocks[ends].slice(block_bytes - 1..))];
                send_all(&mut driver, family, vec![all, begin, end, one_byte]);
            }
            let stats = driver.ring.stats();
            let registered = ENGINE.registered(stats.requests);
            assert_eq!(registered, stats.registered_requests, "all of it is registered");
            assert!(stats.requests + stats.direct_copies >= 4);
        }
    }
}

#[test]
fn datagrams_begin_and_end_13_bytes_inside_a_registration() {
    let test = "datagrams_begin_and_end_13_bytes_inside_a_registration";
    for task_run in TASK_RUNS {
        let Some((arena, blocks)) = full_arena(test, 64 * KIB, 64 * KIB, 64 * KIB) else { return };
        let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        for family in Family::BOTH {
            let (us, peer) = loopback::udp_pair(family).unwrap();
            peer.set_read_timeout(Some(PATIENCE)).unwrap();
            let sock = driver.ring.attach(us).unwrap();
            let mut buffer = vec![0; 64 * KIB];
            for range in [13..32 * KIB, 32 * KIB..64 * KIB - 13, 13..14, 65_535..65_536] {
                let fate = driver.finish_one(sock, blocks[0].slice(range.clone()));
                assert_eq!(fate.sent, Some(range.len() as u64));
                let bytes = peer.recv(&mut buffer).unwrap();
                assert_same(&buffer[..bytes], &pattern()[range]);
            }
        }
        assert_eq!(driver.ring.stats().registered_requests, ENGINE.registered(8));
        driver.assert_at_rest();
    }
}

#[test]
fn one_request_reads_one_segment_only() {
    let test = "one_request_reads_one_segment_only";
    for task_run in TASK_RUNS {
        let Some((arena, blocks)) = full_arena(test, 128 * KIB, 64 * KIB, 64 * KIB) else { return };
        let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        let [first, second] = &blocks[..] else { panic!("two segments of one block") };
        // Payloads from two segments: a registered request each.
        let from_both = || vec![vec![first.clone().into()], vec![second.clone().into()]];
        send_all(&mut driver, Family::V4, from_both());
        let stats = driver.ring.stats();
        assert_eq!(stats.registered_requests, ENGINE.registered(2));
        assert!(stats.requests == 2 || !ENGINE.registers);
        // One payload with pieces from both goes unregistered as a whole.
        let pieces = vec![first.slice(..50_000).into(), second.slice(13..50_000).into()];
        send_all(&mut driver, Family::V4, vec![pieces]);
        let stats = driver.ring.stats();
        assert_eq!(stats.registered_requests, ENGINE.registered(2));
        assert!(stats.requests == 3 || !ENGINE.registers);
    }
}

#[test]
fn segments_that_come_later_are_registered_too() {
    let test = "segments_that_come_later_are_registered_too";
    for task_run in TASK_RUNS {
        let built = Arena::builder()
            .capacity_bytes(512 * KIB)
            .segment_bytes(64 * KIB)
            .registration(Registration::Require)
            .build();
        let arena = match built {
            Ok(arena) => arena,
            Err(why) => return skip(test, &format!("needs root: {why}")),
        };
        let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        // In each segment, one block at least that is there before the ring hears of the segment.
        let mut blocks = Vec::new();
        for round in 0..4 {
            while arena.stats().segments < 2 * round + 2 {
                let mut block = arena.alloc(16 * KIB).unwrap();
                let start = blocks.len() * 16 * KIB;
                assert_eq!(block.put(&pattern()[start..start + 16 * KIB]), 16 * KIB);
                blocks.push(block.freeze());
            }
            let before = driver.ring.stats();
            let messages = blocks.iter().map(|block| vec![block.slice(13..).into()]).collect();
            send_all(&mut driver, Family::V6, messages);
            let after = driver.ring.stats();
            let requests = after.requests - before.requests;
            let registered = after.registered_requests - before.registered_requests;
            assert_eq!(registered, ENGINE.registered(requests));
            if ENGINE.registers {
                assert!(requests >= 2 * round + 2, "a segment a request at least");
            }
        }
        assert_eq!(arena.stats().segments, 8);
        drop(blocks);
        driver.assert_at_rest();
    }
}

/// Two rings, on threads that did not build the arena, lend the same blocks at the same time.
#[test]
fn rings_share_an_arena_and_its_blocks() {
    let test = "rings_share_an_arena_and_its_blocks";
    let Some((arena, blocks)) = full_arena(test, 256 * KIB, 256 * KIB, 64 * KIB) else { return };
    let threads = TASK_RUNS.map(|task_run| {
        let (arena, blocks) = (arena.clone(), blocks.clone());
        thread::spawn(move || {
            let builder = builder().arena(&arena).task_run(task_run).thresholds(ZERO_COPY);
            let mut driver = Driver::build(builder);
            for _ in 0..20 {
                let message = |block: &Block| vec![block.clone().into()];
                send_all(&mut driver, Family::V4, blocks.iter().map(message).collect());
            }
            let stats = driver.ring.stats();
            assert_eq!(ENGINE.registered(stats.requests), stats.registered_requests);
            assert_eq!(stats.payloads, 80);
        })
    });
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(arena.stats().allocated_blocks, 4, "ours");
    drop(blocks);
    assert_eq!(arena.stats().allocated_blocks, 0);
}

#[test]
fn blocks_of_a_strange_arena_go_as_normal_memory() {
    for task_run in TASK_RUNS {
        let strange = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
        let known = Arena::builder().capacity_bytes(256 * KIB).build().unwrap();
        let builder = builder().arena(&known).task_run(task_run).thresholds(ZERO_COPY);
        let mut driver = Driver::build(builder);
        let mut block = strange.alloc(64 * KIB).unwrap();
        assert_eq!(block.put(&pattern()[..64 * KIB]), 64 * KIB);
        send_all(&mut driver, Family::V4, vec![vec![block.freeze().into()]]);
        let stats = driver.ring.stats();
        assert_eq!((stats.registered_requests, stats.kernel_zero_copy_bytes), (0, 0));
        assert_eq!(stats.requests + stats.direct_copies, 1 + stats.retries);
    }
}
