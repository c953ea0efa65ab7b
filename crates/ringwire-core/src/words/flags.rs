//! What a program asks for a payload, and of the ways that it may go. Neighbours: `options.rs` sets
//! it, `ledger/payload.rs` keeps it, `queue/` gathers what goes the same way.

use crate::words::route::Force;

/// What the program asked for, and what its memory is, in one byte, so that an entry stays as small
/// as it is.
#[derive(Clone, Copy, Debug, Default)]
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

    /// On this route.
    #[inline]
    pub(crate) fn forced(self, force: Force) -> Self {
        let route = match force {
            Force::Copy => Self::COPY,
            Force::ZeroCopy => Self::ZERO_COPY,
        };
        PayloadFlags(self.0 & !(Self::COPY | Self::ZERO_COPY) | route)
    }

    /// Without events of its own.
    #[inline]
    pub(crate) fn made_quiet(self) -> Self {
        PayloadFlags(self.0 | Self::QUIET)
    }

    /// Told of when it was accepted, though it is quiet.
    #[inline]
    pub(crate) fn made_telling(self) -> Self {
        PayloadFlags(self.0 | Self::TELLS_ACCEPTED)
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

    /// Whether the caller is not told when it was accepted.
    #[inline]
    pub(crate) fn is_silent(self) -> bool {
        self.0 & (Self::QUIET | Self::TELLS_ACCEPTED) == Self::QUIET
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
