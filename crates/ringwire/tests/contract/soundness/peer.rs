//! The far end of `soundness.rs`, and connections to it over loopback.
//!
//! Over loopback the kernel copies what it *delivers*, and it delivers as much as the peer's window
//! takes. So the peer's receive buffer is small, and what is beyond it waits in the sender's queue
//! as references to the sender's pages.

use std::io::{self, ErrorKind, Read};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};

use super::pattern;
use crate::support::PATIENCE;

/// The peer's receive buffer: a window of some tens of KiB.
const RECEIVE_BUFFER_BYTES: usize = 16 << 10;
/// What it gets when it reads. With less, its window may stay below the packets that the sender
/// makes, which then sends one a timer's tick, 200 ms.
const READING_BUFFER_BYTES: usize = 1 << 20;

/// A listener whose accepted sockets have a small receive buffer.
pub(crate) fn listen(v6: bool) -> io::Result<(socket2::Socket, SocketAddr)> {
    let address: SocketAddr =
        if v6 { (Ipv6Addr::LOCALHOST, 0).into() } else { (Ipv4Addr::LOCALHOST, 0).into() };
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let listener = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    listener.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    listener.bind(&SockAddr::from(address))?;
    listener.listen(8)?;
    let address = listener.local_addr()?.as_socket().ok_or(ErrorKind::InvalidInput)?;
    Ok((listener, address))
}

/// A sending end of which the buffer is `roomy`, or takes about 400 KB.
pub(crate) fn connect(address: SocketAddr, roomy: bool) -> io::Result<TcpStream> {
    let near = TcpStream::connect(address)?;
    let bytes = if roomy { 4 << 20 } else { 400 << 10 };
    socket2::SockRef::from(&near).set_send_buffer_size(bytes)?;
    Ok(near)
}

/// Both ends of a connection over loopback.
pub(crate) fn pair(v6: bool, roomy: bool) -> io::Result<(TcpStream, TcpStream)> {
    let (listener, address) = listen(v6)?;
    let near = connect(address, roomy)?;
    let (far, _) = listener.accept()?;
    Ok((near, far.into()))
}

/// How a peer's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Eof,
    Reset,
}

/// The far end of a stream. It reads when it is told to, and checks every byte.
pub(crate) struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    seed: u64,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Bytes among them that were not the bytes sent.
    pub(crate) wrong: u64,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream, seed: u64) -> io::Result<Peer> {
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Peer { stream, buffer: vec![0; 64 << 10], seed, bytes: 0, wrong: 0 })
    }

    /// Reads what there is, at most `most` bytes, and checks it. `None` if that would mean to wait
    /// on a socket that does not.
    fn read_some(&mut self, most: u64) -> Result<Option<usize>, End> {
        let most = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        match self.stream.read(&mut self.buffer[..most]) {
            Ok(0) => Err(End::Eof),
            Ok(bytes) => {
                let seen = &self.buffer[..bytes];
                self.wrong += pattern::wrong_bytes(seen, self.seed, self.bytes);
                self.bytes += bytes as u64;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(End::Reset),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // Where a ring ends, the kernel interrupts what its thread waits for.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Some(0)),
            Err(error) => panic!("the peer read {} bytes, and then: {error}", self.bytes),
        }
    }

    /// Reads at most `most` bytes, waiting for the first of them.
    fn wait_and_read(&mut self, most: u64) -> Result<(), End> {
        match self.read_some(most)? {
            Some(_) => Ok(()),
            None => panic!("the peer waited {PATIENCE:?} for byte {}", self.bytes),
        }
    }

    /// From here on it reads everything.
    fn widen(&self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_recv_buffer_size(READING_BUFFER_BYTES).expect("SO_RCVBUF");
    }

    /// Reads exactly `bytes` more, through the small window, so that the rest stays with the
    /// sender.
    pub(crate) fn read_only(&mut self, bytes: u64) {
        let until = self.bytes + bytes;
        while self.bytes < until {
            if let Err(end) = self.wait_and_read(until - self.bytes) {
                panic!("the stream ended by {end:?} at byte {} of {until}", self.bytes);
            }
        }
    }

    /// Reads exactly `bytes` more, before the rest.
    pub(crate) fn read(&mut self, bytes: u64) {
        self.widen();
        self.read_only(bytes);
    }

    /// Reads everything there is, until the end.
    pub(crate) fn read_to_end(&mut self) -> End {
        self.widen();
        loop {
            if let Err(end) = self.wait_and_read(u64::MAX) {
                return end;
            }
        }
    }

    /// Reads what has arrived, without waiting for more. Says how the stream ended, if it did.
    pub(crate) fn read_what_is_there(&mut self) -> Option<End> {
        self.widen();
        self.stream.set_nonblocking(true).expect("a socket's flag");
        let end = loop {
            match self.read_some(u64::MAX) {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(end) => break Some(end),
            }
        };
        self.stream.set_nonblocking(false).expect("a socket's flag");
        end
    }

    /// Breaks the connection.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}
