//! A connection from its first byte to the transfer's: the greetings, and the time in which a
//! receiver that begins has to wait for others.
//!
//! Neighbours: `connect.rs` has all of them, and says when it is; `replies.rs` listens once all
//! begin. Invariant: of a receiver that begins nothing is read but its end, so that what it says to
//! a transfer is still there for that.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringwire_reach::Target;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::receiver::ALIVE_EVERY;
use crate::protocol::{
    self, FRAME_BYTES_MAX, FromReceiver, FromSender, GREETING_BYTES, ReceiverId, Role, Wrong,
};
use crate::units::show_duration;

/// A receiver that did not, and the way out.
pub(super) struct Missing {
    pub(super) what: String,
    pub(super) hint: String,
}

/// A connection, up to the receiver's word that it begins.
pub(super) struct Greeting {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    /// All that the name resolved to.
    addresses: Vec<SocketAddr>,
    came: [u8; GREETING_BYTES],
    /// `0 <= filled <= GREETING_BYTES`
    filled: usize,
    /// Who it is, once it has said that it begins, or that it serves others.
    pub(super) id: Option<ReceiverId>,
    pub(super) begins: bool,
    /// When it was sent something last.
    told_at: Instant,
    /// It has been said that it serves others.
    pub(super) noted: bool,
}

impl Greeting {
    pub(super) fn begin(
        stream: TcpStream,
        address: SocketAddr,
        addresses: Vec<SocketAddr>,
    ) -> Result<Greeting, (Greeting, io::Error)> {
        let came = [0; GREETING_BYTES];
        let mut greeting = Greeting {
            stream,
            address,
            addresses,
            came,
            filled: 0,
            id: None,
            begins: false,
            told_at: Instant::now(),
            noted: false,
        };
        // The last frames of a transfer are small and must not wait for an acknowledgement. A new
        // connection has room for a greeting.
        let said = greeting
            .stream
            .set_nodelay(true)
            .and_then(|()| greeting.stream.write_all(&protocol::greeting(Role::Sender)));
        match said {
            Ok(()) => Ok(greeting),
            Err(error) => Err((greeting, error)),
        }
    }

    /// Takes what the receiver says, as far as it has come.
    pub(super) fn listen(&mut self, target: &Target) -> Result<(), Missing> {
        while !self.begins {
            let came = &self.came[..self.filled];
            let judged =
                protocol::check_receiver(came).map_err(|wrong| self.wrong(target, &wrong))?;
            if let Some((begins, id)) = judged {
                self.filled = 0;
                self.begins = begins;
                // It could go on like that for ever.
                if self.id.replace(id).is_some() && !begins {
                    let wrong = Wrong::Order("a second greeting that says to wait");
                    return Err(self.wrong(target, &wrong));
                }
                continue;
            }
            match self.stream.read(&mut self.came[self.filled..]) {
                Ok(0) => return Err(self.broke(target, &io::ErrorKind::UnexpectedEof.into())),
                Ok(bytes) => self.filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broke(target, &error)),
            }
        }
        Ok(())
    }

    /// Looks at a receiver that begins, and has to wait for others: whether it has ended meanwhile,
    /// and whether it has to hear that we are alive, which is due by the clock on the wall.
    pub(super) fn wait_with(&mut self, target: &Target, now: Instant) -> Result<(), Missing> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        // Asks without waiting. What fails now is asked again.
        let asked = rustix::event::poll(&mut fds, Some(&Timespec::default()));
        if asked.is_ok() && !fds[0].revents().is_empty() {
            return Err(self.ended(target));
        }
        if now < self.alive_at() {
            return Ok(());
        }
        self.told_at = now;
        let alive = FromSender::Alive.encode();
        match self.stream.write(&alive) {
            Ok(bytes) if bytes == alive.len() => Ok(()),
            // It has to read what it was told before.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(())
            }
            Ok(_) => Err(self.gone(target, "it takes nothing more")),
            Err(error) => Err(self.gone(target, &error.to_string())),
        }
    }

    /// When a receiver that begins is to hear that we are alive.
    pub(super) fn alive_at(&self) -> Instant {
        self.told_at + ALIVE_EVERY
    }

    /// A receiver that begins, and has ended, with what it says of that.
    fn ended(&mut self, target: &Target) -> Missing {
        let mut said = Vec::new();
        let mut buffer = [0; 4 * FRAME_BYTES_MAX];
        let mut why = "it did not say why".to_owned();
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return self.gone(target, &why),
                Ok(bytes) => said.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nor can it be waited for: the end has come.
                Err(error) => return self.gone(target, &error.to_string()),
            }
            let mut used = 0;
            loop {
                match FromReceiver::decode(&said[used..]) {
                    Ok(Some((frame, bytes))) => {
                        used += bytes;
                        if let FromReceiver::Closing { why: last } = frame {
                            why = last;
                        }
                    }
                    Ok(None) => break,
                    Err(wrong) => return self.gone(target, &wrong.to_string()),
                }
            }
            said.drain(..used);
        }
    }

    fn gone(&self, target: &Target, why: &str) -> Missing {
        let place = self.place(target);
        Missing {
            what: format!("{place} ended while another receiver was waited for: {why}"),
            hint: "see what \"ringwire recv\" says there".into(),
        }
    }

    fn wrong(&self, target: &Target, wrong: &Wrong) -> Missing {
        Missing {
            what: format!("cannot send to {}: {wrong}", self.place(target)),
            hint: self.or_elsewhere(wrong.hint().unwrap_or("check the address")),
        }
    }

    pub(super) fn silent(&self, target: &Target, patience: Duration) -> Missing {
        let (place, time) = (self.place(target), show_duration(patience));
        match self.id {
            Some(_) => Missing {
                what: format!("{place} serves other senders, and had no place free within {time}"),
                hint: "--patience waits longer, but not for another sender that waits for one of \
                     these receivers; \"ringwire recv --connections N\" serves N senders at once"
                    .into(),
            },
            None => Missing {
                what: format!("{place} took the connection, but did not greet within {time}"),
                hint: self.or_elsewhere(
                    "it may be something else than \"ringwire recv\", or stopped; --patience waits \
                     longer",
                ),
            },
        }
    }

    pub(super) fn broke(&self, target: &Target, error: &io::Error) -> Missing {
        let place = self.place(target);
        match self.id {
            Some(_) => Missing {
                what: format!("{place} ended before it was this sender's turn: {error}"),
                hint: "see what \"ringwire recv\" says there".into(),
            },
            None => Missing {
                what: format!("{place} broke the connection before it greeted: {error}"),
                hint: self.or_elsewhere("is \"ringwire recv\" what listens at that port?"),
            },
        }
    }

    /// The receiver as it was typed, and at which address it was reached if that is not the same.
    fn place(&self, target: &Target) -> String {
        match target.is_name() {
            true => format!("{} ({})", target.shown(), self.address),
            false => target.shown().into(),
        }
    }

    /// The way out, where another of the name's addresses may be what was meant: the first that
    /// takes a connection is the one, whoever it is.
    fn or_elsewhere(&self, hint: &str) -> String {
        let others: Vec<String> = self
            .addresses
            .iter()
            .filter(|address| **address != self.address)
            .map(SocketAddr::to_string)
            .collect();
        match others.is_empty() {
            true => hint.into(),
            false => format!("{hint}; the name has other addresses, too: {}", others.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A receiver that begins, and its end of the connection.
    fn begun() -> (Greeting, TcpStream, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).unwrap();
        near.set_nonblocking(true).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let Ok(mut greeting) = Greeting::begin(near, address, Vec::new()) else {
            panic!("no greeting");
        };
        far.read_exact(&mut [0; GREETING_BYTES]).unwrap();
        greeting.begins = true;
        (greeting, far, Target::to_connect("store:9", 9).unwrap())
    }

    #[test]
    fn a_receiver_that_has_to_wait_hears_every_5_s_that_we_are_alive() {
        let (mut greeting, mut far, target) = begun();
        let (t0, second) = (greeting.told_at, Duration::from_secs(1));
        for (after, alive) in [(0, 0), (4, 0), (5, 1), (6, 0), (9, 0), (10, 1), (3600, 1)] {
            assert!(greeting.wait_with(&target, t0 + after * second).is_ok());
            far.set_nonblocking(true).unwrap();
            let mut came = [0; 64];
            let bytes = match far.read(&mut came) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                read => read.unwrap(),
            };
            assert_eq!(&came[..bytes], &b"\x05\0\0\0\0"[..5 * alive], "after {after} s");
        }
    }

    #[test]
    fn what_a_receiver_says_to_a_transfer_stays_there_for_it() {
        let (mut greeting, mut far, target) = begun();
        far.write_all(b"\x82\0\0\0\x08\0\0\0\0\0\0\0\0").unwrap();
        assert!(greeting.wait_with(&target, greeting.told_at).is_ok());
        greeting.stream.set_nonblocking(false).unwrap();
        let mut came = [0; 13];
        greeting.stream.read_exact(&mut came).unwrap();
        assert_eq!(came[0], 0x82);
    }
}
