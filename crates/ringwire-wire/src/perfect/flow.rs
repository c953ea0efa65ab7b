//! A TCP connection whose peer is not there: the caller's side of it.
//!
//! Made here by repair, acknowledged by `acker.rs`, which shares [`Shared`] with the [`Flow`].
//!
//! Numbers of bytes count from the connection's beginning: `acknowledged <= sent <= taken`, and
//! `written` is at most what the socket has taken, because it is said after the write.

use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::acker::{Acker, Raw};
use super::segment::Headers;
use super::sys;

/// Our first sequence number: the number wraps after the first MiB, on every connection.
const FIRST_SEQUENCE: u32 = 0u32.wrapping_sub(1 << 20);
/// The virtual peer's.
const PEER_FIRST_SEQUENCE: u32 = 0u32.wrapping_sub(1 << 16);

/// How long injected bytes may stay without room for them.
const INJECT_PATIENCE: Duration = Duration::from_secs(120);

/// What a sender says it has written to a [`Flow`]; cheap to clone, and to add to.
#[derive(Clone)]
pub struct Written {
    counter: Arc<Counter>,
}

/// On a cache line of its own: the sender writes it for every write, the acknowledger reads it for
/// every look.
#[repr(align(128))]
struct Counter {
    bytes: AtomicU64,
    /// The socket may be about to send though its sender says nothing; the acknowledger clears it.
    warmed: AtomicBool,
    acker: Arc<Acker>,
}

impl Written {
    /// Says that the flow's socket has taken `bytes` more. Say it after the write, or after the
    /// request's result; never before.
    ///
    /// One atomic addition; only if the acknowledger sleeps, as it does after 10 ms in which
    /// nothing happened, it is woken too.
    #[inline]
    pub fn add(&self, bytes: u64) {
        self.counter.bytes.fetch_add(bytes, Ordering::Release);
        self.counter.acker.wake();
    }

    /// What was said so far.
    pub fn bytes(&self) -> u64 {
        self.counter.bytes.load(Ordering::Acquire)
    }

    /// Says that the socket may be about to send.
    fn warm(&self) {
        self.counter.warmed.store(true, Ordering::Relaxed);
        self.counter.acker.wake();
    }

    /// Whether somebody has said so since this was asked last.
    pub(super) fn take_warmed(&self) -> bool {
        let warmed = &self.counter.warmed;
        warmed.load(Ordering::Relaxed) && warmed.swap(false, Ordering::Relaxed)
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Written").field(&self.bytes()).finish()
    }
}

/// What a flow's owner and the acknowledger share.
pub(super) struct Shared {
    stream: TcpStream,
    headers: Headers,
    raw: Raw,
    written: Written,
    /// Bytes acknowledged; the acknowledger alone writes it.
    acknowledged: AtomicU64,
    /// Bytes the peer has sent at least once.
    injected: AtomicU64,
    /// The peer acknowledges nothing.
    held: AtomicBool,
    /// Locked for each look of the acknowledger, and to change `held`.
    looking: Mutex<()>,
    /// Set once, when the flow is dropped.
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Has `look` run unless the flow is held; who is to hold it waits for the end of that.
    pub(super) fn unless_held<T>(&self, look: impl FnOnce() -> T) -> Option<T> {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.is_held()).then(look)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Sends an acknowledgement of the first `bytes` bytes.
    pub(super) fn acknowledge(&self, bytes: u64) {
        let (seq, ack) = (self.peer_sequence(), FIRST_SEQUENCE.wrapping_add(bytes as u32));
        let (packet, length) = self.headers.pure_ack(seq, ack);
        self.acknowledged.store(bytes, Ordering::Release);
        self.raw.send(&packet[..length]);
    }

    /// The sequence number of the peer's next new byte.
    fn peer_sequence(&self) -> u32 {
        PEER_FIRST_SEQUENCE.wrapping_add(self.injected.load(Ordering::Acquire) as u32)
    }

    /// See [`abort`].
    pub(super) fn abort(&self) {
        abort(&self.stream);
    }
}

/// Repairs `socket`, made in the wire's namespace, into a connection to `peer`.
pub(super) fn establish(
    socket: OwnedFd,
    peer: SocketAddr,
    max_segment: u32,
) -> io::Result<TcpStream> {
    sys::repair(socket.as_fd())?;
    sys::set_sequence(socket.as_fd(), FIRST_SEQUENCE, PEER_FIRST_SEQUENCE)?;
    rustix::net::sockopt::set_tcp_congestion(&socket, "reno")?;
    sys::set_max_segment(socket.as_fd(), max_segment)?;
    rustix::net::connect(&socket, &peer)?;
    sys::finish_repair(socket.as_fd(), max_segment, PEER_FIRST_SEQUENCE)?;
    Ok(TcpStream::from(socket))
}

/// Aborts a connection, wherever its descriptors are: all of them see it closed, and what was under
/// way is let go. In repair, so that nothing is sent about it, and nothing stays; where somebody
/// has to be woken first, it may be the FIN that wakes him, which the device drops.
pub(super) fn abort(stream: &TcpStream) {
    let _ = sys::repair(stream.as_fd());
    for _ in 0..WAITERS_LEAVE {
        // It fails on a socket that is aborted already, and, before 6.6, on one that another thread
        // waits in: who does is woken, and has then to leave.
        if rustix::net::connect_unspec(stream) != Err(Errno::BUSY) {
            return;
        }
        let _ = stream.shutdown(Shutdown::Both);
        std::thread::sleep(WAITER_LEAVES);
    }
}

/// How often is looked whether those that waited in a socket have left it …
const WAITERS_LEAVE: u32 = 1000;
/// … and how long they have in between.
const WAITER_LEAVES: Duration = Duration::from_millis(1);

/// An established TCP connection whose peer takes and acknowledges whatever is sent, at the pace
/// of the wire's acknowledger.
///
/// Send on [`Flow::stream`], or hand a `try_clone` of it to whoever sends, and say to
/// [`Flow::written`] what was written. Dropping the flow aborts the connection: every descriptor of
/// it then is a closed socket's.
pub struct Flow {
    shared: Arc<Shared>,
    acker: Arc<Acker>,
    /// A segment on its way in. The lock is held while bytes are injected.
    packet: Mutex<Vec<u8>>,
    max_segment: usize,
}

impl Flow {
    /// A flow over `stream`, which [`establish`] has made.
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        max_segment: u32,
        raw: Raw,
        acker: &Arc<Acker>,
    ) -> io::Result<Flow> {
        let counter = Counter {
            bytes: AtomicU64::new(0),
            warmed: AtomicBool::new(false),
            acker: Arc::clone(acker),
        };
        let shared = Arc::new(Shared {
            headers: Headers::new(peer, stream.local_addr()?),
            stream,
            raw,
            written: Written { counter: Arc::new(counter) },
            acknowledged: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            held: AtomicBool::new(false),
            looking: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        acker.add(Arc::clone(&shared));
        let (acker, max_segment) = (Arc::clone(acker), max_segment as usize);
        Ok(Flow { shared, acker, packet: Mutex::default(), max_segment })
    }

    /// The near end, and the only one.
    pub fn stream(&self) -> &TcpStream {
        &self.shared.stream
    }

    /// Where to say what was written.
    pub fn written(&self) -> &Written {
        &self.shared.written
    }

    /// Bytes the peer has acknowledged, those that the socket has yet to hear of included.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Acquire)
    }

    /// Has the peer acknowledge nothing, as if it were gone, until this is called with `false`: not
    /// a byte that is sent after this has returned. After ten seconds the socket begins to send
    /// again what it has sent.
    pub fn hold(&self, hold: bool) {
        let looking = self.shared.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.held.store(hold, Ordering::Relaxed);
        drop(looking);
        self.shared.written.warm();
    }

    /// Sends `bytes` from the peer, and returns when all of them have arrived in the socket's
    /// receive queue, in order and once.
    ///
    /// # Errors
    /// `TimedOut` where the queue stays full for 10 s because nobody reads; `NotConnected` after
    /// the connection ended.
    pub fn inject(&self, bytes: &[u8]) -> io::Result<()> {
        let mut packet = self.packet.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let _warms = Warms(&shared.written);
        // All before `start` has arrived, because the last call waited for it.
        let start = shared.injected.load(Ordering::Acquire);
        let (mut arrived, mut progress_at) = (0, Instant::now());
        while arrived < bytes.len() {
            let mut at = arrived;
            for piece in bytes[arrived..].chunks(self.max_segment).take(INJECT_SEGMENTS) {
                let seq = PEER_FIRST_SEQUENCE.wrapping_add((start + at as u64) as u32);
                let ack = FIRST_SEQUENCE.wrapping_add(self.acknowledged() as u32);
                shared.headers.data(&mut packet, seq, ack, piece);
                at += piece.len();
                // Before it is sent: an acknowledgement must not look older than the byte.
                shared.injected.fetch_max(start + at as u64, Ordering::AcqRel);
                shared.raw.send(&packet);
            }
            let info = sys::tcp_info(shared.stream.as_fd())?;
            if !is_open(info.tcpi_state) {
                return Err(io::ErrorKind::NotConnected.into());
            }
            let received = info.tcpi_bytes_received.saturating_sub(start) as usize;
            if received > arrived {
                (arrived, progress_at) = (received, Instant::now());
            } else if progress_at.elapsed() > INJECT_PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            } else {
                // The socket's queue is full, or whoever sends on it holds it.
                std::thread::sleep(INJECT_AGAIN);
            }
        }
        Ok(())
    }
}

/// Tells the acknowledger, at its end, that an answer may come.
struct Warms<'a>(&'a Written);

impl Drop for Warms<'_> {
    fn drop(&mut self) {
        self.0.warm();
    }
}

/// Segments sent before a look at what has arrived.
const INJECT_SEGMENTS: usize = 4;
/// How long to wait before the same bytes are sent again.
const INJECT_AGAIN: Duration = Duration::from_micros(100);

/// Whether a connection in this state (`tcpi_state`) can still receive.
fn is_open(state: u8) -> bool {
    // TCP_ESTABLISHED, TCP_FIN_WAIT1 and TCP_FIN_WAIT2 of linux/tcp_states.h.
    matches!(state, 1 | 4 | 5)
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.abort();
        self.acker.forget_closed();
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("stream", &self.shared.stream)
            .field("written", &self.written().bytes())
            .field("acknowledged", &self.acknowledged())
            .finish()
    }
}
