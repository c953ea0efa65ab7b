//! What a guest tells by its second serial line: pure.
//!
//! Nothing but the guest's first process writes there; what tests print goes into files of the
//! guest's, and comes with its length before it. So nothing that a test or a kernel says can be
//! taken for a result.
//!
//! ```text
//! hello RELEASE
//! lacks MODULE: WHY
//! start STEP
//! end STEP STATUS CENTISECONDS BYTES BYTES    and behind it so many bytes of log, and of skips
//! bye
//! ```

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// It has booted, and is this kernel.
    Hello(String),
    /// A module could not be loaded.
    Lacks(String),
    Start(usize),
    End(End),
    /// All steps are done.
    Bye,
}

/// How a step ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) step: usize,
    /// Its exit code, as a shell has it: 137 for one that was killed.
    pub(super) status: i32,
    pub(super) centiseconds: u64,
    pub(super) log: String,
    pub(super) skips: String,
}

/// Bytes that have come, and are not yet a message.
#[derive(Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, if it is there as a whole; an error if it is none.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        let unknown = || format!("the guest said {line:?} where a message was due");
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().map_err(|_| unknown());
        let (frame, used) = match words[..] {
            ["hello", release] => (Frame::Hello(release.to_owned()), end + 1),
            ["lacks", _, ..] => (Frame::Lacks(words[1..].join(" ")), end + 1),
            ["start", _] => (Frame::Start(number(1)?), end + 1),
            ["bye"] => (Frame::Bye, end + 1),
            ["end", _, _, _, _, _] => {
                let (log, skips) = (number(4)?, number(5)?);
                let used = end + 1 + log + skips;
                let Some(rest) = self.bytes.get(end + 1..used) else { return Ok(None) };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let frame = End {
                    step: number(1)?,
                    status: words[2].parse().map_err(|_| unknown())?,
                    centiseconds: words[3].parse().map_err(|_| unknown())?,
                    log: text(&rest[..log]),
                    skips: text(&rest[log..]),
                };
                (Frame::End(frame), used)
            }
            _ => return Err(unknown()),
        };
        self.bytes.drain(..used);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &[u8] =
        b"hello 6.1.0-50-amd64\nlacks tls: is not one\nstart 0\nend 0 101 1234 17 7\n\
          end 9 0 0 0 0\nbyeSKIP x\nstart 1\nbye\n";

    fn all(pieces: impl Iterator<Item = Vec<u8>>) -> Vec<Frame> {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.take(&piece);
            while let Some(frame) = frames.next().expect("a message") {
                seen.push(frame);
            }
        }
        seen
    }

    #[test]
    fn what_a_test_prints_is_no_message_however_it_is_cut() {
        let end = End {
            step: 0,
            status: 101,
            centiseconds: 1234,
            log: "end 9 0 0 0 0\nbye".to_owned(),
            skips: "SKIP x\n".to_owned(),
        };
        let expected = [
            Frame::Hello("6.1.0-50-amd64".to_owned()),
            Frame::Lacks("tls: is not one".to_owned()),
            Frame::Start(0),
            Frame::End(end),
            Frame::Start(1),
            Frame::Bye,
        ];
        for size in [1, 2, 7, 1000] {
            assert_eq!(all(SAID.chunks(size).map(<[u8]>::to_vec)), expected, "{size}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for wrong in
            ["", "hello", "lacks", "start x", "end 1 2 3 4", "end 1 2 3 4 x", "end x 0 0 0 0", "by"]
        {
            let mut frames = Frames::default();
            frames.take(format!("{wrong}\n").as_bytes());
            assert!(frames.next().is_err(), "{wrong:?}");
        }
        let mut frames = Frames::default();
        frames.take(b"bye");
        assert_eq!(frames.next(), Ok(None));
    }
}
