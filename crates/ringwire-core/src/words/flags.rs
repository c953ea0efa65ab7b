//! What a program asks for a payload, and of the ways that it may go. Neighbours: `options.rs` sets
//! it, `ledger/payload.rs` keeps it, `queue/` gathers what goes the same way.

use crate::words::route::Force;

/// What the program asked for, what its memory is, and what has become of it: in one number, so
/// that a step of a send asks of it all that it has to know at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PayloadFlags(u32);

/// What the payloads of one request have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouteFlags(u32);

/// Where a payload goes, to its socket's peer or to an address of its own, and how it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape(u32);

impl PayloadFlags {
    /// Nothing special.
    pub(crate) const NONE: PayloadFlags = PayloadFlags(0);

    const QUIET: u32 = 1;
    const COPY: u32 = 2;
    const ZERO_COPY: u32 = 4;
    const UNPINNABLE: u32 = 8;
    const TELLS_ACCEPTED: u32 = 16;
    const PLAIN: u32 = 32;
    const FAILED: u32 = 64;
    const SETTLED: u32 = 128;
    const PASSED: u32 = 256;
    const HELD: u32 = 512;
    /// Asked for as a train, be it of a size that nobody takes: 0.
    const TRAIN: u32 = 1024;
    const ADDRESSED: u32 = 2048;
    /// From here on, the size of its datagrams; 0 if it is a single one.
    const SEGMENT_SHIFT: u32 = 16;

    const ROUTE: u32 = Self::COPY | Self::ZERO_COPY | Self::UNPINNABLE;
    const OVER: u32 = Self::SETTLED | Self::PASSED;
    const SHAPE: u32 = Self::TRAIN | Self::ADDRESSED | u32::MAX << Self::SEGMENT_SHIFT;

    /// Of a payload that has just come; `plain`: see [`PayloadFlags::is_plain_on`].
    #[inline]
    pub(crate) fn of_held(self, plain: bool) -> Self {
        PayloadFlags(self.0 | Self::HELD | if plain { Self::PLAIN } else { 0 })
    }

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

    /// To an address of its own.
    #[inline]
    pub(crate) fn addressed(self) -> Self {
        PayloadFlags(self.0 | Self::ADDRESSED)
    }

    /// As datagrams of so many bytes.
    #[inline]
    pub(crate) fn cut_into(self, segment_bytes: u16) -> Self {
        let segment = u32::from(segment_bytes) << Self::SEGMENT_SHIFT;
        PayloadFlags(self.0 & !Self::SHAPE | self.0 & Self::ADDRESSED | Self::TRAIN | segment)
    }

    /// The size of its datagrams, if it was sent as a train.
    #[inline]
    pub(crate) fn train(self) -> Option<u16> {
        (self.0 & Self::TRAIN != 0).then(|| self.segment_bytes())
    }

    /// The size of its datagrams, or 0 if it is a single one.
    #[inline]
    pub(crate) fn segment_bytes(self) -> u16 {
        (self.0 >> Self::SEGMENT_SHIFT) as u16
    }

    /// Where it goes, and how it is cut.
    #[inline]
    pub(crate) const fn shape(self) -> Shape {
        Shape(self.0 & Self::SHAPE)
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
        RouteFlags(self.0 & Self::ROUTE)
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

    /// Whether it goes as others do that have this in common, and is what nearly every payload is:
    /// one piece that is not empty, to its socket's peer, still here and not failed.
    #[inline]
    pub(crate) fn is_plain_on(self, route: RouteFlags) -> bool {
        self.0 & (Self::ROUTE | Self::PLAIN) == route.0 | Self::PLAIN
    }

    /// Whether it is as plain as another one, goes the same way, and tells as much.
    #[inline]
    pub(crate) fn is_asked_as(self, other: Self) -> bool {
        let asked = Self::ROUTE | Self::PLAIN | Self::QUIET | Self::TELLS_ACCEPTED;
        (self.0 ^ other.0) & asked == 0
    }

    /// Whether it is plain, settled, and passed by its queue: with `settled` whatever it says of
    /// the latter two.
    #[inline]
    pub(crate) fn is_plainly_over(self, settled: bool) -> bool {
        let known = if settled { Self::OVER } else { 0 };
        (self.0 | known) & (Self::PLAIN | Self::OVER) == Self::PLAIN | Self::OVER
    }

    /// Whether it is plain, and nobody is told of it.
    #[inline]
    pub(crate) fn is_plain_and_silent(self) -> bool {
        let asked = Self::PLAIN | Self::QUIET | Self::TELLS_ACCEPTED;
        self.0 & asked == Self::PLAIN | Self::QUIET
    }

    /// Whether it is settled and passed by its queue.
    #[inline]
    pub(crate) fn is_over(self) -> bool {
        self.0 & Self::OVER == Self::OVER
    }

    /// Whether the payload is still here. It is handed back early if it is taken back while its
    /// entry still stands in its queue.
    #[inline]
    pub(crate) fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    /// Whether `Sent` or `Failed` has been said, or would have been.
    #[inline]
    pub(crate) fn is_settled(self) -> bool {
        self.0 & Self::SETTLED != 0
    }

    #[inline]
    pub(crate) fn is_failed(self) -> bool {
        self.0 & Self::FAILED != 0
    }

    /// Its queue has gone past it, so that its place is not needed any more.
    #[inline]
    pub(crate) fn set_passed(&mut self) {
        self.0 |= Self::PASSED;
    }

    /// Settles it. False if it was settled before.
    #[inline]
    pub(crate) fn settle(&mut self) -> bool {
        let settles = !self.is_settled();
        self.0 |= Self::SETTLED;
        settles
    }

    /// Settles it as failed. False if it was settled before.
    pub(crate) fn fail(&mut self) -> bool {
        let settles = self.settle();
        if settles {
            self.0 = self.0 & !Self::PLAIN | Self::FAILED;
        }
        settles
    }

    /// The payload is handed back. False if it was before.
    pub(crate) fn let_go(&mut self) -> bool {
        let was_held = self.is_held();
        self.0 &= !(Self::HELD | Self::PLAIN);
        was_held
    }
}
