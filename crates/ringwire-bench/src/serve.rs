//! Answers another program's questions with this one's methods; the other end is `child.rs`.

use std::io::{self, BufRead, Write};
use std::rc::Rc;

use serde::Serialize;

use crate::child::{Answer, Hello, Offer, Question};
use crate::error::Error;
use crate::job::{Job, Protocol, WireSpec};
use crate::method::{Local, Method, Recipe};
use crate::net::Net;
use crate::report::SCHEMA;
use crate::stage::Stage;

/// Says what `recipes` can measure, then answers questions until `input` ends.
///
/// # Errors
/// Those of reading and writing, and of questions that are none. What a method cannot measure is an
/// answer.
pub fn serve(
    recipes: &[Recipe],
    input: impl BufRead,
    mut output: impl Write,
) -> Result<(), io::Error> {
    let offer = |recipe: &Recipe| Offer {
        name: recipe.name.into(),
        protocol: recipe.protocol,
        backings: recipe.backings.into(),
    };
    let hello = Hello { schema: SCHEMA, methods: recipes.iter().map(offer).collect() };
    say(&mut output, &hello)?;
    let mut on_stage: Option<OnStage> = None;
    for line in input.lines() {
        let answer = match serde_json::from_str(&line?)? {
            Question::Measure(job) => measure(recipes, &mut on_stage, &job)
                .unwrap_or_else(|error| Answer::Refused(error.to_string())),
        };
        say(&mut output, &answer)?;
    }
    Ok(())
}

fn say(output: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *output, what)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// The methods on the stage that the last job asked for.
struct OnStage {
    wire: WireSpec,
    working_set_bytes: u64,
    methods: Vec<Local>,
}

fn measure(recipes: &[Recipe], on_stage: &mut Option<OnStage>, job: &Job) -> Result<Answer, Error> {
    let (wire, working_set_bytes) = (job.wire, job.working_set_bytes);
    let fits = |on_stage: &OnStage| {
        (on_stage.wire, on_stage.working_set_bytes) == (wire, working_set_bytes)
    };
    if !on_stage.as_ref().is_some_and(fits) {
        // The old one goes first: there may not be room for two.
        *on_stage = None;
        let stage = Rc::new(Stage::new(Net::new(wire)?, working_set_bytes));
        let methods = recipes.iter().map(|recipe| Local::new(&stage, *recipe)).collect();
        *on_stage = Some(OnStage { wire, working_set_bytes, methods });
    }
    let named = |method: &&mut Local| is_for(&**method, &job.method, job.protocol);
    match on_stage.iter_mut().flat_map(|on_stage| &mut on_stage.methods).find(named) {
        Some(method) => Ok(Answer::Measured(method.measure(job)?)),
        None => Err(Error::Misuse(format!("no method is named {}", job.method))),
    }
}

fn is_for(method: &dyn Method, name: &str, protocol: Protocol) -> bool {
    method.name() == name && method.protocol() == protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Backing, Measurement, Order, Settings, WireKind};
    use crate::method::recipes;

    fn job(method: &str) -> Job {
        Job {
            method: method.into(),
            protocol: Protocol::Tcp,
            wire: WireSpec { kind: WireKind::Loopback, ack_us: 30, mtu: None },
            payload_bytes: 4096,
            working_set_bytes: 1 << 20,
            order: Order::Shuffled,
            settings: Settings { backing: Backing::Small, sndbuf_bytes: None },
            seconds: 0.01,
        }
    }

    #[test]
    fn questions_are_answered_line_by_line() {
        let questions = [Question::Measure(job("write")), Question::Measure(job("carrier-pigeon"))];
        let lines: Vec<String> =
            questions.iter().map(|q| serde_json::to_string(q).unwrap()).collect();
        let mut output = Vec::new();
        serve(&recipes(Protocol::Tcp), lines.join("\n").as_bytes(), &mut output).unwrap();
        let output = String::from_utf8(output).unwrap();
        let mut lines = output.lines();
        let hello: Hello = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(hello.schema, 1);
        assert!(hello.methods.iter().any(|offer| offer.name == "write"));
        let answers: Vec<Answer> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        let [Answer::Measured(measured), Answer::Refused(why)] = &answers[..] else {
            panic!("{answers:?}");
        };
        let Measurement { payloads, bytes, copied_share, .. } = *measured;
        assert!(payloads > 0 && bytes == payloads * 4096, "{measured:?}");
        assert_eq!(copied_share, Some(1.0));
        assert_eq!(why, "no method is named carrier-pigeon");
    }
}
