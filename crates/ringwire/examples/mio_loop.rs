//! A server on an event loop of its own, with mio: mio says what can be read, a ring sends.
//!
//! ```text
//!  Poll ──▶ LISTENER       accept; the ring gets a duplicate of the socket
//!       ──▶ a connection   read requests, queue replies ──┐
//!       ──▶ RING           nothing but waking up          ▼
//!                          then, whatever it was:    Ring::turn, which does not wait
//!                                                    Room: go on with replies
//! ```
//!
//! Each byte of a client asks for one block of 64 KiB. Clients ask for more than a connection may
//! have queued, so the ring refuses some. The server then leaves the connection alone, its next
//! requests too, until `Room` comes. Thus a slow client holds back nobody but itself, and takes no
//! more memory than the limit.
//!
//! For your own program: [`Server::serve`] is where your protocol goes. Keep its shape: it goes on
//! until there is nothing to read or no room to send, since mio tells of each only once. And keep
//! the end of the loop, which finds out for how long the next `poll` may sleep.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Registry, Token};
use ringwire::{Arena, Block, Copied, Event, Events, Limits, Ring, SendError, Socket};

const LISTENER: Token = Token(usize::MAX - 1);
const RING: Token = Token(usize::MAX - 2);

const BLOCK_BYTES: usize = 64 << 10;
const BLOCKS: usize = 64;
const CLIENTS: usize = 4;

struct Server {
    ring: Ring,
    registry: Registry,
    /// What everybody gets, over and over.
    block: Block,
    connections: HashMap<Token, Connection>,
    ended: usize,
    queued: u64,
    refused: u64,
}

struct Connection {
    /// What requests are read from; the ring has a duplicate.
    stream: TcpStream,
    sock: Socket,
    /// Blocks that were asked for and are not queued yet.
    owed: usize,
}

/// A socket's place among the ring's is its own until its last payload is released.
fn token(sock: Socket) -> Token {
    Token(sock.place() as usize)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arena = Arena::builder().capacity_bytes(1 << 20).build()?;
    let mut block = arena.alloc(BLOCK_BYTES)?;
    block.put(&pattern());
    let block = block.freeze();
    // Far less than by default, so that something is refused.
    let limits = Limits::new().socket_bytes(1 << 20);
    let ring = Ring::builder().arena(&arena).limits(limits).build()?;

    let mut poll = Poll::new()?;
    let registry = poll.registry().try_clone()?;
    let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
    registry.register(&mut listener, LISTENER, Interest::READABLE)?;
    registry.register(&mut SourceFd(&ring.as_fd().as_raw_fd()), RING, Interest::READABLE)?;

    let address = listener.local_addr()?;
    let clients = [(); CLIENTS].map(|()| thread::spawn(move || client(address)));

    let connections = HashMap::new();
    let mut server = Server { ring, registry, block, connections, ended: 0, queued: 0, refused: 0 };
    let (mut ready, mut events) = (mio::Events::with_capacity(64), Events::new());
    let (mut timeout, mut released, mut without_copy) = (None, 0, 0);
    while server.ended < CLIENTS || released < server.queued {
        match poll.poll(&mut ready, timeout) {
            Err(why) if why.kind() != ErrorKind::Interrupted => return Err(why.into()),
            _ => {}
        }
        for event in &ready {
            match event.token() {
                LISTENER => server.accept(&listener)?,
                RING => {}
                connection => server.serve(connection)?,
            }
        }
        // Always: what was queued just now leaves here.
        let turned = server.ring.turn(Some(Duration::ZERO), &mut events)?;
        let has_events = !events.is_empty();
        for event in events.drain() {
            match event {
                Event::Released { copied, .. } => {
                    released += 1;
                    without_copy += u64::from(copied == Copied::No);
                }
                Event::Room { sock } => server.serve(token(sock))?,
                Event::Broken { sock, .. } => server.end(token(sock))?,
                _ => {}
            }
        }
        // No sleep while something is ready to leave, and the events above may have queued some.
        timeout = match turned.turn_by {
            _ if turned.backlog || has_events => Some(Duration::ZERO),
            by => by.map(|by| by.saturating_duration_since(Instant::now())),
        };
    }
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    println!("{CLIENTS} clients have {BLOCKS} blocks each, and every byte is right");
    println!(
        "{released} released, {without_copy} of them not copied (over loopback the kernel \
         copies); refused for want of room: {}",
        server.refused
    );
    Ok(())
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(why.into()),
            };
            let sock = self.ring.attach(stream.as_fd().try_clone_to_owned()?)?;
            self.registry.register(&mut stream, token(sock), Interest::READABLE)?;
            self.connections.insert(token(sock), Connection { stream, sock, owed: 0 });
        }
    }

    /// Goes on until there is no room to send, or nothing to read.
    fn serve(&mut self, token: Token) -> Result<(), Box<dyn Error>> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(()) };
        loop {
            while connection.owed > 0 {
                match self.ring.send(connection.sock, self.block.clone()) {
                    Ok(_) => {
                        connection.owed -= 1;
                        self.queued += 1;
                    }
                    Err(SendError { why: ringwire::Error::LimitReached { .. }, .. }) => {
                        self.refused += 1;
                        return Ok(());
                    }
                    Err(why) => return Err(why.into()),
                }
            }
            match connection.stream.read(&mut [0; 32]) {
                Err(why) if why.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return self.end(token),
                Ok(requests) => connection.owed = requests,
            }
        }
    }

    /// FIN behind what is queued; nothing, if the connection is broken.
    fn end(&mut self, token: Token) -> Result<(), Box<dyn Error>> {
        if let Some(mut connection) = self.connections.remove(&token) {
            // To drop it is not enough: the ring's duplicate would keep it in the Poll.
            self.registry.deregister(&mut connection.stream)?;
            self.ring.close(connection.sock)?;
            self.ended += 1;
        }
        Ok(())
    }
}

fn pattern() -> Vec<u8> {
    (0..BLOCK_BYTES).map(|at| (at % 251) as u8).collect()
}

/// Asks for everything at once, and checks what comes.
fn client(address: SocketAddr) -> io::Result<()> {
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(&[1; BLOCKS])?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    let right = received == pattern().repeat(BLOCKS);
    if right { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
}
