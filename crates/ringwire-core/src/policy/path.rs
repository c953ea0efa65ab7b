//! Step 2 of a send: whether a socket's path copies anyway, as the kernel's reports tell. Pure.
//!
//! ```text
//!            3 believed reports in a row say "copied"
//!   clear ─────────────────────────────────────────────▶ copies ──┐ a probe was copied:
//!     ▲                                                    │  ▲   │ the pause doubles
//!     └──────────── one probe was not copied ──────────────┘  └───┘
//! ```
//!
//! Where a path copies (loopback, veth to a local peer, a packet socket such as tcpdump's: K19),
//! zero copy costs more than a copy, and nothing tells beforehand. So each socket watches the
//! reports about its own zero-copy requests; while the path copies, one request now and then goes
//! zero-copy as a *probe*, and the next one as soon as the path is seen to be another.
//! Invariants: only reports that can be believed count (K5); at most one probe is under way; before
//! it, at least [`PROBE_SHARE`] times its bytes were copied, unless the path has changed. Must not
//! know: where reports come from, how a change shows, the clock, the socket.

use std::time::{Duration, Instant};

use crate::words::completion::Copied;

/// So many believed reports in a row say that a path copies. One may be a clone for somebody who
/// looked at one packet; and each costs at most twice what a copy does.
const COPIED_IN_A_ROW: u8 = 3;
/// How long a path that copies is left alone. Doubles with each probe that is copied.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: what changes mostly cannot be seen (a tcpdump that is gone, a route by
/// another device), and a probe in so long a time costs nothing next to what is copied meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// A path that copies carries so many bytes between two probes, at least …
const PROBE_AFTER_BYTES: u64 = 4 << 20;
/// … and so many times the probe's own, so that a probe that costs twice a copy costs 1.6 %; the
/// pause makes that less and less.
const PROBE_SHARE: u64 = 64;
/// A probe need be no larger: else who sends payloads of hundreds of megabytes would wait for ever
/// for its share.
const PROBE_BYTES_MAX: u64 = 1 << 20;
/// After so many bytes without a report that can be believed, small requests are made such that
/// their reports can.
const UNREPORTED_BYTES_MAX: u64 = 1 << 20;
/// What a path carries without a copy before it counts as one that has changed for good: then the
/// next pause is the shortest again. In multiples of what it took to find out that it copies.
const REGAINED_SHARE: u64 = 64;

/// What a path is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Nothing is known against it.
    Clear,
    /// It copies.
    Copies,
    /// It copied, and it is time to look again.
    Probe,
}

/// How a socket's view of its path has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The path was found to copy.
    FoundCopying,
    /// A probe was not copied.
    FoundClear,
}

/// What is known about a request whose last completion has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// `Unknown` unless the kernel can be believed.
    pub copied: Copied,
    /// What it carried.
    pub bytes: u64,
    /// Whether it was a probe.
    pub probe: bool,
}

/// What a socket knows about its path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    view: View,
    /// The newest pause; zero if the next is to be the shortest.
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
enum View {
    Clear(Clear),
    Copies(Copies),
}

#[derive(Clone, Copy, Debug, Default)]
struct Clear {
    /// Believed reports of copies since the last of the contrary, and the bytes of those requests.
    in_a_row: u8,
    row_bytes: u64,
    /// Bytes that were reported as not copied.
    clear_bytes: u64,
    /// Bytes asked for zero-copy since a report could last be believed.
    unreported_bytes: u64,
    /// The same before the newest request.
    unreported_before: u64,
    /// Whether a report that could be believed has come.
    reported: bool,
}

#[derive(Clone, Copy, Debug)]
struct Copies {
    since: Instant,
    /// What the socket had copied by then.
    from_bytes: u64,
    probing: bool,
    /// Whether the path has changed since the newest probe left.
    anew: bool,
    /// Whether it had before that.
    anew_before: bool,
}

impl Copies {
    fn since(since: Instant, from_bytes: u64) -> Self {
        Copies { since, from_bytes, probing: false, anew: false, anew_before: false }
    }
}

impl Default for Path {
    fn default() -> Self {
        Path { view: View::Clear(Clear::default()), pause: Duration::ZERO }
    }
}

impl Path {
    /// A path that leads to this host itself, and so copies until a probe says otherwise.
    pub(crate) fn local(now: Instant) -> Self {
        Path { view: View::Copies(Copies::since(now, 0)), pause: PAUSE }
    }

    /// What the next zero-copy request of `bytes` bytes would meet. `copied_bytes` is what the
    /// socket has copied so far.
    pub(crate) fn judge(&self, bytes: u64, copied_bytes: u64, now: Instant) -> Judgement {
        let View::Copies(Copies { since, from_bytes, probing, anew, .. }) = self.view else {
            return Judgement::Clear;
        };
        let carried = copied_bytes.saturating_sub(from_bytes);
        let due = now.saturating_duration_since(since) >= self.pause
            && carried >= PROBE_AFTER_BYTES.max(bytes.saturating_mul(PROBE_SHARE));
        if (due || anew) && !probing { Judgement::Probe } else { Judgement::Copies }
    }

    /// The largest request that is worth being a probe now, if one is due: `worth_bytes`, or more.
    pub(crate) fn probe_bytes(
        &self,
        worth_bytes: u64,
        copied_bytes: u64,
        now: Instant,
    ) -> Option<u64> {
        let bytes = worth_bytes.max(PROBE_BYTES_MAX);
        (self.judge(bytes, copied_bytes, now) == Judgement::Probe).then_some(bytes)
    }

    /// Whether the next zero-copy request should begin and end packets of its own, so that its
    /// report can be believed: nothing is known yet, something is suspected, or it was long ago.
    pub(crate) fn wants_report(&self) -> bool {
        match self.view {
            View::Clear(clear) => {
                !clear.reported
                    || clear.in_a_row > 0
                    || clear.unreported_bytes >= UNREPORTED_BYTES_MAX
            }
            View::Copies(_) => true,
        }
    }

    /// Takes in that a zero-copy request was handed over, and whether its report will be believed.
    pub(crate) fn on_request(&mut self, bytes: u64, believed: bool, probe: bool) {
        match &mut self.view {
            View::Clear(clear) => {
                let before = clear.unreported_bytes;
                clear.unreported_before = before;
                clear.unreported_bytes = if believed { 0 } else { before.saturating_add(bytes) };
            }
            View::Copies(copies) if probe => {
                copies.anew_before = copies.anew;
                (copies.probing, copies.anew) = (true, false);
            }
            View::Copies(_) => {}
        }
    }

    /// Takes in that the request that was handed over last was not: it asks for nothing.
    pub(crate) fn take_request_back(&mut self, probe: bool) {
        match &mut self.view {
            View::Clear(clear) => clear.unreported_bytes = clear.unreported_before,
            View::Copies(copies) if probe => {
                copies.probing = false;
                copies.anew |= copies.anew_before;
            }
            View::Copies(_) => {}
        }
    }

    /// Takes in that the path is another one: what was learned need not hold any more. One that
    /// copied is asked with the next request that can be a probe.
    pub(crate) fn on_change(&mut self) {
        self.pause = Duration::ZERO;
        match &mut self.view {
            View::Clear(clear) => *clear = Clear::default(),
            View::Copies(copies) => copies.anew = true,
        }
    }

    /// Takes in the report about a zero-copy request. `copied_bytes` is what the socket has copied
    /// so far.
    pub(crate) fn on_report(
        &mut self,
        report: Report,
        copied_bytes: u64,
        now: Instant,
    ) -> Option<Change> {
        match &mut self.view {
            View::Clear(clear) => match report.copied {
                Copied::Unknown => return None,
                Copied::No => {
                    clear.reported = true;
                    clear.in_a_row = 0;
                    clear.row_bytes = 0;
                    clear.clear_bytes = clear.clear_bytes.saturating_add(report.bytes);
                    return None;
                }
                Copied::Yes => {
                    clear.reported = true;
                    clear.in_a_row += 1;
                    clear.row_bytes = clear.row_bytes.saturating_add(report.bytes);
                    if clear.in_a_row < COPIED_IN_A_ROW {
                        return None;
                    }
                    let regained =
                        clear.clear_bytes >= clear.row_bytes.saturating_mul(REGAINED_SHARE);
                    self.pause = if regained { PAUSE } else { self.longer_pause() };
                }
            },
            // What left before the path was known to copy says nothing new.
            View::Copies(_) if !report.probe => return None,
            View::Copies(copies) => match report.copied {
                // Not now, then, nor with the very next request.
                Copied::Unknown => {
                    *copies = Copies { anew: copies.anew, ..Copies::since(now, copied_bytes) };
                    return None;
                }
                Copied::No => {
                    let clear =
                        Clear { clear_bytes: report.bytes, reported: true, ..Clear::default() };
                    self.view = View::Clear(clear);
                    return Some(Change::FoundClear);
                }
                Copied::Yes => {
                    // Of a probe that left before the path changed, it is the old one's.
                    *copies = Copies { anew: copies.anew, ..Copies::since(now, copied_bytes) };
                    self.pause = self.longer_pause();
                    return None;
                }
            },
        }
        self.view = View::Copies(Copies::since(now, copied_bytes));
        Some(Change::FoundCopying)
    }

    /// Whether it is taken to copy.
    pub(crate) fn copies(&self) -> bool {
        matches!(self.view, View::Copies(_))
    }

    fn longer_pause(&self) -> Duration {
        (self.pause * 2).clamp(PAUSE, PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MIB: u64 = 1 << 20;

    fn report(copied: Copied, bytes: u64, probe: bool) -> Report {
        Report { copied, bytes, probe }
    }

    /// A path that has just been found to copy, with requests of a MiB.
    fn copying(now: Instant) -> Path {
        let mut path = Path::default();
        for nth in 0..3 {
            let change = path.on_report(report(Copied::Yes, MIB, false), 0, now);
            assert_eq!(change, (nth == 2).then_some(Change::FoundCopying));
        }
        path
    }

    #[test]
    fn three_believed_copies_in_a_row_are_needed() {
        let now = Instant::now();
        let mut path = Path::default();
        let mut told = |copied| path.on_report(report(copied, 70_000, false), 0, now);
        let (yes, no, unknown) = (Copied::Yes, Copied::No, Copied::Unknown);
        for copied in [yes, yes, no, yes, yes, unknown, unknown] {
            assert_eq!(told(copied), None);
        }
        assert_eq!(told(yes), Some(Change::FoundCopying));
        assert_eq!(path.judge(70_000, 0, now), Judgement::Copies);
    }

    #[test]
    fn a_probe_is_due_after_the_pause_and_its_share_of_bytes_and_only_one() {
        let start = Instant::now();
        let mut path = copying(start);
        let judge =
            |path: &Path, bytes, copied, ms: u32| path.judge(bytes, copied, start + MS * ms);
        assert_eq!(judge(&path, 4_096, 4 * MIB, 99), Judgement::Copies);
        assert_eq!(judge(&path, 4_096, 4 * MIB - 1, 100), Judgement::Copies);
        assert_eq!(judge(&path, 4_096, 4 * MIB, 100), Judgement::Probe);
        assert_eq!(judge(&path, MIB, 64 * MIB - 1, 100), Judgement::Copies);
        assert_eq!(judge(&path, MIB, 64 * MIB, 100), Judgement::Probe);
        path.on_request(MIB, true, true);
        assert_eq!(judge(&path, MIB, 64 * MIB, 100), Judgement::Copies);
    }

    #[test]
    fn a_probe_is_a_mib_at_most_unless_that_is_too_small_to_gain() {
        let start = Instant::now();
        let path = copying(start);
        let at = |worth, copied, ms: u32| path.probe_bytes(worth, copied, start + MS * ms);
        assert_eq!(at(16_384, 64 * MIB, 99), None);
        assert_eq!(at(16_384, 64 * MIB - 1, 100), None);
        assert_eq!(at(16_384, 64 * MIB, 100), Some(MIB));
        assert_eq!(at(2 * MIB, 128 * MIB - 1, 100), None);
        assert_eq!(at(2 * MIB, 128 * MIB, 100), Some(2 * MIB));
        assert_eq!(at(u64::MAX, u64::MAX - 1, 100), None);
        assert_eq!(Path::default().probe_bytes(16_384, 0, start), None);
    }

    #[test]
    fn each_copied_probe_doubles_the_pause_up_to_3_s() {
        let mut now = Instant::now();
        let mut path = copying(now);
        let mut copied = 0;
        for ms in [100, 200, 400, 800, 1_600, 3_000, 3_000] {
            copied += 64 * MIB;
            assert_eq!(path.judge(MIB, copied, now + MS * (ms - 1)), Judgement::Copies, "{ms}");
            now += MS * ms;
            assert_eq!(path.judge(MIB, copied, now), Judgement::Probe, "{ms}");
            path.on_request(MIB, true, true);
            assert_eq!(path.on_report(report(Copied::Yes, MIB, true), copied, now), None);
        }
    }

    #[test]
    fn one_uncopied_probe_brings_zero_copy_back_and_other_reports_do_not() {
        let now = Instant::now();
        let mut path = copying(now);
        path.on_request(MIB, true, true);
        // It left before the path was known to copy.
        assert_eq!(path.on_report(report(Copied::No, MIB, false), 64 * MIB, now), None);
        assert_eq!(path.judge(MIB, u64::MAX, now + MS), Judgement::Copies);
        let change = path.on_report(report(Copied::No, MIB, true), 64 * MIB, now);
        assert_eq!(change, Some(Change::FoundClear));
        assert_eq!(path.judge(MIB, 64 * MIB, now), Judgement::Clear);
    }

    #[test]
    fn a_probe_that_says_nothing_is_repeated_after_the_same_pause() {
        let start = Instant::now();
        let mut path = copying(start);
        path.on_request(MIB, true, true);
        let now = start + MS * 100;
        assert_eq!(path.on_report(report(Copied::Unknown, 0, true), 64 * MIB, now), None);
        assert_eq!(path.judge(MIB, 128 * MIB, now + MS * 99), Judgement::Copies);
        assert_eq!(path.judge(MIB, 127 * MIB, now + MS * 100), Judgement::Copies);
        assert_eq!(path.judge(MIB, 128 * MIB, now + MS * 100), Judgement::Probe);
    }

    #[test]
    fn a_path_that_is_another_one_is_asked_at_once_and_once() {
        let now = Instant::now();
        let mut path = copying(now);
        for _ in 0..5 {
            path.on_request(MIB, true, true);
            path.on_report(report(Copied::Yes, MIB, true), 0, now);
        }
        assert_eq!(path.judge(MIB, 64 * MIB, now + MS * 2_999), Judgement::Copies);
        path.on_change();
        assert_eq!(path.judge(MIB, 0, now), Judgement::Probe);
        assert_eq!(path.probe_bytes(16_384, 0, now), Some(MIB));
        path.on_request(MIB, true, true);
        assert_eq!(path.judge(MIB, 0, now), Judgement::Copies, "one is under way");
        assert_eq!(path.on_report(report(Copied::Yes, MIB, true), 0, now), None);
        assert_eq!(path.judge(MIB, 64 * MIB, now + MS * 99), Judgement::Copies);
        assert_eq!(path.judge(MIB, 64 * MIB, now + MS * 100), Judgement::Probe, "the first pause");
    }

    #[test]
    fn what_a_probe_says_of_the_path_before_is_not_said_of_this_one() {
        let now = Instant::now();
        for copied in [Copied::Yes, Copied::Unknown] {
            let mut path = copying(now);
            path.on_request(MIB, true, true);
            path.on_change();
            assert_eq!(path.judge(MIB, 0, now), Judgement::Copies, "one is under way");
            assert_eq!(path.on_report(report(copied, MIB, true), 0, now), None);
            assert_eq!(path.judge(MIB, 0, now), Judgement::Probe);
        }
    }

    #[test]
    fn a_path_that_did_not_copy_is_known_no_more_when_it_is_another_one() {
        let now = Instant::now();
        let mut path = Path::default();
        path.on_report(report(Copied::No, MIB, false), 0, now);
        path.on_report(report(Copied::Yes, MIB, false), 0, now);
        path.on_report(report(Copied::Yes, MIB, false), 0, now);
        path.on_change();
        assert!(path.wants_report());
        for nth in 0..3 {
            let change = path.on_report(report(Copied::Yes, MIB, false), 0, now);
            assert_eq!(change, (nth == 2).then_some(Change::FoundCopying));
        }
    }

    #[test]
    fn a_path_that_soon_copies_again_is_left_alone_for_longer() {
        let start = Instant::now();
        for (clear_mib, pause) in [(190, 200), (191, 100)] {
            let mut path = copying(start);
            path.on_request(MIB, true, true);
            path.on_report(report(Copied::No, MIB, true), 0, start);
            for _ in 0..clear_mib {
                path.on_report(report(Copied::No, MIB, false), 0, start);
            }
            for _ in 0..3 {
                path.on_report(report(Copied::Yes, MIB, false), 0, start);
            }
            let judge = |ms: u32| path.judge(MIB, 64 * MIB, start + MS * ms);
            let told = (judge(pause - 1), judge(pause));
            assert_eq!(told, (Judgement::Copies, Judgement::Probe), "{clear_mib} MiB");
        }
    }

    #[test]
    fn reports_are_wanted_while_nothing_is_known_while_in_doubt_and_once_a_mib() {
        let now = Instant::now();
        let mut path = Path::default();
        assert!(path.wants_report());
        path.on_report(report(Copied::Yes, 8_192, false), 0, now);
        assert!(path.wants_report(), "it may copy");
        path.on_report(report(Copied::No, 8_192, false), 0, now);
        assert!(!path.wants_report());
        path.on_request(MIB - 1, false, false);
        assert!(!path.wants_report());
        path.on_request(1, false, false);
        assert!(path.wants_report());
        path.on_request(8_192, true, false);
        assert!(!path.wants_report());
        assert!(copying(now).wants_report(), "a probe has to be believed");
    }

    /// A socket that sends `bytes` bytes every `gap`, over a path of which `copies` tells whether
    /// it copies; reports come `late` requests later. Returns the bytes of probes, and those that
    /// went zero-copy though the path copied.
    fn play(
        path: &mut Path,
        clock: &mut Instant,
        sends: impl Iterator<Item = u64>,
        gap: Duration,
        late: usize,
        copies: bool,
        copied: &mut u64,
    ) -> (u64, u64) {
        let (mut probes, mut wasted) = (0, 0);
        let mut under_way = std::collections::VecDeque::new();
        for bytes in sends {
            *clock += gap;
            match path.judge(bytes, *copied, *clock) {
                Judgement::Copies => *copied += bytes,
                judgement => {
                    let probe = judgement == Judgement::Probe;
                    path.on_request(bytes, true, probe);
                    probes += if probe { bytes } else { 0 };
                    wasted += if copies { bytes } else { 0 };
                    let told = if copies { Copied::Yes } else { Copied::No };
                    under_way.push_back(report(told, bytes, probe));
                }
            }
            if under_way.len() > late
                && let Some(report) = under_way.pop_front()
            {
                path.on_report(report, *copied, *clock);
            }
        }
        for report in under_way {
            path.on_report(report, *copied, *clock);
        }
        (probes, wasted)
    }

    proptest! {
        #[test]
        fn probes_are_a_64th_of_what_is_copied_at_most(
            sizes in proptest::collection::vec(4_096_u64..(4 << 20), 1..2_000),
            gap_us in 1_u64..1_000_000,
            late in 0_usize..20,
        ) {
            let (mut path, mut clock, mut copied) = (Path::default(), Instant::now(), 0);
            let gap = Duration::from_micros(gap_us);
            let largest = sizes.iter().copied().max().unwrap_or(0);
            let sends = sizes.into_iter();
            let (probes, wasted) =
                play(&mut path, &mut clock, sends, gap, late, true, &mut copied);
            prop_assert!(probes * 64 <= copied, "{probes} of {copied}");
            let learning = (3 + late as u64) * largest;
            prop_assert!(wasted <= probes + learning, "{wasted} with {probes}");
        }

        #[test]
        fn zero_copy_comes_back_after_a_path_stops_copying(
            copying_for in 1_usize..3_000,
            bytes in 4_096_u64..(4 << 20),
            gap_us in 100_u64..100_000,
            late in 0_usize..20,
            local in any::<bool>(),
        ) {
            let (mut clock, mut copied) = (Instant::now(), 0);
            let mut path = if local { Path::local(clock) } else { Path::default() };
            let gap = Duration::from_micros(gap_us);
            let sends = std::iter::repeat_n(bytes, copying_for);
            play(&mut path, &mut clock, sends, gap, late, true, &mut copied);
            // The longest pause, and the bytes of a pause, and the probe's own report.
            let pause = (30_000_000 / gap_us) as usize;
            let share = (64_u64.max((4 << 20) / bytes + 1)) as usize;
            let enough = pause + share + late + 3;
            let sends = std::iter::repeat_n(bytes, enough);
            play(&mut path, &mut clock, sends, gap, late, false, &mut copied);
            prop_assert_eq!(path.judge(bytes, copied, clock), Judgement::Clear);
        }
    }
}
