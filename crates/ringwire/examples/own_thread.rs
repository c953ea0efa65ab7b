//! A ring on a thread of its own, for a program of many threads.
//!
//! ```text
//!  sender 0 ──┐  Job, then Waker::wake    ┌────────────┐
//!  sender 1 ──┼──────── mpsc ────────────▶│ the ring's │──▶ sockets
//!  sender 2 ──┘                           │ thread     │
//!     ▲ ▲ ▲                               └────────────┘
//!     └─┴─┴──── Answer, a channel each ────────┘
//! ```
//!
//! A ring belongs to the thread that built it, so that it needs no lock; a channel brings it what
//! is to be done. It sleeps in [`Ring::turn`] while nothing happens, and a [`Waker`] ends that. A
//! payload's tag is its sender's number, which tells whom to answer. Each sender has two buffers,
//! which come back when they are released, and fills them again: that holds it back, too.
//!
//! For your own program: take [`Link`] and [`run`], let jobs carry what else you need, and give
//! senders as many buffers as their connections can have on the way, rate × round-trip time. Where
//! threads are to send by themselves, without one more between them, see `SharedRing`.

use std::collections::HashMap;
use std::error::Error;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use ringwire::{Copied, Event, Events, OnDeadline, Payload, Report, Ring, SendOptions, Waker};

const SENDERS: u64 = 4;
const BUFFERS: usize = 2;
const PAYLOADS: usize = 16;
const PAYLOAD_BYTES: usize = 256 << 10;

type AnyError = Box<dyn Error + Send + Sync>;

/// What the ring's thread is to do.
enum Job {
    Attach {
        sender: u64,
        stream: TcpStream,
        answers: Sender<Answer>,
    },
    Send {
        sender: u64,
        payload: Payload,
    },
    /// FIN behind what was sent. The sender waits for no answer any more.
    Close {
        sender: u64,
    },
    Stop,
}

/// A payload whose memory is free again; or why something was not taken, or did not arrive.
type Answer = Result<(Payload, Copied), ringwire::Error>;

/// The way to the ring's thread, for any thread.
#[derive(Clone)]
struct Link {
    jobs: Sender<Job>,
    waker: Waker,
}

impl Link {
    fn give(&self, job: Job) -> Result<(), &'static str> {
        self.jobs.send(job).map_err(|_| "the ring's thread has ended")?;
        self.waker.wake(); // afterwards, so that it finds the job
        Ok(())
    }
}

/// The ring's thread. Says first how to wake it, and at last whether something was still out.
fn run(jobs: &Receiver<Job>, ready: &Sender<Waker>) -> Result<Report, ringwire::Error> {
    let mut ring = Ring::builder().build()?;
    let _ = ready.send(ring.waker()?);
    let mut senders = HashMap::new();
    let mut events = Events::new();
    loop {
        for job in jobs.try_iter() {
            match job {
                Job::Attach { sender, stream, answers } => match ring.attach(stream) {
                    Ok(sock) => drop(senders.insert(sender, (sock, answers))),
                    Err(why) => drop(answers.send(Err(why))),
                },
                Job::Send { sender, payload } => {
                    let Some((sock, answers)) = senders.get(&sender) else { continue };
                    let sent = ring.send_with(*sock, payload, SendOptions::new().tag(sender));
                    let _ = sent.map_err(|refused| answers.send(Err(refused.why)));
                }
                Job::Close { sender } => {
                    let Some((sock, _)) = senders.remove(&sender) else { continue };
                    ring.close(sock)?;
                }
                Job::Stop => {
                    return Ok(ring.shutdown(Some(Duration::from_secs(10)), OnDeadline::Abort));
                }
            }
        }
        // Sleeps until something happens. If it was woken since it took the jobs, not at all.
        ring.turn(None, &mut events)?;
        for event in events.drain() {
            let (tag, answer) = match event {
                Event::Released { tag, payload, copied, .. } => (tag, Ok((payload, copied))),
                // Its release will follow: until then the kernel may read it.
                Event::Failed { tag, error, .. } => (tag, Err(ringwire::Error::io("send", error))),
                _ => continue,
            };
            // Who has gone misses nothing.
            let _ = senders.get(&tag).map(|(_, answers)| answers.send(answer));
        }
    }
}

fn main() -> Result<(), AnyError> {
    let (jobs, to_do) = mpsc::channel();
    let (ready, waker) = mpsc::channel();
    let ring = thread::spawn(move || run(&to_do, &ready));
    let Ok(waker) = waker.recv() else {
        // It has failed before it had one, and says why.
        ring.join().map_err(|_| "the ring's thread panicked")??;
        return Err("the ring's thread ended early".into());
    };
    let link = Link { jobs, waker };

    let mut senders = Vec::new();
    for sender in 0..SENDERS {
        let link = link.clone();
        senders.push(thread::spawn(move || send(sender, &link)));
    }
    let sent: Vec<_> = senders.into_iter().map(|sender| sender.join()).collect();
    // They have ended, well or not. If the ring's thread has ended too, then with an error.
    let _ = link.give(Job::Stop);
    let report = ring.join().map_err(|_| "the ring's thread panicked")??;
    let mut without_copy = 0;
    for sent in sent {
        without_copy += sent.map_err(|_| "a sender panicked")??;
    }
    if report != Report::default() {
        return Err(format!("something was still out: {report:?}").into());
    }
    println!("{SENDERS} threads sent {PAYLOADS} payloads of 256 KiB each; every byte is right");
    println!("{without_copy} of them went without a copy (over loopback the kernel copies)");
    Ok(())
}

/// A sender, with its connection and its buffers. Counts what was not copied.
fn send(sender: u64, link: &Link) -> Result<usize, AnyError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    let peer = thread::spawn(move || receive(peer, sender));

    let (answers, inbox) = mpsc::channel();
    link.give(Job::Attach { sender, stream, answers })?;
    let mut without_copy = 0;
    for number in 0..PAYLOADS + BUFFERS {
        // The first ones are new; from then on each is one that has come back.
        let mut buffer = Vec::new();
        if number >= BUFFERS {
            let (payload, copied) = inbox.recv()??;
            without_copy += usize::from(copied == Copied::No);
            let piece = payload.into_piece().map_err(|_| "a vector was sent")?;
            buffer = piece.into_vec().map_err(|_| "a vector was sent")?;
        }
        if number < PAYLOADS {
            buffer.clear();
            buffer.extend(pattern(sender, number));
            link.give(Job::Send { sender, payload: buffer.into() })?;
        }
    }
    link.give(Job::Close { sender })?;
    peer.join().map_err(|_| "a peer panicked")??;
    Ok(without_copy)
}

/// The bytes of a payload, other ones for each.
fn pattern(sender: u64, number: usize) -> impl Iterator<Item = u8> {
    (sender as usize + number..).map(|at| (at % 251) as u8).take(PAYLOAD_BYTES)
}

fn receive(mut peer: TcpStream, sender: u64) -> io::Result<()> {
    let mut received = Vec::new();
    peer.read_to_end(&mut received)?;
    let expected: Vec<u8> = (0..PAYLOADS).flat_map(|number| pattern(sender, number)).collect();
    if received == expected { Ok(()) } else { Err(io::Error::other("wrong bytes")) }
}
