//! The protocol between `ringwire send` and `ringwire recv`: encoding and decoding. Pure.
//!
//! Neighbours: `send/` encodes [`FromSender`] and decodes [`FromReceiver`], `recv/` the reverse.
//! Must not know sockets, files or clocks. Integers are big-endian.
//!
//! ```text
//! greeting, from each side at once after connecting, 16 bytes, the same in every version:
//!   "ringwire" · version u16 · role 'S', 'R', 'W' or 'P' · 5 bytes, a receiver's number, else zero
//!
//! a receiver that has no place free greets with the role 'W' ("wait"), and once more, with 'R',
//! when it is this sender's turn. Its number is by chance, and the same to everybody: who has two
//! connections to one receiver, by whatever addresses, can tell
//!
//! after a greeting of the role 'P' (a probe of the path, by ringwire doctor): any bytes, at most
//! 1 GiB, which the receiver throws away; no transfer, no frames, no answer
//!
//! else frames: kind u8 · length u32 · body[length]
//!   sender → receiver                             receiver → sender
//!   01 FILE     size u64 · name[0..=512]          81 RECEIPT  file u32 · status u8 · text[0..=512]
//!   02 DATA     bytes[1..=16 MiB]                 82 ALIVE    received u64
//!   03 END      BLAKE3[32]                        83 CLOSING  text[0..=512]
//!   04 GIVE UP  text[0..=512]
//!   05 ALIVE
//!   06 BYE
//!
//! a file:      FILE DATA* END            and it gets exactly one RECEIPT, in the files' order,
//!          or  FILE DATA* GIVE UP        which may come before the END: a refusal
//! a transfer:  file* BYE
//! ```
//!
//! The hash comes last because each file is read once. A file is stored when its END has come, all
//! of `size` has, and the hash holds. A receiver that has refused a file skips to its END or GIVE
//! UP. ALIVE means: nothing else to say, still here; each side sends it before the other's patience
//! could end.

use std::fmt;

use crate::name::printable;

/// The protocol's version. It changes when either side could misread the other.
pub(crate) const VERSION: u16 = 1;

/// Where a receiver listens when it is not told. Below 32768, so that no outgoing connection of the
/// same host has it by chance.
pub(crate) const DEFAULT_PORT: u16 = 27_474;

/// Length of the greeting.
pub(crate) const GREETING_BYTES: usize = 16;

/// Length of a frame's head: kind and length.
pub(crate) const HEAD_BYTES: usize = 5;

/// Most bytes of a file in one DATA frame: the largest block that an arena hands out.
pub(crate) const DATA_BYTES_MAX: u32 = 16 << 20;

/// Most bytes of text in a frame.
pub(crate) const TEXT_BYTES_MAX: usize = 512;

/// Most bytes of a frame whose body is decoded in one piece (all but DATA), head included.
pub(crate) const FRAME_BYTES_MAX: usize = HEAD_BYTES + 8 + TEXT_BYTES_MAX;

/// Most bytes of one probe.
pub(crate) const PROBE_BYTES_MAX: u64 = 1 << 30;

/// Most files in one transfer: it bounds what a receiver must remember and create.
pub(crate) const FILES_MAX: u32 = 10_000;

const MAGIC: [u8; 8] = *b"ringwire";
const ROLE_AT: usize = 10;

/// Which side greets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Sender = b'S' as isize,
    Receiver = b'R' as isize,
    /// A receiver that serves others, and will greet again.
    Busy = b'W' as isize,
    Prober = b'P' as isize,
}

/// What tells receivers apart; zero of one that does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceiverId(pub(crate) [u8; 5]);

/// What a sender says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromSender {
    /// A file begins. The name is not checked yet: its refusal is a receipt, not a broken protocol.
    File { size: u64, name: Vec<u8> },
    /// The next `bytes` bytes of the stream are the file's.
    Data { bytes: u32 },
    /// All of the file has been sent.
    End { blake3: [u8; 32] },
    /// The file will not come to its end.
    GiveUp { why: String },
    /// Still here.
    Alive,
    /// No more files.
    Bye,
}

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FromReceiver {
    /// What became of the transfer's file number `file`, counted from 0.
    Receipt { file: u32, status: Status, text: String },
    /// Still here; `received_bytes` of the transfer's DATA have come.
    Alive { received_bytes: u64 },
    /// The receiver ends the transfer.
    Closing { why: String },
}

/// What became of a file at a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Verified, on the disk, under its name.
    Stored = 0,
    /// Not wanted: its name, its size, or what is there already.
    Refused = 1,
    /// The receiver could not write it.
    Failed = 2,
    /// What came is not what was announced.
    Mismatch = 3,
    /// The sender gave it up.
    Abandoned = 4,
}

/// What the peer did that this protocol does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    /// Another program, or another protocol.
    #[error("it does not speak ringwire's protocol: it began with {}", Quoted(began))]
    Magic { began: Vec<u8> },
    /// Another release.
    #[error(
        "it speaks version {theirs} of ringwire's protocol, and this program version {VERSION}"
    )]
    Version { theirs: u16 },
    /// A sender where a receiver should be, the reverse, or an echo.
    #[error(
        "it is not the other end of a transfer: its role is {theirs:#04x}, not {expected:#04x}"
    )]
    Role { theirs: u8, expected: u8 },
    /// Bits that version 1 leaves zero.
    #[error("its greeting has reserved bytes that are not zero")]
    Reserved,
    #[error("it sent a frame of the unknown kind {0:#04x}")]
    Kind(u8),
    #[error("it sent a frame of kind {kind:#04x} with {bytes} bytes")]
    Length { kind: u8, bytes: u32 },
    #[error("it sent text that is not UTF-8")]
    Text,
    #[error("it sent a receipt with the unknown status {0}")]
    Status(u8),
    #[error("it sent {0}")]
    Order(&'static str),
}

impl Wrong {
    /// The way out, where there is one.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Wrong::Magic { .. } => Some("is \"ringwire recv\" what listens at that port?"),
            Wrong::Version { .. } => Some("use the same release of ringwire at both ends"),
            _ => None,
        }
    }
}

/// The greeting of a side that has no number.
pub(crate) fn greeting(role: Role) -> [u8; GREETING_BYTES] {
    greeting_of(role, ReceiverId::default())
}

/// The greeting of one side.
pub(crate) fn greeting_of(role: Role, id: ReceiverId) -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..ROLE_AT].copy_from_slice(&VERSION.to_be_bytes());
    bytes[ROLE_AT] = role as u8;
    bytes[ROLE_AT + 1..].copy_from_slice(&id.0);
    bytes
}

/// Judges what has come of the greeting of a sender or a prober, at most [`GREETING_BYTES`]: `true`
/// when it is whole. Another protocol is known by its first wrong byte, without waiting for more.
pub(crate) fn check_greeting(came: &[u8], expected: Role) -> Result<bool, Wrong> {
    check_role(came, &[expected])?;
    if came.iter().skip(ROLE_AT + 1).any(|&byte| byte != 0) {
        return Err(Wrong::Reserved);
    }
    Ok(came.len() >= GREETING_BYTES)
}

/// Judges what has come of a receiver's greeting, in the same way: whether it has a place free, and
/// who it is; `None` while it is not whole.
pub(crate) fn check_receiver(came: &[u8]) -> Result<Option<(bool, ReceiverId)>, Wrong> {
    check_role(came, &[Role::Receiver, Role::Busy])?;
    let Some(id) = came.get(ROLE_AT + 1..GREETING_BYTES) else { return Ok(None) };
    let mut number = ReceiverId::default();
    number.0.copy_from_slice(id);
    Ok(Some((came[ROLE_AT] == Role::Receiver as u8, number)))
}

/// Up to the role, which is to be one of these.
fn check_role(came: &[u8], expected: &[Role]) -> Result<(), Wrong> {
    let compared = came.len().min(MAGIC.len());
    if came[..compared] != MAGIC[..compared] {
        return Err(Wrong::Magic { began: came.to_vec() });
    }
    if let Some(version) = came.get(8..ROLE_AT) {
        let theirs = u16::from_be_bytes([version[0], version[1]]);
        if theirs != VERSION {
            return Err(Wrong::Version { theirs });
        }
    }
    if let Some(&theirs) = came.get(ROLE_AT)
        && !expected.iter().any(|&role| role as u8 == theirs)
    {
        return Err(Wrong::Role { theirs, expected: expected[0] as u8 });
    }
    Ok(())
}

/// Which end has greeted, of those that a receiver serves: a sender, unless it says that it probes.
pub(crate) fn client_role(came: &[u8]) -> Role {
    match came.get(ROLE_AT) {
        Some(b'P') => Role::Prober,
        _ => Role::Sender,
    }
}

/// As much of `text` as a frame can carry, cut between characters.
fn fit(text: &str) -> &str {
    let mut bytes = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(bytes) {
        bytes -= 1;
    }
    &text[..bytes]
}

/// The head of a DATA frame; `bytes` of file follow it on the stream.
pub(crate) fn data_head(bytes: u32) -> [u8; HEAD_BYTES] {
    head(0x02, bytes)
}

fn head(kind: u8, body_bytes: u32) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = body_bytes.to_be_bytes();
    [kind, a, b, c, d]
}

fn frame(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body_bytes: usize = body.iter().map(|part| part.len()).sum();
    let mut bytes = Vec::with_capacity(HEAD_BYTES + body_bytes);
    bytes.extend_from_slice(&head(kind, body_bytes as u32));
    for part in body {
        bytes.extend_from_slice(part);
    }
    bytes
}

/// A frame's kind, and where its body lies in the bytes that have come.
struct Came<'a> {
    kind: u8,
    body: &'a [u8],
    frame_bytes: usize,
}

/// Finds the first frame. `None`: more must come. `lengths` says which lengths a kind may have, so
/// that a wrong one is known from the head alone; DATA is whole with its head.
fn first_frame(
    came: &[u8],
    lengths: impl Fn(u8) -> Option<std::ops::RangeInclusive<usize>>,
) -> Result<Option<Came<'_>>, Wrong> {
    let Some((&[kind, a, b, c, d], rest)) = came.split_first_chunk::<HEAD_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_be_bytes([a, b, c, d]);
    let allowed = lengths(kind).ok_or(Wrong::Kind(kind))?;
    if !allowed.contains(&(bytes as usize)) {
        return Err(Wrong::Length { kind, bytes });
    }
    if kind == 0x02 {
        return Ok(Some(Came { kind, body: &came[1..HEAD_BYTES], frame_bytes: HEAD_BYTES }));
    }
    let Some(body) = rest.get(..bytes as usize) else { return Ok(None) };
    Ok(Some(Came { kind, body, frame_bytes: HEAD_BYTES + body.len() }))
}

fn text(bytes: &[u8]) -> Result<String, Wrong> {
    std::str::from_utf8(bytes).map(printable).map_err(|_| Wrong::Text)
}

fn be_u32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn be_u64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

impl FromSender {
    /// The frame's bytes; of DATA, the head.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            FromSender::File { size, name } => frame(0x01, &[&size.to_be_bytes(), name]),
            FromSender::Data { bytes } => data_head(*bytes).to_vec(),
            FromSender::End { blake3 } => frame(0x03, &[blake3]),
            FromSender::GiveUp { why } => frame(0x04, &[fit(why).as_bytes()]),
            FromSender::Alive => frame(0x05, &[]),
            FromSender::Bye => frame(0x06, &[]),
        }
    }

    /// The first frame of what has come, and how many bytes it took. `None`: more must come.
    ///
    /// # Errors
    /// [`Wrong`], from the first byte that no frame can have; the stream cannot be read on.
    pub(crate) fn decode(came: &[u8]) -> Result<Option<(FromSender, usize)>, Wrong> {
        let lengths = |kind| match kind {
            // A name may be too long here: its rule is applied later, and answered by a receipt.
            0x01 => Some(8..=8 + TEXT_BYTES_MAX),
            0x02 => Some(1..=DATA_BYTES_MAX as usize),
            0x03 => Some(32..=32),
            0x04 => Some(0..=TEXT_BYTES_MAX),
            0x05 | 0x06 => Some(0..=0),
            _ => None,
        };
        let Some(Came { kind, body, frame_bytes }) = first_frame(came, lengths)? else {
            return Ok(None);
        };
        let frame = match kind {
            0x01 => FromSender::File { size: be_u64(&body[..8]), name: body[8..].to_vec() },
            0x02 => FromSender::Data { bytes: be_u32(body) },
            0x03 => {
                let mut blake3 = [0; 32];
                blake3.copy_from_slice(body);
                FromSender::End { blake3 }
            }
            0x04 => FromSender::GiveUp { why: text(body)? },
            0x05 => FromSender::Alive,
            _ => FromSender::Bye,
        };
        Ok(Some((frame, frame_bytes)))
    }
}

impl FromReceiver {
    /// The frame's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            FromReceiver::Receipt { file, status, text } => {
                frame(0x81, &[&file.to_be_bytes(), &[*status as u8], fit(text).as_bytes()])
            }
            FromReceiver::Alive { received_bytes } => frame(0x82, &[&received_bytes.to_be_bytes()]),
            FromReceiver::Closing { why } => frame(0x83, &[fit(why).as_bytes()]),
        }
    }

    /// As [`FromSender::decode`].
    pub(crate) fn decode(came: &[u8]) -> Result<Option<(FromReceiver, usize)>, Wrong> {
        let lengths = |kind| match kind {
            0x81 => Some(5..=5 + TEXT_BYTES_MAX),
            0x82 => Some(8..=8),
            0x83 => Some(0..=TEXT_BYTES_MAX),
            _ => None,
        };
        let Some(Came { kind, body, frame_bytes }) = first_frame(came, lengths)? else {
            return Ok(None);
        };
        let frame = match kind {
            0x81 => FromReceiver::Receipt {
                file: be_u32(&body[..4]),
                status: Status::decode(body[4])?,
                text: text(&body[5..])?,
            },
            0x82 => FromReceiver::Alive { received_bytes: be_u64(body) },
            _ => FromReceiver::Closing { why: text(body)? },
        };
        Ok(Some((frame, frame_bytes)))
    }
}

impl Status {
    fn decode(byte: u8) -> Result<Status, Wrong> {
        [Status::Stored, Status::Refused, Status::Failed, Status::Mismatch, Status::Abandoned]
            .into_iter()
            .find(|&status| status as u8 == byte)
            .ok_or(Wrong::Status(byte))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Stored => "stored",
            Status::Refused => "refused",
            Status::Failed => "failed",
            Status::Mismatch => "mismatch",
            Status::Abandoned => "abandoned",
        })
    }
}

/// Bytes of an unknown protocol, fit for a message.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_these_bytes() {
        assert_eq!(&greeting(Role::Sender), b"ringwire\x00\x01S\0\0\0\0\0");
        assert_eq!(&greeting(Role::Receiver), b"ringwire\x00\x01R\0\0\0\0\0");
        let file = FromSender::File { size: 258, name: b"a.bin".to_vec() };
        assert_eq!(file.encode(), b"\x01\x00\x00\x00\x0d\x00\x00\x00\x00\x00\x00\x01\x02a.bin");
        assert_eq!(data_head(1 << 20), *b"\x02\x00\x10\x00\x00");
        assert_eq!(FromSender::Alive.encode(), b"\x05\0\0\0\0");
        assert_eq!(FromSender::Bye.encode(), b"\x06\0\0\0\0");
        assert_eq!(
            FromSender::End { blake3: [7; 32] }.encode(),
            [&b"\x03\0\0\0\x20"[..], &[7; 32]].concat()
        );
        let receipt =
            FromReceiver::Receipt { file: 3, status: Status::Mismatch, text: "no".into() };
        assert_eq!(receipt.encode(), b"\x81\0\0\0\x07\0\0\0\x03\x03no");
        let alive = FromReceiver::Alive { received_bytes: 1 << 40 };
        assert_eq!(alive.encode(), b"\x82\0\0\0\x08\0\0\x01\0\0\0\0\0");
    }

    #[test]
    fn another_protocol_is_known_by_its_first_wrong_byte() {
        let magic = |began: &[u8]| Wrong::Magic { began: began.to_vec() };
        let sender = |came: &[u8]| check_greeting(came, Role::Sender);
        assert_eq!(sender(b""), Ok(false));
        assert_eq!(check_receiver(b""), Ok(None));
        for (came, wrong) in [
            (&b"S"[..], magic(b"S")),
            (b"ringwurm", magic(b"ringwurm")),
            (b"ringwire\x00\x02", Wrong::Version { theirs: 2 }),
        ] {
            assert_eq!(sender(came), Err(wrong.clone()));
            assert_eq!(check_receiver(came), Err(wrong));
        }
        assert_eq!(sender(b"ringwire\x00\x01S"), Ok(false));
        assert_eq!(sender(b"ringwire\x00\x01S\0\0\0\0\x01"), Err(Wrong::Reserved));
        assert_eq!(sender(&greeting(Role::Sender)), Ok(true));
        let role = |theirs, expected| Wrong::Role { theirs, expected };
        assert_eq!(sender(&greeting(Role::Busy)), Err(role(b'W', b'S')));
        assert_eq!(check_receiver(&greeting(Role::Sender)), Err(role(b'S', b'R')));
        assert_eq!(check_receiver(&greeting(Role::Prober)), Err(role(b'P', b'R')));
    }

    #[test]
    fn a_receiver_says_who_it_is_and_whether_it_has_a_place() {
        let id = ReceiverId([1, 2, 3, 4, 5]);
        let free = greeting_of(Role::Receiver, id);
        assert_eq!(&free, b"ringwire\x00\x01R\x01\x02\x03\x04\x05");
        assert_eq!(check_receiver(&free[..15]), Ok(None));
        assert_eq!(check_receiver(&free), Ok(Some((true, id))));
        assert_eq!(check_receiver(&greeting_of(Role::Busy, id)), Ok(Some((false, id))));
        let silent = greeting(Role::Receiver);
        assert_eq!(check_receiver(&silent), Ok(Some((true, ReceiverId([0; 5])))));
    }

    #[test]
    fn what_no_frame_can_be_is_refused_from_its_head() {
        for (bytes, why) in [
            (&b"\x00\0\0\0\0"[..], Wrong::Kind(0)),
            (b"\x07\0\0\0\0", Wrong::Kind(7)),
            (b"\x81\0\0\0\x05", Wrong::Kind(0x81)),
            (b"\x01\0\0\0\x07", Wrong::Length { kind: 1, bytes: 7 }),
            (b"\x01\x7f\xff\xff\xff", Wrong::Length { kind: 1, bytes: 0x7fff_ffff }),
            (b"\x02\0\0\0\0", Wrong::Length { kind: 2, bytes: 0 }),
            (b"\x02\x01\0\0\x01", Wrong::Length { kind: 2, bytes: 0x0100_0001 }),
            (b"\x03\0\0\0\x1f", Wrong::Length { kind: 3, bytes: 31 }),
            (b"\x04\0\0\x02\x01", Wrong::Length { kind: 4, bytes: 513 }),
            (b"\x05\0\0\0\x01", Wrong::Length { kind: 5, bytes: 1 }),
            (b"\x04\0\0\0\x01\xff", Wrong::Text),
        ] {
            assert_eq!(FromSender::decode(bytes), Err(why), "{bytes:?}");
        }
        for (bytes, why) in [
            (&b"\x01\0\0\0\x09"[..], Wrong::Kind(1)),
            (b"\x81\0\0\0\x04", Wrong::Length { kind: 0x81, bytes: 4 }),
            (b"\x81\0\0\0\x05\0\0\0\0\x05", Wrong::Status(5)),
            (b"\x82\0\0\0\x00", Wrong::Length { kind: 0x82, bytes: 0 }),
            (b"\x83\0\0\0\x01\xc3", Wrong::Text),
        ] {
            assert_eq!(FromReceiver::decode(bytes), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn text_is_cut_between_characters_and_cannot_steer_a_terminal() {
        let long = "ü".repeat(400);
        assert_eq!(fit(&long).len(), 512);
        assert_eq!(fit(&format!("x{long}")).len(), 511);
        let bytes = FromReceiver::Closing { why: "a\x1b[2J".into() }.encode();
        let (frame, _) = FromReceiver::decode(&bytes).unwrap().unwrap();
        assert_eq!(frame, FromReceiver::Closing { why: "a\\u{1b}[2J".into() });
    }

    fn from_sender() -> impl Strategy<Value = FromSender> {
        prop_oneof![
            (any::<u64>(), proptest::collection::vec(any::<u8>(), 0..=TEXT_BYTES_MAX))
                .prop_map(|(size, name)| FromSender::File { size, name }),
            (1..=DATA_BYTES_MAX).prop_map(|bytes| FromSender::Data { bytes }),
            any::<[u8; 32]>().prop_map(|blake3| FromSender::End { blake3 }),
            "[ -~]{0,512}".prop_map(|why| FromSender::GiveUp { why }),
            Just(FromSender::Alive),
            Just(FromSender::Bye),
        ]
    }

    fn from_receiver() -> impl Strategy<Value = FromReceiver> {
        let status = prop_oneof![
            Just(Status::Stored),
            Just(Status::Refused),
            Just(Status::Failed),
            Just(Status::Mismatch),
            Just(Status::Abandoned),
        ];
        prop_oneof![
            (any::<u32>(), status, "[ -~]{0,512}")
                .prop_map(|(file, status, text)| FromReceiver::Receipt { file, status, text }),
            any::<u64>().prop_map(|received_bytes| FromReceiver::Alive { received_bytes }),
            "[ -~]{0,512}".prop_map(|why| FromReceiver::Closing { why }),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back_as_they_went(frame in from_sender(), after in any::<[u8; 3]>()) {
            let mut bytes = frame.encode();
            let whole = bytes.len();
            prop_assert!(whole <= FRAME_BYTES_MAX);
            for cut in 0..whole {
                prop_assert_eq!(FromSender::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend_from_slice(&after);
            prop_assert_eq!(FromSender::decode(&bytes), Ok(Some((frame, whole))));
        }

        #[test]
        fn replies_come_back_as_they_went(frame in from_receiver(), after in any::<[u8; 3]>()) {
            let mut bytes = frame.encode();
            let whole = bytes.len();
            prop_assert!(whole <= FRAME_BYTES_MAX);
            for cut in 0..whole {
                prop_assert_eq!(FromReceiver::decode(&bytes[..cut]), Ok(None));
            }
            bytes.extend_from_slice(&after);
            prop_assert_eq!(FromReceiver::decode(&bytes), Ok(Some((frame, whole))));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(Some((_, used))) = FromSender::decode(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            if let Ok(Some((_, used))) = FromReceiver::decode(&bytes) {
                prop_assert!(used <= bytes.len());
            }
            let came = &bytes[..bytes.len().min(GREETING_BYTES)];
            let _ = (check_greeting(came, Role::Sender), check_receiver(came));
        }
    }
}
