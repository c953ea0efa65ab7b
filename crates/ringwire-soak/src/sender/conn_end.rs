//! The ends of connections: each has its planned event once it has sent what it may, and its peer's
//! view of it is told to the first process.
//!
//! Above `live_ring.rs`, below `ring_end.rs` and `session.rs`.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ringwire::Error;

use super::failure::Failure;
use super::live_ring::LiveRing;
use super::plan::ConnEnding;
use crate::control::StreamEnd;
use crate::counters::Counter;
use crate::pattern;

/// How long a socket may be without room before its stopped peer is told to read on.
const DETACH_PATIENCE: Duration = Duration::from_millis(100);
/// What a detached socket sends by plain writes, at most.
const TAIL_BYTES_MAX: u64 = 64 << 10;

impl LiveRing<'_> {
    /// Lets connections whose event is due have it.
    pub(super) fn end_conns(&mut self) -> Result<(), Failure> {
        let mut at = 0;
        while at < self.conns.len() {
            if self.end_conn(at)? {
                self.conns.swap_remove(at);
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Lets go of connections that were finished and have nothing in flight any more.
    pub(super) fn end_finished_conns(&mut self) -> Result<(), Failure> {
        for at in (0..self.conns.len()).rev() {
            if self.conns[at].finished && self.end_conn(at)? {
                self.conns.swap_remove(at);
            }
        }
        Ok(())
    }

    /// Whether the connection is gone.
    fn end_conn(&mut self, at: usize) -> Result<bool, Failure> {
        let conn = &self.conns[at];
        let (sock, ending) = (conn.sock, conn.plan.ending);
        let stats = self.ring.socket_stats(sock)?;
        if stats.broken {
            if ending != ConnEnding::Reset {
                return Err(Failure::Violation(format!(
                    "a stream broke, and nobody did: {stats:?}"
                )));
            }
            self.ring.close(sock)?;
            self.state.count(Counter::Resets, 1);
            return Ok(true);
        }
        if conn.finished {
            if stats.in_flight_payloads == 0 {
                self.ring.close(sock)?;
            }
            return Ok(stats.in_flight_payloads == 0);
        }
        let has_sent_all = conn.queued >= conn.budget || conn.is_stuck(&stats);
        if ending == ConnEnding::WithTheRing || !has_sent_all {
            return Ok(false);
        }
        if ending == ConnEnding::Reset {
            // Reset when all was accepted: nothing was sent later that could have failed.
            if stats.in_flight_payloads == 0 {
                self.ring.close(sock)?;
                self.state.count(Counter::Resets, 1);
            }
            return Ok(stats.in_flight_payloads == 0);
        }
        self.end_now(at)
    }

    /// Does to the connection what is planned. Returns whether it is gone.
    fn end_now(&mut self, at: usize) -> Result<bool, Failure> {
        let conn = &mut self.conns[at];
        let in_flight = conn.unacknowledged()? > 0;
        let (id, sock, queued) = (conn.id, conn.sock, conn.queued);
        let since = *conn.waits_since.get_or_insert_with(Instant::now);
        match conn.plan.ending {
            ConnEnding::Close => {
                self.ring.close(sock)?;
                self.state.say_expected(id, queued, queued, StreamEnd::Eof)?;
                self.state.count_connection_event(Counter::Closed, in_flight);
            }
            ConnEnding::Finish => {
                self.ring.finish(sock)?;
                conn.finished = true;
                conn.budget = queued;
                self.state.say_expected(id, queued, queued, StreamEnd::Eof)?;
                self.state.count_connection_event(Counter::Finished, in_flight);
            }
            ConnEnding::Abort => {
                self.ring.abort(sock)?;
                self.state.say_expected(id, 0, queued, StreamEnd::Reset)?;
                self.state.count_connection_event(Counter::Aborted, in_flight);
            }
            ConnEnding::Detach => match self.ring.detach(sock) {
                Ok(fd) => {
                    self.state.count_connection_event(Counter::Detached, in_flight);
                    self.go_on_detached(at, fd)?;
                    return Ok(true);
                }
                Err(Error::Misuse(_)) => {
                    // Not all is accepted. A send buffer may be too small for it.
                    if since.elapsed() > DETACH_PATIENCE {
                        self.state.say_read_on(id)?;
                    }
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            },
            ConnEnding::Reset | ConnEnding::WithTheRing => return Ok(false),
        }
        // What has been released was overwritten. What the arena still has now and then, too: it
        // should not have what is in flight.
        if self.state.rng.percent(10) {
            self.buffers.overwrite_free();
        }
        self.state.say_read_on(id)?;
        Ok(!self.conns[at].finished)
    }

    /// Sends a tail by plain writes on a socket that is the ring's no more, and ends the stream.
    fn go_on_detached(&mut self, at: usize, fd: OwnedFd) -> Result<(), Failure> {
        let conn = &self.conns[at];
        let tail = self.state.rng.of_any_size(TAIL_BYTES_MAX);
        // The peer has to read for the writes to end.
        self.state.say_read_on(conn.id)?;
        self.state.flush()?;
        let all = conn.queued + tail;
        self.state.say_expected(conn.id, all, all, StreamEnd::Eof)?;
        let mut bytes = vec![0; tail as usize];
        pattern::fill(&mut bytes, conn.seed, conn.queued);
        let mut stream = TcpStream::from(fd);
        stream.write_all(&bytes)?;
        pattern::overwrite(&mut bytes);
        stream.shutdown(Shutdown::Write)?;
        Ok(())
    }
}
