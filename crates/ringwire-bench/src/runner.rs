//! Measures what a plan asks for, part by part.
//!
//! What cannot be measured is noted, and the rest goes on: a report is all that this host allows.

mod others;
mod peers;

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::host;
use crate::job::{Protocol, WireKind, WireSpec};
use crate::method::{Local, Method, Recipe, recipes, recipes_of_tables};
use crate::net::Net;
use crate::plan::{
    Bench, Plan, SHORT_TCP_SIZES, SHORT_UDP_SIZES, SHORT_WIRE_SIZES, TCP_SIZES, UDP_SIZES,
};
use crate::report::Report;
use crate::report::median::medians;
use crate::side::SideBySide;
use crate::stage::Stage;
use crate::tables;
use crate::walk::DATAGRAM_BYTES_MAX;
use crate::watch::Watch;
use crate::wires::Kind;

pub use peers::METHODS as PEERS;

/// Without a part, no run is repeated after so long: the whole is to end in 90 s.
const SHORT_REPEATS_FOR: Duration = Duration::from_secs(35);

/// Measures what `plan` asks for. When the watch stops it, the report holds what was measured so
/// far.
///
/// # Errors
/// `Misuse` for methods that do not exist, and for a plan that makes no sense.
pub fn run(plan: &Plan, watch: &mut dyn Watch) -> Result<Report, Error> {
    if !plan.several_wires.is_empty() && plan.bench != Bench::Wires {
        return Err(Error::Misuse(
            "only bench wires takes several wires; any other part is measured over one".into(),
        ));
    }
    let mut session = Session::new(plan, watch);
    let measured = match plan.bench {
        Bench::Short => session.short(),
        Bench::Tcp => session.side_by_side("tcp", Protocol::Tcp, &TCP_SIZES),
        Bench::Udp => session.side_by_side("udp", Protocol::Udp, &UDP_SIZES),
        Bench::Tables => session.side_by_side(tables::BENCH, Protocol::Udp, &tables::SIZES),
        Bench::Wires => session.take(others::wires),
        Bench::Fanout => session.take(others::fanout),
        Bench::Latency => session.take(others::latency),
        Bench::Scale => session.take(others::scale),
    };
    match measured {
        Err(Error::Unavailable(why)) => session.note(format!("nothing can be measured: {why}")),
        measured => measured?,
    }
    Ok(session.report)
}

struct Session<'a> {
    plan: &'a Plan,
    watch: &'a mut dyn Watch,
    report: Report,
    repeat_until: Option<Instant>,
}

impl<'a> Session<'a> {
    fn new(plan: &'a Plan, watch: &'a mut dyn Watch) -> Self {
        let report = Report::new(host::without_wire(plan), Vec::new());
        Session { plan, watch, report, repeat_until: None }
    }

    fn short(&mut self) -> Result<(), Error> {
        self.repeat_until = Some(Instant::now() + SHORT_REPEATS_FOR);
        self.side_by_side("tcp", Protocol::Tcp, &SHORT_TCP_SIZES)?;
        self.side_by_side("udp", Protocol::Udp, &SHORT_UDP_SIZES)?;
        let mut other_side = self.plan.clone();
        other_side.wire.kind = WireKind::Loopback;
        if other_side.sizes.is_empty() {
            other_side.sizes = SHORT_WIRE_SIZES.into();
        }
        other_side.kinds = vec![Kind::Equal];
        // What is compared there is ringwire and `write`.
        other_side.methods = vec!["ringwire".into()];
        if self.plan.wants("ringwire") && !self.watch.stops() {
            match others::wires(&other_side, self.watch) {
                Ok(report) => self.report.wires = report.wires,
                Err(why) => self.note(format!("loopback: {why}")),
            }
        }
        Ok(())
    }

    /// Lets another part measure, whose report it is then.
    fn take(
        &mut self,
        measure: fn(&Plan, &mut dyn Watch) -> Result<Report, Error>,
    ) -> Result<(), Error> {
        self.report = measure(self.plan, self.watch)?;
        Ok(())
    }

    fn side_by_side(
        &mut self,
        bench: &'static str,
        protocol: Protocol,
        own_sizes: &[u64],
    ) -> Result<(), Error> {
        if self.watch.stops() {
            return Ok(());
        }
        // Peers before the wire, which keeps this thread on one processor.
        let (recipes, peers) = match bench {
            tables::BENCH => (recipes_of_tables(), Vec::new()),
            _ => (recipes(protocol), peers::start(self.plan, protocol, |why| self.note(why))),
        };
        let net = self.net()?;
        let wire = net.spec();
        let stage = Rc::new(Stage::new(net, self.plan.working_set_bytes));
        let local = |recipe: Recipe| Box::new(Local::new(&stage, recipe)) as Box<dyn Method>;
        let mut methods: Vec<_> = recipes.into_iter().map(local).chain(peers).collect();
        methods.retain(|method| method.protocol() == protocol);
        let names: Vec<String> = methods.iter().map(|method| method.name().into()).collect();
        methods.retain(|method| self.plan.wants(method.name()));
        let absent = peers::absent(self.plan, protocol, &names);
        let is_unknown = |name: &&String| !names.contains(name) && !absent.contains(&name.as_str());
        // Without a part, a name may be that of another part's method.
        if self.plan.bench != Bench::Short
            && let Some(name) = self.plan.methods.iter().find(is_unknown)
        {
            return Err(Error::Misuse(format!(
                "no method of {bench} is named {name}; there are {}",
                names.join(", ")
            )));
        }
        match peers::why_absent(&absent) {
            Some(why) if methods.is_empty() => return Err(Error::Misuse(why)),
            Some(why) => self.note(why),
            None => {}
        }
        let mut sizes = self.plan.sizes.clone();
        if sizes.is_empty() {
            sizes = own_sizes.into();
        }
        if protocol == Protocol::Udp {
            sizes.retain(|size| *size <= DATAGRAM_BYTES_MAX as u64);
        }
        if sizes.is_empty() && self.plan.bench != Bench::Short {
            return Err(Error::Misuse(format!(
                "a datagram has {DATAGRAM_BYTES_MAX} bytes at most"
            )));
        }
        if wire.kind.copies() {
            self.note(
                "runs over a wire that copies differ by themselves, by 2 and more; bench wires \
                 says what can be said"
                    .into(),
            );
        }
        let side = SideBySide::new(bench, self.plan, wire, &sizes, methods);
        let mut side = side.repeat_until(self.repeat_until);
        for order in &self.plan.orders {
            for size in &sizes {
                side.place(*size, *order, self.watch);
            }
        }
        let disturbed = &mut self.report.host.disturbed_share;
        *disturbed = disturbed.max(side.disturbed_share());
        let (rows, notes) = side.into_rows(self.watch);
        self.report.medians.extend(medians(&rows));
        self.report.rows.extend(rows);
        self.report.host.add_notes(notes);
        Ok(())
    }

    /// The wire that was asked for; where the host cannot give it, loopback, and a note.
    fn net(&mut self) -> Result<Net, Error> {
        let asked = self.plan.wire;
        let net = match Net::new(asked) {
            Err(Error::Unavailable(why)) if asked.kind != WireKind::Loopback => {
                self.note(format!(
                    "over loopback, which copies, instead of the {} wire: {why}",
                    asked.kind.name()
                ));
                Net::new(WireSpec { kind: WireKind::Loopback, mtu: None, ..asked })?
            }
            net => net?,
        };
        host::on(&mut self.report.host, &net);
        if let Some(capture) = net.capture() {
            self.note(capture);
        }
        Ok(net)
    }

    fn note(&mut self, note: String) {
        if !self.report.host.notes.contains(&note) {
            self.watch.note(&note);
            self.report.host.notes.push(note);
        }
    }
}
