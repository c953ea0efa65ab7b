//! One connection from its greeting to its end.
//!
//! Neighbours: `link.rs` brings frames, `intake.rs` says what they mean, `store.rs` keeps the file;
//! `mod.rs` runs a session per connection. Whatever ends it, the sender is told why if it can be,
//! and nothing is left in the directory but files that are whole.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::intake::{Intake, Step};
use super::link::{Link, Over};
use super::store::{Incoming, Refusal, Store};
use crate::name::{FileName, printable};
use crate::output::{Output, Progress};
use crate::protocol::{FromReceiver, FromSender, PROBE_BYTES_MAX, ReceiverId, Role, Status, Wrong};
use crate::threads;
use crate::units::{show_bytes, show_duration, show_rate, show_size};

/// How often the sender hears that we are alive. Well below any sensible patience.
const ALIVE_EVERY: Duration = Duration::from_millis(500);

/// What a session came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It never greeted as a sender of this version does, sent nothing until it went, was given up
    /// or a signal came, or only probed the path: not a transfer.
    NoTransfer,
    /// Every file is stored, and the sender said goodbye.
    Whole,
    /// Something is not stored.
    Broken,
    /// A signal ended it after it had begun, and before its goodbye.
    Interrupted,
}

/// Serves one connection.
pub(super) fn serve(
    mut link: Link<'_>,
    peer: &str,
    id: ReceiverId,
    store: &Store,
    max_bytes: u64,
    output: &Output,
) -> Outcome {
    match link.greet(id) {
        Ok(Role::Prober) => {
            let came = link.discard(PROBE_BYTES_MAX);
            output.note(match came {
                Ok(bytes) => format!("{peer} probed its path with {}", show_bytes(bytes)),
                Err(over) => format!("{peer} probed its path: {over}"),
            });
            link.close();
            return Outcome::NoTransfer;
        }
        Ok(_) => {}
        Err(over) => {
            if let Over::Signal(_) = &over {
                // It has done nothing wrong, and its greeting may be on the way.
                let _ = link.say(&FromReceiver::Closing { why: over.to_string() });
            }
            let hint = match &over {
                Over::Wrong(wrong @ Wrong::Version { .. }) => wrong.hint(),
                _ => None,
            };
            output.warning(format_args!(
                "{peer} is not served: {over}{}",
                hint.map(|hint| format!("\n\nhint: {hint}")).unwrap_or_default()
            ));
            link.close();
            return Outcome::NoTransfer;
        }
    }
    let mut session = Session {
        link,
        peer,
        store,
        output,
        left_bytes: max_bytes,
        max_bytes,
        received_bytes: 0,
        said_at: Instant::now(),
        intake: Intake::default(),
        coming: None,
        framed: false,
        whole: true,
    };
    let outcome = match session.run() {
        Ok(()) if session.whole => Outcome::Whole,
        Ok(()) => Outcome::Broken,
        // One of several receivers, say, and another one did not answer.
        Err(over) if !session.began() && !matches!(over, Over::Wrong(_)) => {
            session.close_for(&over);
            output.note(match over {
                Over::Ended | Over::Broken(_) => {
                    format!("{peer} left without having sent anything: {over}")
                }
                _ => format!("{peer} had not sent anything: {over}"),
            });
            Outcome::NoTransfer
        }
        Err(over) => {
            session.leave(&over);
            match over {
                Over::Signal(_) => Outcome::Interrupted,
                _ => Outcome::Broken,
            }
        }
    };
    // The temporary goes before the peer can see the end of the connection.
    session.coming = None;
    session.link.close();
    outcome
}

struct Session<'a> {
    link: Link<'a>,
    peer: &'a str,
    store: &'a Store,
    output: &'a Output,
    /// What this transfer may still announce: `0 <= left_bytes <= max_bytes`.
    left_bytes: u64,
    max_bytes: u64,
    received_bytes: u64,
    said_at: Instant,
    intake: Intake,
    /// The file that is coming, unless it was refused.
    coming: Option<Coming<'a>>,
    /// A whole frame has come that says something.
    framed: bool,
    /// No file so far that is not stored.
    whole: bool,
}

struct Coming<'a> {
    name: String,
    incoming: Incoming<'a>,
    started: Instant,
    came: u64,
    progress: Progress<'a>,
}

impl<'a> Session<'a> {
    fn run(&mut self) -> Result<(), Over> {
        loop {
            let frame = self.link.frame()?;
            // Who waits for others says no more than that he is still there.
            self.framed |= !matches!(frame, FromSender::Alive);
            match self.intake.on_frame(frame)? {
                Step::Begin { size, name } => self.begin(size, &name)?,
                Step::Take { bytes } => self.take(bytes)?,
                Step::Judge { blake3 } => self.judge(blake3)?,
                Step::Abandon { why } => {
                    self.coming = None;
                    let why =
                        Refusal::new(Status::Abandoned, format!("the sender gave it up: {why}"));
                    self.refuse(&why)?;
                }
                Step::Skipped | Step::Nothing => {}
                Step::End => return Ok(()),
            }
        }
    }

    /// Whether the sender has sent anything, be it a part of a frame: then it was a transfer.
    fn began(&self) -> bool {
        self.framed || self.link.has_more()
    }

    fn begin(&mut self, size: u64, name: &[u8]) -> Result<(), Over> {
        let checked = FileName::new(name)
            .map_err(|why| Refusal::new(Status::Refused, why.to_string()))
            .and_then(|name| match self.left_bytes.checked_sub(size) {
                None => Err(Refusal::new(
                    Status::Refused,
                    format!(
                        "{name} has {size} bytes, and this transfer may bring {} more of \
                         --max-bytes {}",
                        self.left_bytes,
                        show_size(self.max_bytes)
                    ),
                )),
                Some(left) => {
                    let shown = name.to_string();
                    let incoming = self.store.begin(name, size)?;
                    self.left_bytes = left;
                    Ok((shown, incoming))
                }
            });
        match checked {
            Ok((shown, incoming)) => {
                let started = Instant::now();
                let progress = self.output.progress(started, &[(shown.clone(), size)]);
                self.coming = Some(Coming { name: shown, incoming, started, came: 0, progress });
                Ok(())
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    fn take(&mut self, mut bytes: u32) -> Result<(), Over> {
        while bytes > 0 {
            let data = self.link.data(bytes)?;
            bytes -= data.len() as u32;
            self.received_bytes += data.len() as u64;
            let now = Instant::now();
            if let Some(coming) = &mut self.coming {
                coming.came += data.len() as u64;
                match coming.incoming.write(data) {
                    Ok(()) => {
                        coming.progress.set(0, coming.came);
                        coming.progress.tick(now);
                    }
                    Err(refusal) => {
                        self.coming = None;
                        self.refuse(&refusal)?;
                    }
                }
            }
            if now - self.said_at >= ALIVE_EVERY {
                self.say_alive(now)?;
            }
        }
        Ok(())
    }

    fn judge(&mut self, blake3: [u8; 32]) -> Result<(), Over> {
        let Some(Coming { incoming, started, progress, .. }) = self.coming.take() else {
            return Ok(());
        };
        let stored = incoming
            .verify(blake3)
            .map_or_else(|refusal| Ok(Err(refusal)), |()| self.sync(&incoming))?
            .and_then(|()| incoming.store());
        drop(progress);
        match stored {
            Ok((name, size, hash)) => {
                let took = started.elapsed();
                // Before anything that can hold us up: what reads our output may have stopped.
                let said = self.receipt(Status::Stored, format!("{} verified", show_bytes(size)));
                self.output.result(format_args!(
                    "stored {name}: {size} bytes, BLAKE3 {hash}, from {} in {}, {}",
                    self.peer,
                    show_duration(took),
                    show_rate(size, took),
                ));
                said
            }
            Err(refusal) => self.refuse(&refusal),
        }
    }

    /// Makes the data durable on another thread, and tells the sender meanwhile that we are alive.
    /// Without a thread to be had, here, and the sender has to be patient.
    fn sync(&mut self, incoming: &Incoming<'_>) -> Result<Result<(), Refusal>, Over> {
        std::thread::scope(|scope| {
            let (synced, wait) = mpsc::sync_channel(1);
            let sync = move || synced.send(incoming.sync());
            if threads::scoped(scope, "sync", sync).is_err() {
                self.say_alive(Instant::now())?;
                return Ok(incoming.sync());
            }
            loop {
                match wait.recv_timeout(ALIVE_EVERY) {
                    Ok(result) => return Ok(result),
                    Err(RecvTimeoutError::Timeout) => self.say_alive(Instant::now())?,
                    Err(RecvTimeoutError::Disconnected) => {
                        let text = "the thread that waits for the disk ended early";
                        return Ok(Err(Refusal::new(Status::Failed, text)));
                    }
                }
            }
        })
    }

    fn say_alive(&mut self, now: Instant) -> Result<(), Over> {
        self.said_at = now;
        self.link.say(&FromReceiver::Alive { received_bytes: self.received_bytes })
    }

    fn refuse(&mut self, refusal: &Refusal) -> Result<(), Over> {
        self.whole = false;
        let said = self.receipt(refusal.status, refusal.text.clone());
        self.output.warning(format_args!("from {}: {}", self.peer, refusal.text));
        said
    }

    fn receipt(&mut self, status: Status, text: String) -> Result<(), Over> {
        let file = self.intake.receipt();
        self.link.say(&FromReceiver::Receipt { file, status, text })
    }

    /// Says why the transfer is over, here and to the sender.
    fn leave(&mut self, over: &Over) {
        let what = match &self.coming {
            Some(coming) => format!("{} is given up after {} bytes", coming.name, coming.came),
            None => "the transfer is over".into(),
        };
        self.coming = None;
        self.close_for(over);
        self.output.warning(format_args!(
            "from {}: {what}: {}",
            self.peer,
            printable(&over.to_string())
        ));
    }

    fn close_for(&mut self, over: &Over) {
        // To a peer that is gone it cannot be said; nothing depends on it.
        let _ = self.link.say(&FromReceiver::Closing { why: over.to_string() });
    }
}
