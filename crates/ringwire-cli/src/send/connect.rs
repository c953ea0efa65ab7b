//! Connecting to every receiver, all at once, and greeting it.
//!
//! Either all of them answer as receivers of this version, or nothing is sent and the error names
//! each that did not: a transfer to fewer than were asked for should be asked for. One thread waits
//! for all of it, and for signals. Those that begin are kept company while others are waited for:
//! they hear that we are alive, and that one of them has gone ends it all at once.
//!
//! ```text
//!   Resolving ──▶ Connecting ──▶ Greeting ──▶ it begins
//!   (a thread)    (RFC 8305)     │      ▲
//!                                └─busy─┘      and from everywhere: Missing
//! ```

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringwire_core::running::Running;
use ringwire_reach::{Connecting, Resolving, Target, Unreached, Unresolved};
use rustix::event::{PollFd, PollFlags};

use super::greeting::{Greeting, Missing};
use crate::exit::Failure;
use crate::output::Output;
use crate::poll::poll_for;
use crate::protocol::ReceiverId;
use crate::signals::Signals;
use crate::units::show_duration;

/// After what time it is said what is being waited for.
const NOTED_AFTER: Duration = Duration::from_secs(1);

/// How long others are still waited for once one is missing for good, so that an error names all
/// that it should.
const REST: Duration = Duration::from_secs(1);

/// A receiver that has greeted.
pub(super) struct Connected {
    pub(super) shown: String,
    pub(super) stream: TcpStream,
}

/// Connects to all of `receivers`, each within `patience`, of the time in which this process runs:
/// that is what all times here are in.
pub(super) fn connect_all(
    receivers: &[Target],
    patience: Duration,
    signals: &Signals,
    output: &Output,
) -> Result<Vec<Connected>, Failure> {
    let started = Instant::now();
    let (deadline, noted_at) = (started + patience, started + NOTED_AFTER);
    let mut running = Running::new(started, patience);
    let mut noted = false;
    let mut rest_until = None;
    let mut all: Vec<Candidate<'_>> =
        receivers.iter().map(|target| Candidate::new(target, patience, started)).collect();
    loop {
        running.look(Instant::now());
        // Who comes back from a pause listens for an interval more before he gives anybody up.
        let now = started + running.ran_towards(patience);
        for candidate in &mut all {
            candidate.go_on(now);
        }
        if let Some(signal) = signals.seen() {
            return Err(Failure::new(format!("told to exit by {signal}; nothing was sent")));
        }
        let met: Vec<Met<'_>> = all.iter().filter_map(Candidate::met).collect();
        if let Some(twins) = twins(&met) {
            return Err(twins);
        }
        if rest_until.is_none() && all.iter().any(Candidate::is_missing) {
            rest_until = Some(now + REST);
        }
        if all.iter().all(Candidate::is_ended) || rest_until.is_some_and(|until| now >= until) {
            return judge(all);
        }
        if !noted && now >= noted_at {
            noted = true;
            all.iter().filter_map(Candidate::waits_for).for_each(|what| output.note(what));
        }
        // Not of one that may be found to wait for itself.
        if noted || all.iter().all(|one| one.met().is_some() || one.is_ended()) {
            all.iter_mut()
                .filter_map(Candidate::is_told_to_wait)
                .for_each(|wait| output.note(wait));
        }
        let wake_at = all.iter().filter_map(Candidate::wake_at).min().unwrap_or(deadline);
        let wake_at = if noted { wake_at } else { wake_at.min(noted_at) };
        let wake_at = rest_until.map_or(wake_at, |until| wake_at.min(until));
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        all.iter().for_each(|candidate| candidate.poll(&mut fds));
        let wait = match running.judges() {
            true => wake_at.saturating_duration_since(now).min(Running::interval(patience)),
            false => Running::interval(patience),
        };
        let alive_at = all.iter().filter_map(Candidate::alive_at).min();
        let wait =
            alive_at.map_or(wait, |at| wait.min(at.saturating_duration_since(Instant::now())));
        poll_for(&mut fds, wait)
            .map_err(|error| Failure::new(format!("cannot wait for connections: {error}")))?;
    }
}

/// All of them, or why not.
fn judge(all: Vec<Candidate<'_>>) -> Result<Vec<Connected>, Failure> {
    let (mut connected, mut missing) = (Vec::new(), Vec::new());
    for candidate in all {
        match candidate.stage {
            Stage::Greeting(Greeting { stream, .. }) => {
                // Of a socket that is open, this cannot fail.
                let _ = stream.set_nonblocking(false);
                connected.push(Connected { shown: candidate.target.shown().into(), stream });
            }
            Stage::Missing(not) => missing.push(not),
            Stage::Resolving | Stage::Connecting { .. } => {}
        }
    }
    let Some(first) = missing.first() else { return Ok(connected) };
    let lines: Vec<&str> = missing.iter().map(|missing| missing.what.as_str()).collect();
    Err(Failure::new(format!("{}; nothing was sent", lines.join("\n       "))).hint(&first.hint))
}

/// A receiver that has said who it is.
#[derive(Clone, Copy)]
struct Met<'a> {
    shown: &'a str,
    address: SocketAddr,
    id: ReceiverId,
}

/// Two that are one: by the number that a receiver gives, which tells receivers at one address
/// apart, and one at two addresses; by the address where it gives none.
fn twins(met: &[Met<'_>]) -> Option<Failure> {
    let silent = ReceiverId::default();
    let same = |a: &Met<'_>, b: &Met<'_>| match (a.id, b.id) {
        (a_id, b_id) if a_id == silent || b_id == silent => a.address == b.address,
        (a_id, b_id) => a_id == b_id,
    };
    met.iter().enumerate().find_map(|(at, one)| {
        let twin = met[..at].iter().find(|other| same(other, one))?;
        let at = match twin.address == one.address {
            true => one.address.to_string(),
            false => format!("at {} and {}", twin.address, one.address),
        };
        let what = format!("{} and {} are the same receiver ({at})", twin.shown, one.shown);
        Some(Failure::new(format!("{what}; nothing was sent")).hint("name each receiver once"))
    })
}

/// A receiver on its way to being connected.
struct Candidate<'a> {
    target: &'a Target,
    patience: Duration,
    deadline: Instant,
    /// While it is resolved or connected to: more addresses may come.
    resolving: Option<Resolving>,
    stage: Stage,
}

enum Stage {
    Resolving,
    Connecting {
        connecting: Connecting,
        addresses: Vec<SocketAddr>,
    },
    /// Until it begins, and then for good.
    Greeting(Greeting),
    Missing(Missing),
}

impl<'a> Candidate<'a> {
    fn new(target: &'a Target, patience: Duration, now: Instant) -> Candidate<'a> {
        let deadline = now + patience;
        let (resolving, stage) = match Resolving::start(target, now) {
            Ok(resolving) => (Some(resolving), Stage::Resolving),
            Err(error) => (None, Stage::Missing(Unresolved::not_asked(target, &error).into())),
        };
        Candidate { target, patience, deadline, resolving, stage }
    }

    /// Takes the news, and goes as far as it can without waiting.
    fn go_on(&mut self, now: Instant) {
        loop {
            let news = self.resolving.as_mut().and_then(|resolving| resolving.step(now));
            let more_may_come = self.resolving.as_ref().is_some_and(|one| !one.is_over());
            let next = match &mut self.stage {
                Stage::Resolving => match news {
                    Some(Ok(addresses)) => {
                        let (patience, deadline) = (self.patience, self.deadline);
                        let connecting =
                            Connecting::new(self.target, &addresses, patience, now, deadline);
                        Stage::Connecting { connecting, addresses }
                    }
                    Some(Err(unresolved)) => Stage::Missing(unresolved.into()),
                    None if now >= self.deadline => {
                        let why = Unresolved::no_answer(self.target, self.patience);
                        Stage::Missing(why.into())
                    }
                    None => return,
                },
                Stage::Connecting { connecting, addresses } => {
                    if let Some(Ok(more)) = news {
                        connecting.add(&more, now);
                        addresses.extend(more);
                    }
                    connecting.expects(more_may_come);
                    let Some(ended) = connecting.step(now) else { return };
                    self.resolving = None;
                    match ended {
                        Ok((stream, address)) => {
                            match Greeting::begin(stream, address, std::mem::take(addresses)) {
                                Ok(greeting) => Stage::Greeting(greeting),
                                Err((greeting, error)) => {
                                    Stage::Missing(greeting.broke(self.target, &error))
                                }
                            }
                        }
                        Err(unreached) => Stage::Missing(unreached.into()),
                    }
                }
                Stage::Greeting(greeting) if greeting.begins => {
                    match greeting.wait_with(self.target, Instant::now()) {
                        Ok(()) => return,
                        Err(missing) => Stage::Missing(missing),
                    }
                }
                Stage::Greeting(greeting) => match greeting.listen(self.target) {
                    // It begins, and so it does when nobody else is waited for.
                    Ok(()) if greeting.begins => return,
                    Ok(()) if now >= self.deadline => {
                        Stage::Missing(greeting.silent(self.target, self.patience))
                    }
                    Ok(()) => return,
                    Err(missing) => Stage::Missing(missing),
                },
                Stage::Missing(_) => return,
            };
            self.stage = next;
        }
    }

    fn is_ended(&self) -> bool {
        match &self.stage {
            Stage::Greeting(greeting) => greeting.begins,
            Stage::Missing(_) => true,
            Stage::Resolving | Stage::Connecting { .. } => false,
        }
    }

    fn is_missing(&self) -> bool {
        matches!(self.stage, Stage::Missing(_))
    }

    /// When it is to hear that we are alive, by the clock on the wall.
    fn alive_at(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Greeting(greeting) if greeting.begins => Some(greeting.alive_at()),
            _ => None,
        }
    }

    fn met(&self) -> Option<Met<'_>> {
        match &self.stage {
            Stage::Greeting(Greeting { address, id: Some(id), .. }) => {
                Some(Met { shown: self.target.shown(), address: *address, id: *id })
            }
            _ => None,
        }
    }

    /// What to say, once, where a receiver serves others.
    fn is_told_to_wait(&mut self) -> Option<String> {
        let Stage::Greeting(Greeting { id: Some(_), begins: false, noted, .. }) = &mut self.stage
        else {
            return None;
        };
        (!std::mem::replace(noted, true)).then(|| {
            let (shown, time) = (self.target.shown(), show_duration(self.patience));
            format!("{shown} serves other senders; waiting up to {time} for its turn")
        })
    }

    /// What takes so long, if it is not the receiver.
    fn waits_for(&self) -> Option<String> {
        let shown = self.target.shown();
        match &self.stage {
            Stage::Resolving => Some(format!("still looking for the address of {shown}")),
            Stage::Connecting { .. } => Some(format!("still connecting to {shown}")),
            Stage::Greeting(_) | Stage::Missing(_) => None,
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let resolving = self.resolving.as_ref().and_then(Resolving::wake_at);
        let deadline = Some(self.deadline);
        match &self.stage {
            Stage::Connecting { connecting, .. } => {
                resolving.into_iter().chain(deadline).chain([connecting.wake_at()]).min()
            }
            Stage::Resolving => resolving.into_iter().chain(deadline).min(),
            Stage::Greeting(greeting) => deadline.filter(|_| !greeting.begins),
            Stage::Missing(_) => None,
        }
    }

    fn poll<'f>(&'f self, fds: &mut Vec<PollFd<'f>>) {
        let fd = PollFd::from_borrowed_fd;
        let ended = self.resolving.iter().flat_map(Resolving::ended);
        match &self.stage {
            Stage::Resolving => fds.extend(ended.map(|ended| fd(ended, PollFlags::empty()))),
            Stage::Connecting { connecting, .. } => {
                fds.extend(ended.map(|ended| fd(ended, PollFlags::empty())));
                fds.extend(connecting.sockets().map(|socket| fd(socket, PollFlags::OUT)));
            }
            Stage::Greeting(greeting) => {
                // What it says to a transfer stays there for that.
                let news = if greeting.begins { PollFlags::RDHUP } else { PollFlags::IN };
                fds.push(PollFd::new(&greeting.stream, news));
            }
            Stage::Missing(_) => {}
        }
    }
}

impl From<Unresolved> for Missing {
    fn from(unresolved: Unresolved) -> Missing {
        Missing { hint: unresolved.hint().into(), what: unresolved.to_string() }
    }
}

impl From<Unreached> for Missing {
    fn from(unreached: Unreached) -> Missing {
        let hint = match (unreached.hint(), unreached.is_refusal()) {
            (Some(hint), _) => hint,
            (None, true) => {
                "start \"ringwire recv\" there; without --listen it takes connections of its own \
                 host only"
            }
            (None, false) => "check the address, and that no firewall is on the way",
        };
        Missing { what: unreached.to_string(), hint: hint.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_are_told_apart_by_their_numbers_and_else_by_their_addresses() {
        let met = |shown: &'static str, address: &str, id: u8| Met {
            shown,
            address: address.parse().unwrap(),
            id: ReceiverId([0, 0, 0, 0, id]),
        };
        let said = |met: &[Met<'_>]| twins(met).map(|failure| failure.first_line());
        let same = |text: &str| Some(format!("{text}; nothing was sent"));
        let a = met("a", "10.0.0.1:9", 1);
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[a, met("b", "10.0.0.2:9", 2)]), None);
        assert_eq!(
            said(&[a, met("b", "10.0.0.1:9", 1)]),
            same("a and b are the same receiver (10.0.0.1:9)")
        );
        assert_eq!(
            said(&[met("b", "10.0.0.2:9", 2), a, met("c", "[::1]:9", 1)]),
            same("a and c are the same receiver (at 10.0.0.1:9 and [::1]:9)")
        );
        // Whatever stands before them at one address has given each a receiver of its own.
        assert_eq!(said(&[a, met("b", "10.0.0.1:9", 2)]), None);
        // They do not say.
        assert_eq!(said(&[met("a", "10.0.0.1:9", 0), met("b", "10.0.0.2:9", 0)]), None);
        assert_eq!(
            said(&[a, met("b", "10.0.0.1:9", 0)]),
            same("a and b are the same receiver (10.0.0.1:9)")
        );
    }
}
