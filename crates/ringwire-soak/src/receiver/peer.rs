//! The peer of one connection: reads as its greeting has it, fast, slowly, up to a byte, or up to a
//! reset.
//!
//! Below `receiver.rs`, which polls and judges. Invariant: `bytes` is the position of the next byte
//! in the stream, and whatever was read has been handed on in order.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::expectations::Ended;
use crate::control::{Greeting, PeerBehaviour};

/// How much of one connection is read before others get their turn.
const READS_A_TURN: usize = 4;
/// The receive buffer of a peer that will stop reading, so that what is in flight then is not all
/// with the peer: a window of 64 KiB. (With much less, the window may stay below the packets that
/// the sender makes, which then sends one a timer's tick, 200 ms.)
const STOPPED_BUFFER_BYTES: usize = 64 << 10;
/// The same once it reads on.
const READ_ON_BUFFER_BYTES: usize = 1 << 20;
/// The pause of a slow reader.
const PAUSE: Duration = Duration::from_millis(2);

pub(super) struct Peer {
    pub(super) stream: TcpStream,
    /// What of the greeting has come.
    head: Vec<u8>,
    pub(super) greeting: Option<Greeting>,
    pub(super) bytes: u64,
    /// A slow reader rests until then.
    pub(super) rests_until: Option<Instant>,
    /// A stopped reader has begun to read on.
    reads_on: bool,
    pub(super) ended: Option<Ended>,
}

impl Peer {
    /// Of a connection that was accepted and does not block.
    pub(super) fn new(stream: TcpStream) -> Peer {
        Peer {
            stream,
            head: Vec::with_capacity(Greeting::BYTES),
            greeting: None,
            bytes: 0,
            rests_until: None,
            reads_on: false,
            ended: None,
        }
    }

    pub(super) fn id(&self) -> Option<u64> {
        self.greeting.map(|greeting| greeting.id)
    }

    /// Whether it has stopped reading, given whether it was told to read on.
    pub(super) fn is_stopped(&self, reads_on: impl Fn(u64) -> bool) -> bool {
        self.greeting.is_some_and(|Greeting { id, peer, .. }| match peer {
            PeerBehaviour::Stops { at } => self.bytes >= at && !reads_on(id),
            _ => false,
        })
    }

    /// Reads what it is to read now. Bytes are handed on, with the position of the first.
    pub(super) fn read(
        &mut self,
        buffer: &mut [u8],
        reads_on: impl Fn(u64) -> bool,
        mut on_bytes: impl FnMut(&Greeting, u64, &[u8]),
    ) -> io::Result<()> {
        for _ in 0..READS_A_TURN {
            let Some(greeting) = self.greeting else {
                if !self.read_greeting()? {
                    return Ok(());
                }
                continue;
            };
            let reads_on = reads_on(greeting.id);
            if reads_on && !std::mem::replace(&mut self.reads_on, true) {
                SockRef::from(&self.stream).set_recv_buffer_size(READ_ON_BUFFER_BYTES)?;
            }
            let most = match greeting.peer {
                PeerBehaviour::Slow { bytes } => bytes,
                PeerBehaviour::Stops { at } if !reads_on => at.saturating_sub(self.bytes),
                PeerBehaviour::Resets { at } => at.saturating_sub(self.bytes),
                _ => u64::MAX,
            };
            let most = buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            if most == 0 {
                return Ok(());
            }
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => self.ended = Some(Ended::Eof),
                Ok(bytes) => {
                    on_bytes(&greeting, self.bytes, &buffer[..bytes]);
                    self.bytes += bytes as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.ended = Some(Ended::Reset);
                }
                Err(error) => return Err(error),
            }
            match greeting.peer {
                _ if self.ended.is_some() => return Ok(()),
                PeerBehaviour::Slow { .. } => {
                    self.rests_until = Some(Instant::now() + PAUSE);
                    return Ok(());
                }
                PeerBehaviour::Resets { at } if self.bytes == at => {
                    // The reset goes out when the stream is dropped.
                    SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
                    self.ended = Some(Ended::ResetHere);
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether the greeting is there.
    fn read_greeting(&mut self) -> io::Result<bool> {
        let mut rest = [0; Greeting::BYTES];
        let missing = Greeting::BYTES - self.head.len();
        match self.stream.read(&mut rest[..missing]) {
            Ok(0) => self.ended = Some(Ended::Eof),
            Ok(bytes) => self.head.extend_from_slice(&rest[..bytes]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.ended = Some(Ended::Reset);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let Ok(head) = <&[u8; Greeting::BYTES]>::try_from(&self.head[..]) else { return Ok(false) };
        let Some(greeting) = Greeting::from_bytes(head) else {
            return Err(io::Error::other("a connection that does not greet"));
        };
        self.greeting = Some(greeting);
        if let PeerBehaviour::Stops { .. } = greeting.peer {
            SockRef::from(&self.stream).set_recv_buffer_size(STOPPED_BUFFER_BYTES)?;
        }
        Ok(true)
    }
}
