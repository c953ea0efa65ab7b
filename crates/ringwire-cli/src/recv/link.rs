//! The receiver's end of a connection: frames and data with deadlines, and an ear for signals.
//!
//! Neighbours: `protocol.rs` decodes; `session.rs` reads and answers. Nothing here waits longer
//! than the idle time, of the time in which this process runs, and nothing waits past a signal.
//! Memory: one buffer of [`BUFFER_BYTES`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use ringwire_core::running::Patience;
use rustix::event::{PollFd, PollFlags};

use crate::poll::poll_for;
use crate::protocol::{
    self, FRAME_BYTES_MAX, FromReceiver, FromSender, GREETING_BYTES, ReceiverId, Role, Wrong,
};
use crate::signals::Signals;
use crate::units::show_duration;

/// Large enough that system calls do not count, small enough for many connections and the cache.
const BUFFER_BYTES: usize = 1 << 20;
const _: () = assert!(BUFFER_BYTES >= FRAME_BYTES_MAX);

/// How long a connection that is over is kept open for the peer to read why. Closing with bytes
/// unread resets it, and a reset can overtake the reason on its way, though not at a peer that has
/// it: Linux lets that read what came before a reset.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// How long a greeting may take, all of it: a sender has it ready. Longer is nobody's patience.
const GREETING: Duration = Duration::from_secs(10);

/// Why the connection is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    #[error("told to exit by {0}")]
    Signal(&'static str),
    #[error("the sender was silent for {}", show_duration(*.0))]
    Idle(Duration),
    #[error("the sender ended the connection")]
    Ended,
    #[error("the connection to the sender broke: {0}")]
    Broken(io::Error),
    #[error("the sender broke the protocol: {0}")]
    Wrong(#[from] Wrong),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        Over::Broken(error)
    }
}

/// Memory for what comes over a connection.
///
/// # Errors
/// There is none; nothing else asks for so much at once that it could be missed here.
pub(super) fn buffer() -> io::Result<Box<[u8]>> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(BUFFER_BYTES).map_err(|_| io::ErrorKind::OutOfMemory)?;
    buffer.resize(BUFFER_BYTES, 0);
    Ok(buffer.into())
}

/// A connection.
pub(super) struct Link<'a> {
    stream: TcpStream,
    signals: &'a Signals,
    idle: Duration,
    buffer: Box<[u8]>,
    /// What has come and was not taken: `start <= end <= BUFFER_BYTES`.
    start: usize,
    end: usize,
}

impl<'a> Link<'a> {
    /// Takes a connection, and a [`buffer`] for it.
    pub(super) fn new(
        stream: TcpStream,
        buffer: Box<[u8]>,
        signals: &'a Signals,
        idle: Duration,
    ) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        // Receipts are small and must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(Link { stream, signals, idle, buffer, start: 0, end: 0 })
    }

    /// Greets, and judges the other end's greeting: a sender's, or a probe's.
    /// In [`GREETING`] at most, however slowly it comes.
    pub(super) fn greet(&mut self, id: ReceiverId) -> Result<Role, Over> {
        let time = self.idle.min(GREETING);
        let mut patience = Patience::new(Instant::now(), time);
        self.write(&protocol::greeting_of(Role::Receiver, id))?;
        loop {
            let came = &self.buffer[self.start..self.end];
            let came = &came[..came.len().min(GREETING_BYTES)];
            let role = protocol::client_role(came);
            if protocol::check_greeting(came, role)? {
                self.start += GREETING_BYTES;
                return Ok(role);
            }
            self.fill_within(time, &mut patience)?;
        }
    }

    /// Throws away what comes, to its end or up to `bytes_max`. Returns how much came.
    pub(super) fn discard(&mut self, bytes_max: u64) -> Result<u64, Over> {
        let mut bytes = 0;
        while bytes < bytes_max {
            match self.data(u32::MAX) {
                Ok(data) => bytes += data.len() as u64,
                Err(Over::Ended) => break,
                Err(over) => return Err(over),
            }
        }
        Ok(bytes)
    }

    /// The next frame.
    pub(super) fn frame(&mut self) -> Result<FromSender, Over> {
        loop {
            if let Some((frame, bytes)) = FromSender::decode(&self.buffer[self.start..self.end])? {
                self.start += bytes;
                return Ok(frame);
            }
            self.fill()?;
        }
    }

    /// The next bytes of a DATA frame, at least one, at most `bytes_max`.
    pub(super) fn data(&mut self, bytes_max: u32) -> Result<&[u8], Over> {
        if self.start == self.end {
            self.fill()?;
        }
        let bytes = (self.end - self.start).min(bytes_max as usize);
        let data = &self.buffer[self.start..self.start + bytes];
        self.start += bytes;
        Ok(data)
    }

    /// Says something to the sender.
    pub(super) fn say(&mut self, frame: &FromReceiver) -> Result<(), Over> {
        self.write(&frame.encode())
    }

    /// Whether something has come that is not taken.
    pub(super) fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// Reads more, at least one byte.
    fn fill(&mut self) -> Result<(), Over> {
        self.fill_within(self.idle, &mut Patience::new(Instant::now(), self.idle))
    }

    /// The same, with what is left of the patience, which was `time`.
    fn fill_within(&mut self, time: Duration, patience: &mut Patience) -> Result<(), Over> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Over::Ended),
                Ok(bytes) => {
                    self.end += bytes;
                    return match self.signals.seen() {
                        Some(signal) => Err(Over::Signal(signal)),
                        None => Ok(()),
                    };
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN, time, patience)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Over::Broken(error)),
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Over> {
        let mut patience = Patience::new(Instant::now(), self.idle);
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, self.idle, &mut patience)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Over::Broken(error)),
            }
        }
        Ok(())
    }

    /// Waits until the connection is ready, the patience is at its end, or a signal has come.
    fn wait(&self, ready: PollFlags, time: Duration, patience: &mut Patience) -> Result<(), Over> {
        let mut fds = [PollFd::new(&self.stream, ready), PollFd::new(self.signals, PollFlags::IN)];
        while !poll_for(&mut fds, patience.slice(Instant::now()).ok_or(Over::Idle(time))?)? {}
        self.signals.seen().map_or(Ok(()), |signal| Err(Over::Signal(signal)))
    }

    /// Ends the connection so that what was said last can be read: no more from here, and what
    /// still comes is thrown away until the sender has closed too.
    pub(super) fn close(mut self) {
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut patience = Patience::new(Instant::now(), LINGER);
        // A signal is not waited for here: it may be the reason, and the time is bounded.
        while let Some(slice) = patience.slice(Instant::now()) {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
                    if poll_for(&mut fds, slice).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}
