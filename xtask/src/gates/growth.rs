//! How cost grows, and what a socket and a payload take of memory: figures of `bench scale`. Pure.
//!
//! How a growth is held against the bare loop's is the benchmark's to say ([`Growth`]); this finds
//! its medians among all others, and puts into words what the figure alone does not tell.

use ringwire_bench::report::AnyMedian;
use ringwire_bench::report::scale::{Each, Growth, KERNEL, Over};
use ringwire_units::grouped;

use super::goals::{Figure, Gate, OURS};

/// Whether this median is of what the figure is about, as far as `bench scale` is concerned: of
/// what grows, or of what memory is counted for.
pub(super) fn is_about(figure: Figure, median: &AnyMedian) -> bool {
    match figure {
        Figure::Growth { over, .. } => median.scale().is_some_and(|scale| scale.over == over),
        Figure::Memory { each } => median.memory().is_some_and(|memory| memory.each == each),
        _ => true,
    }
}

/// The growth of this method, where it and the bare loop have both ends of it.
pub(super) fn of(medians: &[&AnyMedian], over: Over, ours: &str) -> Option<Growth> {
    Growth::of(medians.iter().filter_map(|median| median.scale()), over, ours)
}

/// Between what it was measured, what our own part came to, and what single runs say.
pub(super) fn beside(gate: &Gate, growth: &Growth) -> String {
    let [least, most] = growth.beyond_ns.map(|ns| ns.round() + 0.0);
    format!(
        "{} to {}, own part {least} to {most} ns, by runs {} to {}",
        grouped(growth.from.into()),
        grouped(growth.to.into()),
        gate.shown(growth.low),
        gate.shown(growth.high),
    )
}

/// What others than `ringwire` take, and for a socket the kernel.
pub(super) fn memory_beside(gate: &Gate, medians: &[&AnyMedian], each: Each) -> Option<String> {
    let others = medians.iter().filter_map(|median| median.memory());
    let others = others.filter(|median| median.each == each && median.method != OURS);
    let said: Vec<String> = others
        .filter_map(|median| {
            Some(match median.method.as_str() {
                KERNEL => format!("the kernel's slab {}", gate.shown(median.slab_bytes_each?)),
                method => format!("{method} {}", gate.shown(median.memory_bytes_each?)),
            })
        })
        .collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::goals::{Goal, Part, QUIET};
    use super::super::judge::{Judged, Verdict, judge, methods};
    use super::super::report::tests::{memory, of_any, scale};
    use super::*;

    fn gate(figure: Figure, goal: Goal) -> Gate {
        Gate { part: Part::Scale, payload_bytes: 4096, figure, goal }
    }

    fn flat(ours: &'static str) -> Gate {
        let figure = Figure::Growth { ours, over: Over::Sockets };
        gate(figure, Goal::AtMost { goal: 1.15, slack: 0.0 })
    }

    /// What is measured over sockets, of a bare loop that grows from 100 to 300 ns, and ours, that
    /// cost so much beyond it.
    fn over_sockets(ours: &str, beyond: [f64; 2]) -> Vec<AnyMedian> {
        let [least, most] = beyond;
        vec![
            scale("minimal", Over::Sockets, 1, [100.0, 0.0]),
            scale(ours, Over::Sockets, 1, [100.0 + least, least]),
            scale("minimal", Over::Sockets, 10_000, [300.0, 0.0]),
            scale(ours, Over::Sockets, 10_000, [300.0 + most, most]),
        ]
    }

    fn by(gate: &Gate, medians: Vec<AnyMedian>) -> Judged {
        judge(gate, &of_any(medians))
    }

    #[test]
    fn flat_is_what_costs_no_more_than_the_bare_loop_makes_of_it() {
        for (most, verdict, figure) in [
            (100.0, Verdict::Pass, 1.0),
            // 460 ns, where 400 would be no growth of our own.
            (160.0, Verdict::Pass, 1.15),
            (180.0, Verdict::Short, 1.2),
            (50.0, Verdict::Pass, 0.875),
        ] {
            let judged = by(&flat("ringwire"), over_sockets("ringwire", [100.0, most]));
            assert_eq!((judged.verdict, judged.figure), (verdict, Some(figure)), "{most}");
            assert!(!judged.far_off);
        }
        let far = by(&flat("ringwire"), over_sockets("ringwire", [100.0, 900.0]));
        assert!(far.far_off && far.figure == Some(3.0));
    }

    #[test]
    fn each_method_and_each_thing_that_grows_has_its_own() {
        let mut medians = over_sockets(QUIET, [100.0, 180.0]);
        medians.extend(over_sockets("ringwire", [100.0, 100.0]).into_iter().skip(1).step_by(2));
        // Elsewhere it grows, and memory is not cost.
        medians.insert(0, scale("minimal", Over::Rings, 1, [100.0, 0.0]));
        medians.insert(0, scale("minimal", Over::Rings, 4, [100.0, 0.0]));
        medians.insert(0, scale("ringwire", Over::Rings, 1, [200.0, 100.0]));
        medians.insert(0, scale("ringwire", Over::Rings, 4, [300.0, 200.0]));
        medians.insert(0, memory("ringwire", Each::Socket, 612.0));
        let ours = by(&flat("ringwire"), medians.clone());
        assert_eq!((ours.verdict, ours.figure), (Verdict::Pass, Some(1.0)));
        let quiet = by(&flat(QUIET), medians.clone());
        assert_eq!((quiet.verdict, quiet.figure), (Verdict::Short, Some(1.2)));
        let figure = Figure::Growth { ours: "ringwire", over: Over::Rings };
        let rings = by(&Gate { figure, ..flat("ringwire") }, medians);
        assert_eq!((rings.verdict, rings.figure), (Verdict::Short, Some(1.5)));
    }

    #[test]
    fn what_it_came_to_between_which_ends_is_stated_beside() {
        let judged = by(&flat("ringwire"), over_sockets("ringwire", [100.0, 180.0]));
        // Runs differ by 10 ns to both sides.
        let said = "1 to 10,000, own part 100 to 180 ns, by runs 1.150× to 1.250×";
        assert_eq!(judged.beside.as_deref(), Some(said));
    }

    #[test]
    fn a_growth_takes_both_ends_of_both_methods() {
        let all = || over_sockets("ringwire", [100.0, 100.0]);
        let without = |left_out: usize| {
            let mut medians = all();
            medians.remove(left_out);
            by(&flat("ringwire"), medians)
        };
        for left_out in 0..4 {
            let judged = without(left_out);
            assert_eq!(judged.verdict, Verdict::Short, "{left_out}");
            let why = "an end of ringwire's growth or minimal's was not measured here";
            assert_eq!(judged.why.as_deref(), Some(why), "{left_out}");
        }
        let of = |method: &str| {
            let mut medians = all();
            medians.retain(|median| median.method() == method);
            by(&flat("ringwire"), medians).why
        };
        assert_eq!(of("ringwire").as_deref(), Some("minimal was not measured here"));
        assert_eq!(of("minimal").as_deref(), Some("ringwire was not measured here"));
        assert_eq!(by(&flat("ringwire"), Vec::new()).verdict, Verdict::Short);
    }

    #[test]
    fn payloads_that_failed_at_any_place_fail_the_gate() {
        let mut medians = over_sockets("ringwire", [100.0, 100.0]);
        if let AnyMedian::Scale(last) = &mut medians[3] {
            last.errors = 3;
        }
        let judged = by(&flat("ringwire"), medians);
        assert_eq!(judged.verdict, Verdict::Short);
        assert_eq!(judged.why.as_deref(), Some("3 of ringwire's payloads failed"));
    }

    #[test]
    fn what_this_host_does_not_have_is_skipped() {
        let mut nothing = of_any(Vec::new());
        nothing.host.notes = vec![
            "memory: io_uring is not available: ask root".into(),
            "minimal, from 10000 sockets: io_uring is not available: ask root".into(),
            "ringwire, from 10000 sockets: io_uring is not available: ask root".into(),
        ];
        for gate in [flat("ringwire"), gate(Figure::Memory { each: Each::Socket }, Goal::Reported)]
        {
            let judged = judge(&gate, &nothing);
            assert_eq!(judged.verdict, Verdict::Skip, "{gate}");
            assert_eq!(judged.why.as_deref(), Some("io_uring is not available: ask root"));
        }
        // What keeps ours from it for another reason is told.
        nothing = of_any(over_sockets(QUIET, [100.0, 100.0]));
        nothing.host.notes = vec!["ringwire, from 10000 sockets: 7 payloads were lost".into()];
        let judged = judge(&flat("ringwire"), &nothing);
        assert_eq!(judged.verdict, Verdict::Short);
        let why = "ringwire was not measured here (ringwire, from 10000 sockets: 7 payloads were \
                   lost)";
        assert_eq!(judged.why.as_deref(), Some(why));
    }

    #[test]
    fn memory_is_reported_beside_that_of_others() {
        let medians = || {
            let mut kernel = memory("kernel", Each::Socket, 0.0);
            if let AnyMedian::Memory(median) = &mut kernel {
                (median.memory_bytes_each, median.slab_bytes_each) = (None, Some(4_500.0));
            }
            vec![
                kernel,
                memory("minimal", Each::Socket, 80.4),
                memory("ringwire", Each::Socket, 612.4),
                memory("ringwire", Each::Payload, 180.0),
                memory(QUIET, Each::Payload, 160.0),
            ]
        };
        for (each, figure, beside) in [
            (Each::Socket, 612.4, "the kernel's slab 4500 bytes, minimal 80 bytes"),
            (Each::Payload, 180.0, "ringwire-quiet 160 bytes"),
        ] {
            let judged = by(&gate(Figure::Memory { each }, Goal::Reported), medians());
            assert_eq!((judged.verdict, judged.figure), (Verdict::Reported, Some(figure)));
            assert_eq!(judged.beside.as_deref(), Some(beside));
        }
        let mut unread = medians();
        if let AnyMedian::Memory(median) = &mut unread[2] {
            median.memory_bytes_each = None;
        }
        let judged = by(&gate(Figure::Memory { each: Each::Socket }, Goal::Reported), unread);
        assert_eq!(judged.why.as_deref(), Some("the process's memory was not measured here"));
    }

    #[test]
    fn a_growth_alone_is_measured_with_its_method_and_the_bare_loop() {
        let there = ["minimal", "ringwire", "ringwire-quiet", "kernel"];
        let wanted = ["minimal", "ringwire-quiet"].map(String::from);
        assert_eq!(methods(&flat(QUIET), &there), Some(wanted.to_vec()));
        let memory = gate(Figure::Memory { each: Each::Socket }, Goal::Reported);
        assert_eq!(methods(&memory, &there), None);
    }
}
