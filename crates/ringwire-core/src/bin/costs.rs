//! The program of which `cargo xtask costs` counts the instructions. Without arguments it lists the
//! plays; with the name of one and a number of turns it plays it, and says how many payloads it has
//! sent.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{Write as _, stdout};
use std::time::Instant;

use ringwire_core::costs::{PLAYS, run};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for play in PLAYS {
            writeln!(stdout(), "{}", play.name)?;
        }
        return Ok(());
    };
    let turns = arguments.next().ok_or("how many turns?")?.parse()?;
    let play = PLAYS.iter().find(|play| play.name == name).ok_or("there is no such play")?;
    writeln!(stdout(), "{}", run(play, turns, Instant::now())?.payloads)?;
    Ok(())
}
