//! A connection that repair has made, whose peer is not there: what the caller's side of it
//! (`flow.rs`) and the acknowledger (`acker.rs`) share.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::segment::Headers;
use super::sys;
use super::written::Written;

/// Our first sequence number: the number wraps after the first MiB, on every connection.
const FIRST_SEQUENCE: u32 = 0u32.wrapping_sub(1 << 20);
/// The virtual peer's.
const PEER_FIRST_SEQUENCE: u32 = 0u32.wrapping_sub(1 << 16);

/// A raw socket on which whole packets go to the local address of one family.
#[derive(Clone)]
pub(super) struct Raw(Arc<OwnedFd>);

impl Raw {
    /// Sends on `socket`, which is raw and connected to the local address.
    pub(super) fn new(socket: OwnedFd) -> Raw {
        Raw(Arc::new(socket))
    }

    /// Sends one packet. It may get lost, as packets do: what depends on it looks whether it came.
    pub(super) fn send(&self, packet: &[u8]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let _ = rustix::net::send(&*self.0, packet, flags);
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
    /// Of `stream`, which [`establish`] has made, to `peer`.
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        raw: Raw,
        written: Written,
    ) -> io::Result<Shared> {
        Ok(Shared {
            headers: Headers::new(peer, stream.local_addr()?),
            stream,
            raw,
            written,
            acknowledged: AtomicU64::new(0),
            injected: AtomicU64::new(0),
            held: AtomicBool::new(false),
            looking: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Has `look` run unless the flow is held; a caller that holds it waits for the end of that.
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

    /// Bytes acknowledged, those that the socket has yet to hear of included.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Has nothing acknowledged from when this has returned, or acknowledges again.
    pub(super) fn hold(&self, hold: bool) {
        let looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.held.store(hold, Ordering::Relaxed);
        drop(looking);
        self.written.warm();
    }

    /// Bytes the peer has sent at least once.
    pub(super) fn injected(&self) -> u64 {
        self.injected.load(Ordering::Acquire)
    }

    /// Sends `piece` from the peer, whose bytes before it were `at`, by way of `packet`.
    pub(super) fn inject(&self, packet: &mut Vec<u8>, at: u64, piece: &[u8]) {
        let seq = PEER_FIRST_SEQUENCE.wrapping_add(at as u32);
        let ack = FIRST_SEQUENCE.wrapping_add(self.acknowledged() as u32);
        self.headers.data(packet, seq, ack, piece);
        // Before it is sent: an acknowledgement must not look older than the byte.
        self.injected.fetch_max(at + piece.len() as u64, Ordering::AcqRel);
        self.raw.send(packet);
    }

    /// Aborts it: its owner has no more use for it.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.abort();
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
