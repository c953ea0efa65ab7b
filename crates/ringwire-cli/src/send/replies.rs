//! The thread that listens to the receivers, and for signals, and wakes the ring's thread.
//!
//! Neighbours: `transfer.rs` owns the sockets through the ring; here are duplicates, which are only
//! read. Reads never block (MSG_DONTWAIT, which changes no flag that the ring shares): a thread
//! that waits inside a socket can keep it from being aborted.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;

use ringwire::Waker;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::protocol::{FRAME_BYTES_MAX, FromReceiver, Wrong};
use crate::signals::Signals;

/// What was heard.
pub(super) enum Heard {
    /// A receiver says something.
    Frame(usize, FromReceiver),
    /// A receiver says something that no receiver says. Nothing more is heard of it.
    Wrong(usize, Wrong),
    /// A receiver has ended the connection, or it broke. Nothing more is heard of it.
    Gone(usize, Option<io::Error>),
    /// The process is told to exit, by the signal of that name.
    Signal(&'static str),
}

/// Listens until `quit` is readable or nobody takes what is heard.
pub(super) fn listen(
    streams: Vec<TcpStream>,
    signals: &Signals,
    quit: &OwnedFd,
    to_ring: SyncSender<Heard>,
    waker: &Waker,
) {
    let mut ears: Vec<Ear> = streams
        .into_iter()
        .enumerate()
        .map(|(receiver, stream)| Ear { receiver, stream, came: Vec::new() })
        .collect();
    let mut signalled = false;
    let tell = |heard| {
        let told = to_ring.send(heard).is_ok();
        waker.wake();
        told
    };
    loop {
        let mut fds = vec![PollFd::new(quit, PollFlags::IN)];
        fds.extend(ears.iter().map(|ear| PollFd::new(&ear.stream, PollFlags::IN)));
        if !signalled {
            fds.push(PollFd::new(signals, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            // Out of memory: look at everything instead; reads do not wait.
            Err(_) => {}
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        let ready: Vec<bool> =
            fds[1..=ears.len()].iter().map(|fd| !fd.revents().is_empty()).collect();
        if let Some(signal) = signals.seen()
            && !signalled
        {
            signalled = true;
            if !tell(Heard::Signal(signal)) {
                return;
            }
        }
        let mut at = 0;
        let mut told = true;
        ears.retain_mut(|ear| {
            at += 1;
            if !ready[at - 1] {
                return true;
            }
            match ear.hear(|frame| told &= tell(frame)) {
                None => true,
                Some(last) => {
                    told &= tell(last);
                    false
                }
            }
        });
        if !told {
            return;
        }
    }
}

/// One receiver's stream.
struct Ear {
    receiver: usize,
    stream: TcpStream,
    /// The beginning of a frame whose rest has not come: less than [`FRAME_BYTES_MAX`].
    came: Vec<u8>,
}

impl Ear {
    /// Takes what there is. Returns the last thing to be heard of this receiver, if it is that.
    fn hear(&mut self, mut tell: impl FnMut(Heard)) -> Option<Heard> {
        let mut buffer = [0; 4 * FRAME_BYTES_MAX];
        let bytes = match rustix::net::recv(&self.stream, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Some(Heard::Gone(self.receiver, None)),
            Ok((bytes, _)) => bytes,
            Err(Errno::AGAIN | Errno::INTR) => return None,
            Err(errno) => return Some(Heard::Gone(self.receiver, Some(errno.into()))),
        };
        self.came.extend_from_slice(&buffer[..bytes]);
        let mut used = 0;
        loop {
            match FromReceiver::decode(&self.came[used..]) {
                Ok(Some((frame, bytes))) => {
                    used += bytes;
                    tell(Heard::Frame(self.receiver, frame));
                }
                Ok(None) => break,
                Err(wrong) => return Some(Heard::Wrong(self.receiver, wrong)),
            }
        }
        self.came.drain(..used);
        None
    }
}
