//! Senders that have connected and wait for their turn.
//!
//! Each is told so at once: to be silent is what something else than a receiver would be, too.
//! First come, first served, of those that have greeted; then the others, of which the oldest loses
//! its place when there is no more. What a sender has said stays unread in its socket; one that
//! goes is noticed, so that nobody waits behind it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::refuse::{dismiss, share};
use crate::protocol::GREETING_BYTES;

/// Most senders that are told: each is a descriptor. More wait in the kernel's queue, untold.
const WAITING_MAX: usize = 64;

/// The senders that wait: at most [`WAITING_MAX`], and a [`share`] of the descriptors.
pub(super) struct Waiting {
    senders: VecDeque<Sender>,
    /// What they are told.
    busy: [u8; GREETING_BYTES],
    /// What is said before a reason.
    begins: [u8; GREETING_BYTES],
    /// How many are served at most.
    sessions: usize,
}

struct Sender {
    stream: TcpStream,
    state: State,
}

/// What a sender has done, as of the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Silent,
    Greeted,
    /// All is here that will come: it has shut its end down, and reads.
    Ended,
    Gone,
}

impl Waiting {
    pub(super) fn new(
        busy: [u8; GREETING_BYTES],
        begins: [u8; GREETING_BYTES],
        sessions: usize,
    ) -> Waiting {
        Waiting { senders: VecDeque::new(), busy, begins, sessions }
    }

    /// Most that may wait now.
    fn most(&self) -> usize {
        share(WAITING_MAX, self.sessions)
    }

    /// Whether one more can wait, be it in the place of a silent one.
    pub(super) fn takes(&self) -> bool {
        self.senders.len() < self.most() || self.silent().is_some()
    }

    /// The oldest that is silent.
    fn silent(&self) -> Option<usize> {
        self.senders.iter().position(|sender| sender.state == State::Silent)
    }

    /// Has a sender wait.
    pub(super) fn take(&mut self, mut stream: TcpStream) {
        // A new connection has room for it, and to one that is gone nothing has to be said.
        if stream.set_nonblocking(true).and_then(|()| stream.write_all(&self.busy)).is_err() {
            return;
        }
        if self.senders.len() >= self.most() {
            self.look();
            let silent = self.silent().and_then(|oldest| self.senders.remove(oldest));
            if let Some(silent) = silent {
                self.dismiss(&silent, "others wait that have greeted, and there is no more room");
            }
        }
        self.senders.push_back(Sender { stream, state: State::Silent });
    }

    /// Whose turn it is.
    pub(super) fn next(&mut self) -> Option<TcpStream> {
        let greeted = self.senders.iter().position(|sender| sender.state != State::Silent);
        self.senders.remove(greeted.unwrap_or(0)).map(|sender| sender.stream)
    }

    /// Looks at all. Forgets those that are gone, and, as the limit of descriptors is now, the
    /// newest for which there is no room.
    pub(super) fn look(&mut self) {
        while self.senders.len() > self.most() {
            self.drop_newest();
        }
        let all = self.senders.iter();
        let mut fds: Vec<_> =
            all.map(|sender| PollFd::new(&sender.stream, PollFlags::RDHUP)).collect();
        if rustix::event::poll(&mut fds, Some(&Timespec::default())).is_err() {
            return;
        }
        let seen: Vec<_> = fds.iter().map(PollFd::revents).collect();
        for (sender, seen) in self.senders.iter_mut().zip(seen) {
            sender.state = state(&sender.stream, seen);
        }
        self.senders.retain(|sender| sender.state != State::Gone);
    }

    /// Gives the newest one's descriptor up. Whether there was one.
    pub(super) fn drop_newest(&mut self) -> bool {
        let newest = self.senders.pop_back();
        if let Some(newest) = &newest {
            self.dismiss(newest, "no room for another connection that waits");
        }
        newest.is_some()
    }

    fn dismiss(&self, sender: &Sender, why: &str) {
        dismiss(&sender.stream, &self.begins, why);
    }

    /// Ready when one of them is gone, or has ended.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.senders.iter().map(|sender| {
            let ended = sender.state == State::Ended;
            // It would be ready for ever.
            let flags = if ended { PollFlags::empty() } else { PollFlags::RDHUP };
            PollFd::new(&sender.stream, flags)
        })
    }
}

fn state(stream: &TcpStream, seen: PollFlags) -> State {
    if seen.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        return State::Gone;
    }
    let ended = seen.contains(PollFlags::RDHUP);
    let bytes = match stream.peek(&mut [0; GREETING_BYTES + 1]) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
        Err(_) => return State::Gone,
    };
    match (ended, bytes) {
        // It can say all, shut down and read; but who has but greeted has given up.
        (true, ..=GREETING_BYTES) => State::Gone,
        (true, _) => State::Ended,
        (false, ..GREETING_BYTES) => State::Silent,
        (false, _) => State::Greeted,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Shutdown, TcpListener};

    use super::*;

    const BUSY: [u8; GREETING_BYTES] = [b'w'; GREETING_BYTES];
    const BEGINS: [u8; GREETING_BYTES] = [b'r'; GREETING_BYTES];

    /// A sender that is told to wait, and its end.
    fn comes(waiting: &mut Waiting, listener: &TcpListener) -> TcpStream {
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        waiting.take(listener.accept().unwrap().0);
        let mut told = [0; GREETING_BYTES];
        sender.read_exact(&mut told).unwrap();
        assert_eq!(told, BUSY);
        sender
    }

    fn says(mut sender: &TcpStream, bytes: usize) {
        sender.write_all(&vec![b's'; bytes]).unwrap();
    }

    /// Looks until all that was done has come: it takes its time even on loopback.
    fn look_until(waiting: &mut Waiting, states: &[State]) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
        loop {
            waiting.look();
            let seen: Vec<_> = waiting.senders.iter().map(|sender| sender.state).collect();
            if seen == states {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{seen:?} instead of {states:?}");
            std::thread::yield_now();
        }
    }

    /// Whose turn it is.
    fn next(waiting: &mut Waiting) -> Option<u16> {
        waiting.next().map(|stream| stream.peer_addr().unwrap().port())
    }

    fn port(sender: &TcpStream) -> Option<u16> {
        Some(sender.local_addr().unwrap().port())
    }

    fn start() -> (Waiting, TcpListener) {
        (Waiting::new(BUSY, BEGINS, 1), TcpListener::bind("127.0.0.1:0").unwrap())
    }

    #[test]
    fn those_that_have_greeted_come_before_those_that_are_silent() {
        let (mut waiting, listener) = start();
        let senders: Vec<_> = (0..4).map(|_| comes(&mut waiting, &listener)).collect();
        says(&senders[3], GREETING_BYTES);
        says(&senders[2], GREETING_BYTES + 9);
        says(&senders[1], GREETING_BYTES - 1);
        let (silent, greeted) = (State::Silent, State::Greeted);
        look_until(&mut waiting, &[silent, silent, greeted, greeted]);
        for at in [2, 3, 0, 1] {
            assert_eq!(next(&mut waiting), port(&senders[at]), "{at}");
        }
        assert_eq!(next(&mut waiting), None);
    }

    #[test]
    fn the_oldest_silent_one_makes_room_and_is_told_so() {
        let (mut waiting, listener) = start();
        let mut senders: Vec<_> = (0..64).map(|_| comes(&mut waiting, &listener)).collect();
        says(&senders[0], GREETING_BYTES);
        says(&senders[1], 1);
        let states: Vec<_> =
            (0..64).map(|at| if at == 0 { State::Greeted } else { State::Silent }).collect();
        look_until(&mut waiting, &states);
        assert!(waiting.takes());
        senders.push(comes(&mut waiting, &listener));
        let mut said = Vec::new();
        senders[1].read_to_end(&mut said).unwrap();
        assert!(said.starts_with(&BEGINS) && said.ends_with(b"no more room"), "{said:?}");
        senders.iter().skip(2).for_each(|sender| says(sender, GREETING_BYTES));
        look_until(&mut waiting, &[State::Greeted; 64]);
        assert!(!waiting.takes(), "all have greeted");
        assert_eq!(next(&mut waiting), port(&senders[0]));
        assert!(waiting.takes());
    }

    #[test]
    fn one_that_has_said_all_and_shut_down_waits_on_and_others_that_end_are_gone() {
        let (mut waiting, listener) = start();
        let senders: Vec<_> = (0..4).map(|_| comes(&mut waiting, &listener)).collect();
        for (sender, bytes) in senders.iter().zip([0, 1, GREETING_BYTES, GREETING_BYTES + 1]) {
            says(sender, bytes);
            sender.shutdown(Shutdown::Write).unwrap();
        }
        look_until(&mut waiting, &[State::Ended]);
        // Nobody is woken for it again and again.
        let mut fds: Vec<_> = waiting.fds().collect();
        let ready = rustix::event::poll(&mut fds, Some(&Timespec::default())).unwrap();
        assert_eq!((fds.len(), ready), (1, 0));
        drop(fds);
        assert_eq!(next(&mut waiting), port(&senders[3]));
        // With a reset it is gone, whatever it has said.
        let sender = comes(&mut waiting, &listener);
        says(&sender, GREETING_BYTES + 1);
        rustix::net::sockopt::set_socket_linger(&sender, Some(std::time::Duration::ZERO)).unwrap();
        drop(sender);
        look_until(&mut waiting, &[]);
    }
}
