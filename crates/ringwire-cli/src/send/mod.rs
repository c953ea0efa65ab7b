//! `ringwire send`: reads each file once and lends every block to all receivers.
//!
//! ```text
//! mod.rs       the run: look, connect, set up memory and ring, start threads, sum up
//! source.rs    a file: O_DIRECT or not, hashed, watched for changes
//! connect.rs   all receivers, or none
//! greeting.rs  one of them, up to the transfer
//! reader.rs    thread: files into blocks            ┐
//! transfer.rs  thread: blocks to receivers and back ├ this thread has the ring
//! replies.rs   thread: what receivers say, signals  ┘
//! window.rs    who holds which block too long (pure)
//! receiver.rs  what became of each receiver (pure)
//! summary.rs   the last lines (pure)
//! ```

mod connect;
mod greeting;
mod reader;
mod receiver;
mod replies;
mod source;
mod summary;
mod transfer;
mod window;

use std::sync::mpsc;
use std::time::Duration;

use ringwire::{Arena, Limits, Registration, Ring};
use rustix::event::EventfdFlags;
use rustix::time::ClockId;

use self::connect::Connected;
use self::reader::{Reader, Returns};
use self::source::Planned;
use self::summary::Figures;
use self::transfer::{Outcome, Transfer};
use crate::args::{Engine, Send};
use crate::exit::{Exit, Failure};
use crate::output::Output;
use crate::protocol::{self, FILES_MAX};
use crate::signals::Signals;
use crate::threads;
use crate::units::show_size;

/// Replies that may wait for the ring's thread; the listening thread waits beyond that.
const REPLIES_MAX: usize = 1024;

/// Runs the sender to its end.
pub(crate) fn run(args: &Send, signals: &Signals, output: &Output) -> Result<Exit, Failure> {
    check_engine(args)?;
    let files = source::plan(&args.files)?;
    check_sizes(args, files.len())?;
    let connected = connect::connect_all(&args.receivers, args.patience, signals, output)?;
    let arena = arena(args)?;
    let outcome = transfer(args, &files, connected, &arena, signals, output)?;
    let all_stored = outcome.receivers.iter().all(|receiver| receiver.stored() == files.len());
    let figures = Figures {
        receivers: &outcome.receivers,
        files: files.len(),
        bytes: files.iter().map(|file| file.size).sum(),
        sent_after: outcome.sent_after,
        ended_after: outcome.ended_after,
        cpu: cpu_time(),
        stats: &outcome.stats,
        engine: &outcome.engine,
        direct_files: outcome.direct_files,
        read_files: outcome.read_files,
    };
    for line in summary::lines(&figures) {
        output.result(line);
    }
    match outcome.failure {
        Some(failure) => Err(failure),
        None if all_stored => Ok(Exit::Yes),
        None => Ok(Exit::No),
    }
}

/// Whether an engine sends from registered memory, where it can be had.
fn registers(engine: Engine) -> bool {
    match engine {
        Engine::Auto | Engine::Uring => true,
        Engine::MsgZerocopy | Engine::Copy => false,
    }
}

fn check_engine(args: &Send) -> Result<(), Failure> {
    if args.require_registered && !registers(args.engine) {
        return Err(Failure::new("this --engine sends from no registered memory")
            .hint("leave --require-registered out, or choose uring"));
    }
    Ok(())
}

fn check_sizes(args: &Send, files: usize) -> Result<(), Failure> {
    if files > FILES_MAX as usize {
        return Err(Failure::new(format!("{files} files; one transfer takes at most {FILES_MAX}"))
            .hint("send them as an archive, or in several transfers"));
    }
    if args.arena < 2 * args.block {
        return Err(Failure::new(format!(
            "an arena of {} holds fewer than two blocks of {}",
            show_size(args.arena),
            show_size(args.block)
        ))
        .hint("raise --arena or lower --block: one block is read while another is sent"));
    }
    Ok(())
}

/// Memory for the blocks.
fn arena(args: &Send) -> Result<Arena, Failure> {
    let registration = match registers(args.engine) {
        true if args.require_registered => Registration::Require,
        true => Registration::Prefer,
        // What an arena locks cannot be pinned for a send.
        false => Registration::Off,
    };
    let capacity_bytes = usize::try_from(args.arena).unwrap_or(usize::MAX);
    Arena::builder()
        .capacity_bytes(capacity_bytes)
        .registration(registration)
        .build()
        .map_err(|error| Failure::new(format!("cannot set up --arena: {error}")))
}

fn transfer(
    args: &Send,
    files: &[Planned],
    connected: Vec<Connected>,
    arena: &Arena,
    signals: &Signals,
    output: &Output,
) -> Result<Outcome, Failure> {
    let cannot = |error: ringwire::Error| Failure::new(format!("cannot send: {error}"));
    let io = |error: std::io::Error| Failure::new(format!("cannot send: {error}"));
    let mut ring = Ring::builder()
        .arena(arena)
        .engine(args.engine.into())
        .limits(limits(args, files.len(), connected.len()))
        .build()
        .map_err(cannot)?;
    let why = ring.why();
    if let Some(why) = &why {
        output.note(why);
    }
    let engine = summary::engine(ring.engine().name(), why.as_deref());
    let waker = ring.waker().map_err(cannot)?;
    let (mut names, mut ears, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    for Connected { shown, stream } in connected {
        names.push(shown);
        ears.push(stream.try_clone().map_err(io)?);
        sockets.push(ring.attach(stream).map_err(cannot)?);
    }
    let returns = Returns::new();
    let transfer = Transfer::new(ring, sockets, &names, files, args.patience, &returns, output)
        .map_err(cannot)?;
    let quit =
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| io(errno.into()))?;
    let (to_ring, from_reader) = mpsc::channel();
    let (to_ring_replies, heard) = mpsc::sync_channel(REPLIES_MAX);
    let reader = Reader {
        files,
        arena: arena.clone(),
        block_bytes: args.block as usize,
        returns: &returns,
        to_ring,
        waker: waker.clone(),
    };
    std::thread::scope(|scope| {
        let listen = || replies::listen(ears, signals, &quit, to_ring_replies, &waker);
        let started = threads::scoped(scope, "replies", listen)
            .and_then(|_| threads::scoped(scope, "reader", || reader.run()));
        let outcome = match started {
            Ok(_) => transfer.run(&from_reader, &heard).map_err(cannot),
            Err(error) => Err(threads::lacking("cannot send", &error)),
        };
        // Both threads end now, whatever they wait for.
        returns.stop();
        drop((from_reader, heard));
        let _ = rustix::io::write(&quit, &1u64.to_ne_bytes());
        outcome.map(|outcome| Outcome { engine, ..outcome })
    })
}

/// The arena is the bound; the ring's own limits leave room for all of it, to every receiver.
fn limits(args: &Send, files: usize, receivers: usize) -> Limits {
    let defaults = Limits::default();
    // What may be under way to one receiver: every block, and beside the blocks the two frames of
    // each file and a few more.
    let frames = 2 * files as u64 + 1024;
    let parcels = u32::try_from(args.arena / args.block + frames).unwrap_or(u32::MAX);
    let mut limits = Limits::default();
    limits.socket_bytes = args
        .arena
        .saturating_add(frames * protocol::FRAME_BYTES_MAX as u64)
        .max(defaults.socket_bytes);
    limits.ring_bytes =
        limits.socket_bytes.saturating_mul(receivers as u64).max(defaults.ring_bytes);
    limits.socket_payloads = parcels.max(defaults.socket_payloads);
    limits.ring_payloads =
        limits.socket_payloads.saturating_mul(receivers as u32).max(defaults.ring_payloads);
    limits.notifications = parcels.max(defaults.notifications);
    limits
}

/// CPU time of the process so far, user and system, all threads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
