//! The licences of the program and of all libraries in it, as `mainstay version --licences` prints them.
//!
//! The text is a file of the repository: `cargo xtask licences` writes the file, and `cargo xtask tidy` compares the file
//! with the packages of the program. The licence of a package is the first of the list `allow` of `deny.toml` that the
//! package offers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::cargo;

/// The file that the program contains.
pub const FILE: &str = "crates/mainstay/src/licences.txt";

/// The platforms of the program.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// The command of cargo for the packages of the program on a target. Build scripts and tests are not in the program.
const TREE: &str = "tree --locked --prefix none --edges normal --package mainstay --target";

/// Starts of the names of files that contain a licence.
const LICENCE_FILES: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "UNLICENSE"];

/// Third-party sources in a package, which have separate licences.
const INCLUDED: [(&str, &[&str]); 2] = [
    ("libmimalloc-sys", &["c_src/mimalloc/v2/LICENSE"]),
    (
        "ring",
        &[
            "LICENSE-BoringSSL",
            "LICENSE-other-bits",
            "third_party/fiat/LICENSE",
        ],
    ),
];

/// Writes [`FILE`].
pub fn write(root: &Path) -> Result<()> {
    let path = root.join(FILE);
    fs::write(&path, text(root)?).with_context(|| format!("write {}", path.display()))
}

/// Whether [`FILE`] is the text of the present packages.
pub fn is_current(root: &Path) -> Result<bool> {
    let path = root.join(FILE);
    let written = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(written == text(root)?)
}

fn text(root: &Path) -> Result<String> {
    let accepted = accepted(root)?;
    let mut packages = packages(root)?;
    packages.sort_by(|left, right| (&left.name, &left.version).cmp(&(&right.name, &right.version)));
    let licensed = packages
        .iter()
        .map(|package| Ok((package, package.choose(&accepted)?)))
        .collect::<Result<Vec<_>>>()?;
    render(&licensed)
}

/// A package of another project.
struct Package {
    name: String,
    version: String,
    /// The URL of the sources.
    repository: String,
    /// The SPDX expression in the manifest.
    licence: String,
    authors: String,
    directory: PathBuf,
}

impl Package {
    /// The licences under which the program contains this package: one, unless the package requires several.
    fn choose(&self, accepted: &[Licensee]) -> Result<Vec<String>> {
        let Self { name, licence, .. } = self;
        let expression = Expression::parse_mode(licence, ParseMode::LAX)
            .with_context(|| format!("read the licence of {name}: {licence}"))?;
        let chosen = expression
            .minimized_requirements(accepted)
            .with_context(|| format!("no licence of {name} is in deny.toml: {licence}"))?;
        Ok(chosen.iter().map(ToString::to_string).collect())
    }

    /// The text of a licence. The licences of Apache and Mozilla name no holder of rights, so all packages share one text.
    fn text(&self, licence: &str) -> Result<String> {
        let standard = standard_text(licence)?;
        if ["Apache-2.0", "MPL-2.0"].contains(&licence) {
            return Ok(standard.to_owned());
        }
        match self.licence_file(licence)? {
            Some(text) => Ok(text),
            None => Ok(format!("Copyright: {}\n\n{standard}", self.authors)),
        }
    }

    /// The file of the package with this licence: the only one, or the one that has the licence in its name.
    fn licence_file(&self, licence: &str) -> Result<Option<String>> {
        let names = self.files(&LICENCE_FILES)?;
        let word = licence.split('-').next().unwrap_or(licence).to_lowercase();
        let named = names
            .iter()
            .find(|name| name.to_lowercase().contains(&word));
        let file = match (named, names.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only,
            (None, _) => return Ok(None),
        };
        self.read(file).map(Some)
    }

    /// The notices that users of the Apache licence must repeat, and the licences of [`INCLUDED`] sources.
    fn notices(&self) -> Result<Vec<String>> {
        let mut names = self.files(&["NOTICE"])?;
        let included = INCLUDED.iter().filter(|(name, _)| *name == self.name);
        names.extend(included.flat_map(|(_, files)| files.iter().map(ToString::to_string)));
        names.iter().map(|name| self.read(name)).collect()
    }

    fn files(&self, starts: &[&str]) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = fs::read_dir(&self.directory)
            .with_context(|| format!("read the directory of {}", self.name))?;
        for entry in entries {
            let entry = entry.context("read an entry of a directory")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let upper = name.to_uppercase();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && starts.iter().any(|start| upper.starts_with(start)) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<String> {
        let bytes = fs::read(self.directory.join(name))
            .with_context(|| format!("read {name} of {}", self.name))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }
}

fn standard_text(licence: &str) -> Result<&'static str> {
    let id = licence.split(' ').next().unwrap_or(licence);
    let id = id.trim_end_matches('+').trim_end_matches("-or-later");
    spdx::license_id(id)
        .map(|id| id.text())
        .with_context(|| format!("{licence} is no licence of SPDX"))
}

/// The list `allow` of `deny.toml`.
fn accepted(root: &Path) -> Result<Vec<Licensee>> {
    let path = root.join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let document: toml::Table = text.parse().context("read deny.toml")?;
    let allowed = document
        .get("licenses")
        .and_then(|licences| licences.get("allow"))
        .and_then(toml::Value::as_array)
        .context("deny.toml has no licenses.allow")?;
    allowed
        .iter()
        .map(|name| {
            let name = name.as_str().context("deny.toml: an entry is no text")?;
            Licensee::parse(name).with_context(|| format!("deny.toml: {name}"))
        })
        .collect()
}

/// The packages of other projects that the program is built of.
fn packages(root: &Path) -> Result<Vec<Package>> {
    let mut names = BTreeSet::new();
    for target in TARGETS {
        let options = format!("{TREE} {target}");
        names.extend(
            cargo::output(root, &options)?
                .lines()
                .filter_map(name_and_version),
        );
    }
    let metadata = cargo::output(root, "metadata --locked --format-version 1")?;
    let metadata: Value = serde_json::from_str(&metadata).context("read the metadata of cargo")?;
    let all = metadata["packages"]
        .as_array()
        .context("cargo names no packages")?;
    let mut packages = Vec::new();
    for package in all {
        let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        let (name, version) = (field("name"), field("version"));
        if package["source"].is_null() || !names.remove(&(name.clone(), version.clone())) {
            continue;
        }
        let authors = package["authors"].as_array().into_iter().flatten();
        let authors: Vec<&str> = authors.filter_map(Value::as_str).collect();
        let manifest = PathBuf::from(field("manifest_path"));
        packages.push(Package {
            authors: match authors.is_empty() {
                true => format!("the authors of {name}"),
                false => authors.join(", "),
            },
            name,
            version,
            repository: field("repository"),
            licence: field("license"),
            directory: manifest.parent().map(PathBuf::from).unwrap_or_default(),
        });
    }
    ensure!(!packages.is_empty(), "the program has no packages");
    Ok(packages)
}

/// A line of cargo's tree: `name v1.0.0`, and what follows.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((name.to_owned(), version.to_owned()))
}

const RULE: &str =
    "--------------------------------------------------------------------------------\n";

fn render(licensed: &[(&Package, Vec<String>)]) -> Result<String> {
    let mut output = String::from(
        "mainstay is under the Apache License 2.0. The program contains the packages below, without changes, and the\n\
         standard library of Rust (MIT OR Apache-2.0). The sources of a package are at the address in its line.\n\n",
    );
    let mut texts: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut notices = Vec::new();
    for (package, licences) in licensed {
        let title = format!("{} {}", package.name, package.version);
        writeln!(
            output,
            "{title}: {}, {}",
            licences.join(" AND "),
            package.repository
        )?;
        for licence in licences {
            let text = package.text(licence)?;
            if text.trim().is_empty() {
                bail!("the text of {licence} of {title} is empty");
            }
            texts
                .entry((licence.clone(), text.trim().to_owned()))
                .or_default()
                .push(title.clone());
        }
        for notice in package.notices()? {
            notices.push((title.clone(), notice));
        }
    }
    for ((licence, text), titles) in &texts {
        write!(
            output,
            "\n{RULE}{licence}: {}\n{RULE}\n{text}\n",
            titles.join(", ")
        )?;
    }
    for (title, notice) in &notices {
        write!(
            output,
            "\n{RULE}Notice of {title}\n{RULE}\n{}\n",
            notice.trim()
        )?;
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(licence: &str, directory: &Path) -> Package {
        Package {
            name: "example".to_owned(),
            version: "1.2.3".to_owned(),
            repository: "https://example.com/example".to_owned(),
            licence: licence.to_owned(),
            authors: "A. Author".to_owned(),
            directory: directory.to_owned(),
        }
    }

    fn accepted(names: &[&str]) -> Vec<Licensee> {
        names
            .iter()
            .map(|name| Licensee::parse(name).unwrap())
            .collect()
    }

    #[test]
    fn the_first_allowed_licence_is_chosen() {
        let allowed = accepted(&["Apache-2.0", "MIT", "ISC"]);
        let choose = |licence: &str| package(licence, Path::new("/")).choose(&allowed);
        assert_eq!(choose("MIT/Apache-2.0").unwrap(), ["Apache-2.0"]);
        assert_eq!(choose("MIT OR LGPL-2.1-or-later").unwrap(), ["MIT"]);
        let both = choose("Apache-2.0 AND ISC").unwrap();
        assert_eq!(both, ["Apache-2.0", "ISC"]);
        assert!(
            choose("GPL-3.0-only")
                .unwrap_err()
                .to_string()
                .contains("example")
        );
        assert!(choose("").is_err());
    }

    #[test]
    fn the_text_of_a_package_has_its_holders() {
        let directory = tempfile::tempdir().unwrap();
        let of = |licence: &str| package("MIT", directory.path()).text(licence).unwrap();
        assert!(of("MIT").starts_with("Copyright: A. Author\n"));
        fs::write(directory.path().join("LICENSE-MIT"), "Copyright B").unwrap();
        fs::write(directory.path().join("LICENSE-APACHE"), "Apache of B").unwrap();
        assert_eq!(of("MIT"), "Copyright B");
        assert!(of("Apache-2.0").contains("Apache License"));
        fs::write(directory.path().join("NOTICE.txt"), "Product of B").unwrap();
        let notices = package("MIT", directory.path()).notices().unwrap();
        assert_eq!(notices, ["Product of B"]);
    }

    #[test]
    fn equal_texts_are_printed_once() {
        let empty = tempfile::tempdir().unwrap();
        let first = package("Apache-2.0", empty.path());
        let mut second = package("Apache-2.0", empty.path());
        second.name = "other".to_owned();
        let licence = vec!["Apache-2.0".to_owned()];
        let text = render(&[(&first, licence.clone()), (&second, licence)]).unwrap();
        assert!(text.contains("\nexample 1.2.3: Apache-2.0, https://example.com/example\n"));
        assert!(
            text.contains("Apache-2.0: example 1.2.3, other 1.2.3\n"),
            "{text}"
        );
        assert_eq!(text.matches("TERMS AND CONDITIONS FOR USE").count(), 1);
    }

    #[test]
    fn lines_of_the_tree_are_packages() {
        let of = |line| name_and_version(line).map(|(name, version)| format!("{name} {version}"));
        assert_eq!(of("serde v1.0.2 (*)").as_deref(), Some("serde 1.0.2"));
        assert_eq!(of(""), None);
    }
}
