//! The addresses of a name as they come, for who connects to one of them: RFC 8305, section 3.
//!
//! One question for all of them is asked first, because its answer has the order that the
//! administrator wants (RFC 6724, gai.conf). It takes until both families are known, and on the way
//! to some DNS servers one of the two is lost, always: then it takes 5 to 30 s. So where it takes
//! long, each family is asked for alone as well, and one is enough to begin with.
//!
//! ```text
//!   all ──50 ms──▶ all, IPv4, IPv6 ──▶ IPv6 is there: begin; the rest joins later
//!                                  └─▶ IPv4 is there: 50 ms, begin
//! ```
//! Invariants: each address is given once; an error is given once, and only if no address was.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::lookup::{Family, Lookup, Unresolved};
use crate::target::Target;

/// After what time each family is asked for alone: a server that is near has answered by then.
const APART_AFTER: Duration = Duration::from_millis(50);
/// How long IPv4 waits for IPv6 (RFC 8305, section 3 and 8: Resolution Delay).
const IPV4_WAITS: Duration = Duration::from_millis(50);

/// A host whose addresses are being looked for, to connect to one of them.
#[derive(Debug)]
pub struct Resolving {
    target: Target,
    /// All, IPv4, IPv6.
    questions: [Question; 3],
    /// When each family is to be asked for; `None` once it was, or needs not be.
    apart_at: Option<Instant>,
    /// IPv4 alone is there, and waits for IPv6 until then.
    begins_at: Option<Instant>,
    given: Vec<SocketAddr>,
    over: bool,
}

const ALL: usize = 0;
const IPV4: usize = 1;
const IPV6: usize = 2;

#[derive(Debug)]
enum Question {
    NotAsked,
    Asked(Lookup),
    Answered(Result<Vec<SocketAddr>, Unresolved>),
}

impl Question {
    fn found(&self) -> Option<&[SocketAddr]> {
        match self {
            Question::Answered(Ok(found)) => Some(found),
            _ => None,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Question::Asked(_))
    }
}

impl Resolving {
    /// Looks for the addresses of `target` from `now` on. Of an address in numbers they are there
    /// at once.
    ///
    /// # Errors
    /// Those of starting a thread, or of making a pair of sockets to be woken by.
    pub fn start(target: &Target, now: Instant) -> io::Result<Resolving> {
        Ok(Resolving::of(target, now, Lookup::start(target)?))
    }

    pub(crate) fn of(target: &Target, now: Instant, all: Lookup) -> Resolving {
        Resolving {
            target: target.clone(),
            questions: [Question::Asked(all), Question::NotAsked, Question::NotAsked],
            apart_at: Some(now + APART_AFTER),
            begins_at: None,
            given: Vec::new(),
            over: false,
        }
    }

    /// The one question is enough.
    #[cfg(test)]
    pub(crate) fn ask_no_more(&mut self) {
        self.apart_at = None;
    }

    /// Takes the news. Addresses that are to be tried now, one or more, or why there are none;
    /// `None` if there is nothing new: ask again when one of [`Resolving::ended`] is at its end, or
    /// at [`Resolving::wake_at`].
    pub fn step(&mut self, now: Instant) -> Option<Result<Vec<SocketAddr>, Unresolved>> {
        for question in &mut self.questions {
            if let Question::Asked(lookup) = question
                && let Some(answer) = lookup.answer()
            {
                *question = Question::Answered(answer);
            }
        }
        let given = self.judge(now);
        if self.apart_at.is_some_and(|at| now >= at) && !self.over {
            self.apart_at = None;
            for (at, family) in [(IPV4, Family::V4), (IPV6, Family::V6)] {
                // Without a thread for it the first question has to do.
                if let Ok(lookup) = Lookup::of(&self.target, family) {
                    self.questions[at] = Question::Asked(lookup);
                }
            }
        }
        given
    }

    /// What is to be made of the answers that are there. Pure.
    fn judge(&mut self, now: Instant) -> Option<Result<Vec<SocketAddr>, Unresolved>> {
        if self.over {
            return None;
        }
        let [all, ipv4, ipv6] = &self.questions;
        let families = [ipv4, ipv6];
        let known = families.iter().all(|one| matches!(one, Question::Answered(_)))
            && families.iter().any(|one| one.found().is_some());
        self.over = all.found().is_some() || known || !self.questions.iter().any(Question::is_open);
        let begins = self.over
            || ipv6.found().is_some()
            || !self.given.is_empty()
            || self.begins_at.is_some_and(|at| now >= at);
        if !begins {
            if self.begins_at.is_none() && ipv4.found().is_some() {
                self.begins_at = Some(now + IPV4_WAITS);
            }
            return None;
        }
        let mut new = Vec::new();
        for &address in [all, ipv6, ipv4].into_iter().filter_map(Question::found).flatten() {
            if !self.given.contains(&address) && !new.contains(&address) {
                new.push(address);
            }
        }
        if !new.is_empty() {
            self.begins_at = None;
            self.given.extend(&new);
            return Some(Ok(new));
        }
        match &self.questions[ALL] {
            Question::Answered(Err(why)) if self.over && self.given.is_empty() => {
                Some(Err(why.clone()))
            }
            _ => None,
        }
    }

    /// Whether nothing more comes.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// When the next step is due at the latest, if no answer comes.
    pub fn wake_at(&self) -> Option<Instant> {
        if self.over { None } else { self.apart_at.into_iter().chain(self.begins_at).min() }
    }

    /// At its end (POLLHUP) when there is an answer: of each question that is open.
    pub fn ended(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let open = self.questions.iter().filter(|_| !self.over);
        open.filter_map(|question| match question {
            Question::Asked(lookup) => lookup.ended(),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIX: &str = "[2001:db8::1]:9";
    const FOUR: &str = "10.0.0.1:9";

    fn all(addresses: &[&str]) -> Vec<SocketAddr> {
        addresses.iter().map(|address| address.parse().unwrap()).collect()
    }

    /// At a time in milliseconds a question is answered (by addresses, or by none), and this is
    /// to be tried then.
    type Play<'a> = (u64, Option<(usize, &'a [&'a str])>, Option<&'a [&'a str]>);

    /// What comes of questions of which none is answered but as it is said here.
    fn play(plays: &[Play<'_>]) -> Resolving {
        let target = Target::to_connect("store:9", 9).unwrap();
        let start = Instant::now();
        let mut resolving = Resolving::of(&target, start, Lookup::never(&target));
        for (ms, answered, expected) in plays {
            if let Some((at, found)) = answered {
                let none = Unresolved::no_answer(&target, Duration::from_secs(7));
                let answer = if found.is_empty() { Err(none) } else { Ok(all(found)) };
                resolving.questions[*at] = Question::Answered(answer);
            }
            let now = start + Duration::from_millis(*ms);
            let given = resolving.judge(now);
            if resolving.apart_at.is_some_and(|at| now >= at) {
                resolving.apart_at = None;
                for at in [IPV4, IPV6] {
                    resolving.questions[at] = Question::Asked(Lookup::never(&target));
                }
            }
            match (given, expected) {
                (None, None) => {}
                (Some(Ok(given)), Some(expected)) => assert_eq!(given, all(expected), "{ms} ms"),
                (Some(Err(_)), Some([])) => {}
                (given, _) => panic!("{given:?} after {ms} ms"),
            }
        }
        resolving
    }

    #[test]
    fn an_answer_to_all_keeps_its_order_and_ends_it() {
        let resolving =
            play(&[(0, None, None), (1, Some((ALL, &[FOUR, SIX])), Some(&[FOUR, SIX]))]);
        assert!(resolving.is_over() && resolving.wake_at().is_none());
        assert!(play(&[(1, Some((ALL, &[])), Some(&[]))]).is_over());
    }

    #[test]
    fn ipv4_alone_waits_50_ms_for_ipv6() {
        let resolving = play(&[
            (50, None, None),
            (60, Some((IPV4, &[FOUR])), None),
            (109, None, None),
            (110, None, Some(&[FOUR])),
            (111, None, None),
            (5_000, Some((IPV6, &[SIX])), Some(&[SIX])),
        ]);
        assert!(resolving.is_over());
        // Not for one that is known not to be there.
        let resolving = play(&[
            (50, None, None),
            (60, Some((IPV4, &[FOUR])), None),
            (61, Some((IPV6, &[])), Some(&[FOUR])),
        ]);
        assert!(resolving.is_over());
    }

    #[test]
    fn ipv6_waits_for_nobody_and_what_comes_later_joins_it() {
        let resolving = play(&[
            (50, None, None),
            (60, Some((IPV6, &[SIX])), Some(&[SIX])),
            (61, None, None),
            (62, Some((ALL, &[FOUR, SIX])), Some(&[FOUR])),
        ]);
        assert!(resolving.is_over());
    }

    #[test]
    fn there_is_no_address_when_nobody_has_one() {
        let resolving = play(&[
            (50, None, None),
            (60, Some((IPV4, &[])), None),
            (61, Some((ALL, &[])), None),
            (62, Some((IPV6, &[])), Some(&[])),
            (63, None, None),
        ]);
        assert!(resolving.is_over());
        let resolving = play(&[
            (50, None, None),
            (60, Some((ALL, &[])), None),
            (61, Some((IPV4, &[FOUR])), None),
            (62, Some((IPV6, &[])), Some(&[FOUR])),
        ]);
        assert!(resolving.is_over());
    }
}
