//! tokio on a current-thread runtime: `write_all` of one payload at a time, and `write_vectored` of
//! up to 64.
//!
//! Both wait for readiness and write without blocking. The stream is wrapped so that every write
//! is counted and told to the wire, those inside `write_all` too; the wrapper adds no copy, no call
//! and no allocation.

use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ringwire_bench::Error;
use ringwire_bench::job::{Job, Protocol};
use ringwire_bench::measure::{Clock, LOOK_BYTES, Tally};
use ringwire_bench::method::{ANY_PAGES, Loop, Recipe, payloads_a_call};
use ringwire_bench::net::Flow;
use ringwire_bench::stage::Stage;
use ringwire_bench::walk::Layout;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

/// `write_all`, one payload at a time.
pub(crate) const ALL: Recipe = Recipe {
    name: "tokio",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Tokio::<1>::new(stage, flow)?)),
};

/// `write_vectored` of up to 64 payloads.
pub(crate) const VECTORED: Recipe = Recipe {
    name: "tokio-vectored",
    protocol: Protocol::Tcp,
    backings: ANY_PAGES,
    make: |stage, flow| Ok(Box::new(Tokio::<64>::new(stage, flow)?)),
};

struct Tokio<const PIECES: usize> {
    stage: Rc<Stage>,
    stream: Told,
    runtime: Runtime,
    at: usize,
}

impl<const PIECES: usize> Tokio<PIECES> {
    fn new(stage: &Rc<Stage>, flow: Flow) -> Result<Self, Error> {
        let failed = |error| Error::io("making a stream of tokio's", error);
        let runtime = Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let socket = flow.as_fd().try_clone_to_owned().map_err(failed)?;
        let stream = std::net::TcpStream::from(socket);
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = {
            let _within = runtime.enter();
            TcpStream::from_std(stream).map_err(failed)?
        };
        let stream = Told { stream, flow, requests: 0, bytes: 0 };
        Ok(Tokio { stage: stage.clone(), stream, runtime, at: 0 })
    }
}

impl<const PIECES: usize> Loop for Tokio<PIECES> {
    fn run(&mut self, job: &Job, time: Duration) -> Result<Tally, Error> {
        let region = self.stage.region(job.settings.backing)?;
        let bytes = region.bytes();
        let mut walk = self.stage.walk(Layout::of(job), job.order, self.at)?;
        let payload_bytes = walk.payload_bytes();
        let stream = &mut self.stream;
        (stream.requests, stream.bytes) = (0, 0);
        let sent = self.runtime.block_on(async {
            let mut clock = Clock::start(time);
            let mut payloads = 0;
            if PIECES == 1 {
                let a_look = (LOOK_BYTES / payload_bytes).max(1);
                while clock.runs() {
                    for _ in 0..a_look {
                        let offset = walk.next();
                        stream.write_all(&bytes[offset..offset + payload_bytes]).await?;
                    }
                    payloads += a_look as u64;
                }
            } else {
                let mut pieces = [IoSlice::new(&[]); PIECES];
                let pieces = &mut pieces[..payloads_a_call(PIECES, payload_bytes)];
                while clock.runs() {
                    for piece in &mut *pieces {
                        let offset = walk.next();
                        *piece = IoSlice::new(&bytes[offset..offset + payload_bytes]);
                    }
                    write_all_vectored(stream, pieces).await?;
                    payloads += pieces.len() as u64;
                }
            }
            Ok::<_, io::Error>(payloads)
        });
        let payloads = sent.map_err(|error| Error::io("a write of tokio's", error))?;
        self.at = walk.at();
        self.stream.flow.drain()?;
        let Told { requests, bytes, .. } = self.stream;
        Ok(Tally { payloads, bytes, requests, copied_bytes: bytes, ..Tally::default() })
    }
}

/// Writes all of `pieces`, in as few calls as the socket lets it.
async fn write_all_vectored(
    stream: &mut (impl AsyncWrite + Unpin),
    mut pieces: &mut [IoSlice<'_>],
) -> io::Result<()> {
    while !pieces.is_empty() {
        match stream.write_vectored(pieces).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            taken => IoSlice::advance_slices(&mut pieces, taken),
        }
    }
    Ok(())
}

/// The stream, counting what is written and telling the wire.
struct Told {
    stream: TcpStream,
    flow: Flow,
    requests: u64,
    bytes: u64,
}

impl Told {
    #[inline]
    fn tell(&mut self, taken: usize) -> Poll<io::Result<usize>> {
        self.requests += 1;
        self.bytes += taken as u64;
        self.flow.accepted(taken as u64);
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Told {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.tell(taken)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        self.tell(taken)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
