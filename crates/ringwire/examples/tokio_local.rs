//! A ring in a tokio program: one thread, a task that drives the ring, and others that send and
//! await their memory.
//!
//! ```text
//!  task ── Link::send(payload) ──▶ Ring ◀── turn ── Link::drive, on AsyncFd, queued, a timer
//!       ◀────── oneshot, found by the payload's tag ──┘
//! ```
//!
//! A ring stays on its thread, so this wants a current-thread runtime and a [`LocalSet`]. What
//! tasks send before the driver has its turn leaves together. `send` waits while a limit of the
//! ring is reached, and ends when the payload is queued, with a future of its release. Who drops
//! that loses the answer and nothing else: the ring keeps the memory as long as the kernel reads.
//!
//! For your own program: take [`Link`] as it is. Go on reading with tokio, from a socket of which
//! the ring has a duplicate (`as_fd().try_clone_to_owned()`). On a runtime of many threads give
//! the ring a thread of its own, with this or as in the example `own_thread`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringwire::{
    Copied, Errno, Event, Events, IntoPayload, Limits, Payload, Ring, SendError, SendOptions,
    Socket,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::{LocalSet, spawn_local, yield_now};

const CONNECTIONS: usize = 4;
const PAYLOADS: usize = 16;
const PAYLOAD_BYTES: usize = 128 << 10;

type Answer = Result<(Payload, Copied), Errno>;

/// A ring for the tasks of one thread.
struct Link {
    ring: RefCell<Ring>,
    next_tag: Cell<u64>,
    /// Who waits for what was sent with a tag.
    waiting: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    /// Something has been queued, or closed: the ring must be turned.
    queued: Notify,
    /// A limit that had refused something has room.
    room: Notify,
}

impl Link {
    fn new(ring: Ring) -> Rc<Link> {
        Rc::new(Link {
            ring: RefCell::new(ring),
            next_tag: Cell::new(0),
            waiting: RefCell::default(),
            queued: Notify::new(),
            room: Notify::new(),
        })
    }

    /// Queues a payload, as soon as there is room. The answer comes when it is released.
    async fn send(
        &self,
        sock: Socket,
        payload: impl IntoPayload,
    ) -> Result<oneshot::Receiver<Answer>, SendError> {
        let mut payload = payload.into_payload();
        let tag = self.next_tag.replace(self.next_tag.get() + 1);
        let options = SendOptions::new().tag(tag);
        loop {
            // The borrow ends with the line, before anything is awaited.
            let sent = self.ring.borrow_mut().send_with(sock, payload, options);
            match sent {
                Ok(_) => break,
                Err(SendError { payload: back, why: ringwire::Error::LimitReached { .. } }) => {
                    payload = back;
                    self.room.notified().await;
                }
                Err(refused) => return Err(refused),
            }
        }
        let (tell, told) = oneshot::channel();
        self.waiting.borrow_mut().insert(tag, tell);
        self.queued.notify_one();
        Ok(told)
    }

    /// FIN behind what was sent.
    fn close(&self, sock: Socket) -> Result<(), ringwire::Error> {
        self.queued.notify_one();
        self.ring.borrow_mut().close(sock)
    }

    /// Turns the ring whenever there is a reason to. Ends only with an error.
    async fn drive(&self) -> Result<(), Box<dyn Error>> {
        // A duplicate, so that tokio owns what it polls.
        let fd = self.ring.borrow().as_fd().try_clone_to_owned()?;
        #[expect(deprecated, reason = "the other way is unsafe, and this is sound with an OwnedFd")]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        let mut events = Events::new();
        loop {
            let turned = self.ring.borrow_mut().turn(Some(Duration::ZERO), &mut events)?;
            for event in events.drain() {
                let (tag, answer) = match event {
                    Event::Released { tag, payload, copied, .. } => (tag, Ok((payload, copied))),
                    // The kernel may still read it: its release follows, and nobody waits for it.
                    Event::Failed { tag, error, .. } => (tag, Err(error)),
                    Event::Room { .. } => {
                        self.room.notify_waiters();
                        continue;
                    }
                    _ => continue,
                };
                let waits = self.waiting.borrow_mut().remove(&tag);
                // Who does not wait any more misses nothing.
                let _ = waits.map(|waits| waits.send(answer));
            }
            if turned.backlog {
                yield_now().await;
                continue;
            }
            // A day is as good as never.
            let by = turned.turn_by.unwrap_or_else(|| Instant::now() + Duration::from_secs(86_400));
            tokio::select! {
                // Cleared before the turn: what comes from now on makes it ready anew.
                ready = fd.readable() => ready?.clear_ready(),
                () = self.queued.notified() => {}
                () = tokio::time::sleep_until(by.into()) => {}
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Far less than by default, so that senders wait for room.
    let limits = Limits::new().socket_bytes(512 << 10);
    let link = Link::new(Ring::builder().limits(limits).build()?);
    LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            failed = link.drive() => failed,
            done = transfer(&link) => done,
        }
    })
}

/// Connections over loopback, a task for each end.
async fn transfer(link: &Rc<Link>) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (peer, _) = listener.accept().await?;
        let sock = link.ring.borrow_mut().attach(stream.into_std()?)?;
        senders.push(spawn_local(sender(Rc::clone(link), sock)));
        receivers.push(spawn_local(receiver(peer)));
    }
    let mut without_copy = 0;
    for sender in senders {
        without_copy += sender.await??;
    }
    for receiver in receivers {
        receiver.await??;
    }
    println!("{CONNECTIONS} tasks sent {PAYLOADS} payloads of 128 KiB each; every byte is right");
    println!("{without_copy} of them went without a copy (over loopback the kernel copies)");
    Ok(())
}

/// Sends, and counts what was not copied.
async fn sender(link: Rc<Link>, sock: Socket) -> Result<usize, Box<dyn Error>> {
    let mut releases = Vec::new();
    for number in 0..PAYLOADS {
        releases.push(link.send(sock, pattern(number)).await?);
    }
    link.close(sock)?;
    let mut without_copy = 0;
    for release in releases {
        let (_memory, copied) = release.await??;
        without_copy += usize::from(copied == Copied::No);
    }
    Ok(without_copy)
}

async fn receiver(mut peer: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    peer.read_to_end(&mut received).await?;
    let expected: Vec<u8> = (0..PAYLOADS).flat_map(pattern).collect();
    if received == expected { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
}

/// The bytes of a payload, other ones for each.
fn pattern(number: usize) -> Vec<u8> {
    (number..number + PAYLOAD_BYTES).map(|at| (at % 251) as u8).collect()
}
