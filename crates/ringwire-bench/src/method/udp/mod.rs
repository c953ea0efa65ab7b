//! Ways to send datagrams: one by one, and in *trains*, GSO batches: what one call sends lies in
//! one piece, which the kernel, or the card, cuts into datagrams (`UDP_SEGMENT`).

mod carries;
mod notified;
mod plain;
mod zc;

pub(super) use notified::{FLUSH_1, FLUSH_8, FLUSH_TRAIN, RING_SEND};
pub(super) use plain::{MSG_ZEROCOPY, MSG_ZEROCOPY_TRAIN, SENDMSG, SENDMSG_TRAIN};
pub(super) use zc::{
    MINIMAL_TRAIN, SEND_ZC, SEND_ZC_REGISTERED, SEND_ZC_REGISTERED_TRAIN, SEND_ZC_TRAIN,
};
