//! Looking: each file asks one part of the system, and writes down what it answered.
//!
//! ```text
//! host.rs      files of /proc and /sys, limits      netlink.rs  rtnetlink and xfrm, on a socket
//! uring.rs     io_uring, MSG_ZEROCOPY, by trying    links.rs    interfaces, with ethtool's part
//! live.rs      sending into the perfect wire        path.rs     the destination, on request
//! sender.rs    sending through ringwire             sys.rs      the unsafe part
//! ```
//! Invariants: nothing here judges, nothing changes the host, and everything ends within a bounded
//! time. What cannot be seen is a fact too.

mod host;
mod links;
mod live;
mod netlink;
mod path;
mod sender;
mod sys;
mod uring;

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use ringwire_wire::Perfect;

use crate::facts::{Facts, Path};

pub use path::{Asked, Framing, NoAddress};

/// How long sending into the perfect wire may take, all in all. It takes a tenth of that.
const LIVE_MAX: Duration = Duration::from_millis(2500);

/// Looks at the host, and at the path to `asked`.
///
/// Takes a second or less; with a destination that does not answer, up to nine.
///
/// # Errors
/// [`NoAddress`] if the destination's name has no address.
pub fn examine(asked: Option<&Asked>) -> Result<Facts, NoAddress> {
    let address = asked.map(path::resolve).transpose()?;
    // First, because it forks: before there are rings and memory.
    let (live, memory) =
        within(LIVE_MAX, || live::look(Perfect::builder().build().map_err(|why| why.to_string())));
    let uring = uring::look();
    let links = netlink::Netlink::open();
    let interfaces = links.as_ref().map_err(said).and_then(|link| links::look(link).map_err(said));
    let path = match (asked, address) {
        (Some(asked), Some(address)) => Some(Path {
            to: asked.shown.clone(),
            address: address.ip().to_string(),
            route: links
                .as_ref()
                .map_err(said)
                .and_then(|link| link.route(address.ip()).map_err(said)),
            connection: path::connect(asked, address),
        }),
        _ => None,
    };
    Ok(Facts {
        kernel: host::kernel(),
        process: host::process(),
        zerocopy: uring::zerocopy(),
        memory: host::memory(memory),
        buffers: host::buffers(),
        packet_sockets: host::packet_sockets(),
        ipsec_policies: netlink::ipsec_policies().map_err(said),
        iommu: host::iommu(),
        tls: host::tls(),
        uring,
        interfaces,
        engine: live.engine,
        live: live.live,
        path,
    })
}

fn said(error: impl std::borrow::Borrow<io::Error>) -> String {
    error.borrow().to_string()
}

/// What `work` finds, or what is said of work that takes too long. Its thread is left behind then:
/// nothing can end it, and the program is about to end.
fn within(
    time: Duration,
    work: impl FnOnce() -> (live::Looked, live::Registered) + Send + 'static,
) -> (live::Looked, live::Registered) {
    let (found, finds) = mpsc::channel();
    let thread = std::thread::Builder::new().name("probe".into()).spawn(move || {
        let _ = found.send(work());
    });
    match thread.map(|_| finds.recv_timeout(time)) {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => live::nothing(&format!("it did not come to an end within {time:?}")),
        Err(error) => live::nothing(&format!("cannot start a thread: {error}")),
    }
}
