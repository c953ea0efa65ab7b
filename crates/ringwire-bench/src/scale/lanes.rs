//! The sockets that payloads go to.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::descriptors::Descriptors;
use crate::error::Error;
use crate::job::Protocol;
use crate::kernel_memory::KernelMemory;
use crate::net::{Flow, Net};
use crate::plan::SEND_BUFFERS;
use crate::watch::Watch;

/// Descriptors that are not of sockets, and then some.
const OTHER_DESCRIPTORS: u64 = 200;
/// Descriptors of a socket: its own, and the duplicate that all rings share.
const DESCRIPTORS_A_SOCKET: u64 = 2;
/// Sockets that are made between two looks at whether to stop.
const A_LOOK: usize = 256;

/// A socket.
pub(super) struct Lane {
    pub(super) flow: Flow,
    /// Its descriptor for rings.
    pub(super) shared: Arc<OwnedFd>,
}

/// Sockets that were made one after the other.
pub(super) struct Lanes {
    pub(super) lanes: Vec<Lane>,
    /// What the kernel took for them.
    pub(super) taken: Option<KernelMemory>,
}

/// As many sockets as there can be descriptors for, `wanted` at most. Fewer is noted.
pub(super) fn affordable(wanted: u32, watch: &mut dyn Watch) -> Result<u32, Error> {
    let all = u64::from(wanted) * DESCRIPTORS_A_SOCKET + OTHER_DESCRIPTORS;
    let Descriptors { most, hard } = Descriptors::raise(all)?;
    let sockets = most.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_A_SOCKET;
    if sockets == 0 {
        return Err(Error::Unavailable(format!(
            "RLIMIT_NOFILE is {hard}, too low for any socket; raise it with ulimit -Hn {all}"
        )));
    }
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX).min(wanted);
    if sockets < wanted {
        watch.note(&format!(
            "up to {sockets} sockets instead of {wanted}: RLIMIT_NOFILE is {hard}; raise it with \
             ulimit -Hn {all}"
        ));
    }
    Ok(sockets)
}

/// Makes `wanted` sockets, or as many as can be made, which is noted if it is fewer; none if it is
/// to stop meanwhile.
///
/// Their send buffers are large, so that what is in flight is the kernel's as far as it can be, and
/// no request is cut by a buffer that still grows.
pub(super) fn make(net: &Net, wanted: u32, watch: &mut dyn Watch) -> Result<Lanes, Error> {
    let [_, mut sndbuf_bytes] = SEND_BUFFERS;
    if let Err(Error::Unavailable(why)) = net.flow_with(Protocol::Tcp, sndbuf_bytes) {
        watch.note(&format!("with the kernel's own send buffers: {why}"));
        sndbuf_bytes = None;
    }
    let mut lanes = Vec::with_capacity(wanted as usize);
    let before = KernelMemory::read();
    while lanes.len() < wanted as usize {
        if lanes.len() % A_LOOK == 0 && watch.stops() {
            return Ok(Lanes { lanes: Vec::new(), taken: None });
        }
        match lane(net, sndbuf_bytes) {
            Ok(lane) => lanes.push(lane),
            Err(why) if lanes.is_empty() => return Err(why),
            Err(why) => {
                watch.note(&format!("up to {} sockets instead of {wanted}: {why}", lanes.len()));
                break;
            }
        }
    }
    let taken = before.and_then(|before| Ok(KernelMemory::read()?.since(before))).ok();
    Ok(Lanes { lanes, taken })
}

fn lane(net: &Net, sndbuf_bytes: Option<u64>) -> Result<Lane, Error> {
    let flow = net.flow_with(Protocol::Tcp, sndbuf_bytes)?;
    let shared = Arc::new(flow.duplicate()?);
    Ok(Lane { flow, shared })
}
