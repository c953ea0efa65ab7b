//! Waits for a host's addresses, and for nothing else meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringwire_core::running::Patience;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::lookup::Unresolved;
use crate::resolving::Resolving;
use crate::target::Target;

/// Waits for a host's addresses, for at most `patience` of the time in which this process runs, and
/// leaves the looking behind then. Where one family takes long, it finds the other.
///
/// # Errors
/// [`Unresolved`], with the reason.
pub fn wait_for_addresses(
    target: &Target,
    patience: Duration,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let resolving = Resolving::start(target, Instant::now())
        .map_err(|why| Unresolved::not_asked(target, &why))?;
    wait_on(resolving, Instant::now, target, patience)
}

fn wait_on(
    mut resolving: Resolving,
    mut clock: impl FnMut() -> Instant,
    target: &Target,
    patience: Duration,
) -> Result<Vec<SocketAddr>, Unresolved> {
    let mut waits = Patience::new(clock(), patience);
    loop {
        let now = clock();
        if let Some(answer) = resolving.step(now) {
            return answer;
        }
        let Some(slice) = waits.slice(now) else {
            return Err(Unresolved::no_answer(target, patience));
        };
        let due = resolving.wake_at().map(|at| at.saturating_duration_since(now));
        let slice = due.map_or(slice, |due| slice.min(due));
        let ended = resolving.ended();
        let mut fds: Vec<_> =
            ended.map(|ended| PollFd::from_borrowed_fd(ended, PollFlags::empty())).collect();
        // A signal, or no memory: the step looks itself.
        let _ = rustix::event::poll(&mut fds, Timespec::try_from(slice).ok().as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::Lookup;

    const LONG: Duration = Duration::from_secs(180);

    fn resolved(text: &str) -> Result<Vec<String>, String> {
        let target = Target::to_connect(text, 27_474).unwrap();
        let found = wait_for_addresses(&target, LONG);
        found
            .map(|all| all.iter().map(SocketAddr::to_string).collect())
            .map_err(|why| format!("{why}; {}", why.hint()))
    }

    #[test]
    fn an_address_is_its_own_and_an_interface_is_found_by_name_and_number() {
        let one = |address: &str| Ok(vec![address.to_owned()]);
        assert_eq!(resolved("10.0.0.7"), one("10.0.0.7:27474"));
        assert_eq!(resolved("[::ffff:10.0.0.7]:9"), one("10.0.0.7:9"));
        // The loopback's number is 1 everywhere.
        assert_eq!(resolved("[fe80::7%lo]:9"), one("[fe80::7%1]:9"));
        assert_eq!(resolved("fe80::7%1"), one("[fe80::7%1]:27474"));
        for none in ["fe80::7%none-such", "fe80::7%4000000000", "fe80::7%a-name-that-is-too-long"] {
            let interface = none.split_once('%').unwrap().1;
            assert_eq!(
                resolved(none).unwrap_err(),
                format!(
                    "cannot resolve {none}: this host has no interface {interface}; \"ip link\" \
                     lists the interfaces of this host"
                )
            );
        }
    }

    #[test]
    fn who_waits_no_more_leaves_the_looking_behind() {
        let target = Target::to_connect("localhost:9", 1).unwrap();
        let never = Resolving::of(&target, Instant::now(), Lookup::never(&target));
        let none = wait_on(never, Instant::now, &target, Duration::ZERO).unwrap_err();
        assert_eq!(none.to_string(), "cannot resolve localhost:9: no answer within 0 s");
        let none = wait_for_addresses(&Target::to_connect("[::1]:9", 1).unwrap(), Duration::ZERO);
        assert_eq!(none, Ok(vec!["[::1]:9".parse().unwrap()]));
    }

    #[test]
    fn a_pause_of_our_own_is_no_silence_of_servers() {
        let target = Target::to_connect("localhost:9", 1).unwrap();
        let began = Instant::now();
        let mut never = Resolving::of(&target, began, Lookup::never(&target));
        never.ask_no_more();
        let seconds = |n| Duration::from_secs(n);
        // Asked at 0 s; stopped for a day; then four looks, each two seconds after the last.
        let mut times = [0, 86_400, 86_402, 86_404, 86_406].into_iter();
        let clock = || began + seconds(times.next().expect("it waits for longer"));
        let none = wait_on(never, clock, &target, Duration::from_millis(8)).unwrap_err();
        assert_eq!(none.to_string(), "cannot resolve localhost:9: no answer within 8 ms");
        assert_eq!(times.next(), None, "it waited for less");
    }
}
