//! Where test programs write down what they skip: a file each, because tests of several programs
//! have the same name.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::tally::{Skip, parse_skips};
use crate::error::{Error, Result};

pub(super) struct Skips {
    dir: TempDir,
    programs: Vec<String>,
}

impl Skips {
    pub(super) fn new() -> Result<Skips> {
        let dir = TempDir::new().map_err(Error::from("make a temporary directory"))?;
        // For all whom we run as.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777))
            .map_err(Error::from("let others write lists of skips"))?;
        Ok(Skips { dir, programs: Vec::new() })
    }

    fn file(&self, index: usize) -> PathBuf {
        self.dir.path().join(index.to_string())
    }

    /// Tells a program of this name where.
    pub(super) fn tell(&mut self, program: &str, command: &mut Command) {
        command.env("RINGWIRE_SKIPS", self.file(self.programs.len()));
        self.programs.push(program.to_owned());
    }

    /// What all of them wrote.
    pub(super) fn read(&self) -> Result<BTreeSet<Skip>> {
        let mut all = BTreeSet::new();
        for (index, program) in self.programs.iter().enumerate() {
            match fs::read_to_string(self.file(index)) {
                Ok(text) => all.extend(parse_skips(program, &text)),
                // It skipped nothing.
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                Err(why) => {
                    return Err(Error::new(format!("cannot read what {program} skipped: {why}")));
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_of_one_name_in_two_programs_are_two() {
        let Ok(mut skips) = Skips::new() else { panic!("a temporary directory") };
        for (program, word) in [("a.rs", "SKIP t: no veth"), ("b.rs", ""), ("c.rs", "SKIP t: x")] {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("test -z '{word}' || echo '{word}' >>$RINGWIRE_SKIPS")]);
            skips.tell(program, &mut shell);
            assert!(shell.status().is_ok_and(|status| status.success()));
        }
        let skip = |program: &str, reason: &str| Skip {
            program: program.into(),
            test: "t".into(),
            reason: reason.into(),
        };
        let all = skips.read().unwrap_or_default();
        assert_eq!(all, BTreeSet::from([skip("a.rs", "no veth"), skip("c.rs", "x")]));
    }
}
