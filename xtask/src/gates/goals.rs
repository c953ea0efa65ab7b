//! The gates: what ringwire has to reach. Pure.
//!
//! One table of literals, [`GATES`]. A gate is about one place of the benchmark: a part, and a size
//! of payloads. What its figure is made of says its [`Figure`]; `judge.rs` makes it.
//!
//! A goal is a ratio to what the same host reaches in the same measurement. What depends on the
//! host beyond that, as how many times as fast as a plain call anything can be, has no goal here:
//! such a figure is [`Goal::Reported`], with what the host's bare loop reaches beside it.

use std::fmt;

use ringwire_bench::job::WireKind;
use ringwire_bench::report::scale::{Each, Over, SLACK};
use ringwire_units::size;

/// A part of `ringwire bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Tcp,
    Udp,
    Fanout,
    Latency,
    /// Last, because it is measured as a whole, and again as well: what has little time left goes
    /// before it.
    Scale,
}

impl Part {
    /// All of them, in the order they are measured in.
    pub(crate) const ALL: [Part; 5] =
        [Part::Tcp, Part::Udp, Part::Fanout, Part::Latency, Part::Scale];

    /// The wire that its goals are stated for.
    pub(crate) fn wire(self) -> WireKind {
        match self {
            Part::Tcp | Part::Udp | Part::Fanout | Part::Scale => WireKind::Perfect,
            Part::Latency => WireKind::Loopback,
        }
    }

    /// As `ringwire bench` and its rows call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Tcp => "tcp",
            Part::Udp => "udp",
            Part::Fanout => "fanout",
            Part::Latency => "latency",
            Part::Scale => "scale",
        }
    }
}

/// What is held against the goal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Figure {
    /// How many times as fast as one plain call a payload.
    TimesPlain {
        /// Our method.
        ours: &'static str,
        /// The method with the plain call.
        plain: &'static str,
    },
    /// How many times as fast as the fastest of all other methods and peers, `minimal` aside, which
    /// is no choice: it has no owner for memory, no limits and no events.
    TimesBestOther,
    /// How many times as fast as `minimal`.
    TimesMinimal {
        /// Our method.
        ours: &'static str,
    },
    /// How many times as fast as the best of the bare methods that send the same, datagrams or
    /// trains of them.
    TimesBestBare {
        /// Our method.
        ours: &'static str,
    },
    /// How many times as fast as the loop that makes the calls of our engine without our books.
    TimesBareLoop {
        /// Our method.
        ours: &'static str,
        /// The loop.
        bare: &'static str,
    },
    /// CPU time that a quiet payload takes more than with `minimal`, in nanoseconds. Small payloads
    /// are what quiet ones are for: `minimal` tells the program nothing of each either.
    CpuBeyondMinimal,
    /// Events that tell the program that a block, handed to all connections, is free again.
    EventsPerBlock,
    /// How many times as long as `write` a call takes that finds nobody before it, at this
    /// percentile.
    TimesLatency { percentile: Percentile },
    /// What a payload costs with the most of something, over what it would cost there had our own
    /// part of it stayed as it is with the least: the benchmark's own verdict on growth.
    Growth {
        /// Our method.
        ours: &'static str,
        /// What there is more and more of.
        over: Over,
    },
    /// Bytes of the process's own memory for each of these.
    Memory { each: Each },
}

/// The calls that a latency is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Percentile {
    P50,
    P99,
}

impl Percentile {
    fn name(self) -> &'static str {
        match self {
            Percentile::P50 => "p50",
            Percentile::P99 => "p99",
        }
    }
}

/// A goal with its slack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// The figure is to be this or more; `slack` times as much passes.
    AtLeast { goal: f64, slack: f64 },
    /// The figure is to be this or less; `slack` more passes.
    AtMost { goal: f64, slack: f64 },
    /// The figure is stated, and not judged.
    Reported,
}

impl Goal {
    /// Whether a figure passes; any does where nothing is to be reached.
    pub(crate) fn is_met_by(self, figure: f64) -> bool {
        match self {
            Goal::Reported => true,
            Goal::AtLeast { goal, slack } => figure >= goal * slack,
            Goal::AtMost { goal, slack } => figure <= goal + slack,
        }
    }

    /// Whether a figure is so far off that no other program is to blame: half of what passes, or
    /// twice.
    pub(crate) fn is_missed_by_far(self, figure: f64) -> bool {
        match self {
            Goal::Reported => false,
            Goal::AtLeast { goal, slack } => figure < goal * slack / 2.0,
            Goal::AtMost { goal, slack } => figure > (goal + slack) * 2.0,
        }
    }

    /// The goal and its slack, if there are.
    pub(crate) fn numbers(self) -> Option<(f64, f64)> {
        match self {
            Goal::AtLeast { goal, slack } | Goal::AtMost { goal, slack } => Some((goal, slack)),
            Goal::Reported => None,
        }
    }
}

/// Something that ringwire has to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gate {
    pub(crate) part: Part,
    pub(crate) payload_bytes: u64,
    pub(crate) figure: Figure,
    pub(crate) goal: Goal,
}

impl Gate {
    /// The method that the gate is about.
    pub(crate) fn ours(&self) -> &'static str {
        match self.figure {
            Figure::TimesPlain { ours, .. }
            | Figure::TimesMinimal { ours }
            | Figure::TimesBestBare { ours }
            | Figure::TimesBareLoop { ours, .. }
            | Figure::Growth { ours, .. } => ours,
            Figure::CpuBeyondMinimal => QUIET,
            Figure::TimesBestOther
            | Figure::EventsPerBlock
            | Figure::TimesLatency { .. }
            | Figure::Memory { .. } => OURS,
        }
    }

    /// What the benchmark's notes call what the gate is about: of memory none speaks by method.
    pub(crate) fn noted_as(&self) -> &'static str {
        match self.figure {
            Figure::Memory { .. } => "memory",
            _ => self.ours(),
        }
    }

    /// A figure as this gate has it, with its unit. Ratios near 1 have a digit more than goals
    /// have, so that one just below its goal does not look like it.
    pub(crate) fn shown(&self, figure: f64) -> String {
        let digits = match self.figure {
            // No zero below zero.
            Figure::CpuBeyondMinimal | Figure::Memory { .. } => {
                return self.with_unit(figure.round() + 0.0, 0);
            }
            Figure::EventsPerBlock => 2,
            _ if figure < 2.0 => 3,
            _ => 2,
        };
        self.with_unit(figure, digits)
    }

    fn with_unit(&self, figure: f64, digits: usize) -> String {
        let unit = match self.figure {
            Figure::CpuBeyondMinimal => " ns",
            Figure::EventsPerBlock => " events",
            Figure::Memory { .. } => " bytes",
            _ => "×",
        };
        format!("{figure:.digits$}{unit}")
    }

    /// The goal in words, with its slack where it has one.
    pub(crate) fn goal_shown(&self) -> String {
        let words = |number| self.with_unit(number, 2);
        match self.goal {
            Goal::AtLeast { goal, slack: 1.0 } => format!("≥ {}", words(goal)),
            Goal::AtLeast { goal, slack } => format!("≥ {}, slack {slack:.2}", words(goal)),
            Goal::AtMost { goal, slack: 0.0 } => format!("≤ {}", words(goal)),
            Goal::AtMost { goal, slack } => format!("≤ {}, slack +{}", words(goal), words(slack)),
            Goal::Reported => "not judged".to_owned(),
        }
    }

    /// Where it is measured, within its part.
    pub(crate) fn place(&self) -> String {
        match self.figure {
            Figure::Growth { over, .. } => over.things().to_owned(),
            Figure::Memory { each } => each.thing().to_owned(),
            _ => size(self.payload_bytes),
        }
    }

    /// What it is about, wherever it is measured.
    pub(crate) fn about(&self) -> String {
        let about = match self.figure {
            Figure::TimesPlain { ours, plain: other }
            | Figure::TimesBareLoop { ours, bare: other } => against(ours, other),
            Figure::TimesBestOther => against(OURS, "the best other"),
            Figure::TimesMinimal { ours } => against(ours, "minimal"),
            Figure::TimesBestBare { ours } => against(ours, "the best bare method"),
            Figure::CpuBeyondMinimal => "CPU a quiet payload beyond minimal".to_owned(),
            Figure::EventsPerBlock => "events a block".to_owned(),
            Figure::TimesLatency { percentile } => format!("{} against write", percentile.name()),
            Figure::Growth { ours, .. } => growth_of(ours),
            Figure::Memory { .. } => "memory for each".to_owned(),
        };
        format!("{}, {about}", self.part.name())
    }
}

/// A comparison in words; that it is ringwire which is compared goes without saying.
fn against(ours: &str, other: &str) -> String {
    match ours {
        OURS => format!("against {other}"),
        ours => format!("{ours} against {other}"),
    }
}

/// A growth in words; whose it is, where it is not ringwire's.
fn growth_of(ours: &str) -> String {
    let growth = "growth beside minimal's";
    if ours == OURS { growth.to_owned() } else { format!("{ours}'s {growth}") }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = self.about();
        let about = about.strip_prefix(self.part.name()).unwrap_or(&about);
        write!(f, "{} {}{about}", self.part.name(), self.place())
    }
}

/// One notification for many payloads.
pub(crate) const QUIET: &str = "ringwire-quiet";
/// The method that most gates are about.
pub(crate) const OURS: &str = "ringwire";
/// The same where there is no io_uring.
const OURS_WITHOUT_URING: &str = "ringwire-msg-zerocopy";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A goal that is a ratio to another method has none: both took turns, so the host is in neither,
/// and what is below 1 in the goal is its slack already. What moves between two measurements, by up
/// to 10 % on a shared virtual machine, is what a gate is measured again for.
const NO_SLACK: f64 = 1.0;
/// A fan-out is measured with a thousand connections and few rounds a run, which differ by more.
const SLACK_FANOUT: f64 = 0.90;
/// A count is exact.
const SLACK_EVENTS: f64 = 0.0;
/// A call over loopback takes about 12 µs, most of them the receiver's: timers' interrupts and the
/// wake-up of the other processor are in some calls of the one method and not of the other. Medians
/// of 20,000 calls do not mind …
const SLACK_P50: f64 = 0.05;
/// … the slowest hundredth does.
const SLACK_P99: f64 = 0.15;

/// A ratio of rates.
const fn at_least(part: Part, payload_bytes: u64, figure: Figure, goal: f64) -> Gate {
    Gate { part, payload_bytes, figure, goal: Goal::AtLeast { goal, slack: NO_SLACK } }
}

/// A figure that says as much of the host as of ringwire.
const fn reported(part: Part, payload_bytes: u64, figure: Figure) -> Gate {
    Gate { part, payload_bytes, figure, goal: Goal::Reported }
}

/// Latency at both percentiles.
const fn latency(payload_bytes: u64, percentile: Percentile, slack: f64) -> Gate {
    let figure = Figure::TimesLatency { percentile };
    Gate { part: Part::Latency, payload_bytes, figure, goal: Goal::AtMost { goal: 1.1, slack } }
}

/// Growth by no more than the benchmark calls flat; the bare loop takes turns, so without slack.
const fn flat(ours: &'static str, over: Over) -> Gate {
    let (figure, goal) = (Figure::Growth { ours, over }, Goal::AtMost { goal: SLACK, slack: 0.0 });
    Gate { part: Part::Scale, payload_bytes: 4 * KIB, figure, goal }
}

const WRITE: Figure = Figure::TimesPlain { ours: OURS, plain: "write" };
const BEST: Figure = Figure::TimesBestOther;
const MINIMAL: Figure = Figure::TimesMinimal { ours: OURS };
const QUIET_MINIMAL: Figure = Figure::TimesMinimal { ours: QUIET };
/// Up to 64 payloads a call, as the engine gathers them too.
const MSG_ZEROCOPY: Figure =
    Figure::TimesBareLoop { ours: OURS_WITHOUT_URING, bare: "msg-zerocopy-64" };
const DATAGRAMS: Figure = Figure::TimesBestBare { ours: OURS };
const TRAINS: Figure = Figure::TimesBestBare { ours: "ringwire-train" };
const SENDMSG: Figure = Figure::TimesPlain { ours: OURS, plain: "sendmsg" };
const GSO: Figure = Figure::TimesPlain { ours: "ringwire-train", plain: "sendmsg-train" };

/// All gates.
pub(crate) const GATES: &[Gate] = &[
    reported(Part::Tcp, KIB, WRITE),
    reported(Part::Tcp, 4 * KIB, WRITE),
    reported(Part::Tcp, 64 * KIB, WRITE),
    reported(Part::Tcp, MIB, WRITE),
    at_least(Part::Tcp, KIB, BEST, 0.97),
    at_least(Part::Tcp, 4 * KIB, BEST, 1.15),
    at_least(Part::Tcp, 16 * KIB, BEST, 0.97),
    at_least(Part::Tcp, 64 * KIB, BEST, 0.97),
    at_least(Part::Tcp, 256 * KIB, BEST, 0.97),
    at_least(Part::Tcp, MIB, BEST, 0.97),
    at_least(Part::Tcp, 4 * MIB, BEST, 0.97),
    at_least(Part::Tcp, KIB, MINIMAL, 0.75),
    at_least(Part::Tcp, 4 * KIB, MINIMAL, 0.75),
    at_least(Part::Tcp, KIB, QUIET_MINIMAL, 0.85),
    at_least(Part::Tcp, 4 * KIB, QUIET_MINIMAL, 0.85),
    at_least(Part::Tcp, 64 * KIB, MINIMAL, 0.97),
    at_least(Part::Tcp, 256 * KIB, MINIMAL, 0.97),
    at_least(Part::Tcp, MIB, MINIMAL, 0.97),
    at_least(Part::Tcp, 4 * MIB, MINIMAL, 0.97),
    reported(Part::Tcp, KIB, Figure::CpuBeyondMinimal),
    reported(Part::Tcp, 4 * KIB, Figure::CpuBeyondMinimal),
    at_least(Part::Tcp, KIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, 4 * KIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, 16 * KIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, 64 * KIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, 256 * KIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, MIB, MSG_ZEROCOPY, 0.9),
    at_least(Part::Tcp, 4 * MIB, MSG_ZEROCOPY, 0.9),
    reported(Part::Udp, 1_400, GSO),
    at_least(Part::Udp, 1_400, TRAINS, 0.95),
    reported(Part::Udp, 1_400, SENDMSG),
    reported(Part::Udp, 8_000, SENDMSG),
    at_least(Part::Udp, 1_400, DATAGRAMS, 1.0),
    reported(Part::Fanout, MIB, WRITE),
    Gate {
        part: Part::Fanout,
        payload_bytes: MIB,
        figure: MINIMAL,
        goal: Goal::AtLeast { goal: 0.97, slack: SLACK_FANOUT },
    },
    Gate {
        part: Part::Fanout,
        payload_bytes: MIB,
        figure: Figure::EventsPerBlock,
        goal: Goal::AtMost { goal: 1.0, slack: SLACK_EVENTS },
    },
    latency(64, Percentile::P50, SLACK_P50),
    latency(64, Percentile::P99, SLACK_P99),
    latency(KIB, Percentile::P50, SLACK_P50),
    latency(KIB, Percentile::P99, SLACK_P99),
    flat(OURS, Over::Sockets),
    flat(OURS, Over::InFlight),
    flat(OURS, Over::Rings),
    flat(QUIET, Over::Sockets),
    flat(QUIET, Over::InFlight),
    flat(QUIET, Over::Rings),
    reported(Part::Scale, 4 * KIB, Figure::Memory { each: Each::Socket }),
    reported(Part::Scale, 4 * KIB, Figure::Memory { each: Each::Payload }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slack_loosens_a_goal_in_its_direction() {
        let least = Goal::AtLeast { goal: 9.0, slack: 0.90 };
        assert!(least.is_met_by(8.2));
        assert!(!least.is_met_by(8.0));
        let most = Goal::AtMost { goal: 30.0, slack: 20.0 };
        assert!(most.is_met_by(49.0));
        assert!(!most.is_met_by(51.0));
        assert!(!least.is_met_by(f64::NAN) && !most.is_met_by(f64::NAN));
        assert!(least.is_missed_by_far(4.0) && !least.is_missed_by_far(4.1));
        assert!(most.is_missed_by_far(101.0) && !most.is_missed_by_far(99.0));
    }

    #[test]
    fn a_ratio_to_another_method_has_no_slack() {
        for gate in GATES.iter().filter(|gate| matches!(gate.part, Part::Tcp | Part::Udp)) {
            match gate.goal {
                Goal::AtLeast { slack, .. } => assert_eq!(slack, 1.0, "{gate}"),
                Goal::AtMost { .. } => panic!("{gate}"),
                Goal::Reported => assert_eq!(gate.goal.numbers(), None),
            }
        }
    }

    #[test]
    fn what_a_plain_call_reaches_is_no_goal() {
        let plain = |gate: &&Gate| matches!(gate.figure, Figure::TimesPlain { .. });
        assert!(GATES.iter().filter(plain).all(|gate| gate.goal == Goal::Reported));
    }

    #[test]
    fn a_figure_just_below_its_goal_does_not_look_like_it() {
        let shown = [0.9664, 1.0, 14.7314].map(|figure| GATES[16].shown(figure));
        assert_eq!(shown, ["0.966×", "1.000×", "14.73×"]);
        assert_eq!([-0.3, 45.6, -99.7].map(|ns| GATES[19].shown(ns)), ["0 ns", "46 ns", "-100 ns"]);
        assert_eq!(GATES[35].shown(1.0), "1.00 events");
        assert_eq!(
            (GATES[40].shown(1.1504), GATES[46].shown(612.4)),
            ("1.150×".into(), "612 bytes".into())
        );
    }

    #[test]
    fn gates_are_told_apart_by_their_names() {
        let mut names: Vec<String> = GATES.iter().map(Gate::to_string).collect();
        for (at, name, goal) in [
            (1, "tcp 4 KiB, against write", "not judged"),
            (5, "tcp 4 KiB, against the best other", "≥ 1.15×"),
            (13, "tcp 1 KiB, ringwire-quiet against minimal", "≥ 0.85×"),
            (19, "tcp 1 KiB, CPU a quiet payload beyond minimal", "not judged"),
            (21, "tcp 1 KiB, ringwire-msg-zerocopy against msg-zerocopy-64", "≥ 0.90×"),
            (29, "udp 1400 B, ringwire-train against the best bare method", "≥ 0.95×"),
            (34, "fanout 1 MiB, against minimal", "≥ 0.97×, slack 0.90"),
            (35, "fanout 1 MiB, events a block", "≤ 1.00 events"),
            (36, "latency 64 B, p50 against write", "≤ 1.10×, slack +0.05×"),
            (40, "scale sockets, growth beside minimal's", "≤ 1.15×"),
            (44, "scale payloads in flight, ringwire-quiet's growth beside minimal's", "≤ 1.15×"),
            (46, "scale socket, memory for each", "not judged"),
        ] {
            assert_eq!((names[at].as_str(), GATES[at].goal_shown().as_str()), (name, goal));
        }
        assert_eq!(GATES[13].about(), "tcp, ringwire-quiet against minimal");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), GATES.len());
    }
}
