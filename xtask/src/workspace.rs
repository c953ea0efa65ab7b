//! Where a chore works: the directory of the workspace. Knows no chore.

use std::path::{Path, PathBuf};

/// The directory of the workspace, wherever the chore is run from.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}
