//! The UDP socket of a ring: single datagrams of any size, some of them equal, and trains. Each
//! datagram says itself what it is, since others may be lost before it.
//!
//! Below `live_ring.rs`, which owns the ring and lends what it takes to send.

use std::net::UdpSocket;

use ringwire::{Error, IntoPayload, Piece, Ring, SendOptions, Socket};

use super::failure::Failure;
use super::plan::MIB;
use super::state::SenderState;
use crate::buffers::Buffers;
use crate::control::DatagramHead;
use crate::counters::Counter;
use crate::rng::Rng;
use crate::tracker::PayloadTracker;

const DATAGRAM_BYTES_MAX: u64 = 60_000;
/// What may be between `send` and release before there is no more to send.
const WINDOW_BYTES: u64 = 256 << 10;
const HEAD_BYTES: u64 = DatagramHead::BYTES as u64;
/// Sizes of a train's datagrams, heads and all.
const SEGMENTS: [u64; 5] = [17, 137, 700, 1_400, 8_000];

pub(super) struct Datagrams {
    sock: Socket,
    v6: bool,
    connected: bool,
    at: u64,
    left: u64,
}

impl Datagrams {
    pub(super) fn open(ring: &mut Ring, state: &mut SenderState) -> Result<Datagrams, Failure> {
        let (ports, rng) = (state.ports, &mut state.rng);
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
    pub(super) fn feed(
        &mut self,
        ring: &mut Ring,
        buffers: &mut Buffers,
        tracker: &mut PayloadTracker,
        state: &mut SenderState,
    ) -> Result<(), Failure> {
        let seed = state.rng.next();
        let equal = state.rng.percent(30).then(|| state.rng.of_any_size(2_000));
        while self.left > 0 && ring.socket_stats(self.sock)?.in_flight_bytes < WINDOW_BYTES {
            let rng = &mut state.rng;
            let mut options = SendOptions::new();
            if !self.connected {
                options = options.to(state.ports.datagrams(self.v6).1);
            }
            let mut pieces = Vec::new();
            let is_train = rng.percent(20);
            if is_train {
                let segment = rng.pick(&SEGMENTS);
                let datagrams = rng.of_any_size(WINDOW_BYTES / 2 / segment);
                for left in (1..=datagrams).rev() {
                    let all = segment - HEAD_BYTES;
                    let bytes = if left > 1 { all } else { rng.between(1, all) };
                    self.datagram(buffers, rng, seed, bytes, &mut pieces);
                }
                options = options.train(segment as u16);
            } else {
                let bytes = equal.unwrap_or_else(|| rng.of_any_size(DATAGRAM_BYTES_MAX));
                self.datagram(buffers, rng, seed, bytes, &mut pieces);
            }
            let payload = pieces.into_payload();
            let bytes = payload.len() as u64;
            match ring.send_with(self.sock, payload, options) {
                Ok(id) => tracker.on_send(id, bytes),
                Err(error) if matches!(error.why, Error::LimitReached { .. }) => {
                    state.counters.add(Counter::Refused, 1);
                    buffers.take_back(rng, error.payload);
                    break;
                }
                Err(error) => return Err(error.why.into()),
            }
            state.count(if is_train { Counter::Trains } else { Counter::Datagrams }, 1);
        }
        Ok(())
    }

    /// One datagram of `bytes` bytes behind its head.
    fn datagram(
        &mut self,
        buffers: &mut Buffers,
        rng: &mut Rng,
        seed: u64,
        bytes: u64,
        pieces: &mut Vec<Piece>,
    ) {
        pieces.push(DatagramHead { seed, at: self.at }.to_bytes().to_vec().into());
        pieces.extend(buffers.payload(rng, seed, self.at, bytes).into_pieces());
        self.at += bytes;
        self.left = self.left.saturating_sub(bytes);
    }
}
