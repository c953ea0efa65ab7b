//! Looking: each file asks one part of the system, and writes down what it answered.
//!
//! ```text
//! host.rs   files of /proc and /sys, limits    rtnetlink.rs  routes and links, on a socket
//! uring.rs  io_uring, MSG_ZEROCOPY, by trying  xfrm.rs       IPsec, on a socket
//! live.rs   sending into the perfect wire      links.rs      interfaces, with ethtool's part
//! path.rs   the destination, on request        sender.rs     sending through ringwire
//! sys.rs    the unsafe part                    packets.rs    packet sockets
//! words.rs  what could not be found out
//! ```
//! Invariants: nothing here judges, nothing changes the host, and everything ends within a bounded
//! time. What cannot be seen is a fact too.

mod host;
mod links;
mod live;
mod packets;
mod path;
mod rtnetlink;
mod sender;
mod sys;
mod uring;
mod words;
mod xfrm;

use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use ringwire_core::running::Running;
use ringwire_reach::Unresolved;
use ringwire_wire::Perfect;

use crate::facts::{Facts, Path, Seen};
use live::Looked;
use path::Reached;
use rtnetlink::Rtnetlink;
use words::{said, too_long};

pub use path::{Asked, Framing, Heard};

/// How long all of it may take, of the time in which this process runs. It takes a hundredth of
/// that, but on a machine that is busy with other things everything may take a hundred times as
/// long, and is not to be taken for broken.
const ALL_MAX: Duration = Duration::from_secs(9);
/// Of that, what is kept for a destination: more than `path.rs` waits for it, all in all.
const PATH_MAX: Duration = Duration::from_millis(4700);

/// Looks at the host, and at the path to `asked`.
///
/// Takes a tenth of a second; with a destination that does not answer, up to ten.
///
/// # Errors
/// [`Unresolved`] if the destination has no address.
pub fn examine(asked: Option<&Asked>) -> Result<Facts, Unresolved> {
    let mut running = Running::new(Instant::now(), ALL_MAX);
    let live_max = if asked.is_some() { ALL_MAX - PATH_MAX } else { ALL_MAX };
    let to = match asked {
        Some(asked) => Some((asked.clone(), path::resolve(asked)?)),
        None => None,
    };
    // First, because it forks: before there are rings and memory.
    let wire = within(&mut running, live_max, || {
        Perfect::builder().build().map_err(|why| why.to_string())
    });
    // Then small rings, before large ones: what a ring of ours had is given back to the user's
    // account after its end, and sometimes long after (K15).
    let (uring, zerocopy) = (uring::look(), uring::zerocopy());
    let (looked, reached) = send(wire, to, &mut running, live_max);
    let links = Rtnetlink::open();
    let kernel = host::kernel();
    let interfaces = links.as_ref().map_err(said).and_then(|link| links::look(link).map_err(said));
    let path = asked.zip(reached).map(|(asked, reached)| path_of(&links, asked, reached));
    Ok(Facts {
        packet_sockets_elsewhere: packets::elsewhere(&kernel),
        kernel,
        process: host::process(),
        memory: host::memory(looked.arena),
        buffers: host::buffers(),
        packet_sockets: packets::here(),
        ipsec_policies: xfrm::policies().map_err(said),
        iommu: host::iommu(),
        tls: host::tls(),
        uring,
        zerocopy,
        interfaces,
        engine: looked.engine,
        live: looked.live,
        path,
    })
}

fn path_of(links: &io::Result<Rtnetlink>, asked: &Asked, reached: Reached) -> Path {
    let Reached { address, connection } = reached;
    let routed = links.as_ref().map_err(said).and_then(|link| link.route(address).map_err(said));
    let encrypted = routed.as_ref().map_err(Clone::clone).and_then(|(route, from)| {
        let flow = xfrm::Flow { to: address, from: *from, interface: route.interface };
        xfrm::encrypts(&flow).map_err(said)
    });
    Path {
        to: asked.target.shown().into(),
        address: address.ip().to_string(),
        route: routed.map(|(route, _)| route),
        encrypted,
        connection,
    }
}

/// What `work` finds, or what is said of work that takes too long. Its thread is left behind then:
/// nothing can end it, and the program is about to end.
fn within<T: Send + 'static>(
    running: &mut Running,
    time_max: Duration,
    work: impl FnOnce() -> Seen<T> + Send + 'static,
) -> Seen<T> {
    let (tell, told) = mpsc::channel();
    spawn(move || {
        let _ = tell.send(work());
    })?;
    wait(&told, running, time_max).unwrap_or_else(|| Err(too_long()))
}

/// What another thread reports until we ran so long; `None` if it does not.
fn wait<T>(told: &mpsc::Receiver<T>, running: &mut Running, time_max: Duration) -> Option<T> {
    loop {
        match told.recv_timeout(running.slice(Instant::now(), time_max)?) {
            Ok(told) => return Some(told),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Sends into the perfect wire, then to the destination. By one ring on one thread, so that the
/// second does not find the memory of the first still counted (K15). What takes too long is left
/// behind.
fn send(
    wire: Seen<Perfect>,
    to: Option<(Asked, Vec<SocketAddr>)>,
    running: &mut Running,
    live_max: Duration,
) -> (Looked, Option<Reached>) {
    let first = to.as_ref().and_then(|(_, addresses)| addresses.first().copied());
    let (tell_live, told_live) = mpsc::channel();
    let (tell_end, told_end) = mpsc::channel();
    let left = live_max.saturating_sub(running.ran_at(Instant::now()));
    let spawned = spawn(move || {
        let (mut sender, looked) = live::look(wire, left);
        let _ = tell_live.send(looked);
        let reached = to.map(|(asked, addresses)| path::reach(&asked, &addresses, &mut sender));
        if let Ok(sender) = sender {
            sender.end();
        }
        let _ = tell_end.send(reached);
    });
    let told = spawned.and_then(|()| wait(&told_live, running, live_max).ok_or_else(too_long));
    let looked = told.unwrap_or_else(|why| Looked::nothing(&why));
    let nothing = |address| Reached { address, connection: Err(too_long()) };
    let reached = wait(&told_end, running, ALL_MAX).unwrap_or_else(|| first.map(nothing));
    (looked, reached)
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Seen<()> {
    let thread = ringwire_threads::start("probe", work);
    thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
}
