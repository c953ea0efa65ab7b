//! Runs methods side by side: trials of every setting first, then A B C A B C … with the best.

mod others;

use std::rc::Rc;

use crate::child;
use crate::error::Error;
use crate::host::Host;
use crate::job::{Job, Measurement, Order, Protocol, Settings};
use crate::method::{Local, Method, recipes};
use crate::net::Net;
use crate::plan::{Bench, Plan, SEND_BUFFERS, TCP_SIZES, UDP_SIZES};
use crate::row::{Report, Row};
use crate::stage::Stage;

/// Who is told what happens, and can end it.
pub trait Watch {
    /// `part` of `whole` steps have been made; the next is `what`.
    fn step(&mut self, part: u64, whole: u64, what: &str);
    /// Something could not be measured, or means something else than it seems; a sentence.
    fn note(&mut self, text: &str);
    /// Whether to end now, with what there is.
    fn stops(&self) -> bool;
}

/// A trial is this part of a run.
const TRIAL_PART: f64 = 0.25;

/// Measures what `plan` asks for. What cannot be measured is noted, and the rest goes on; when the
/// watch stops it, the report holds what was measured so far.
///
/// # Errors
/// `Misuse` for a plan that makes no sense.
pub fn run(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    match plan.bench {
        Bench::Short | Bench::Tcp => side_by_side(plan, Protocol::Tcp, watch),
        Bench::Udp => side_by_side(plan, Protocol::Udp, watch),
        Bench::Wires => others::wires(plan, watch),
        Bench::Fanout => others::fanout(plan, watch),
        Bench::Latency => others::latency(plan, watch),
        other => Err(Error::Unavailable(format!("{other:?} is not there yet"))),
    }
}

fn side_by_side(plan: &Plan, protocol: Protocol, watch: &mut dyn Watch) -> Result<Report, Error> {
    let (bench, own_sizes) = match protocol {
        Protocol::Tcp => ("tcp", &TCP_SIZES[..]),
        Protocol::Udp => ("udp", &UDP_SIZES[..]),
    };
    // Before the wire, which keeps this thread on one processor.
    let peers = peers(watch);
    let net = Net::new(plan.wire)?;
    let mut host = Host::new(plan, &net);
    let stage = Rc::new(Stage::new(net, plan.working_set_bytes));
    let mut methods: Vec<Box<dyn Method>> = Vec::new();
    for recipe in recipes(protocol) {
        methods.push(Box::new(Local::new(&stage, recipe)));
    }
    methods.extend(peers);
    methods.retain(|method| method.protocol() == protocol && plan.wants(method.name()));
    let sizes = if plan.sizes.is_empty() { own_sizes.to_vec() } else { plan.sizes.clone() };
    let mut side = SideBySide::new(bench, plan, &sizes, &mut methods);
    for order in &plan.orders {
        for size in &sizes {
            side.place(*size, *order, watch)?;
        }
    }
    let (rows, notes) = side.into_rows(watch);
    host.notes.extend(notes);
    Ok(Report::new(host, rows))
}

/// The file name of the program with the peers' methods, which lies beside this one where it was
/// built.
const PEERS: &str = "ringwire-peers";

fn peers(watch: &mut dyn Watch) -> Vec<Box<dyn Method>> {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PEERS));
    let Some(path) = beside.filter(|path| path.is_file()) else { return Vec::new() };
    child::start(&path).unwrap_or_else(|error| {
        watch.note(&format!("the peers' methods are not measured: {error}"));
        Vec::new()
    })
}

/// Measures methods side by side, place by place: a place is a size and an order.
pub struct SideBySide<'a> {
    bench: &'static str,
    plan: &'a Plan,
    methods: &'a mut [Box<dyn Method>],
    /// What was measured.
    pub rows: Vec<Row>,
    /// What its reader has to know.
    notes: Vec<String>,
    step: u64,
    steps: u64,
    again: u64,
    disturbed: u64,
}

impl<'a> SideBySide<'a> {
    /// For rows of part `bench`, and as many places as `sizes` times the plan's orders.
    pub fn new(
        bench: &'static str,
        plan: &'a Plan,
        sizes: &[u64],
        methods: &'a mut [Box<dyn Method>],
    ) -> Self {
        let trials: usize = methods.iter().map(|m| m.backings().len() * SEND_BUFFERS.len()).sum();
        let a_place = trials + methods.len() * plan.runs as usize;
        let steps = (sizes.len() * plan.orders.len() * a_place) as u64;
        let (rows, notes) = (Vec::new(), Vec::new());
        SideBySide { bench, plan, methods, rows, notes, step: 0, steps, again: 0, disturbed: 0 }
    }

    /// Measures all methods at one size, in one order.
    ///
    /// # Errors
    /// None of a method: those are noted.
    pub fn place(&mut self, size: u64, order: Order, watch: &mut dyn Watch) -> Result<(), Error> {
        let mut best: Vec<Option<Settings>> = Vec::new();
        for index in 0..self.methods.len() {
            best.push(self.trials(index, size, order, watch));
        }
        for run in 1..=self.plan.runs {
            for (index, settings) in best.iter().enumerate() {
                let Some(settings) = *settings else { continue };
                let job = self.job(index, size, order, settings, self.plan.seconds);
                self.measure(index, job, run, watch);
            }
        }
        Ok(())
    }

    /// Tries all settings of a method; the best, if any of them works.
    fn trials(
        &mut self,
        index: usize,
        size: u64,
        order: Order,
        watch: &mut dyn Watch,
    ) -> Option<Settings> {
        let mut best: Option<(f64, Settings)> = None;
        for backing in self.methods[index].backings().to_vec() {
            for sndbuf_bytes in SEND_BUFFERS {
                let settings = Settings { backing, sndbuf_bytes };
                let job = self.job(index, size, order, settings, self.plan.seconds * TRIAL_PART);
                let Some(rate) = self.measure(index, job, 0, watch) else { continue };
                if best.is_none_or(|(other, _)| rate > other) {
                    best = Some((rate, settings));
                }
            }
        }
        best.map(|(_, settings)| settings)
    }

    fn job(&self, index: usize, size: u64, order: Order, settings: Settings, seconds: f64) -> Job {
        Job {
            method: self.methods[index].name().into(),
            protocol: self.methods[index].protocol(),
            wire: self.plan.wire,
            payload_bytes: size,
            working_set_bytes: self.plan.working_set_bytes,
            order,
            settings,
            seconds,
        }
    }

    /// Makes one measurement and keeps its row. Returns its bytes a second.
    fn measure(&mut self, index: usize, job: Job, run: u32, watch: &mut dyn Watch) -> Option<f64> {
        if watch.stops() {
            return None;
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
                Some(rate)
            }
            Err(error) => {
                self.note_once(watch, format!("{} {} B: {error}", job.method, job.payload_bytes));
                None
            }
        }
    }

    /// Makes a measurement again, at most twice, when others had the processors meanwhile; the one
    /// that was disturbed least counts, however fast it was.
    fn undisturbed(&mut self, index: usize, job: &Job) -> Result<Measurement, Error> {
        let mut best = self.methods[index].measure(job)?;
        for _ in 0..AGAIN_MAX {
            // On a machine that is always busy it does not help, and only takes long.
            if !is_disturbed(job, &best) || self.again > self.steps / 4 {
                break;
            }
            self.again += 1;
            let next = self.methods[index].measure(job)?;
            if next.waited_s / next.seconds < best.waited_s / best.seconds {
                best = next;
            }
        }
        self.disturbed += u64::from(is_disturbed(job, &best));
        Ok(best)
    }

    fn note_once(&mut self, watch: &mut dyn Watch, note: String) {
        if !self.notes.contains(&note) {
            watch.note(&note);
            self.notes.push(note);
        }
    }

    /// What a reader of the rows has to know.
    fn into_rows(mut self, watch: &mut dyn Watch) -> (Vec<Row>, Vec<String>) {
        if self.disturbed > 0 {
            self.note_once(watch, format!(
                "other programs had the processors: {} runs were made again, and {} of {} count \
                 though they were disturbed",
                self.again,
                self.disturbed,
                self.rows.len(),
            ));
        }
        (self.rows, self.notes)
    }
}

/// A measurement in which threads waited for processors for more than this part of the time was
/// disturbed …
const WAITED_PART: f64 = 0.03;
/// … and is made again, so often at most.
const AGAIN_MAX: u32 = 2;

/// Whether others had the processors that the measurement needed. On wires that copy, its own
/// threads wait for each other, so it cannot be told there.
fn is_disturbed(job: &Job, measured: &Measurement) -> bool {
    !job.wire.kind.copies() && measured.waited_s > WAITED_PART * measured.seconds
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
