//! A TCP connection whose peer is not there: the caller's side of it.
//!
//! Made by repair (`connection.rs`), acknowledged by `acker.rs`.
//!
//! Numbers of bytes count from the connection's beginning: `acknowledged <= sent <= taken`, and
//! `written` is at most what the socket has taken, because it is said after the write.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::acker::Acker;
use super::connection::{Raw, Shared};
use super::sys;
use super::written::Written;

/// How long injected bytes may stay without room for them.
const INJECT_PATIENCE: Duration = Duration::from_secs(120);

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
    /// A flow over `stream`, which `connection.rs` has established.
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        max_segment: u32,
        raw: Raw,
        acker: &Arc<Acker>,
    ) -> io::Result<Flow> {
        let written = Written::new(acker.alarm());
        let shared = Arc::new(Shared::new(stream, peer, raw, written)?);
        acker.add(Arc::clone(&shared));
        let (acker, max_segment) = (Arc::clone(acker), max_segment as usize);
        Ok(Flow { shared, acker, packet: Mutex::default(), max_segment })
    }

    /// The near end, and the only one.
    pub fn stream(&self) -> &TcpStream {
        self.shared.stream()
    }

    /// Where to say what was written.
    pub fn written(&self) -> &Written {
        self.shared.written()
    }

    /// Bytes the peer has acknowledged, those that the socket has yet to hear of included.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged()
    }

    /// Has the peer acknowledge nothing, as if it were gone, until this is called with `false`: not
    /// a byte that is sent after this has returned. After ten seconds the socket begins to send
    /// again what it has sent.
    pub fn hold(&self, hold: bool) {
        self.shared.hold(hold);
    }

    /// Sends `bytes` from the peer, and returns when all of them have arrived in the socket's
    /// receive queue, in order and once.
    ///
    /// # Errors
    /// `TimedOut` where the queue stays full for two minutes because nobody reads; `NotConnected`
    /// after the connection ended.
    pub fn inject(&self, bytes: &[u8]) -> io::Result<()> {
        let mut packet = self.packet.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let _warms = Warms(shared.written());
        // All before `start` has arrived, because the last call waited for it.
        let start = shared.injected();
        let (mut arrived, mut progress_at) = (0, Instant::now());
        while arrived < bytes.len() {
            let mut at = arrived;
            for piece in bytes[arrived..].chunks(self.max_segment).take(INJECT_SEGMENTS) {
                shared.inject(&mut packet, start + at as u64, piece);
                at += piece.len();
            }
            let info = sys::tcp_info(shared.stream().as_fd())?;
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
                std::thread::sleep(INJECT_RETRY_AFTER);
            }
        }
        Ok(())
    }
}

/// Reports to the acknowledger, at its end, that an answer may come.
struct Warms<'a>(&'a Written);

impl Drop for Warms<'_> {
    fn drop(&mut self) {
        self.0.warm();
    }
}

/// Segments sent before a look at what has arrived.
const INJECT_SEGMENTS: usize = 4;
/// How long to wait before the same bytes are sent again.
const INJECT_RETRY_AFTER: Duration = Duration::from_micros(100);

/// Whether a connection in this state (`tcpi_state`) can still receive.
fn is_open(state: u8) -> bool {
    // TCP_ESTABLISHED, TCP_FIN_WAIT1 and TCP_FIN_WAIT2 of linux/tcp_states.h.
    matches!(state, 1 | 4 | 5)
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.close();
        self.acker.forget_closed();
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("stream", self.shared.stream())
            .field("written", &self.written().bytes())
            .field("acknowledged", &self.acknowledged())
            .finish()
    }
}
