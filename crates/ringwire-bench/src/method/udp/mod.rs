//! Ways to send datagrams: one by one, and in trains that the kernel cuts apart (`UDP_SEGMENT`).

mod notified;
mod plain;
mod zc;

pub(super) use notified::{FLUSH_1, FLUSH_8, FLUSH_TRAIN, RING_SEND};
pub(super) use plain::{MSG_ZEROCOPY, MSG_ZEROCOPY_TRAIN, SENDMSG, SENDMSG_TRAIN};
pub(super) use zc::{
    MINIMAL_TRAIN, SEND_ZC, SEND_ZC_REGISTERED, SEND_ZC_REGISTERED_TRAIN, SEND_ZC_TRAIN,
};

use crate::error::Error;
use crate::job::Job;
use crate::net::Flow;
use crate::sys;
use crate::walk::Layout;

/// What a send carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carries {
    Datagram,
    /// As many as the kernel takes at once.
    Train,
}

impl Carries {
    /// How what it carries lies in memory.
    fn layout(self, job: &Job) -> Layout {
        match self {
            Carries::Datagram => Layout::of(job),
            Carries::Train => Layout::of_trains(job),
        }
    }

    /// Has the kernel cut what is sent on `flow`, if it carries trains.
    fn set_up(self, flow: &Flow, job: &Job) -> Result<(), Error> {
        match self {
            Carries::Datagram => Ok(()),
            Carries::Train => sys::set_segment(flow, job.payload_bytes)
                .map_err(|error| Error::io("UDP_SEGMENT", error)),
        }
    }
}
