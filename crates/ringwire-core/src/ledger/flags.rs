//! Step 4: what a payload's entry says of the ways that it may go. Neighbours: `payload.rs` keeps
//! it, `queue/` gathers what goes the same way.

use crate::words::route::Force;

/// What the program asked for, and what its memory is, in one byte, so that an entry stays as small
/// as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PayloadFlags(u8);

/// What the payloads of one request have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteFlags(u8);

impl PayloadFlags {
    const QUIET: u8 = 1;
    const COPY: u8 = 2;
    const ZERO_COPY: u8 = 4;
    const UNPINNABLE: u8 = 8;
    const TELLS_ACCEPTED: u8 = 16;

    #[inline]
    pub(crate) fn new(quiet: bool, tells_accepted: bool, force: Option<Force>) -> Self {
        let route = match force {
            None => 0,
            Some(Force::Copy) => Self::COPY,
            Some(Force::ZeroCopy) => Self::ZERO_COPY,
        };
        let quiet = if quiet { Self::QUIET } else { 0 };
        let tells = if tells_accepted { Self::TELLS_ACCEPTED } else { 0 };
        PayloadFlags(route | quiet | tells)
    }

    #[inline]
    pub(crate) fn quiet(self) -> bool {
        self.0 & Self::QUIET != 0
    }

    #[inline]
    pub(crate) fn force(self) -> Option<Force> {
        match self.0 & (Self::COPY | Self::ZERO_COPY) {
            Self::COPY => Some(Force::Copy),
            Self::ZERO_COPY => Some(Force::ZeroCopy),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn route_flags(self) -> RouteFlags {
        RouteFlags(self.0 & !(Self::QUIET | Self::TELLS_ACCEPTED))
    }

    /// Whether the caller is told when it was accepted, though it is quiet.
    #[inline]
    pub(crate) fn tells_accepted(self) -> bool {
        self.0 & Self::TELLS_ACCEPTED != 0
    }

    #[inline]
    pub(crate) fn is_unpinnable(self) -> bool {
        self.0 & Self::UNPINNABLE != 0
    }

    pub(crate) fn set_unpinnable(&mut self) {
        self.0 |= Self::UNPINNABLE;
    }
}
