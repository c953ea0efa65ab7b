//! The order of a transfer as a receiver sees it. Pure: frames in, steps out.
//!
//! Neighbours: `protocol.rs` decodes the frames, `session.rs` takes the steps.
//!
//! Invariant: every FILE gets exactly one receipt, so `receipts <= files`, and they differ by at
//! most one.

use crate::protocol::{FILES_MAX, FromSender, Wrong};

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A file begins; decide on it.
    Begin { size: u64, name: Vec<u8> },
    /// Take this many bytes off the stream, into the file or away.
    Take { bytes: u32 },
    /// The file has ended; judge it.
    Judge { blake3: [u8; 32] },
    /// The file will not end.
    Abandon { why: String },
    /// A file that was refused has ended; its receipt is out.
    Skipped,
    /// Nothing.
    Nothing,
    /// The transfer is over.
    End,
}

/// Where in the order the transfer is.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// FILE frames so far: `files <= FILES_MAX`.
    files: u32,
    in_file: bool,
    /// The file that is coming has its receipt already.
    receipted: bool,
}

impl Intake {
    /// Takes the next frame.
    ///
    /// # Errors
    /// A frame that cannot come here; the transfer is over.
    pub(super) fn on_frame(&mut self, frame: FromSender) -> Result<Step, Wrong> {
        match (frame, self.in_file) {
            (FromSender::File { .. }, true) => {
                Err(Wrong::Order("a new file before the end of the last one"))
            }
            (FromSender::File { .. }, false) if self.files == FILES_MAX => {
                Err(Wrong::Order("more than 10000 files in one transfer"))
            }
            (FromSender::File { size, name }, false) => {
                self.files += 1;
                self.in_file = true;
                self.receipted = false;
                Ok(Step::Begin { size, name })
            }
            (FromSender::Data { bytes }, true) => Ok(Step::Take { bytes }),
            (FromSender::End { blake3 }, true) => {
                Ok(self.end_file().unwrap_or(Step::Judge { blake3 }))
            }
            (FromSender::GiveUp { why }, true) => {
                Ok(self.end_file().unwrap_or(Step::Abandon { why }))
            }
            (FromSender::Alive, _) => Ok(Step::Nothing),
            (FromSender::Bye, false) => Ok(Step::End),
            (FromSender::Data { .. }, false) => Err(Wrong::Order("data outside a file")),
            (FromSender::End { .. }, false) => Err(Wrong::Order("the end of no file")),
            (FromSender::GiveUp { .. }, false) => Err(Wrong::Order("that it gave up no file")),
            (FromSender::Bye, true) => Err(Wrong::Order("its goodbye in the middle of a file")),
        }
    }

    fn end_file(&mut self) -> Option<Step> {
        self.in_file = false;
        self.receipted.then_some(Step::Skipped)
    }

    /// The number for the receipt of the file that is coming or has just ended.
    pub(super) fn receipt(&mut self) -> u32 {
        debug_assert!(self.files > 0 && !self.receipted);
        self.receipted = true;
        self.files - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> FromSender {
        FromSender::File { size: 2, name: b"a".to_vec() }
    }
    const DATA: FromSender = FromSender::Data { bytes: 2 };
    const END: FromSender = FromSender::End { blake3: [1; 32] };

    fn give_up() -> FromSender {
        FromSender::GiveUp { why: "w".into() }
    }

    #[test]
    fn files_come_one_after_the_other_and_get_one_receipt_each() {
        let mut intake = Intake::default();
        assert_eq!(intake.on_frame(file()), Ok(Step::Begin { size: 2, name: b"a".to_vec() }));
        assert_eq!(intake.on_frame(DATA), Ok(Step::Take { bytes: 2 }));
        assert_eq!(intake.on_frame(FromSender::Alive), Ok(Step::Nothing));
        assert_eq!(intake.on_frame(END), Ok(Step::Judge { blake3: [1; 32] }));
        assert_eq!(intake.receipt(), 0);
        assert_eq!(intake.on_frame(file()), Ok(Step::Begin { size: 2, name: b"a".to_vec() }));
        // Refused in its middle: its end brings no second receipt.
        assert_eq!(intake.receipt(), 1);
        assert_eq!(intake.on_frame(DATA), Ok(Step::Take { bytes: 2 }));
        assert_eq!(intake.on_frame(END), Ok(Step::Skipped));
        intake.on_frame(file()).unwrap();
        assert_eq!(intake.receipt(), 2);
        assert_eq!(intake.on_frame(give_up()), Ok(Step::Skipped));
        intake.on_frame(file()).unwrap();
        assert_eq!(intake.on_frame(give_up()), Ok(Step::Abandon { why: "w".into() }));
        assert_eq!(intake.receipt(), 3);
        assert_eq!(intake.on_frame(FromSender::Bye), Ok(Step::End));
    }

    #[test]
    fn frames_out_of_order_end_the_transfer() {
        for (before, frame) in [
            (vec![], DATA),
            (vec![], END),
            (vec![], give_up()),
            (vec![file()], file()),
            (vec![file(), DATA], FromSender::Bye),
            (vec![file(), END], END),
        ] {
            let mut intake = Intake::default();
            for frame in before {
                intake.on_frame(frame).unwrap();
            }
            let wrong = intake.on_frame(frame.clone());
            assert!(matches!(wrong, Err(Wrong::Order(_))), "{frame:?} gave {wrong:?}");
        }
    }

    #[test]
    fn a_transfer_has_at_most_ten_thousand_files() {
        let mut intake = Intake::default();
        for _ in 0..10_000 {
            intake.on_frame(file()).unwrap();
            intake.on_frame(END).unwrap();
        }
        assert_eq!(
            intake.on_frame(file()),
            Err(Wrong::Order("more than 10000 files in one transfer"))
        );
    }
}
