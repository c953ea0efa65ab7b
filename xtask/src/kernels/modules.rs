//! Kernel modules: which belong together, and in what order they are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use super::tool::{output, tool};
use crate::error::{Error, Result};

/// What tests make networks of, and what sockets with TLS need. What a kernel has built in, or has
/// not, is left out: the tests say what they lack.
const WANTED: [&str; 8] =
    ["veth", "dummy", "ifb", "tun", "sch_tbf", "sch_netem", "tls", "crc32c_generic"];

/// A module, as it is loaded.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

/// The modules that are wanted, and those that they need, each before who needs it.
pub(super) fn load_order(unpacked: &[PathBuf]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    for dir in unpacked {
        find(dir, &mut files)?;
    }
    let mut all = Vec::new();
    for name in WANTED {
        add(name, &files, &mut all)?;
    }
    Ok(all)
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, all: &mut Vec<Module>) -> Result<()> {
    if all.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(path) = files.get(name) else { return Ok(()) };
    let bytes = read(path)?;
    let needs = needs(&bytes).map_err(Error::from(format_args!("read {}", path.display())))?;
    for other in needs {
        add(&other, files, all)?;
    }
    all.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// All modules below a directory, by their names.
fn find(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let doing = || format!("read {}", dir.display());
    for entry in fs::read_dir(dir).map_err(Error::from(doing()))? {
        let entry = entry.map_err(Error::from(doing()))?;
        if entry.file_type().map_err(Error::from(doing()))?.is_dir() {
            find(&entry.path(), files)?;
        } else if let Some(name) = module_name(&entry.file_name().to_string_lossy()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// The name of the module in a file: kernels write `-` and `_` as they please.
fn module_name(file: &str) -> Option<String> {
    let (name, rest) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&rest).then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let unpacks = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Some(("xz", "xz-utils")),
        Some("zst") => Some(("zstd", "zstd")),
        Some("gz") => Some(("gzip", "gzip")),
        _ => None,
    };
    let doing = || format!("read {}", path.display());
    let Some((program, package)) = unpacks else {
        return fs::read(path).map_err(Error::from(doing()));
    };
    let mut command = tool(program, package);
    let ended = command.args(["-d", "-c"]).arg(path).output().map_err(Error::from(doing()))?;
    if ended.status.success() {
        Ok(ended.stdout)
    } else {
        output(&mut command).map(String::into_bytes)
    }
}

/// What a module says that it needs.
fn needs(module: &[u8]) -> object::Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let Some(section) = file.section_by_name(".modinfo") else { return Ok(Vec::new()) };
    Ok(parse_needs(section.data()?))
}

/// The words behind `depends=` among strings that end in zeroes.
fn parse_needs(modinfo: &[u8]) -> Vec<String> {
    let strings = modinfo.split(|byte| *byte == 0);
    let needs = strings.filter_map(|string| string.strip_prefix(b"depends="));
    needs
        .flat_map(|names| names.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read() {
        let modinfo = b"license=GPL\0depends=net_failover,crc-t10dif\0name=x\0depends=\0";
        assert_eq!(parse_needs(modinfo), ["net_failover", "crc_t10dif"]);
        assert_eq!(parse_needs(b""), Vec::<String>::new());
    }

    #[test]
    fn modules_are_named_by_their_files() {
        assert_eq!(module_name("net-failover.ko.xz").as_deref(), Some("net_failover"));
        assert_eq!(module_name("veth.ko").as_deref(), Some("veth"));
        assert_eq!(module_name("veth.ko.sig"), None);
        assert_eq!(module_name("modules.order"), None);
    }
}
