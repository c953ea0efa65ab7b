//! The ring's thread: lends every block to every receiver, takes it back, and drops whom the others
//! would wait for too long.
//!
//! Neighbours: `reader.rs` brings blocks and is told when they are free; `replies.rs` brings what
//! the receivers say; `window.rs` decides who is too late; `receiver.rs` keeps what became of each.
//!
//! ```text
//!   Read::Block ─▶ parcel ─▶ send(receiver 1, [head, block], on the notifier, quiet)
//!                            send(receiver 2, [head, block], on the notifier, quiet)
//!                            …
//!                            flush(notifier) ─▶ seq
//!   Notified{seq}: every receiver's kernel has let go ─▶ the block's memory is read into again
//! ```
//! Receivers are judged by the time in which this process runs (`running`); only when we have to
//! give a sign of life, the clock on the wall says, for that is what they wait by.
//! Invariants: a parcel is flushed when every receiver that takes part has it; the next parcel
//! waits for that; so every receiver gets the same stream in the same order, up to what it refuses.

use std::collections::{HashSet, VecDeque};
use std::sync::mpsc::{Receiver as Channel, TryRecvError};
use std::time::{Duration, Instant};

use ringwire::{
    Block, Error, Event, Events, Notifier, OnDeadline, Piece, Ring, SendOptions, Socket, Stats,
};
use ringwire_core::running::Running;

use super::reader::{Read, Returns};
use super::receiver::{ALIVE_EVERY, Receiver, Step};
use super::replies::Heard;
use super::source::Planned;
use super::window::{Late, Position, Window};
use crate::exit::Failure;
use crate::output::{Output, Progress};
use crate::protocol::{FromSender, data_head};
use crate::units::show_duration;

/// How often receivers are looked at when nothing happens: finer than any patience, cheap.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// An absence that is worth a word. Shorter ones are those of a busy machine.
const ABSENCE_MIN: Duration = Duration::from_secs(1);

/// How long connections are given to end cleanly when all is said.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a transfer came to.
pub(super) struct Outcome {
    pub(super) receivers: Vec<Receiver>,
    /// The reader failed, or a signal came.
    pub(super) failure: Option<Failure>,
    pub(super) stats: Stats,
    /// How it went, as the summary says it.
    pub(super) engine: String,
    /// From the first byte read to the last one accepted by a receiver's connection.
    pub(super) sent_after: Duration,
    /// To the last receipt.
    pub(super) ended_after: Duration,
    /// Files read past the page cache to the end, and all that were read to the end.
    pub(super) direct_files: u32,
    pub(super) read_files: u32,
}

/// What is handed to each of `to`, and then flushed.
struct Parcel {
    frame: Vec<u8>,
    /// With its number in the window.
    block: Option<(Block, u64)>,
    /// The goodbye: FIN follows it.
    last: bool,
    to: Vec<usize>,
}

pub(super) struct Transfer<'a> {
    ring: Ring,
    notifier: Notifier,
    sockets: Vec<Socket>,
    receivers: Vec<Receiver>,
    window: Window,
    patience: Duration,
    /// Since `started`.
    running: Running,
    files: &'a [Planned],
    returns: &'a Returns,
    output: &'a Output,
    progress: Progress<'a>,
    parcels: VecDeque<Parcel>,
    /// Flushed sequences that carry a block.
    blocks_out: HashSet<u32>,
    /// The file that is being sent.
    file: Option<u32>,
    /// All has been said; only receipts are waited for.
    bye_said: bool,
    failure: Option<Failure>,
    started: Instant,
    sent_at: Option<Instant>,
    direct_files: u32,
    read_files: u32,
}

impl<'a> Transfer<'a> {
    /// Takes the ring with its sockets, one a receiver, in the same order.
    pub(super) fn new(
        mut ring: Ring,
        sockets: Vec<Socket>,
        names: &[String],
        files: &'a [Planned],
        patience: Duration,
        returns: &'a Returns,
        output: &'a Output,
    ) -> Result<Self, Error> {
        let notifier = ring.notifier(0)?;
        let now = Instant::now();
        let total: u64 = files.iter().map(|file| file.size).sum();
        let lines: Vec<_> = names.iter().map(|name| (name.clone(), total)).collect();
        Ok(Transfer {
            ring,
            notifier,
            receivers: names.iter().map(|name| Receiver::new(name.clone(), now)).collect(),
            window: Window::new(sockets.len(), patience),
            patience,
            running: Running::new(now, patience),
            sockets,
            files,
            returns,
            output,
            progress: output.progress(now, &lines),
            parcels: VecDeque::new(),
            blocks_out: HashSet::new(),
            file: None,
            bye_said: false,
            failure: None,
            started: now,
            sent_at: None,
            direct_files: 0,
            read_files: 0,
        })
    }

    /// Runs until every receiver has said what became of every file, or is lost.
    ///
    /// # Errors
    /// The ring itself failed.
    pub(super) fn run(
        mut self,
        from_reader: &Channel<Read>,
        heard: &Channel<Heard>,
    ) -> Result<Outcome, Error> {
        let mut events = Events::new();
        let look_every = LOOK_EVERY.min(Running::interval(self.patience));
        let mut look_at = Instant::now();
        while self.receivers.iter().any(Receiver::takes_part) {
            let mut now = Instant::now();
            self.hear(now, heard)?;
            self.hand_over(now)?;
            while self.parcels.is_empty() && !self.bye_said {
                match from_reader.try_recv() {
                    Ok(read) => self.on_read(read),
                    Err(TryRecvError::Empty) => break,
                    // It says how it ended before it ends; this way only a panic ends it.
                    Err(TryRecvError::Disconnected) => self.on_read(Read::Failed {
                        failure: Failure::new("the thread that reads the files ended early"),
                        begun: self.file.is_some(),
                    }),
                }
                self.hand_over(now)?;
            }
            let _ = self.ring.turn(Some(look_at.saturating_duration_since(now)), &mut events)?;
            now = Instant::now();
            for event in events.drain() {
                self.on_event(now, &event);
            }
            if self.bye_said && self.sent_at.is_none() {
                self.look_for_the_end(now)?;
            }
            if now >= look_at {
                self.look(now)?;
                look_at = now + look_every;
            }
        }
        self.returns.stop();
        let ended_after = self.started.elapsed();
        let sent_after = self.sent_at.map_or(ended_after, |at| at - self.started);
        drop(self.progress);
        let stats = self.ring.stats();
        self.ring.shutdown(Some(FAREWELL), OnDeadline::Abort);
        Ok(Outcome {
            receivers: self.receivers,
            failure: self.failure,
            stats,
            engine: String::new(),
            sent_after,
            ended_after,
            direct_files: self.direct_files,
            read_files: self.read_files,
        })
    }

    /// Turns what was read into a parcel for everybody who takes part.
    fn on_read(&mut self, read: Read) {
        match read {
            Read::File { file, size } => {
                self.file = Some(file);
                let name = self.files[file as usize].name.as_str().as_bytes().to_vec();
                let everybody = self.listeners(None);
                self.post(FromSender::File { size, name }.encode(), None, everybody);
            }
            Read::Block(block) => {
                let to = self.listeners(self.file);
                let frame = data_head(block.len() as u32).to_vec();
                match to.is_empty() {
                    true => self.returns.on_returned(),
                    false => {
                        let number = self.window.open_block();
                        self.post(frame, Some((block, number)), to);
                    }
                }
            }
            Read::End { blake3, direct } => {
                self.read_files += 1;
                self.direct_files += u32::from(direct);
                let to = self.listeners(self.file);
                for &receiver in &to {
                    self.receivers[receiver].on_end_sent();
                }
                self.post(FromSender::End { blake3 }.encode(), None, to);
                self.file = None;
            }
            Read::Skipped => self.file = None,
            Read::Failed { failure, begun } => {
                if begun {
                    let why = failure.first_line();
                    let to = self.listeners(self.file);
                    self.post(FromSender::GiveUp { why }.encode(), None, to);
                }
                self.failure = Some(failure);
                self.say_bye(begun);
            }
            Read::All => self.say_bye(false),
        }
    }

    /// Ends the stream. `given_up`: the file that was being sent gets a receipt all the same.
    fn say_bye(&mut self, given_up: bool) {
        let everybody = self.listeners(None);
        if given_up {
            for &receiver in &self.listeners(self.file) {
                self.receivers[receiver].on_end_sent();
            }
        }
        self.file = None;
        self.bye_said = true;
        let frame = FromSender::Bye.encode();
        self.parcels.push_back(Parcel { frame, block: None, last: true, to: everybody });
    }

    /// Who takes part, and, if a file is given, still takes that file.
    fn listeners(&self, file: Option<u32>) -> Vec<usize> {
        let takes = |receiver: &Receiver| {
            receiver.takes_part() && file.is_none_or(|file| !receiver.refuses(file))
        };
        (0..self.receivers.len()).filter(|&index| takes(&self.receivers[index])).collect()
    }

    fn post(&mut self, frame: Vec<u8>, block: Option<(Block, u64)>, to: Vec<usize>) {
        if !to.is_empty() {
            self.parcels.push_back(Parcel { frame, block, last: false, to });
        }
    }

    /// Hands parcels over until a receiver's socket is full.
    fn hand_over(&mut self, now: Instant) -> Result<(), Error> {
        while let Some(mut parcel) = self.parcels.pop_front() {
            let mut full = Vec::new();
            for receiver in std::mem::take(&mut parcel.to) {
                match self.send(now, receiver, &parcel) {
                    Ok(()) => {}
                    Err(Error::LimitReached { .. }) => full.push(receiver),
                    Err(error) => self.lose(receiver, format!("cannot send to it: {error}")),
                }
            }
            if !full.is_empty() {
                // `Room` ends a turn, and the rest goes then.
                parcel.to = full;
                self.parcels.push_front(parcel);
                return Ok(());
            }
            let seq = self.ring.flush(self.notifier)?;
            if parcel.block.is_some() {
                self.blocks_out.insert(seq);
            }
        }
        Ok(())
    }

    fn send(&mut self, now: Instant, receiver: usize, parcel: &Parcel) -> Result<(), Error> {
        if !self.receivers[receiver].takes_part() {
            return Ok(());
        }
        let mut pieces = vec![Piece::from(parcel.frame.clone())];
        let mut bytes = parcel.frame.len() as u64;
        let mut number = None;
        if let Some((block, block_number)) = &parcel.block {
            pieces.push(Piece::from(block.clone()));
            bytes += block.len() as u64;
            number = Some(*block_number);
        }
        self.ring
            .send_with(self.sockets[receiver], pieces, SendOptions::new().on(self.notifier).quiet())
            .map_err(|refused| refused.why)?;
        self.window.lend(self.ran_until(now), receiver, bytes, number);
        self.receivers[receiver].on_lent(now);
        if parcel.last {
            self.ring.finish(self.sockets[receiver])?;
            self.receivers[receiver].on_bye_sent();
            self.look_for_completion(receiver);
        }
        Ok(())
    }

    fn on_event(&mut self, now: Instant, event: &Event) {
        match *event {
            Event::Notified { seq, .. } if self.blocks_out.remove(&seq) => {
                self.returns.on_returned();
            }
            Event::Broken { sock, error } => {
                if let Some(receiver) = self.sockets.iter().position(|&other| other == sock) {
                    let now = self.ran_until(now);
                    self.receivers[receiver].on_broken(now, error.to_string());
                }
            }
            // `Room` has ended the wait, which is all that it is for; quiet payloads have no
            // events of their own.
            _ => {}
        }
    }

    /// Takes what `replies.rs` has heard.
    fn hear(&mut self, now: Instant, heard: &Channel<Heard>) -> Result<(), Error> {
        while let Ok(heard) = heard.try_recv() {
            let (index, step) = match heard {
                Heard::Signal(signal) => {
                    self.failure = Some(Failure::new(format!(
                        "told to exit by {signal}; files that were under way are not kept anywhere"
                    )));
                    for index in self.listeners(None) {
                        self.lose(index, "interrupted".into());
                    }
                    return Ok(());
                }
                Heard::Frame(index, frame) => {
                    self.window.on_sign(self.ran_until(now), index);
                    (index, self.receivers[index].on_frame(frame, self.files.len() as u32))
                }
                Heard::Wrong(index, wrong) => (index, Step::Lost(wrong.to_string())),
                Heard::Gone(index, error) => (index, self.receivers[index].on_gone(error)),
            };
            self.take(index, step);
        }
        Ok(())
    }

    fn take(&mut self, index: usize, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Lost(why) => self.lose(index, why),
            Step::Refused(file) => {
                let receiver = &self.receivers[index];
                if let Some(text) = receiver.refusals().next_back() {
                    self.output.warning(format_args!("{}: {text}", receiver.name));
                }
                if self.file == Some(file) {
                    self.skip_rest(index, file);
                }
            }
        }
        self.look_for_completion(index);
    }

    /// Sends a receiver no more of a file that it has refused.
    fn skip_rest(&mut self, index: usize, file: u32) {
        // Before whatever comes next; what is under way to it is thrown away there.
        for parcel in &mut self.parcels {
            parcel.to.retain(|&to| to != index);
        }
        self.receivers[index].on_end_sent();
        self.post(FromSender::GiveUp { why: "refused".into() }.encode(), None, vec![index]);
        if self.listeners(Some(file)).is_empty() {
            self.returns.skip(file);
        }
    }

    /// A receiver takes no further part when it has its goodbye and has said all it owes.
    fn look_for_completion(&mut self, index: usize) {
        if self.receivers[index].becomes_complete() {
            self.window.on_gone(index);
            if let Ok(stats) = self.ring.socket_stats(self.sockets[index]) {
                self.receivers[index].accepted_bytes = stats.accepted_bytes;
            }
            let stored = self.receivers[index].stored() == self.files.len();
            self.progress.end(index, if stored { "stored" } else { "not all stored" });
        }
    }

    /// Takes down when everything had left.
    fn look_for_the_end(&mut self, now: Instant) -> Result<(), Error> {
        for index in self.listeners(None) {
            if self.ring.socket_stats(self.sockets[index])?.in_flight_payloads > 0 {
                return Ok(());
            }
        }
        if self.parcels.is_empty() {
            self.sent_at = Some(now);
        }
        Ok(())
    }

    /// When it was, for who counts the time in which this process ran.
    fn ran_until(&self, now: Instant) -> Instant {
        self.started + self.running.ran_at(now)
    }

    /// Looks at every receiver: how far it is, and whether the others wait for it too long.
    fn look(&mut self, now: Instant) -> Result<(), Error> {
        let ran_until = self.started + self.running.look(now);
        let judges = self.running.judges();
        if let Some(note) = absence(&self.running) {
            self.output.note(note);
        }
        for index in self.listeners(None) {
            let receiver = &mut self.receivers[index];
            if let Some(why) = receiver.lost_after(ran_until, self.patience)
                && judges
            {
                self.lose(index, why);
                continue;
            }
            let stats = self.ring.socket_stats(self.sockets[index])?;
            let position = Position {
                accepted_bytes: stats.accepted_bytes,
                released_bytes: stats.released_bytes,
                owes_receipt: receiver.owes_receipt(),
            };
            receiver.accepted_bytes = stats.accepted_bytes;
            self.window.on_position(ran_until, index, position);
            self.progress.set(index, stats.accepted_bytes);
            if stats.in_flight_payloads == 0
                && !self.bye_said
                && now - receiver.lent_at >= ALIVE_EVERY
            {
                self.post(FromSender::Alive.encode(), None, vec![index]);
            }
        }
        let no_block_free = self.returns.is_awaited() || !self.parcels.is_empty();
        while let Some((index, late)) = self.window.late(ran_until, no_block_free)
            && judges
        {
            let why = match late {
                Late::Silent(time) => {
                    format!("dropped: no sign of life for {}", show_duration(time))
                }
                Late::Behind(time) => format!(
                    "dropped: {} behind another receiver, which had to wait for it",
                    show_duration(time)
                ),
            };
            self.lose(index, why);
        }
        self.progress.tick(ran_until);
        Ok(())
    }

    /// Goes on without a receiver. Its connection is broken, so that its blocks come back.
    fn lose(&mut self, index: usize, why: String) {
        let receiver = &mut self.receivers[index];
        if !receiver.takes_part() {
            return;
        }
        self.output.warning(format_args!("{}: {why}", receiver.name));
        self.progress.end(index, &why);
        receiver.lose(why);
        self.window.on_gone(index);
        // A handle that is stale already has nothing left to break.
        let _ = self.ring.abort(self.sockets[index]);
        if let Some(file) = self.file
            && self.listeners(Some(file)).is_empty()
        {
            self.returns.skip(file);
        }
    }
}

/// What to say of a look that came so late that this program did not run meanwhile.
fn absence(running: &Running) -> Option<String> {
    let (passed, counts) = running.passed();
    let (shown, counts) = (show_duration(passed), show_duration(counts));
    (passed >= ABSENCE_MIN).then(|| {
        format!("this program did not run for {shown}; {counts} of it count against receivers")
    })
}

#[cfg(test)]
mod tests;
