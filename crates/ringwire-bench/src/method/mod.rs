//! Ways to send. A [`Method`] answers a [`Job`] with a [`Measurement`]; it may live in this process
//! ([`Local`], a loop over a flow of its own) or in another one.
//!
//! To add one of this process: write a [`Loop`], name it in a [`Recipe`], and add that to
//! [`recipes`]. A loop keeps its flow and its ring from run to run, and is idle while others run.

mod batches;
mod gathered;
mod minimal;
mod msg_zerocopy;
mod recipe;
mod ringwire;
mod ringwire_quiet;
mod send_zc;
mod udp;
mod uring;
mod write;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use crate::error::Error;
use crate::job::{Backing, Job, Measurement, Order, Protocol};
use crate::measure;
use crate::stage::Stage;

pub use gathered::payloads_a_call;
pub use recipe::{ANY_PAGES, Loop, Make, Recipe, SMALL_PAGES};
pub use uring::no_room;

/// Something that answers a job with a measurement.
pub trait Method {
    /// Its name, as `--method` and the rows have it.
    fn name(&self) -> &str;

    /// What it can send over.
    fn protocol(&self) -> Protocol;

    /// The pages it can make something of. It gets its best of these and of the send buffers.
    fn backings(&self) -> &[Backing];

    /// Makes one measurement. It goes on with the flow and the ring of the last job with the same
    /// send buffer.
    ///
    /// # Errors
    /// Why it cannot. The other methods go on.
    fn measure(&mut self, job: &Job) -> Result<Measurement, Error>;
}

/// The methods that this crate has, in the order they are run in.
pub fn recipes(protocol: Protocol) -> Vec<Recipe> {
    let all = [
        write::WRITE,
        gathered::WRITEV64,
        msg_zerocopy::MSG_ZEROCOPY,
        msg_zerocopy::MSG_ZEROCOPY_64,
        send_zc::SEND_ZC,
        send_zc::SEND_ZC_REGISTERED,
        minimal::MINIMAL,
        ringwire::RINGWIRE,
        ringwire_quiet::RINGWIRE_QUIET,
        ringwire::RINGWIRE_MSG_ZEROCOPY,
        udp::SENDMSG,
        udp::SENDMSG_TRAIN,
        udp::MSG_ZEROCOPY,
        udp::MSG_ZEROCOPY_TRAIN,
        udp::SEND_ZC,
        udp::SEND_ZC_REGISTERED,
        udp::SEND_ZC_TRAIN,
        udp::SEND_ZC_REGISTERED_TRAIN,
        udp::MINIMAL_TRAIN,
        ringwire::RINGWIRE_UDP,
        ringwire::RINGWIRE_TRAIN,
    ];
    all.into_iter().filter(|recipe| recipe.protocol == protocol).collect()
}

/// The methods of the tables of 2022.
pub fn recipes_of_tables() -> Vec<Recipe> {
    vec![udp::RING_SEND, udp::SEND_ZC_REGISTERED, udp::FLUSH_1, udp::FLUSH_8, udp::FLUSH_TRAIN]
}

/// A method of this process.
///
/// Before each measurement its loop runs for a moment that does not count: longer when the job is
/// another than the last one, so that memory is mapped and registered, the connection is up to
/// speed, and the ring has learned what the path takes.
pub struct Local {
    stage: Rc<Stage>,
    recipe: Recipe,
    /// By send buffer.
    loops: HashMap<Option<u64>, Kept>,
}

/// A loop, and what it is warm for: payload size, order and pages.
struct Kept {
    one: Box<dyn Loop>,
    warm_for: Option<(u64, Order, Backing)>,
}

/// How long a loop runs before a measurement when it is warm, and when it is not.
const WARM_UP: Duration = Duration::from_millis(10);
const FIRST_WARM_UP: Duration = Duration::from_millis(60);

impl Local {
    /// The method of this recipe on this stage.
    pub fn new(stage: &Rc<Stage>, recipe: Recipe) -> Local {
        Local { stage: stage.clone(), recipe, loops: HashMap::new() }
    }
}

impl Method for Local {
    fn name(&self) -> &str {
        self.recipe.name
    }

    fn protocol(&self) -> Protocol {
        self.recipe.protocol
    }

    fn backings(&self) -> &[Backing] {
        self.recipe.backings
    }

    fn measure(&mut self, job: &Job) -> Result<Measurement, Error> {
        let sndbuf_bytes = job.settings.sndbuf_bytes;
        // A loop that failed is not used again: its flow may be broken.
        let mut kept = match self.loops.remove(&sndbuf_bytes) {
            Some(kept) => kept,
            None => {
                let flow = self.stage.net().flow_with(job.protocol, sndbuf_bytes)?;
                Kept { one: (self.recipe.make)(&self.stage, flow)?, warm_for: None }
            }
        };
        let time = Duration::try_from_secs_f64(job.seconds)
            .map_err(|_| Error::Misuse(format!("a run of {} seconds", job.seconds)))?;
        let warm_for = Some((job.payload_bytes, job.order, job.settings.backing));
        let warm = kept.warm_for.replace((job.payload_bytes, job.order, job.settings.backing));
        kept.one.run(job, if warm == warm_for { WARM_UP } else { FIRST_WARM_UP })?;
        let spun = || self.stage.net().spun();
        let mut measured = measure::around(spun, || kept.one.run(job, time))?;
        measured.working_set_bytes = self.stage.working_set_bytes() as u64;
        if let Some((bytes, why)) = kept.one.working_set(job.settings.backing) {
            measured.working_set_bytes = bytes as u64;
            measured.note = Some(why);
        }
        self.loops.insert(sndbuf_bytes, kept);
        Ok(measured)
    }
}
