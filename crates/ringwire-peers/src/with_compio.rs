//! compio with its zero-copy writes: one payload a call with 64 calls held, and 64 payloads a call.
//!
//! compio answers a call twice: with the bytes taken, and later with the buffer, when the kernel
//! has let go of it. Calls follow each other as soon as the first answer is there, as they must on
//! a stream; the second is waited for only when the sender holds as much as it wants to.
//!
//! compio does not ask the kernel whether it copied, so the share copied is unknown here. Each call
//! is one request and has one notification.

use std::io;
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::time::Duration;

use compio::buf::BufResult;
use compio::driver::ProactorBuilder;
use compio::driver::op::OpCodeFlag;
use compio::io::AsyncWriteZerocopy;
use compio::net::TcpStream;
use compio::runtime::{Runtime, RuntimeBuilder};
use ringwire_bench::Error;
use ringwire_bench::job::{Job, Protocol};
use ringwire_bench::measure::{Clock, LOOK_BYTES, Tally};
use ringwire_bench::method::{ANY_PAGES, Loop, Recipe, no_room};
use ringwire_bench::net::Flow;
use ringwire_bench::stage::Stage;
use ringwire_bench::walk::Layout;

use crate::held::Held;
use crate::pieces::{Piece, Pieces};

/// `write_zerocopy`, one payload at a time.
pub(crate) const ZEROCOPY: Recipe = Recipe {
    name: "compio-zerocopy",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(OneByOne(Compio::new(stage, flow)?))),
};

/// `write_zerocopy_vectored` of 64 payloads.
pub(crate) const VECTORED: Recipe = Recipe {
    name: "compio-vectored",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Vectored(Compio::new(stage, flow)?))),
};

/// Calls held: payloads, where a call is one.
const HELD: usize = 64;
/// Payloads of one vectored call at most …
const PIECES: usize = 64;
/// … and its bytes, if that is a payload or more. A call that fills the whole send buffer leaves
/// nothing to do until half of that is acknowledged (measured, 1 MiB payloads: 41 GB/s at 8 and at
/// 16 MiB a call, 35 at 64).
const CALL_BYTES: usize = 16 << 20;
/// Vectored calls held: enough that the send buffer is full before a release is waited for
/// (measured, 4 KiB payloads: 5.9 GB/s with 1, 7.7 with 2, 8.3 with 4, and no more beyond 16).
const CALLS_HELD: usize = 16;

type Released<T> = <TcpStream as AsyncWriteZerocopy>::BufferReadyFuture<T>;
type ReleasedAll<T> = <TcpStream as AsyncWriteZerocopy>::VectoredBufferReadyFuture<T>;

/// A flow, and a runtime that sends on it.
struct Compio {
    stage: Rc<Stage>,
    flow: Flow,
    stream: TcpStream,
    runtime: Runtime,
    at: usize,
}

impl Compio {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Compio, Error> {
        let failed = |error| Error::io("making a stream of compio's", error);
        let mut proactor = ProactorBuilder::new();
        // What arrives is taken in when the sender asks for it, and it need not ask in vain
        // (measured against compio's default: 64 KiB payloads 36 GB/s instead of 28, others alike).
        proactor.single_issuer(true).defer_taskrun(true).taskrun_flag(true);
        // Has compio ask now what the kernel can do, which takes a ring for a moment. It would ask
        // at its first write otherwise, and panic there when locked memory has no room for another.
        proactor.detect_opcode_support(OpCodeFlag::SendMsg);
        let runtime = RuntimeBuilder::new().with_proactor(proactor).build().map_err(failed)?;
        let socket = flow.as_fd().try_clone_to_owned().map_err(failed)?;
        let stream = runtime.enter(|| TcpStream::from_std(socket.into())).map_err(failed)?;
        Ok(Compio { stage: stage.clone(), flow, stream, runtime, at: 0 })
    }
}

struct OneByOne(Compio);

impl Loop for OneByOne {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let Compio { stage, flow, stream, runtime, at } = &mut self.0;
        let region = stage.region(job.settings.backing)?;
        let mut walk = stage.walk(Layout::of(job), job.order, *at)?;
        let payload_bytes = walk.payload_bytes();
        let a_look = (LOOK_BYTES / payload_bytes).max(1);
        let mut held: Held<Piece, Released<Piece>> = Held::new(HELD, stage.lent_max());
        let tally = runtime.block_on(async {
            let mut tally = Tally::default();
            let mut clock = Clock::start(time);
            while clock.runs() {
                for _ in 0..a_look {
                    let mut left = Some(Piece::new(&region, walk.next(), payload_bytes));
                    while let Some(piece) = left {
                        while held.is_full(piece.length()) {
                            held.take_oldest(&mut tally).await?;
                        }
                        let since = held.since();
                        let BufResult(taken, released) = stream.write_zerocopy(piece.clone()).await;
                        let taken = accepted(taken, flow, &mut tally)?;
                        held.push(released, piece.length(), since);
                        left = piece.after(taken);
                    }
                }
                tally.payloads += a_look as u64;
            }
            while held.take_oldest(&mut tally).await?.is_some() {}
            Ok::<_, Error>(tally)
        })?;
        *at = walk.at();
        flow.drain()?;
        Ok(tally)
    }
}

struct Vectored(Compio);

impl Loop for Vectored {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let Compio { stage, flow, stream, runtime, at } = &mut self.0;
        let region = stage.region(job.settings.backing)?;
        let mut walk = stage.walk(Layout::of(job), job.order, *at)?;
        let payload_bytes = walk.payload_bytes();
        let lent_max = stage.lent_max();
        let call_bytes = lent_max.map_or(CALL_BYTES, |lent_max| CALL_BYTES.min(lent_max / 2));
        let pieces = (call_bytes / payload_bytes).clamp(1, PIECES);
        let mut held: Held<Pieces, ReleasedAll<Pieces>> = Held::new(CALLS_HELD, lent_max);
        // Lists that came back, to be filled anew.
        let mut spare = Vec::new();
        let tally = runtime.block_on(async {
            let mut tally = Tally::default();
            let mut clock = Clock::start(time);
            while clock.runs() {
                let mut all =
                    spare.pop().unwrap_or_else(|| Pieces::new(&region, payload_bytes, pieces));
                all.fill(pieces, || walk.next());
                let mut left = Some(all);
                while let Some(all) = left {
                    while held.is_full(all.length()) {
                        spare.extend(held.take_oldest(&mut tally).await?);
                        // A call cut short comes back more than once.
                        spare.truncate(CALLS_HELD);
                    }
                    let since = held.since();
                    let BufResult(taken, released) =
                        stream.write_zerocopy_vectored(all.clone()).await;
                    let taken = accepted(taken, flow, &mut tally)?;
                    held.push(released, all.length(), since);
                    left = all.after(taken);
                }
                tally.payloads += pieces as u64;
            }
            while held.take_oldest(&mut tally).await?.is_some() {}
            Ok::<_, Error>(tally)
        })?;
        *at = walk.at();
        flow.drain()?;
        Ok(tally)
    }
}

/// Takes down what a call has taken, and tells the wire.
#[inline]
fn accepted(taken: io::Result<usize>, flow: &Flow, tally: &mut Tally) -> Result<usize, Error> {
    match taken {
        Ok(taken) if taken > 0 => {
            flow.accepted(taken as u64);
            tally.requests += 1;
            tally.bytes += taken as u64;
            Ok(taken)
        }
        Ok(_) => Err(Error::Stuck("a zero-copy write of compio's took nothing".into())),
        // No more pages may be locked.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(no_room()),
        Err(error) => Err(Error::io("a zero-copy write of compio's", error)),
    }
}
