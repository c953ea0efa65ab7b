//! Packages, by apt and dpkg, into a directory of our own: nothing is installed, and the host's
//! lists are left alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::tool::{output, tool};
use super::version::{self, Kernel};
use crate::error::{Error, Result};

/// Where Debian has the kernels that people run, newest last: the suites of its archive.
const SUITES: [&str; 5] = ["bullseye", "bookworm", "bookworm-backports", "trixie-backports", "sid"];
/// Those of its archive of security updates, which has the newest kernels of old releases.
const SECURITY_SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];

/// The architecture, as Debian calls it.
pub(super) const ARCH: &str = "amd64";

/// apt with lists of its own.
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Reads which packages there are, from the mirror that the host uses. Where that fails, what
    /// was read and brought earlier has to do.
    pub(super) fn update(dir: PathBuf) -> Result<Apt> {
        for part in ["lists/partial", "archives/partial", "unpacked"] {
            make_dir(&dir.join(part))?;
        }
        let apt = Apt { dir };
        // The host's own kernels are none of these.
        apt.put("status", "")?;
        if let Err(Error(what)) = apt.read() {
            eprintln!("kernels: {what}\nkernels: going on with what is here already");
        }
        Ok(apt)
    }

    fn read(&self) -> Result<()> {
        let format = "$(LABEL)\t$(REPO_URI)";
        let ours = tool("apt-get", "apt")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .output()
            .map_err(Error::from("run apt-get"))?;
        let list = sources_list(&String::from_utf8_lossy(&ours.stdout)).ok_or_else(|| {
            Error::new(
                "apt knows of no mirror of Debian here, where kernels would come from\n\
                 hint: run this on Debian, and `apt-get update` first",
            )
        })?;
        self.put("sources.list", &list)?;
        run(self.command("apt-get").args(["--quiet", "update"])).map_err(|Error(what)| {
            let list = self.dir.join("sources.list");
            let list = list.display();
            Error(format!("{what}\nhint: see whether its mirrors can be reached, in {list}"))
        })
    }

    fn put(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir.join(name), text).map_err(Error::from(format_args!("write {name}")))
    }

    /// A command of apt's that sees our lists alone.
    fn command(&self, program: &str) -> Command {
        let mut command = tool(program, "apt");
        for (option, path) in [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "none"),
            ("Dir::Etc::preferences", "none"),
            ("Dir::Etc::preferencesparts", "none"),
            ("Dir::State::status", "status"),
            ("Dir::State::lists", "lists"),
            ("Dir::Cache::archives", "archives"),
        ] {
            command.arg("-o").arg(format!("{option}={}", self.dir.join(path).display()));
        }
        // Only what packages there are; and as ourselves, into a directory that is ours.
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        command.args(["-o", "APT::Sandbox::User=", "-o", "Dir::Cache::pkgcache="]);
        command.args(["-o", "Dir::Cache::srcpkgcache="]).current_dir(self.dir.join("archives"));
        command
    }

    /// What is in a package: a directory. Where it cannot be had, that of an earlier run.
    pub(super) fn package(&self, package: &str) -> Result<PathBuf> {
        let fetched = self.version(package).and_then(|version| self.unpacked(package, &version));
        fetched.or_else(|why| {
            let version = self.kept(&[package]).ok_or(why)?;
            Ok(self.place(package, &version))
        })
    }

    /// The newest kernel of a series, or of all. Where it cannot be had, that of an earlier run.
    pub(super) fn kernel(&self, wanted: &str) -> Result<Found> {
        let fetched = || -> Result<Found> {
            let names = output(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
            let kernel = chosen(names.lines(), wanted)?;
            let (mut newest, mut dirs) = (String::new(), Vec::new());
            for package in &kernel.packages {
                newest = self.version(package)?;
                dirs.push(self.unpacked(package, &newest)?);
            }
            Ok(Found { kernel, version: newest, dirs })
        };
        fetched().or_else(|Error(why)| {
            let found = self.kept_kernel(wanted).ok_or_else(|| Error::new(why.as_str()))?;
            eprintln!("kernels: {why}\nkernels: {} is here already", found.kernel.release);
            Ok(found)
        })
    }

    /// A kernel of an earlier run.
    fn kept_kernel(&self, wanted: &str) -> Option<Found> {
        let kept = self.all_kept();
        let kernel = chosen(kept.iter().map(|(package, _)| package.as_str()), wanted).ok()?;
        let packages: Vec<&str> = kernel.packages.iter().map(String::as_str).collect();
        let version = self.kept(&packages)?;
        let dirs = packages.iter().map(|package| self.place(package, &version)).collect();
        Some(Found { kernel, version, dirs })
    }

    /// The newest version in which all of these are here.
    fn kept(&self, packages: &[&str]) -> Option<String> {
        let versions =
            self.all_kept().into_iter().filter(|(name, _)| Some(&&**name) == packages.first());
        versions
            .map(|(_, version)| version)
            .filter(|version| packages.iter().all(|package| self.place(package, version).exists()))
            .max_by_key(|version| version::numbers(version))
    }

    /// The packages that are here, with their versions.
    fn all_kept(&self) -> Vec<(String, String)> {
        let dir = fs::read_dir(self.dir.join("unpacked"));
        let names = dir.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let split = |name: OsString| {
            let (package, version) = name.to_str()?.split_once('_')?;
            Some((package.to_owned(), version.to_owned()))
        };
        names.filter_map(split).collect()
    }

    fn place(&self, package: &str, version: &str) -> PathBuf {
        self.dir.join("unpacked").join(format!("{package}_{version}"))
    }

    /// The version of a package that a download brings.
    fn version(&self, package: &str) -> Result<String> {
        let said = output(self.command("apt-cache").args(["policy", package]))?;
        candidate(&said)
            .map(str::to_owned)
            .ok_or_else(|| Error::new(format!("there is no package {package}")))
    }

    /// What is in a package, of that version: a directory. It is kept for the next time.
    fn unpacked(&self, package: &str, version: &str) -> Result<PathBuf> {
        let kept = self.place(package, version);
        if kept.exists() {
            return Ok(kept);
        }
        eprintln!("kernels: fetching {package} {version}");
        let archives = self.dir.join("archives");
        let archive = || -> Result<Option<PathBuf>> {
            let doing = || format!("read {}", archives.display());
            for entry in fs::read_dir(&archives).map_err(Error::from(doing()))? {
                let entry = entry.map_err(Error::from(doing()))?;
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(&format!("{package}_")) && name.ends_with(".deb") {
                    return Ok(Some(entry.path()));
                }
            }
            Ok(None)
        };
        // What an earlier run left may be of another version.
        while let Some(old) = archive()? {
            fs::remove_file(&old).map_err(Error::from(format_args!("delete {}", old.display())))?;
        }
        let wanted = format!("{package}={version}");
        run(self.command("apt-get").args(["--quiet", "download", &wanted]))?;
        let deb = archive()?
            .ok_or_else(|| Error::new(format!("`apt-get download {wanted}` brought nothing")))?;
        // Beside its place first, so that what is there is whole.
        let partial = archives.join("half");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(Error::from("delete half a package"))?;
        }
        run(tool("dpkg-deb", "dpkg").arg("--extract").arg(&deb).arg(&partial))?;
        fs::rename(&partial, &kept).map_err(Error::from("put a package in its place"))?;
        fs::remove_file(&deb).map_err(Error::from("delete a package's archive"))?;
        Ok(kept)
    }
}

/// A kernel's packages.
pub(super) struct Found {
    pub(super) kernel: Kernel,
    /// What all its packages have.
    pub(super) version: String,
    /// What is in them.
    pub(super) dirs: Vec<PathBuf>,
}

fn chosen<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> Result<Kernel> {
    let names: Vec<&str> = names.collect();
    version::choose(&names, wanted, ARCH)
        .ok_or_else(|| Error::new(format!("Debian has no kernel {wanted}")))
}

/// A sources.list for the same mirrors, made of what apt says of the host's: lines of a label and
/// an address. `None` without a mirror of Debian.
fn sources_list(targets: &str) -> Option<String> {
    let of = |label: &str| -> BTreeSet<&str> {
        let lines = targets.lines().filter_map(|line| line.split_once('\t'));
        lines.filter(|(this, _)| *this == label).map(|(_, address)| address).collect()
    };
    let lines = |address: &str, suites: &[&str]| -> String {
        suites.iter().map(|suite| format!("deb {address} {suite} main\n")).collect()
    };
    let mut list = lines(of("Debian").first()?, &SUITES);
    if let Some(address) = of("Debian-Security").first() {
        list += &lines(address, &SECURITY_SUITES);
    }
    Some(list)
}

/// The version that `apt-cache policy` names as the one to be had.
fn candidate(policy: &str) -> Option<&str> {
    let found = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    found.filter(|version| *version != "(none)")
}

fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::from(format_args!("make {}", path.display())))
}

/// Runs a command whose words nobody needs unless it fails.
fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_the_hosts_mirrors() {
        let targets = "Debian\tftp://a/debian/\nother\tftp://b/x/\nDebian\tftp://a/debian/\n\
                       Debian-Security\tftp://a/security/\n";
        let list = "\
            deb ftp://a/debian/ bullseye main\n\
            deb ftp://a/debian/ bookworm main\n\
            deb ftp://a/debian/ bookworm-backports main\n\
            deb ftp://a/debian/ trixie-backports main\n\
            deb ftp://a/debian/ sid main\n";
        let security = "deb ftp://a/security/ bullseye-security main\n\
                        deb ftp://a/security/ bookworm-security main\n";
        assert_eq!(sources_list(targets), Some(format!("{list}{security}")));
        assert_eq!(sources_list("Debian\tftp://a/debian/\n").as_deref(), Some(list));
        assert_eq!(sources_list("Ubuntu\tftp://a/ubuntu/\n"), None);
        assert_eq!(sources_list(""), None);
    }

    #[test]
    fn what_is_here_of_earlier_runs_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let apt = Apt { dir: dir.path().to_path_buf() };
        assert!(apt.kept_kernel("6.1").is_none());
        for kept in [
            "busybox-static_1:1.9-1",
            "busybox-static_1:1.10-1",
            "linux-image-6.1.0-50-amd64_6.1.9-1",
            "linux-image-7.3.4+deb13-amd64_7.3.4-1~bpo13+1",
            "linux-image-7.3.4+deb13-amd64_7.3.4-2~bpo13+1",
            "linux-binary-7.3.4+deb13-amd64_7.3.4-1~bpo13+1",
        ] {
            make_dir(&apt.dir.join("unpacked").join(kept)).map_err(|Error(e)| e).expect("made");
        }
        assert_eq!(apt.kept(&["busybox-static"]).as_deref(), Some("1:1.10-1"));
        let version = |wanted| apt.kept_kernel(wanted).map(|found| found.version);
        assert_eq!(version("6.1").as_deref(), Some("6.1.9-1"));
        assert_eq!(version("newest").as_deref(), Some("7.3.4-1~bpo13+1"), "of both packages");
        assert_eq!(version("6.16"), None);
    }

    #[test]
    fn the_hosts_own_packages_are_not_those_of_a_mirror() {
        let apt = Apt { dir: "/d".into() };
        let command = apt.command("apt-cache");
        let has = |option: &str| command.get_args().any(|arg| arg == option);
        assert!(has("Dir::State::status=/d/status"));
        assert!(has("Dir::Etc::preferences=/d/none") && has("Dir::Etc::preferencesparts=/d/none"));
    }

    #[test]
    fn the_version_to_be_had_is_found() {
        let policy = "linux-image-1:\n  Installed: (none)\n  Candidate: 1.2-3~bpo12+1\n  Version";
        assert_eq!(candidate(policy), Some("1.2-3~bpo12+1"));
        assert_eq!(candidate("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate(""), None);
    }
}
