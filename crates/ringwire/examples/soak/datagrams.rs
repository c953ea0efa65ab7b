//! The UDP socket of a ring: single datagrams of any size, some of them equal, and trains. Each
//! datagram says itself what it is, since others may be lost before it.

use std::net::UdpSocket;

use ringwire::{Error, IntoPayload, Piece, Ring, SendOptions, Socket};

use crate::book::Book;
use crate::goods::Goods;
use crate::plan::MIB;
use crate::rng::Rng;
use crate::sender::{Failure, Sender};

const DATAGRAM_BYTES_MAX: u64 = 60_000;
/// What may be between `send` and release before there is no more to send.
const WINDOW_BYTES: u64 = 256 << 10;
/// What stands before the bytes of each datagram: the seed and the position of its bytes.
const HEAD_BYTES: u64 = 16;
/// Sizes of a train's datagrams, heads and all.
const SEGMENTS: [u64; 5] = [17, 137, 700, 1_400, 8_000];

pub(crate) struct Datagrams {
    sock: Socket,
    v6: bool,
    connected: bool,
    at: u64,
    left: u64,
}

impl Datagrams {
    pub(crate) fn open(ring: &mut Ring, sender: &mut Sender) -> Result<Datagrams, Failure> {
        let (ports, rng) = (sender.ports, &mut sender.rng);
        let v6 = ports.datagrams_v6.is_some() && rng.percent(50);
        let (from, to) = ports.datagrams(v6);
        let connected = rng.percent(50);
        let left = rng.of_any_size(4 * MIB);
        let socket = UdpSocket::bind(from)?;
        if connected {
            socket.connect(to)?;
        }
        let sock = ring.attach(socket)?;
        Ok(Datagrams { sock, v6, connected, at: 0, left })
    }

    /// Sends until the window is full or everything was sent.
    pub(crate) fn feed(
        &mut self,
        ring: &mut Ring,
        goods: &mut Goods,
        book: &mut Book,
        sender: &mut Sender,
    ) -> Result<(), Failure> {
        let seed = sender.rng.next();
        let equal = sender.rng.percent(30).then(|| sender.rng.of_any_size(2_000));
        while self.left > 0 && ring.socket_stats(self.sock)?.in_flight_bytes < WINDOW_BYTES {
            let rng = &mut sender.rng;
            let mut options = SendOptions::new();
            if !self.connected {
                options = options.to(sender.ports.datagrams(self.v6).1);
            }
            let mut pieces = Vec::new();
            let is_train = rng.percent(20);
            if is_train {
                let segment = rng.pick(&SEGMENTS);
                let datagrams = rng.of_any_size(WINDOW_BYTES / 2 / segment);
                for left in (1..=datagrams).rev() {
                    let all = segment - HEAD_BYTES;
                    let bytes = if left > 1 { all } else { rng.between(1, all) };
                    self.datagram(goods, rng, seed, bytes, &mut pieces);
                }
                options = options.train(segment as u16);
            } else {
                let bytes = equal.unwrap_or_else(|| rng.of_any_size(DATAGRAM_BYTES_MAX));
                self.datagram(goods, rng, seed, bytes, &mut pieces);
            }
            let payload = pieces.into_payload();
            let bytes = payload.len() as u64;
            match ring.send_with(self.sock, payload, options) {
                Ok(id) => book.open(id, bytes),
                Err(error) if matches!(error.why, Error::LimitReached { .. }) => {
                    sender.totals.add("refused", 1);
                    goods.take_back(rng, error.payload);
                    break;
                }
                Err(error) => return Err(error.why.into()),
            }
            sender.totals.add(if is_train { "trains" } else { "datagrams" }, 1);
        }
        Ok(())
    }

    /// One datagram of `bytes` bytes behind its head.
    fn datagram(
        &mut self,
        goods: &mut Goods,
        rng: &mut Rng,
        seed: u64,
        bytes: u64,
        pieces: &mut Vec<Piece>,
    ) {
        pieces.push([seed.to_le_bytes(), self.at.to_le_bytes()].concat().into());
        pieces.extend(goods.payload(rng, seed, self.at, bytes).into_pieces());
        self.at += bytes;
        self.left = self.left.saturating_sub(bytes);
    }
}
