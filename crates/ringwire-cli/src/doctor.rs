//! `ringwire doctor`: flags become a question, `ringwire-doctor` looks and judges, this shows it.
//!
//! Must not know what is looked at. stdout carries the report, as text or as JSON. Invariant:
//! SIGINT and SIGTERM end it at once, whatever the looking waits for.

use std::os::unix::net::UnixStream;

use ringwire_doctor::{Asked, Framing, Heard, examine, judge};
use rustix::event::{PollFd, PollFlags};

use crate::args::Doctor;
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::protocol::{self, GREETING_BYTES, Role};
use crate::signals::Signals;
use crate::threads;

/// What a receiver is sent unless it is said how much: enough to see what the path does.
const PROBE_BYTES: u64 = 16 << 20;

/// Looks, and says what it found.
pub(crate) fn run(args: &Doctor, signals: &Signals, output: &Output) -> Result<Exit, Failure> {
    let asked = args.to.as_ref().map(|to| Asked {
        target: to.clone(),
        probe_bytes: args.probe_bytes,
        framing: Framing {
            hear: |came| match protocol::check_receiver(came) {
                Ok(None) => Some(Heard::Nothing),
                Ok(Some((true, _))) => Some(Heard::Begins),
                Ok(Some((false, _))) => Some(Heard::Busy),
                Err(_) => None,
            },
            greeting_bytes: GREETING_BYTES,
            probe_greets: protocol::greeting(Role::Prober).into(),
            bytes: PROBE_BYTES,
        },
    });
    let facts = unless_told(signals, move || examine(asked.as_ref()))??;
    let report = judge(&facts);
    match args.json {
        // As text, fields are in the order that is promised.
        true => output.result(serde_json::to_string_pretty(&report).map_err(Failure::new)?),
        false => report.lines(output.width()).iter().for_each(|line| output.result(line)),
    }
    output.all_said()?;
    Ok(match report.is_usable() {
        true => Exit::Yes,
        false => Exit::No,
    })
}

/// What was found, unless a signal came first. The looking is left behind then: it changes nothing,
/// and what it has open ends with the program.
fn unless_told<T: Send + 'static>(
    signals: &Signals,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let (ended, ends) = UnixStream::pair().map_err(|error| Failure::cannot("look", &error))?;
    let looking = threads::start("doctor", move || {
        let found = look();
        // Closed by now or by a panic, it wakes who waits.
        drop(ends);
        found
    });
    let looking = looking.map_err(|error| threads::lacking("cannot look", &error))?;
    loop {
        let mut fds =
            [PollFd::new(signals, PollFlags::IN), PollFd::new(&ended, PollFlags::empty())];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Failure::new(format!("cannot wait: {errno}"))),
        }
        if let Some(signal) = signals.seen() {
            return Err(Failure::new(format!("told to exit by {signal} before all was seen")));
        }
        if !fds[1].revents().is_empty() {
            let found = looking.join();
            return found.map_err(|_| Failure::new("a bug of ringwire doctor ended the looking"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_signal_ends_it_whatever_the_looking_waits_for() {
        let ((never, ever), (tell, told)) = (mpsc::channel::<()>(), mpsc::channel());
        std::thread::spawn(move || {
            let signals = Signals::told(signal_hook::consts::SIGTERM).unwrap();
            tell.send(unless_told(&signals, move || ever.recv()).map_err(|why| why.first_line()))
        });
        let why = told.recv_timeout(Duration::from_secs(180)).expect("it waits for the looking");
        assert_eq!(why.unwrap_err(), "told to exit by SIGTERM before all was seen");
        drop(never);
    }

    #[test]
    fn without_one_it_waits_for_what_is_found() {
        let signals = Signals::told(0).unwrap();
        assert_eq!(unless_told(&signals, || 7).ok(), Some(7));
        assert!(unless_told(&signals, || panic!("a bug")).map(|(): ()| ()).is_err());
    }
}
