//! One receiver as the sender sees it: what it was sent, what it said, how it ended. Pure.
//!
//! Neighbours: `transfer.rs` tells it what happens and takes the steps it names;
//! `greeting.rs`, before there is a transfer, takes from here how long one may hear nothing.
//!
//! Invariants: `receipts.len() <= files`; a receipt's number is the count of those before it.

use std::io;
use std::time::{Duration, Instant};

use crate::protocol::{FromReceiver, Status, Wrong};

/// A receiver that has heard nothing for so long hears that we are alive. Well below the 30 s after
/// which `ringwire recv` ends a silent transfer by default.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(5);

/// What to do about what a receiver said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// It does not take file number so and so. The rest need not be sent.
    Refused(u32),
    /// It is lost, and why.
    Lost(String),
}

/// What became of one file there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) status: Status,
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) name: String,
    pub(super) receipts: Vec<Receipt>,
    pub(super) accepted_bytes: u64,
    /// When it was last sent anything.
    pub(super) lent_at: Instant,
    /// Files of which it was sent the end, or of which it knows that no end comes:
    /// `receipts.len() <= ended + 1`.
    ended: u32,
    bye_sent: bool,
    /// The file that it has refused while it was being sent.
    refused: Option<u32>,
    /// Why it said that it ends the transfer.
    closing: Option<String>,
    broken: Option<(Instant, String)>,
    end: Option<End>,
}

/// How it went out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It has said what became of every file.
    Complete,
    /// It was lost before that.
    Lost(String),
}

impl Receiver {
    pub(super) fn new(name: String, now: Instant) -> Receiver {
        Receiver {
            name,
            receipts: Vec::new(),
            accepted_bytes: 0,
            lent_at: now,
            ended: 0,
            bye_sent: false,
            refused: None,
            closing: None,
            broken: None,
            end: None,
        }
    }

    pub(super) fn takes_part(&self) -> bool {
        self.end.is_none()
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    pub(super) fn refuses(&self, file: u32) -> bool {
        self.refused == Some(file)
    }

    pub(super) fn owes_receipt(&self) -> bool {
        (self.receipts.len() as u32) < self.ended
    }

    /// How many files it has stored.
    pub(super) fn stored(&self) -> usize {
        self.receipts.iter().filter(|receipt| receipt.status == Status::Stored).count()
    }

    /// What it said of the files that it has not stored, the first of them first.
    pub(super) fn refusals(&self) -> impl DoubleEndedIterator<Item = &str> {
        let refused = self.receipts.iter().filter(|receipt| receipt.status != Status::Stored);
        refused.map(|receipt| receipt.text.as_str())
    }

    /// Something was sent to it.
    pub(super) fn on_lent(&mut self, now: Instant) {
        self.lent_at = now;
    }

    /// The end of a file, or that none comes, was put into its stream.
    pub(super) fn on_end_sent(&mut self) {
        self.ended += 1;
    }

    /// It said something.
    pub(super) fn on_frame(&mut self, frame: FromReceiver, files: u32) -> Step {
        if !self.takes_part() {
            return Step::Nothing;
        }
        match frame {
            FromReceiver::Alive { .. } => Step::Nothing,
            FromReceiver::Closing { why } => {
                // The connection's end follows; until then it may still say why not.
                self.closing = Some(why);
                Step::Nothing
            }
            FromReceiver::Receipt { file, status, text } => {
                let early = file >= self.ended;
                if file != self.receipts.len() as u32
                    || file >= files
                    || file > self.ended
                    || (early && status == Status::Stored)
                {
                    return Step::Lost(
                        Wrong::Order("a receipt for a file that it cannot judge").to_string(),
                    );
                }
                self.receipts.push(Receipt { status, text });
                if early {
                    self.refused = Some(file);
                }
                match status {
                    Status::Stored => Step::Nothing,
                    _ => Step::Refused(file),
                }
            }
        }
    }

    /// The stream to it has failed. Its last words may be on their way.
    pub(super) fn on_broken(&mut self, now: Instant, why: String) {
        self.broken.get_or_insert((now, why));
    }

    /// Its stream has ended.
    pub(super) fn on_gone(&mut self, error: Option<io::Error>) -> Step {
        if !self.takes_part() {
            return Step::Nothing;
        }
        Step::Lost(match (self.closing.take(), error) {
            (Some(why), _) => format!("ended the transfer: {why}"),
            (None, Some(error)) => format!("the connection broke: {error}"),
            (None, None) => "ended the connection without a word".into(),
        })
    }

    /// Why it is lost, if its stream has failed and nothing was heard since.
    pub(super) fn lost_after(&self, now: Instant, grace: Duration) -> Option<String> {
        let (at, why) = self.broken.as_ref()?;
        (now.duration_since(*at) >= grace).then(|| format!("the connection broke: {why}"))
    }

    /// The goodbye was put into its stream.
    pub(super) fn on_bye_sent(&mut self) {
        self.bye_sent = true;
    }

    /// Whether it has just become complete: all is said, on both sides.
    pub(super) fn becomes_complete(&mut self) -> bool {
        let complete = self.takes_part() && self.bye_sent && !self.owes_receipt();
        if complete {
            self.end = Some(End::Complete);
        }
        complete
    }

    pub(super) fn lose(&mut self, why: String) {
        self.end.get_or_insert(End::Lost(why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(file: u32, status: Status) -> FromReceiver {
        FromReceiver::Receipt { file, status, text: "t".into() }
    }

    fn receiver() -> Receiver {
        Receiver::new("r".into(), Instant::now())
    }

    #[test]
    fn a_receiver_is_complete_with_its_last_receipt() {
        let mut receiver = receiver();
        receiver.on_end_sent();
        receiver.on_end_sent();
        assert!(receiver.owes_receipt());
        assert_eq!(receiver.on_frame(receipt(0, Status::Stored), 2), Step::Nothing);
        assert_eq!(receiver.on_frame(receipt(1, Status::Mismatch), 2), Step::Refused(1));
        assert_eq!(receiver.refusals().collect::<Vec<_>>(), ["t"]);
        // Not before it has its goodbye, or it would take the end for a loss.
        assert!(!receiver.becomes_complete());
        receiver.on_bye_sent();
        assert!(receiver.becomes_complete());
        assert!(!receiver.becomes_complete());
        assert_eq!((receiver.end(), receiver.stored()), (Some(&End::Complete), 1));
        // What ends later changes nothing.
        assert_eq!(receiver.on_gone(None), Step::Nothing);
        receiver.lose("late".into());
        assert_eq!(receiver.end(), Some(&End::Complete));
    }

    #[test]
    fn a_refusal_may_come_before_the_end_of_the_file_but_storing_may_not() {
        let mut early = receiver();
        assert_eq!(early.on_frame(receipt(0, Status::Refused), 1), Step::Refused(0));
        assert!(early.refuses(0));
        for (file, status) in [(0, Status::Stored), (1, Status::Refused), (7, Status::Failed)] {
            let mut receiver = receiver();
            let step = receiver.on_frame(receipt(file, status), 9);
            assert!(matches!(step, Step::Lost(_)), "{file} {status}");
        }
        let mut twice = receiver();
        twice.on_end_sent();
        twice.on_frame(receipt(0, Status::Stored), 1);
        assert!(matches!(twice.on_frame(receipt(0, Status::Stored), 1), Step::Lost(_)));
        assert!(matches!(twice.on_frame(receipt(1, Status::Refused), 1), Step::Lost(_)));
    }

    #[test]
    fn last_words_are_kept_over_the_error_that_follows() {
        let mut receiver = receiver();
        let now = Instant::now();
        receiver.on_broken(now, "Broken pipe".into());
        assert_eq!(receiver.lost_after(now, Duration::from_secs(1)), None);
        receiver.on_frame(FromReceiver::Closing { why: "told to exit".into() }, 1);
        let gone = receiver.on_gone(Some(io::ErrorKind::ConnectionReset.into()));
        assert_eq!(gone, Step::Lost("ended the transfer: told to exit".into()));
        let why = receiver.lost_after(now + Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(why.unwrap(), "the connection broke: Broken pipe");
    }
}
