//! Which kernel packages are meant: pure.

/// A kernel, as Debian packages it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// `6.1`.
    pub(super) series: String,
    /// What the kernel calls itself, without the architecture: `6.1.0-50`, `6.12.95+deb12`.
    pub(super) release: String,
    /// What it consists of: one package, or, from 7.1 on, several.
    pub(super) packages: Vec<String>,
}

/// The word for the newest kernel of all.
pub(super) const NEWEST: &str = "newest";

/// What may be asked for: `newest`, or two numbers.
pub(super) fn parse(text: &str) -> Result<String, String> {
    let numbers: Vec<&str> = text.split('.').collect();
    let is_number = |text: &&str| text.parse::<u32>().is_ok();
    if text == NEWEST || numbers.len() == 2 && numbers.iter().all(is_number) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no kernel; write 6.1, or {NEWEST}"))
    }
}

/// The newest kernel of a series, or of all, among the names of packages.
pub(super) fn choose(names: &[&str], wanted: &str, arch: &str) -> Option<Kernel> {
    let release = names
        .iter()
        .filter_map(|name| release(name, arch))
        .filter(|release| wanted == NEWEST || series(release) == Some(wanted))
        .max_by_key(|release| numbers(release))?;
    let packages = ["image", "binary", "modules"]
        .map(|part| format!("linux-{part}-{release}-{arch}"))
        .into_iter()
        .filter(|package| names.contains(&package.as_str()))
        .collect();
    let series = series(release)?.to_owned();
    Some(Kernel { series, release: release.to_owned(), packages })
}

/// The release of a plain kernel: neither one for clouds, nor a real-time one, nor what belongs to
/// one (`linux-image-amd64`, `…-dbg`, `…-unsigned`).
fn release<'a>(name: &'a str, arch: &str) -> Option<&'a str> {
    let release = name.strip_prefix("linux-image-")?.strip_suffix(arch)?.strip_suffix('-')?;
    let plain = release.split('-').all(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    (plain && series(release).is_some()).then_some(release)
}

/// The first two numbers.
fn series(release: &str) -> Option<&str> {
    let (major, rest) = release.split_once('.')?;
    let minor = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(major) && minor > 0).then(|| &release[..major.len() + 1 + minor])
}

/// All numbers in it, by which releases have an order.
pub(super) fn numbers(release: &str) -> Vec<u64> {
    let parts = release.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 16] = [
        "linux-image-amd64",
        "linux-image-5.10.0-9-amd64",
        "linux-image-5.10.0-46-amd64",
        "linux-image-5.10.0-46-amd64-unsigned",
        "linux-image-5.10.0-47-rt-amd64",
        "linux-image-6.12.95+deb12-amd64",
        "linux-image-6.12.90+deb12.1-amd64",
        "linux-image-6.12.96+deb12-cloud-amd64",
        "linux-image-6.1.0-50-amd64",
        "linux-image-6.1.0-50-amd64-dbg",
        "linux-image-6.18.9+deb13-amd64",
        "linux-image-7.3.4+deb13-amd64",
        "linux-binary-7.3.4+deb13-amd64",
        "linux-modules-7.3.4+deb13-amd64",
        "linux-image-7.3.5+deb13-arm64",
        "linux-image-7.2.13+deb14-amd64",
    ];

    fn chosen(wanted: &str) -> Option<(String, String)> {
        choose(&NAMES, wanted, "amd64").map(|kernel| (kernel.series, kernel.release))
    }

    #[test]
    fn the_newest_of_a_series_is_chosen_by_numbers() {
        let is = |series: &str, release: &str| Some((series.to_owned(), release.to_owned()));
        assert_eq!(chosen("5.10"), is("5.10", "5.10.0-46"));
        assert_eq!(chosen("6.12"), is("6.12", "6.12.95+deb12"));
        assert_eq!(chosen("6.1"), is("6.1", "6.1.0-50"));
        assert_eq!(chosen("newest"), is("7.3", "7.3.4+deb13"));
        assert_eq!(chosen("6.16"), None);
        assert_eq!(chosen("6"), None);
    }

    #[test]
    fn a_kernel_that_is_split_has_all_of_its_packages() {
        let packages = |wanted| choose(&NAMES, wanted, "amd64").map(|kernel| kernel.packages);
        assert_eq!(packages("6.1"), Some(vec!["linux-image-6.1.0-50-amd64".to_owned()]));
        assert_eq!(
            packages("7.3"),
            Some(vec![
                "linux-image-7.3.4+deb13-amd64".to_owned(),
                "linux-binary-7.3.4+deb13-amd64".to_owned(),
                "linux-modules-7.3.4+deb13-amd64".to_owned(),
            ])
        );
    }

    #[test]
    fn what_can_be_asked_for() {
        assert_eq!(parse("6.1"), Ok("6.1".to_owned()));
        assert_eq!(parse("newest"), Ok("newest".to_owned()));
        for wrong in ["6", "6.1.0", "six.one", "", "6.", "latest"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
