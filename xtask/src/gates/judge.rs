//! From medians to verdicts. Pure.
//!
//! **Where the host binds.** What the kernel takes for a packet differs by 3× from host to host,
//! with its mitigations and the processor, and what it takes to copy a byte does not differ with
//! it. So on some hosts no way to send can be as many times as fast as a plain call as the goal
//! says. A gate on a multiple of plain therefore passes
//!
//! - when the multiple reaches `goal × slack`, or
//! - when the best *bare* method of the same measurement (`minimal`, `send-zc…`, `msg-zerocopy…`:
//!   loops over the kernel's own interfaces; for trains of datagrams, those that send trains)
//!   stays below the goal itself, and ringwire reaches `0.97 × slack` of it. The verdict then says
//!   that the host binds, and what that one reaches.
//!
//! Peers do not count as bare: a slow peer says nothing of the host, and a fast one shows that
//! there was more to have.

use ringwire_bench::job::Order;
use ringwire_bench::report::AnyMedian;

use super::goals::{
    Figure, Gate, Goal, OURS, Part, Percentile, QUIET, SHARE_OF_BARE, TRAINS_PER_S,
};
use super::report::Report;

const MINIMAL: &str = "minimal";
/// The order of payloads that goals are stated for, where there are many of them.
const ORDER: Order = Order::Shuffled;

/// What became of a gate in one measurement.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) verdict: Verdict,
    /// What was held against the goal, if it could be made.
    pub(crate) figure: Option<f64>,
    /// Why it is so, where the figure does not say it.
    pub(crate) why: Option<String>,
    /// What is stated beside the figure, and not held.
    pub(crate) beside: Option<String>,
    /// Whether a figure that falls short does so by far.
    pub(crate) far_off: bool,
    /// Whether others disturbed the measurement.
    pub(crate) disturbed: bool,
}

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The goal is reached, within its slack.
    Pass,
    /// It is not, but what the kernel itself can do on this host is.
    BoundByHost,
    /// It falls short.
    Short,
    /// It could not be measured on this host.
    Skip,
}

impl Judged {
    fn because(verdict: Verdict, why: Option<String>) -> Judged {
        Judged { verdict, figure: None, why, beside: None, far_off: false, disturbed: false }
    }

    fn of(verdict: Verdict, figure: f64) -> Judged {
        Judged { figure: Some(figure), ..Judged::because(verdict, None) }
    }

    /// Falls short for a reason that is no figure.
    pub(crate) fn short(why: impl Into<String>) -> Judged {
        Judged { far_off: true, ..Judged::because(Verdict::Short, Some(why.into())) }
    }

    fn skip(why: String) -> Judged {
        Judged::because(Verdict::Skip, Some(why))
    }

    /// Whether another measurement could change anything.
    pub(crate) fn is_short(&self) -> bool {
        self.verdict == Verdict::Short
    }
}

/// Whether this method is a loop over the kernel's own interfaces for sending without a copy, which
/// sends the same as `ours` does: datagrams or trains of them.
fn is_bare(method: &str, ours: &str) -> bool {
    ["minimal", "send-zc", "msg-zerocopy"].iter().any(|bare| method.starts_with(bare))
        && is_train(method) == is_train(ours)
}

/// Whether this method sends trains of datagrams.
pub(crate) fn is_train(method: &str) -> bool {
    method.ends_with("-train")
}

/// Whether this is a method or a peer that one may choose instead of ours: all but `minimal`.
pub(crate) fn is_other_choice(method: &str) -> bool {
    !method.starts_with(OURS) && !method.starts_with(MINIMAL)
}

/// The methods that a gate's figure is made of, of those that there are; `None` for all.
pub(crate) fn methods(gate: &Gate, there: &[&str]) -> Option<Vec<String>> {
    let fixed: &[&str] = match gate.figure {
        Figure::TimesBestOther => return None,
        Figure::TimesPlain { ours, plain } => &[plain, ours],
        Figure::TimesMinimal => &[MINIMAL, OURS],
        // Ours with an event a payload is stated beside.
        Figure::CpuBeyondMinimal => &[MINIMAL, QUIET, OURS],
        // Two methods, which are always measured both.
        Figure::EventsPerBlock | Figure::TimesLatency { .. } => return None,
    };
    let bare = matches!(gate.figure, Figure::TimesPlain { .. });
    let wanted = |method: &&&str| fixed.contains(method) || (bare && is_bare(method, gate.ours()));
    Some(there.iter().filter(wanted).map(|method| (*method).to_owned()).collect())
}

/// The verdict on `gate` by what was measured.
pub(crate) fn judge(gate: &Gate, report: &Report) -> Judged {
    let place = Place::of(gate, report);
    if place.0.is_empty() {
        return match reason(&report.host.notes) {
            Some(why) => Judged::skip(why),
            None => Judged::short("nothing was measured here, and nothing says why"),
        };
    }
    let Some(ours) = place.find(gate.ours()) else {
        return match refusal(&report.host.notes) {
            Some(why) => Judged::skip(why),
            None => Judged::short(format!(
                "{} was not measured here{}",
                gate.ours(),
                said_of(gate.ours(), &report.host.notes)
            )),
        };
    };
    let errors = ours.rates().map_or(0, |rates| rates.errors);
    if errors > 0 {
        return Judged::short(format!("{errors} of {}'s payloads failed", ours.method()));
    }
    let judged = match place.figure(gate, ours) {
        Ok(figure) if gate.goal.is_met_by(figure) => Judged::of(Verdict::Pass, figure),
        Ok(figure) => {
            let bound = place.bound(gate);
            let far_off = match &bound {
                Some(Bound { needed, .. }) => rate(ours) < needed / 2.0,
                None => gate.goal.is_missed_by_far(figure),
            };
            let short = || Judged { far_off, ..Judged::of(Verdict::Short, figure) };
            bound.filter(|bound| rate(ours) >= bound.needed).map_or_else(short, |bound| Judged {
                why: Some(bound.said),
                ..Judged::of(Verdict::BoundByHost, figure)
            })
        }
        Err(missing) => Judged::short(format!(
            "{missing} was not measured here{}",
            said_of(missing, &report.host.notes)
        )),
    };
    Judged { beside: place.beside(gate, ours), ..judged }
}

/// The medians of one place.
struct Place<'a>(Vec<&'a AnyMedian>);

impl<'a> Place<'a> {
    fn of(gate: &Gate, report: &'a Report) -> Place<'a> {
        let here = |median: &&AnyMedian| {
            median.bench() == gate.part.name()
                && median.wire() == gate.part.wire()
                && median.payload_bytes() == gate.payload_bytes
                && (median.rates().is_none_or(|rates| rates.order == ORDER)
                    || gate.part == Part::Fanout)
        };
        Place(report.medians.iter().filter(here).collect())
    }

    fn find(&self, method: &str) -> Option<&'a AnyMedian> {
        self.0.iter().copied().find(|median| median.method() == method)
    }

    /// The fastest of the methods that `which` takes.
    fn best(&self, which: impl Fn(&str) -> bool) -> Option<&'a AnyMedian> {
        let medians = self.0.iter().copied().filter(|median| which(median.method()));
        medians.max_by(|one, other| rate(one).total_cmp(&rate(other)))
    }

    /// What is held against the goal, or the name of what is missing for it.
    fn figure(&self, gate: &Gate, ours: &AnyMedian) -> Result<f64, &'static str> {
        let times = |other: &AnyMedian| rate(ours) / rate(other);
        let minimal = || self.find(MINIMAL).ok_or(MINIMAL);
        match gate.figure {
            Figure::TimesPlain { plain, .. } => Ok(times(self.find(plain).ok_or(plain)?)),
            Figure::TimesBestOther => {
                Ok(times(self.best(is_other_choice).ok_or("any other method")?))
            }
            Figure::TimesMinimal => Ok(times(minimal()?)),
            Figure::CpuBeyondMinimal => Ok(ns_beyond(ours, minimal()?)),
            Figure::EventsPerBlock => {
                let events = ours.fanout().and_then(|fanout| fanout.events_per_block);
                events.ok_or("how many events came")
            }
            Figure::TimesLatency { percentile } => {
                let latency = ours.latency().ok_or("write")?;
                Ok(match percentile {
                    Percentile::P50 => latency.ratio_to_write_p50,
                    Percentile::P99 => latency.ratio_to_write_p99,
                })
            }
        }
    }

    /// What is stated beside a figure: rates that are goals on one host alone, the kernel's memory,
    /// and what payloads cost whose events are wanted.
    fn beside(&self, gate: &Gate, ours: &AnyMedian) -> Option<String> {
        let plain = match gate.figure {
            Figure::TimesPlain { plain, .. } => plain,
            Figure::CpuBeyondMinimal => {
                let ns = ns_beyond(self.find(OURS)?, self.find(MINIMAL)?);
                return Some(format!("with an event a payload {} (not held)", gate.shown(ns)));
            }
            _ => return None,
        };
        if is_train(gate.ours()) {
            let per_s = rate(ours) / gate.payload_bytes as f64 / 1e6;
            let goal = TRAINS_PER_S / 1e6;
            return Some(format!("{per_s:.1} million datagrams/s (goal ≥ {goal:.0}, not held)"));
        }
        let memory = |median: &AnyMedian| {
            let fanout = median.fanout()?;
            let mib = |bytes: Option<u64>| Some(bytes? as f64 / f64::from(1 << 20));
            let (sockets, slab) = (mib(fanout.tcp_memory_bytes)?, mib(fanout.slab_bytes)?);
            Some(format!("{sockets:.0} MiB of sockets' memory and {slab:.0} MiB of slab"))
        };
        Some(format!("{}; {plain} {}", memory(ours)?, memory(self.find(plain)?)?))
    }

    /// What the host allows, where no bare method reaches the goal.
    fn bound(&self, gate: &Gate) -> Option<Bound> {
        let (Figure::TimesPlain { plain, .. }, Goal::AtLeast { goal, slack }) =
            (gate.figure, gate.goal)
        else {
            return None;
        };
        let plain = rate(self.find(plain)?);
        let bare = self.best(|method| is_bare(method, gate.ours()))?;
        let (reached, needed) = (rate(bare) / plain, SHARE_OF_BARE * slack * rate(bare));
        let said = format!("bound by the host: {} reaches {reached:.1}×", bare.method());
        (reached < goal).then_some(Bound { needed, said })
    }
}

/// A host on which no bare method reaches a goal.
struct Bound {
    /// The rate that is enough there.
    needed: f64,
    /// What is to be said of it.
    said: String,
}

/// CPU time that a payload takes more with one method than with another: seconds for 10⁹ bytes are
/// nanoseconds for one.
fn ns_beyond(one: &AnyMedian, other: &AnyMedian) -> f64 {
    let cost = |median: &AnyMedian| median.rates().map_or(f64::NAN, |rates| rates.cpu_s_per_gb);
    (cost(one) - cost(other)) * one.payload_bytes() as f64
}

fn rate(median: &AnyMedian) -> f64 {
    median.rates().map_or(f64::NAN, |rates| rates.bytes_per_s)
}

/// Why nothing was measured on the gate's wire, from the notes: `nothing can be measured: …`, or
/// `over loopback, which copies, instead of the perfect wire: …`.
fn reason(notes: &[String]) -> Option<String> {
    notes.iter().find_map(|note| {
        let (what, why) = note.split_once(": ")?;
        let refused =
            what == "nothing can be measured" || what.ends_with("instead of the perfect wire");
        refused.then(|| why.replace('\n', " "))
    })
}

/// The note about this method, to go on with.
fn said_of(method: &str, notes: &[String]) -> String {
    let note = notes.iter().find(|note| note.split([' ', ':']).next() == Some(method));
    note.map_or_else(String::new, |note| format!(" ({})", note.replace('\n', " ")))
}

/// The note in which ringwire says what this host does not have: `ringwire at 4096 B: io_uring is
/// not available: …`. The part after the method's name.
fn refusal(notes: &[String]) -> Option<String> {
    notes.iter().find_map(|note| {
        let (method, why) = note.split_once(": ")?;
        let ours = method.split(' ').next().is_some_and(|name| name.starts_with(OURS));
        (ours && why.contains(" is not available: ")).then(|| why.replace('\n', " "))
    })
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{fanout, latency, median, of_any, report};
    use super::*;
    use ringwire_bench::job::WireKind;

    const KIB4: u64 = 4096;

    fn gate(figure: Figure, goal: Goal) -> Gate {
        Gate { part: Part::Tcp, payload_bytes: KIB4, figure, goal }
    }

    fn write_9() -> Gate {
        let goal = Goal::AtLeast { goal: 9.0, slack: 0.90 };
        gate(Figure::TimesPlain { ours: "ringwire", plain: "write" }, goal)
    }

    fn best_97() -> Gate {
        gate(Figure::TimesBestOther, Goal::AtLeast { goal: 0.97, slack: 0.90 })
    }

    /// The verdict by these rates, in GB/s.
    fn by(gate: &Gate, rates: &[(&str, f64)]) -> Judged {
        let medians = rates.iter().map(|(method, rate)| median("tcp", method, KIB4, *rate));
        judge(gate, &report(medians.collect()))
    }

    #[test]
    fn a_multiple_of_plain_reaches_its_goal_within_its_slack_or_falls_short() {
        for (ours, verdict) in [
            (9.5, Verdict::Pass),
            (8.2, Verdict::Pass),
            (8.0, Verdict::Short),
            (0.5, Verdict::Short),
        ] {
            // The bare methods show that the host could do more.
            let judged = by(&write_9(), &[("write", 1.0), ("minimal", 10.0), ("ringwire", ours)]);
            assert_eq!((judged.verdict, judged.figure), (verdict, Some(ours)), "{ours}");
            assert_eq!(judged.why, None);
        }
    }

    #[test]
    fn where_the_host_binds_being_as_fast_as_the_best_bare_method_is_enough() {
        // 0.97 × 0.90 = 0.873 of the best bare method.
        for (others, ours, verdict) in [
            (&[("minimal", 4.6)][..], 4.5, Verdict::BoundByHost),
            (&[("minimal", 5.0)], 4.4, Verdict::BoundByHost),
            (&[("minimal", 5.0)], 4.3, Verdict::Short),
            // The best counts, not `minimal` alone.
            (&[("minimal", 4.0), ("send-zc-registered", 5.0)], 4.3, Verdict::Short),
            (&[("minimal", 4.0), ("msg-zerocopy-64", 5.0)], 4.3, Verdict::Short),
            // Reaches the goal, if not comfortably: then the host does not bind.
            (&[("minimal", 9.0)], 8.0, Verdict::Short),
            (&[("minimal", 8.9)], 8.0, Verdict::BoundByHost),
            // A peer is not bare, in either direction.
            (&[("minimal", 4.6), ("compio-vectored", 20.0)], 4.5, Verdict::BoundByHost),
            (&[("compio-vectored", 4.6)], 4.5, Verdict::Short),
            (&[], 4.5, Verdict::Short),
        ] {
            let rates = [others, &[("write", 1.0), ("ringwire", ours)]].concat();
            let judged = by(&write_9(), &rates);
            assert_eq!((judged.verdict, judged.figure), (verdict, Some(ours)), "{rates:?}");
        }
        let judged = by(&write_9(), &[("write", 1.0), ("minimal", 4.6), ("ringwire", 4.5)]);
        assert_eq!(judged.why.as_deref(), Some("bound by the host: minimal reaches 4.6×"));
    }

    #[test]
    fn trains_are_bound_by_trains_and_single_datagrams_by_single_ones() {
        let by = |ours, plain, rate| {
            let figure = Figure::TimesPlain { ours, plain };
            let goal = Goal::AtLeast { goal: 5.0, slack: 0.90 };
            let gate = Gate { part: Part::Udp, ..gate(figure, goal) };
            let rates = [
                ("sendmsg", 1.0),
                ("send-zc", 1.2),
                ("sendmsg-train", 10.0),
                ("minimal-train", 30.0),
                (ours, rate),
            ];
            let medians = rates.map(|(method, rate)| median("udp", method, KIB4, rate));
            judge(&gate, &report(medians.to_vec()))
        };
        let judged = by("ringwire", "sendmsg", 1.1);
        assert_eq!(judged.why.as_deref(), Some("bound by the host: send-zc reaches 1.2×"));
        let judged = by("ringwire-train", "sendmsg-train", 27.0);
        assert_eq!(judged.why.as_deref(), Some("bound by the host: minimal-train reaches 3.0×"));
        assert_eq!(by("ringwire-train", "sendmsg-train", 26.0).verdict, Verdict::Short);
        // 40.96 GB/s of 4096 bytes.
        assert_eq!(
            by("ringwire-train", "sendmsg-train", 40.96).beside.as_deref(),
            Some("10.0 million datagrams/s (goal ≥ 45, not held)")
        );
    }

    #[test]
    fn only_multiples_of_plain_are_ever_bound_by_the_host() {
        let rates = [("write", 1.0), ("minimal", 5.0), ("send-zc", 5.0), ("ringwire", 4.3)];
        assert_eq!(by(&best_97(), &rates).verdict, Verdict::Short);
        let minimal = gate(Figure::TimesMinimal, Goal::AtLeast { goal: 0.97, slack: 0.90 });
        assert_eq!(by(&minimal, &rates).verdict, Verdict::Short);
    }

    #[test]
    fn the_best_other_is_any_method_or_peer_but_minimal() {
        let rates = |peer| {
            [("write", 1.0), ("minimal", 99.0), ("compio-vectored", peer), ("ringwire", 10.0)]
        };
        let judged = by(&best_97(), &rates(8.0));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(1.25)));
        let judged = by(&best_97(), &rates(12.5));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Short, Some(0.8)));
        assert_eq!(by(&best_97(), &[("minimal", 9.0), ("ringwire", 1.0)]).figure, None);
    }

    #[test]
    fn cpu_beyond_minimal_is_in_nanoseconds_a_payload() {
        let gate = gate(Figure::CpuBeyondMinimal, Goal::AtMost { goal: 30.0, slack: 20.0 });
        let by = |ours: f64| {
            let mut medians = vec![
                median("tcp", "minimal", KIB4, 1.0),
                median("tcp", "ringwire-quiet", KIB4, 1.0),
                median("tcp", "ringwire", KIB4, 1.0),
            ];
            medians[0].cpu_s_per_gb = 0.5;
            medians[1].cpu_s_per_gb = ours;
            medians[2].cpu_s_per_gb = 0.53125;
            judge(&gate, &report(medians))
        };
        // 4096 bytes at 0.5 s/GB are 2048 ns.
        let judged = by(0.5078125);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(32.0)));
        let judged = by(0.515625);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Short, Some(64.0)));
        assert_eq!(by(0.25).verdict, Verdict::Pass);
        let beside = "with an event a payload 128 ns (not held)";
        assert_eq!(judged.beside.as_deref(), Some(beside));
    }

    #[test]
    fn a_block_for_many_is_announced_once_whatever_its_order_is_called() {
        let goal = Goal::AtMost { goal: 1.0, slack: 0.0 };
        let gate = Gate { part: Part::Fanout, ..gate(Figure::EventsPerBlock, goal) };
        let by = |events: Option<f64>| {
            let mut ours = fanout("ringwire", KIB4, 1.0);
            ours.events_per_block = events;
            judge(&gate, &of_any(vec![AnyMedian::Fanout(ours.into())]))
        };
        assert_eq!((by(Some(1.0)).verdict, by(Some(1.0)).figure), (Verdict::Pass, Some(1.0)));
        assert_eq!(by(Some(1.5)).verdict, Verdict::Short);
        assert_eq!(by(None).verdict, Verdict::Short);
    }

    #[test]
    fn the_kernels_memory_is_stated_beside_a_fan_out() {
        let goal = Goal::AtLeast { goal: 5.0, slack: 0.90 };
        let figure = Figure::TimesPlain { ours: "ringwire", plain: "write" };
        let gate = Gate { part: Part::Fanout, ..gate(figure, goal) };
        let with = |method, rate, sockets: u64| {
            let mut median = fanout(method, KIB4, rate);
            (median.tcp_memory_bytes, median.slab_bytes) = (Some(sockets << 20), Some(18 << 20));
            AnyMedian::Fanout(median.into())
        };
        let judged =
            judge(&gate, &of_any(vec![with("write", 1.0, 1016), with("ringwire", 6.0, 16)]));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(6.0)));
        assert_eq!(
            judged.beside.as_deref(),
            Some(
                "16 MiB of sockets' memory and 18 MiB of slab; write 1016 MiB of sockets' memory \
                 and 18 MiB of slab"
            )
        );
    }

    #[test]
    fn latency_is_the_benchmarks_own_ratio() {
        let goal = Goal::AtMost { goal: 1.1, slack: 0.15 };
        let gate = |percentile| Gate {
            part: Part::Latency,
            ..gate(Figure::TimesLatency { percentile }, goal)
        };
        let report = of_any(vec![AnyMedian::Latency(latency("ringwire", KIB4, [1.05, 1.30]))]);
        let judged = judge(&gate(Percentile::P50), &report);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(1.05)));
        let judged = judge(&gate(Percentile::P99), &report);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Short, Some(1.30)));
    }

    #[test]
    fn only_the_gates_own_place_counts() {
        let mut medians = vec![
            median("tcp", "write", KIB4, 1.0),
            median("tcp", "minimal", KIB4, 10.0),
            median("tcp", "ringwire", KIB4, 9.5),
        ];
        for (bench, bytes, order) in
            [("udp", KIB4, ORDER), ("tcp", 1024, ORDER), ("tcp", KIB4, Order::Sequential)]
        {
            let mut slow = median(bench, "ringwire", bytes, 0.1);
            slow.order = order;
            medians.insert(0, slow);
        }
        assert_eq!(judge(&write_9(), &report(medians)).figure, Some(9.5));
    }

    #[test]
    fn payloads_that_failed_fail_the_gate() {
        let mut medians =
            vec![median("tcp", "write", KIB4, 1.0), median("tcp", "ringwire", KIB4, 50.0)];
        medians[1].errors = 3;
        let judged = judge(&write_9(), &report(medians));
        assert_eq!(judged.verdict, Verdict::Short);
        assert_eq!(judged.why.as_deref(), Some("3 of ringwire's payloads failed"));
    }

    #[test]
    fn what_cannot_be_measured_here_is_skipped_and_what_is_missing_is_short() {
        let mut nothing = report(Vec::new());
        assert_eq!(judge(&write_9(), &nothing).verdict, Verdict::Short);
        nothing.host.notes = vec!["a".into(), "nothing can be measured: no\nnamespaces".into()];
        let judged = judge(&write_9(), &nothing);
        assert_eq!((judged.verdict, judged.why.as_deref()), (Verdict::Skip, Some("no namespaces")));

        let over_loopback = |method| {
            let mut median = median("tcp", method, KIB4, 1.0);
            median.wire = WireKind::Loopback;
            median
        };
        let mut elsewhere = report(["write", "ringwire"].map(over_loopback).into());
        assert_eq!(judge(&write_9(), &elsewhere).verdict, Verdict::Short);
        elsewhere.host.notes =
            vec!["over loopback, which copies, instead of the perfect wire: no: rights".into()];
        let judged = judge(&write_9(), &elsewhere);
        assert_eq!((judged.verdict, judged.why.as_deref()), (Verdict::Skip, Some("no: rights")));

        let mut without_ours = report(vec![median("tcp", "write", KIB4, 1.0)]);
        without_ours.host.notes = vec!["other programs had the processors".into()];
        assert_eq!(judge(&write_9(), &without_ours).verdict, Verdict::Short);
        without_ours.host.notes = vec!["ringwire at 4096 B: cannot register 64 MiB".into()];
        let judged = judge(&write_9(), &without_ours);
        assert_eq!(judged.verdict, Verdict::Short);
        let why = "ringwire was not measured here (ringwire at 4096 B: cannot register 64 MiB)";
        assert_eq!(judged.why.as_deref(), Some(why));
        without_ours
            .host
            .notes
            .push("ringwire at 4096 B: io_uring is not available: ask root".into());
        let judged = judge(&write_9(), &without_ours);
        assert_eq!(judged.verdict, Verdict::Skip);
        assert_eq!(judged.why.as_deref(), Some("io_uring is not available: ask root"));

        let judged = by(&write_9(), &[("minimal", 1.0), ("ringwire", 9.0)]);
        assert_eq!(judged.verdict, Verdict::Short);
        assert_eq!(judged.why.as_deref(), Some("write was not measured here"));
    }

    #[test]
    fn a_gate_alone_is_measured_with_the_methods_that_it_speaks_of() {
        let there = ["write", "writev64", "send-zc", "minimal", "compio", "ringwire"];
        let of = |gate: Gate| methods(&gate, &there);
        assert_eq!(of(best_97()), None);
        let wanted = ["write", "send-zc", "minimal", "ringwire"].map(String::from);
        assert_eq!(of(write_9()), Some(wanted.to_vec()));
        let minimal = gate(Figure::TimesMinimal, Goal::AtLeast { goal: 0.97, slack: 0.90 });
        assert_eq!(of(minimal), Some(vec!["minimal".into(), "ringwire".into()]));
    }
}
