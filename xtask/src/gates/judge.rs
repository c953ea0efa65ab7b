//! From medians to verdicts. Pure.
//!
//! A figure is held against its goal, or, where the gate has none, stated beside what the host's
//! bare methods reach: `minimal`, `send-zc…`, `msg-zerocopy…`, which are loops over the kernel's
//! own interfaces. All of it comes from one measurement, in which the methods took turns.

use ringwire_bench::job::Order;
use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::row::Median;

use super::goals::{Figure, Gate, Goal, OURS, Part, Percentile, QUIET};
use super::growth;
use super::notes::{reason, refusal, said_of};
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

/// One gate's tries, the last of which counts: a gate that passes is not tried again.
pub(crate) type Tries = Vec<Judged>;

/// A verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The goal is reached, within its slack.
    Pass,
    /// There is no goal, and the figure is there.
    Reported,
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

    /// Could not be measured.
    pub(crate) fn skip(why: String) -> Judged {
        Judged::because(Verdict::Skip, Some(why))
    }

    /// Whether another measurement could change anything.
    pub(crate) fn is_short(&self) -> bool {
        self.verdict == Verdict::Short
    }
}

/// Whether this method is a loop over the kernel's own interfaces that sends the same as `ours`
/// does: trains of datagrams without a copy, or single datagrams, of which a copy may be cheaper.
fn is_bare(method: &str, ours: &str) -> bool {
    let lends = ["minimal", "send-zc", "msg-zerocopy"].iter().any(|bare| method.starts_with(bare));
    is_train(method) == is_train(ours) && (lends || method == "sendmsg")
}

/// Whether this method sends trains of datagrams.
pub(crate) fn is_train(method: &str) -> bool {
    method.ends_with("-train")
}

/// Whether this is a method or a peer that one may choose instead of ours, by whatever engine: all
/// but `minimal`.
pub(crate) fn is_other_choice(method: &str) -> bool {
    !method.starts_with(OURS) && !method.starts_with(MINIMAL)
}

/// The methods that a gate speaks of, of those that there are; `None` for all.
pub(crate) fn methods(gate: &Gate, there: &[&str]) -> Option<Vec<String>> {
    let (fixed, bare): (Vec<&str>, bool) = match gate.figure {
        // Few methods, which are always measured together.
        _ if matches!(gate.part, Part::Fanout | Part::Latency) => return None,
        Figure::TimesBestOther
        | Figure::EventsPerBlock
        | Figure::TimesLatency { .. }
        | Figure::Memory { .. } => return None,
        // What bare methods reach is stated beside.
        Figure::TimesPlain { ours, plain } => (vec![plain, ours], true),
        Figure::TimesMinimal { ours } | Figure::Growth { ours, .. } => (vec![MINIMAL, ours], false),
        Figure::TimesBestBare { ours } => (vec![ours], true),
        Figure::TimesBareLoop { ours, bare } => (vec![bare, ours], false),
        // Ours with an event a payload is stated beside.
        Figure::CpuBeyondMinimal => (vec![MINIMAL, QUIET, OURS], false),
    };
    let wanted = |method: &&&str| fixed.contains(method) || (bare && is_bare(method, gate.ours()));
    Some(there.iter().filter(wanted).map(|method| (*method).to_owned()).collect())
}

/// The verdict on `gate` by what was measured.
pub(crate) fn judge(gate: &Gate, report: &Report) -> Judged {
    let (place, notes) = (Place::of(gate, report), &report.host.notes);
    if place.0.is_empty() {
        return match reason(notes).or_else(|| refusal(gate.noted_as(), notes)) {
            Some(why) => Judged::skip(why),
            None => Judged::short("nothing was measured here, and nothing says why"),
        };
    }
    let Some(ours) = place.find(gate.ours()) else {
        return match refusal(gate.noted_as(), notes) {
            Some(why) => Judged::skip(why),
            None => Judged::short(format!(
                "{} was not measured here{}",
                gate.ours(),
                said_of(gate.noted_as(), notes)
            )),
        };
    };
    let errors = place.errors(gate.ours());
    if errors > 0 {
        return Judged::short(format!("{errors} of {}'s payloads failed", ours.method()));
    }
    let judged = match place.figure(gate, ours) {
        Ok(figure) if gate.goal == Goal::Reported => Judged::of(Verdict::Reported, figure),
        Ok(figure) if gate.goal.is_met_by(figure) => Judged::of(Verdict::Pass, figure),
        Ok(figure) => {
            let far_off = gate.goal.is_missed_by_far(figure);
            Judged { far_off, ..Judged::of(Verdict::Short, figure) }
        }
        Err(missing) => {
            Judged::short(format!("{missing} was not measured here{}", said_of(missing, notes)))
        }
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
                && growth::is_about(gate.figure, median)
        };
        Place(report.medians.iter().filter(here).collect())
    }

    fn find(&self, method: &str) -> Option<&'a AnyMedian> {
        self.0.iter().copied().find(|median| median.method() == method)
    }

    /// Payloads of this method that failed, wherever what grows was measured.
    fn errors(&self, method: &str) -> u64 {
        let errors = |median: &AnyMedian| match median {
            AnyMedian::Scale(median) => median.errors,
            median => median.rates().map_or(0, |rates| rates.errors),
        };
        self.0.iter().filter(|median| median.method() == method).map(|median| errors(median)).sum()
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
            Figure::TimesMinimal { .. } => Ok(times(minimal()?)),
            Figure::TimesBestBare { .. } => Ok(times(self.bare(gate).ok_or("any bare method")?)),
            Figure::TimesBareLoop { bare, .. } => Ok(times(self.find(bare).ok_or(bare)?)),
            Figure::CpuBeyondMinimal => Ok(ns_between(ours, minimal()?)),
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
            Figure::Growth { ours, over } => {
                minimal()?;
                let growth = growth::of(&self.0, over, ours);
                Ok(growth.ok_or("an end of ringwire's growth or minimal's")?.relative)
            }
            Figure::Memory { .. } => {
                let bytes = ours.memory().and_then(|memory| memory.memory_bytes_each);
                bytes.ok_or("the process's memory")
            }
        }
    }

    /// The best of the bare methods that send the same.
    fn bare(&self, gate: &Gate) -> Option<&'a AnyMedian> {
        self.best(|method| is_bare(method, gate.ours()))
    }

    /// What is stated beside a figure, and never held: whom it was compared with where that is not
    /// known before, what the host's own loop comes to, and what depends on the host alone.
    fn beside(&self, gate: &Gate, ours: &AnyMedian) -> Option<String> {
        match gate.figure {
            Figure::TimesBestOther => Some(self.best(is_other_choice)?.method().to_owned()),
            Figure::TimesBestBare { .. } => Some(self.bare(gate)?.method().to_owned()),
            Figure::CpuBeyondMinimal => {
                let ns = ns_between(self.find(OURS)?, self.find(MINIMAL)?);
                Some(format!("with an event a payload {}", gate.shown(ns)))
            }
            Figure::TimesPlain { ours: name, plain } => {
                let said = [
                    is_train(name).then(|| {
                        let per_s = rate(ours) / gate.payload_bytes as f64 / 1e6;
                        format!("{per_s:.1} million datagrams/s")
                    }),
                    self.bare_beside(gate, plain),
                    self.memory_beside(ours, plain),
                ];
                let said: Vec<String> = said.into_iter().flatten().collect();
                (!said.is_empty()).then(|| said.join("; "))
            }
            Figure::Growth { ours, over } => {
                Some(growth::beside(gate, &growth::of(&self.0, over, ours)?))
            }
            Figure::Memory { each } => growth::memory_beside(gate, &self.0, each),
            _ => None,
        }
    }

    /// How many times as fast as plain the host's bare loop is: `minimal`, or the best there is.
    fn bare_beside(&self, gate: &Gate, plain: &str) -> Option<String> {
        let is_minimal = |method: &str| method.starts_with(MINIMAL) && is_bare(method, gate.ours());
        let bare = self.best(is_minimal).or_else(|| self.bare(gate))?;
        let times = rate(bare) / rate(self.find(plain)?);
        Some(format!("{} {}", bare.method(), gate.shown(times)))
    }

    /// The kernel's memory for a fan-out, beside that for the plain one.
    fn memory_beside(&self, ours: &AnyMedian, plain: &str) -> Option<String> {
        let memory = |median: &AnyMedian| {
            let fanout = median.fanout()?;
            let mib = |bytes: Option<u64>| Some(bytes? as f64 / f64::from(1 << 20));
            let (sockets, slab) = (mib(fanout.tcp_memory_bytes)?, mib(fanout.slab_bytes)?);
            Some(format!("{sockets:.0} MiB of sockets' memory and {slab:.0} MiB of slab"))
        };
        Some(format!("{}; {plain} {}", memory(ours)?, memory(self.find(plain)?)?))
    }
}

/// CPU time that a payload takes more with one method than with another: seconds for 10⁹ bytes are
/// nanoseconds for one.
pub(crate) fn ns_beyond(one: &Median, other: &Median) -> f64 {
    (one.cpu_s_per_gb - other.cpu_s_per_gb) * one.payload_bytes as f64
}

fn ns_between(one: &AnyMedian, other: &AnyMedian) -> f64 {
    let both = one.rates().zip(other.rates());
    both.map_or(f64::NAN, |(one, other)| ns_beyond(one, other))
}

fn rate(median: &AnyMedian) -> f64 {
    median.rates().map_or(f64::NAN, |rates| rates.bytes_per_s)
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

    fn minimal_9() -> Gate {
        let goal = Goal::AtLeast { goal: 0.9, slack: 1.0 };
        gate(Figure::TimesMinimal { ours: "ringwire" }, goal)
    }

    fn write() -> Gate {
        gate(Figure::TimesPlain { ours: "ringwire", plain: "write" }, Goal::Reported)
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
    fn a_ratio_reaches_its_goal_or_falls_short_whatever_the_host_is() {
        for (ours, minimal, verdict, figure) in [
            (9.5, 10.0, Verdict::Pass, 0.95),
            (9.0, 10.0, Verdict::Pass, 0.9),
            (8.75, 10.0, Verdict::Short, 0.875),
            // A host on which `minimal` itself gains nothing.
            (0.5, 1.0, Verdict::Short, 0.5),
            (1.0, 1.0, Verdict::Pass, 1.0),
        ] {
            let rates = [("write", 1.0), ("minimal", minimal), ("ringwire", ours)];
            let judged = by(&minimal_9(), &rates);
            assert_eq!((judged.verdict, judged.figure), (verdict, Some(figure)), "{ours}");
            assert_eq!((judged.why, judged.beside), (None, None));
        }
        let by = |ours| by(&minimal_9(), &[("minimal", 10.0), ("ringwire", ours)]).far_off;
        assert!(by(4.4) && !by(4.6));
    }

    #[test]
    fn a_multiple_of_plain_is_reported_beside_what_minimal_reaches() {
        for ours in [0.1, 4.5, 99.0] {
            let rates = [("write", 1.0), ("minimal", 4.6), ("send-zc", 9.0), ("ringwire", ours)];
            let judged = by(&write(), &rates);
            assert_eq!((judged.verdict, judged.figure), (Verdict::Reported, Some(ours)));
            assert_eq!(judged.beside.as_deref(), Some("minimal 4.60×"));
            assert!(!judged.is_short());
        }
        // What could not be made is no report.
        assert_eq!(by(&write(), &[("write", 1.0)]).verdict, Verdict::Short);
    }

    #[test]
    fn quiet_payloads_and_the_other_engine_are_held_by_their_own_methods() {
        let goal = Goal::AtLeast { goal: 0.9, slack: 1.0 };
        let rates = [
            ("minimal", 10.0),
            ("msg-zerocopy-64", 2.0),
            ("ringwire", 1.0),
            ("ringwire-quiet", 9.5),
            ("ringwire-msg-zerocopy", 1.5),
        ];
        let quiet = by(&gate(Figure::TimesMinimal { ours: "ringwire-quiet" }, goal), &rates);
        assert_eq!((quiet.verdict, quiet.figure), (Verdict::Pass, Some(0.95)));
        let (ours, bare) = ("ringwire-msg-zerocopy", "msg-zerocopy-64");
        let other = by(&gate(Figure::TimesBareLoop { ours, bare }, goal), &rates);
        assert_eq!((other.verdict, other.figure), (Verdict::Short, Some(0.75)));
        let alone = by(&gate(Figure::TimesBareLoop { ours, bare }, goal), &[(ours, 1.0)]);
        assert_eq!(alone.why.as_deref(), Some("msg-zerocopy-64 was not measured here"));
    }

    /// The verdict on a gate of datagrams, of which those of ours go at this rate.
    fn by_datagrams(figure: Figure, goal: Goal, ours: &str, rate: f64) -> Judged {
        let gate = Gate { part: Part::Udp, ..gate(figure, goal) };
        let rates = [
            ("sendmsg", 1.0),
            ("send-zc", 1.25),
            ("sendmsg-train", 10.0),
            ("msg-zerocopy-train", 20.0),
            ("send-zc-registered-train", 40.0),
            ("minimal-train", 30.0),
            (ours, rate),
        ];
        let medians = rates.map(|(method, rate)| median("udp", method, KIB4, rate));
        judge(&gate, &report(medians.to_vec()))
    }

    #[test]
    fn trains_are_held_by_the_best_trains_and_single_datagrams_by_single_ones() {
        let by = |ours, goal, rate| {
            let goal = Goal::AtLeast { goal, slack: 1.0 };
            by_datagrams(Figure::TimesBestBare { ours }, goal, ours, rate)
        };
        let judged = by("ringwire-train", 0.95, 39.0);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(0.975)));
        assert_eq!(judged.beside.as_deref(), Some("send-zc-registered-train"));
        assert_eq!(by("ringwire-train", 0.95, 37.0).verdict, Verdict::Short);
        let judged = by("ringwire", 1.0, 1.25);
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(1.0)));
        assert_eq!(judged.beside.as_deref(), Some("send-zc"));
        assert_eq!(by("ringwire", 1.0, 1.2).verdict, Verdict::Short);
        assert!(is_bare("sendmsg", "ringwire") && !is_bare("sendmsg-train", "ringwire-train"));
    }

    #[test]
    fn datagrams_a_second_are_reported_beside_trains() {
        let by = |ours, plain, rate| {
            let figure = Figure::TimesPlain { ours, plain };
            let judged = by_datagrams(figure, Goal::Reported, ours, rate);
            assert_eq!(judged.verdict, Verdict::Reported);
            judged.beside.expect("something")
        };
        // 40.96 GB/s of 4096 bytes.
        assert_eq!(
            by("ringwire-train", "sendmsg-train", 40.96),
            "10.0 million datagrams/s; minimal-train 3.00×"
        );
        assert_eq!(by("ringwire", "sendmsg", 1.1), "send-zc 1.250×");
    }

    #[test]
    fn the_best_other_is_any_method_or_peer_but_minimal() {
        let rates = |peer| {
            [("write", 1.0), ("minimal", 99.0), ("compio-vectored", peer), ("ringwire", 10.0)]
        };
        let judged = by(&best_97(), &rates(8.0));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Pass, Some(1.25)));
        assert_eq!(judged.beside.as_deref(), Some("compio-vectored"));
        let judged = by(&best_97(), &rates(12.5));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Short, Some(0.8)));
        assert_eq!(by(&best_97(), &[("minimal", 9.0), ("ringwire", 1.0)]).figure, None);
        let ours = [("write", 2.0), ("ringwire", 1.0), ("ringwire-msg-zerocopy", 9.0)];
        assert_eq!(by(&best_97(), &ours).figure, Some(0.5));
    }

    #[test]
    fn cpu_beyond_minimal_is_in_nanoseconds_a_payload() {
        let gate = gate(Figure::CpuBeyondMinimal, Goal::Reported);
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
        for (ours, ns) in [(0.5078125, 32.0), (0.515625, 64.0), (0.25, -1024.0)] {
            let judged = by(ours);
            assert_eq!((judged.verdict, judged.figure), (Verdict::Reported, Some(ns)));
            assert_eq!(judged.beside.as_deref(), Some("with an event a payload 128 ns"));
        }
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
        let gate = Gate { part: Part::Fanout, ..write() };
        let with = |method, rate, sockets: u64| {
            let mut median = fanout(method, KIB4, rate);
            (median.tcp_memory_bytes, median.slab_bytes) = (Some(sockets << 20), Some(18 << 20));
            AnyMedian::Fanout(median.into())
        };
        let medians =
            vec![with("write", 1.0, 1016), with("minimal", 6.5, 16), with("ringwire", 6.0, 16)];
        let judged = judge(&gate, &of_any(medians));
        assert_eq!((judged.verdict, judged.figure), (Verdict::Reported, Some(6.0)));
        assert_eq!(
            judged.beside.as_deref(),
            Some(
                "minimal 6.50×; 16 MiB of sockets' memory and 18 MiB of slab; write 1016 MiB of \
                 sockets' memory and 18 MiB of slab"
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
        assert_eq!(judge(&write(), &report(medians)).figure, Some(9.5));
    }

    #[test]
    fn payloads_that_failed_fail_the_gate() {
        let mut medians =
            vec![median("tcp", "write", KIB4, 1.0), median("tcp", "ringwire", KIB4, 50.0)];
        medians[1].errors = 3;
        let judged = judge(&minimal_9(), &report(medians));
        assert_eq!(judged.verdict, Verdict::Short);
        assert_eq!(judged.why.as_deref(), Some("3 of ringwire's payloads failed"));
    }

    #[test]
    fn what_cannot_be_measured_here_is_skipped_and_what_is_missing_is_short() {
        let mut nothing = report(Vec::new());
        assert_eq!(judge(&minimal_9(), &nothing).verdict, Verdict::Short);
        nothing.host.notes = vec!["a".into(), "nothing can be measured: no\nnamespaces".into()];
        let judged = judge(&minimal_9(), &nothing);
        assert_eq!((judged.verdict, judged.why.as_deref()), (Verdict::Skip, Some("no namespaces")));

        let over_loopback = |method| {
            let mut median = median("tcp", method, KIB4, 1.0);
            median.wire = WireKind::Loopback;
            median
        };
        let mut elsewhere = report(["write", "ringwire"].map(over_loopback).into());
        assert_eq!(judge(&minimal_9(), &elsewhere).verdict, Verdict::Short);
        elsewhere.host.notes =
            vec!["over loopback, which copies, instead of the perfect wire: no: rights".into()];
        let judged = judge(&minimal_9(), &elsewhere);
        assert_eq!((judged.verdict, judged.why.as_deref()), (Verdict::Skip, Some("no: rights")));

        let mut without_ours = report(vec![median("tcp", "write", KIB4, 1.0)]);
        without_ours.host.notes = vec!["other programs had the processors".into()];
        assert_eq!(judge(&minimal_9(), &without_ours).verdict, Verdict::Short);
        without_ours.host.notes = vec!["ringwire at 4096 B: cannot register 64 MiB".into()];
        let judged = judge(&minimal_9(), &without_ours);
        assert_eq!(judged.verdict, Verdict::Short);
        let why = "ringwire was not measured here (ringwire at 4096 B: cannot register 64 MiB)";
        assert_eq!(judged.why.as_deref(), Some(why));
        without_ours
            .host
            .notes
            .push("ringwire at 4096 B: io_uring is not available: ask root".into());
        let judged = judge(&minimal_9(), &without_ours);
        assert_eq!(judged.verdict, Verdict::Skip);
        assert_eq!(judged.why.as_deref(), Some("io_uring is not available: ask root"));

        // What another engine of ours lacks is no reason.
        let (ours, bare) = ("ringwire-msg-zerocopy", "msg-zerocopy-64");
        let other = gate(Figure::TimesBareLoop { ours, bare }, Goal::Reported);
        assert_eq!(judge(&other, &without_ours).verdict, Verdict::Short);

        let judged = by(&minimal_9(), &[("write", 1.0), ("ringwire", 9.0)]);
        assert_eq!(judged.verdict, Verdict::Short);
        assert_eq!(judged.why.as_deref(), Some("minimal was not measured here"));
    }

    #[test]
    fn a_gate_alone_is_measured_with_the_methods_that_it_speaks_of() {
        let there = ["write", "writev64", "send-zc", "minimal", "compio", "ringwire"];
        let of = |gate: Gate| methods(&gate, &there);
        assert_eq!(of(best_97()), None);
        let wanted = ["write", "send-zc", "minimal", "ringwire"].map(String::from);
        assert_eq!(of(write()), Some(wanted.to_vec()));
        assert_eq!(of(minimal_9()), Some(vec!["minimal".into(), "ringwire".into()]));
        let bare = gate(Figure::TimesBestBare { ours: "ringwire" }, Goal::Reported);
        let wanted = ["send-zc", "minimal", "ringwire"].map(String::from);
        assert_eq!(of(bare), Some(wanted.to_vec()));
        let (ours, bare) = ("ringwire", "writev64");
        let loops = gate(Figure::TimesBareLoop { ours, bare }, Goal::Reported);
        assert_eq!(of(loops), Some(vec!["writev64".into(), "ringwire".into()]));
        assert_eq!(of(Gate { part: Part::Fanout, ..minimal_9() }), None);
    }
}
