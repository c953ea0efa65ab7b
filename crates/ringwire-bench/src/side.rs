//! Methods side by side: trials of every setting first, then A B C A B C … with the best.
//!
//! Knows a method by its name and its answers only. Whether a run was disturbed shows in how long
//! threads waited for processors, and in how much longer it took than it was asked to (this process
//! was stopped, or its machine was), never in how fast it was.

use std::collections::HashMap;
use std::time::Instant;

use crate::error::Error;
use crate::job::{Job, Measurement, Order, Settings, WireSpec};
use crate::measure::waited_long;
use crate::method::Method;
use crate::plan::{Plan, SEND_BUFFERS};
use crate::report::row::Row;
use crate::watch::Watch;

/// A trial is this part of a run …
const TRIAL_PART: f64 = 0.25;
/// … and so many seconds at least.
const TRIAL_SECONDS_MIN: f64 = 0.02;
/// How often each of a method's settings is tried, in turn. Others on the host disturb one trial in
/// ten; were it the only one of the best settings, all runs would be made with others.
const TRIALS: usize = 2;

/// Measures methods side by side, place by place: a place is a size and an order.
pub struct SideBySide<'a> {
    bench: &'static str,
    plan: &'a Plan,
    /// The wire that it came to.
    wire: WireSpec,
    methods: Vec<Box<dyn Method>>,
    /// Methods that did not work with any setting, by their places: they are not retried.
    gone: Vec<bool>,
    /// When there is no time any more to repeat disturbed runs.
    repeat_until: Option<Instant>,
    rows: Vec<Row>,
    /// What its reader has to know.
    notes: Vec<String>,
    step: u64,
    steps: u64,
    repeats: u64,
    /// Of them, those of runs in which it was stopped.
    repeats_stopped: u64,
    /// How long runs of a method took, of one size, that were to take so long.
    lengths: HashMap<(usize, u64, u64), Vec<f64>>,
    disturbed: u64,
}

impl<'a> SideBySide<'a> {
    /// For rows of part `bench` over `wire`, and for as many places as `sizes` times the plan's
    /// orders.
    pub fn new(
        bench: &'static str,
        plan: &'a Plan,
        wire: WireSpec,
        sizes: &[u64],
        methods: Vec<Box<dyn Method>>,
    ) -> Self {
        let settings: usize = methods.iter().map(|m| m.backings().len() * SEND_BUFFERS.len()).sum();
        let a_place = TRIALS * settings + methods.len() * plan.runs as usize;
        SideBySide {
            bench,
            plan,
            wire,
            gone: vec![false; methods.len()],
            methods,
            repeat_until: None,
            rows: Vec::new(),
            notes: Vec::new(),
            step: 0,
            steps: (sizes.len() * plan.orders.len() * a_place) as u64,
            repeats: 0,
            repeats_stopped: 0,
            lengths: HashMap::new(),
            disturbed: 0,
        }
    }

    /// Repeats no run from then on.
    pub fn repeat_until(mut self, until: Option<Instant>) -> Self {
        self.repeat_until = until;
        self
    }

    /// Measures all methods at one size, in one order. What a method cannot is noted.
    pub fn place(&mut self, size: u64, order: Order, watch: &mut dyn Watch) {
        let mut best: Vec<Option<Settings>> = Vec::new();
        for index in 0..self.methods.len() {
            best.push(self.trials(index, size, order, watch));
        }
        for run in 1..=self.plan.runs {
            for (index, settings) in best.iter().enumerate() {
                let Some(settings) = *settings else { continue };
                let job = self.job(index, size, order, settings, self.plan.seconds);
                let _ = self.measure(index, job, run, watch);
            }
        }
    }

    /// Tries all settings of a method; the best, if any of them works.
    fn trials(
        &mut self,
        index: usize,
        size: u64,
        order: Order,
        watch: &mut dyn Watch,
    ) -> Option<Settings> {
        if self.gone[index] {
            return None;
        }
        let seconds = (self.plan.seconds * TRIAL_PART).max(TRIAL_SECONDS_MIN);
        let mut best: Option<(f64, Settings)> = None;
        let mut unavailable = 0;
        let backings = self.methods[index].backings().to_vec();
        let all = backings.iter().flat_map(|backing| {
            SEND_BUFFERS.map(|sndbuf_bytes| Settings { backing: *backing, sndbuf_bytes })
        });
        let mut left: Vec<Settings> = all.collect();
        let all = left.len();
        for _ in 0..TRIALS {
            left.retain(|&settings| {
                let job = self.job(index, size, order, settings, seconds);
                match self.measure(index, job, 0, watch) {
                    Ok(rate) => {
                        if best.is_none_or(|(other, _)| rate > other) {
                            best = Some((rate, settings));
                        }
                        true
                    }
                    Err(is_unavailable) => {
                        unavailable += usize::from(is_unavailable);
                        false
                    }
                }
            });
        }
        self.gone[index] = best.is_none() && unavailable == all;
        best.map(|(_, settings)| settings)
    }

    fn job(&self, index: usize, size: u64, order: Order, settings: Settings, seconds: f64) -> Job {
        Job {
            method: self.methods[index].name().into(),
            protocol: self.methods[index].protocol(),
            wire: self.wire,
            payload_bytes: size,
            working_set_bytes: self.plan.working_set_bytes,
            order,
            settings,
            seconds,
        }
    }

    /// Makes one measurement and keeps its row. Returns its bytes a second, or whether the host
    /// refuses what the method needs.
    fn measure(
        &mut self,
        index: usize,
        job: Job,
        run: u32,
        watch: &mut dyn Watch,
    ) -> Result<f64, bool> {
        if watch.stops() {
            return Err(false);
        }
        watch.step(self.step, self.steps, &format!("{} {} B", job.method, job.payload_bytes));
        self.step += 1;
        match self.undisturbed(index, &job) {
            Ok(measured) => {
                if let Some(note) = &measured.note {
                    self.note_once(watch, format!("{}: {note}", job.method));
                }
                let row = row(self.bench, &job, &measured, run);
                let rate = row.bytes_per_s;
                self.rows.push(row);
                Ok(rate)
            }
            Err(error) => {
                let is_unavailable = matches!(
                    error,
                    Error::Unavailable(_) | Error::Ring(ringwire::Error::Unsupported { .. })
                );
                let at = match is_unavailable {
                    true => String::new(),
                    false => format!(" at {} B", job.payload_bytes),
                };
                self.note_once(watch, format!("{}{at}: {error}", job.method));
                Err(is_unavailable)
            }
        }
    }

    /// Repeats a measurement, at most twice, when others had the processors meanwhile, or it
    /// was stopped; the one that was disturbed least counts, however fast it was.
    fn undisturbed(&mut self, index: usize, job: &Job) -> Result<Measurement, Error> {
        let mut best = self.methods[index].measure(job)?;
        if best.payloads == 0 {
            return Err(Error::Stuck(format!("all {} payloads failed", best.errors)));
        }
        let mut stopped = self.was_stopped(index, job, best.seconds);
        for _ in 0..REPEATS_MAX {
            let no_time = self.repeat_until.is_some_and(|until| Instant::now() > until);
            // On a machine that is always busy, or stopped, it does not help, and only takes long.
            let often = self.steps / 4;
            let may_help = !no_time && self.repeats - self.repeats_stopped <= often;
            let repeat = match stopped {
                true => self.repeats_stopped < often.max(REPEATS_MAX.into()),
                false => is_disturbed(job, &best) && may_help,
            };
            if !repeat {
                break;
            }
            self.repeats += 1;
            self.repeats_stopped += u64::from(stopped);
            let next = self.methods[index].measure(job)?;
            let next_stopped = self.was_stopped(index, job, next.seconds);
            if lost_part(job, &next) < lost_part(job, &best) {
                best = next;
            }
            // By what is known of the method now.
            stopped = next_stopped && self.is_beyond(index, job, best.seconds);
        }
        self.disturbed += u64::from(stopped || is_disturbed(job, &best));
        Ok(best)
    }

    /// Takes in how long a run took. Whether this process was stopped in the midst of it, or its
    /// machine, so that its time is not that of sending. A pause within a run that ended when it
    /// was to is not seen.
    fn was_stopped(&mut self, index: usize, job: &Job, seconds: f64) -> bool {
        let lengths = self.lengths.entry(length_key(index, job)).or_default();
        lengths.push(seconds);
        lengths.sort_by(f64::total_cmp);
        self.is_beyond(index, job, seconds)
    }

    /// Whether a run took far longer than such runs of the method do.
    fn is_beyond(&self, index: usize, job: &Job, seconds: f64) -> bool {
        let lengths = self.lengths.get(&length_key(index, job));
        seconds > 1.5 * usual(job.seconds, lengths.map_or(&[], Vec::as_slice)) + ENDING_S
    }

    fn note_once(&mut self, watch: &mut dyn Watch, note: String) {
        if !self.notes.contains(&note) {
            watch.note(&note);
            self.notes.push(note);
        }
    }

    /// Which part of the rows others disturbed, 0 to 1.
    pub fn disturbed_share(&self) -> f64 {
        self.disturbed as f64 / self.rows.len().max(1) as f64
    }

    /// The rows, and what a reader of them has to know.
    pub fn into_rows(mut self, watch: &mut dyn Watch) -> (Vec<Row>, Vec<String>) {
        if self.disturbed > 0 {
            self.note_once(
                watch,
                format!(
                    "{}: other programs had the processors, or it was stopped: {} runs were made \
                     again, and {} of {} count though they were disturbed",
                    self.bench,
                    self.repeats,
                    self.disturbed,
                    self.rows.len(),
                ),
            );
        }
        (self.rows, self.notes)
    }
}

/// A measurement that others disturbed is repeated, so often at most.
const REPEATS_MAX: u32 = 2;

/// Whether others had the processors that the measurement needed. On wires that copy, its own
/// threads wait for each other, so this does not show there.
fn is_disturbed(job: &Job, measured: &Measurement) -> bool {
    !job.wire.kind.copies() && waited_long(measured.waited_s, measured.seconds)
}

/// Beyond half as long again as it was asked to, a run takes no longer than this to end: for the
/// last acknowledgements, and on a busy machine.
const ENDING_S: f64 = 0.1;

fn length_key(index: usize, job: &Job) -> (usize, u64, u64) {
    (index, job.payload_bytes, job.seconds.to_bits())
}

/// How long runs take that were asked to take `asked_s`, by the `lengths` of some, in order: as
/// asked, unless two of them took as long as each other, within a fifth. No two pauses do.
fn usual(asked_s: f64, lengths: &[f64]) -> f64 {
    let alike = lengths.windows(2).find(|two| two[1] <= 1.2 * two[0]);
    alike.map_or(asked_s, |two| two[0].max(asked_s))
}

/// The part of a measurement's time that was not its own.
fn lost_part(job: &Job, measured: &Measurement) -> f64 {
    let beyond = (measured.seconds - job.seconds).max(0.0);
    (measured.waited_s + beyond) / measured.seconds
}

/// The row of one measurement.
pub fn row(bench: &str, job: &Job, measured: &Measurement, run: u32) -> Row {
    let per_payload = |count: u64| count as f64 / measured.payloads.max(1) as f64;
    let seconds = measured.seconds.max(1e-9);
    Row {
        bench: bench.into(),
        wire: job.wire.kind,
        protocol: job.protocol,
        method: job.method.clone(),
        payload_bytes: job.payload_bytes,
        working_set_bytes: measured.working_set_bytes,
        order: job.order,
        backing: job.settings.backing,
        sndbuf_bytes: job.settings.sndbuf_bytes,
        run,
        payloads_per_s: measured.payloads as f64 / seconds,
        bytes_per_s: measured.bytes as f64 / seconds,
        cpu_s_per_gb: measured.cpu_s / (measured.bytes as f64 / 1e9).max(1e-9),
        copied_share: measured.copied_share,
        requests_per_payload: per_payload(measured.requests),
        notifications_per_payload: per_payload(measured.notifications),
        release_delay_us_p50: measured.release_delay_us_p50,
        release_delay_us_p99: measured.release_delay_us_p99,
        errors: measured.errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Backing, Protocol, WireKind};
    use crate::plan::Bench;

    /// Nobody looks.
    struct Silent;

    impl Watch for Silent {
        fn step(&mut self, _: u64, _: u64, _: &str) {}

        fn note(&mut self, _: &str) {}

        fn stops(&self) -> bool {
            false
        }
    }

    /// A method whose runs take this long, and wait for processors so long, and then as asked.
    struct Played(Vec<(f64, f64)>);

    impl Method for Played {
        fn name(&self) -> &str {
            "played"
        }

        fn protocol(&self) -> Protocol {
            Protocol::Tcp
        }

        fn backings(&self) -> &[Backing] {
            &[Backing::Small]
        }

        fn measure(&mut self, job: &Job) -> Result<Measurement, Error> {
            let (seconds, waited_s) =
                if self.0.is_empty() { (job.seconds, 0.0) } else { self.0.remove(0) };
            let bytes = 1_000_000;
            Ok(Measurement { seconds, waited_s, payloads: 1, bytes, ..Measurement::default() })
        }
    }

    /// How long the run took that counts, of such runs of 1 s, and how many were made again and
    /// count though they were disturbed.
    fn counted(runs: &[(f64, f64)], time_is_over: bool) -> (f64, u64, u64) {
        let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
        let plan = Plan { seconds: 1.0, ..Plan::least(Bench::Tcp, wire) };
        let methods: Vec<Box<dyn Method>> = vec![Box::new(Played(runs.to_vec()))];
        let mut side = SideBySide::new("tcp", &plan, wire, &[1], methods);
        side.steps = 100;
        side.repeat_until = time_is_over.then(Instant::now);
        let settings = Settings { backing: Backing::Small, sndbuf_bytes: None };
        let job = side.job(0, 1, Order::Sequential, settings, 1.0);
        let seconds = side.undisturbed(0, &job).unwrap().seconds;
        (seconds, side.repeats, side.disturbed)
    }

    #[test]
    fn a_run_in_which_we_were_stopped_does_not_count() {
        assert_eq!(counted(&[(1.01, 0.0)], false), (1.01, 0, 0));
        // For a minute, and one more time.
        assert_eq!(counted(&[(61.0, 0.0)], false), (1.0, 1, 0));
        assert_eq!(counted(&[(61.0, 0.0), (31.0, 0.0)], false), (1.0, 2, 0));
        // The time for making runs again may have passed meanwhile.
        assert_eq!(counted(&[(61.0, 0.0)], true), (1.0, 1, 0));
        assert_eq!(counted(&[(61.0, 0.0), (31.0, 0.0), (41.0, 0.0)], false), (31.0, 2, 1));
        // Others had the processors: as before.
        assert_eq!(counted(&[(1.1, 0.5)], false), (1.0, 1, 0));
        assert_eq!(counted(&[(1.1, 0.5)], true), (1.1, 0, 1));
    }

    #[test]
    fn settings_of_which_one_trial_was_slow_are_not_given_up() {
        let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
        let plan = Plan { seconds: 1.0, ..Plan::least(Bench::Tcp, wire) };
        let chosen = |trials: [f64; 4]| {
            let runs = trials.map(|seconds| (seconds, 0.0)).to_vec();
            let mut side = SideBySide::new("tcp", &plan, wire, &[1], vec![Box::new(Played(runs))]);
            side.place(1, Order::Sequential, &mut Silent);
            let runs: Vec<_> = side.rows.iter().filter(|row| row.run > 0).collect();
            assert!(runs.iter().all(|row| row.sndbuf_bytes == runs[0].sndbuf_bytes));
            (side.rows.len() - runs.len(), runs[0].sndbuf_bytes)
        };
        // The same bytes in less time are faster.
        assert_eq!(chosen([0.25, 0.24, 0.25, 0.24]), (4, SEND_BUFFERS[1]));
        assert_eq!(chosen([0.25, 0.29, 0.25, 0.24]), (4, SEND_BUFFERS[1]));
        assert_eq!(chosen([0.25, 0.29, 0.25, 0.26]), (4, SEND_BUFFERS[0]));
    }

    #[test]
    fn a_method_whose_runs_take_long_is_not_taken_for_a_stopped_one() {
        // Twice as long as it is asked to, each time: known after the second run.
        assert_eq!(counted(&[(2.1, 0.0), (2.2, 0.0), (9.0, 0.0)], false), (2.1, 1, 0));
        assert_eq!(usual(1.0, &[]), 1.0);
        assert_eq!(usual(1.0, &[2.0, 31.0, 61.0]), 1.0);
        assert_eq!(usual(1.0, &[1.0, 2.0, 2.1]), 2.0);
        assert_eq!(usual(1.0, &[0.9, 1.0, 2.1]), 1.0);
    }

    #[test]
    fn runs_are_not_made_again_for_ever() {
        let wire = WireSpec { kind: WireKind::Perfect, ack_us: 30, mtu: None };
        let plan = Plan { seconds: 1.0, ..Plan::least(Bench::Tcp, wire) };
        // Each of them is stopped, for another time.
        let runs = (1..200).map(|n| (10.0 * 1.3_f64.powi(n), 0.0)).collect();
        let methods: Vec<Box<dyn Method>> = vec![Box::new(Played(runs))];
        let mut side = SideBySide::new("tcp", &plan, wire, &[1], methods);
        side.steps = 12;
        let settings = Settings { backing: Backing::Small, sndbuf_bytes: None };
        for _ in 0..20 {
            let job = side.job(0, 1, Order::Sequential, settings, 1.0);
            side.undisturbed(0, &job).unwrap();
        }
        assert_eq!((side.repeats, side.disturbed), (3, 20));
    }
}
