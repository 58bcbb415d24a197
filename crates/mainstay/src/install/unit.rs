//! The unit by which systemd runs the program.

use std::path::Path;

use anyhow::{Result, ensure};

/// The unit for the default data directory; docs/systemd.md shows the same text.
const UNIT: &str = include_str!("mainstay.service");
/// The data directory that it names.
pub const DEFAULT_DATA: &str = "/var/lib/mainstay";

/// The unit's text for that data directory and configuration file, both absolute.
pub fn text(data: &Path, config: Option<&Path>) -> Result<String> {
    let mut options = String::new();
    if let Some(config) = config {
        options.push_str(&format!(" --config={}", word(config)?));
    }
    if data != Path::new(DEFAULT_DATA) {
        options.push_str(&format!(" --data-dir={}", word(data)?));
    }
    Ok(UNIT
        .replace(
            &format!("RequiresMountsFor={DEFAULT_DATA}"),
            &format!("RequiresMountsFor={}", word(data)?),
        )
        .replace("/mainstay up", &format!("/mainstay up{options}"))
        .replace("/mainstay down'", &format!("/mainstay down{options}'")))
}

/// A path as a word of a unit, in which `%`, `$`, quotes and spaces mean something.
fn word(path: &Path) -> Result<String> {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@,:=".contains(c);
    ensure!(
        text.chars().all(is_plain),
        "{text:?} has a character with a special meaning in a systemd unit; use a path of letters, \
         digits and / . _ - + @ , : ="
    );
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented unit is the installed one.
    #[test]
    fn the_documentation_shows_the_unit() {
        let page = include_str!("../../../../docs/systemd.md");
        assert!(page.contains(&format!("```ini\n{UNIT}```\n")));
        assert_eq!(text(Path::new(DEFAULT_DATA), None).unwrap(), UNIT);
    }

    #[test]
    fn the_unit_names_another_directory_wherever_it_is_needed() {
        let config = Some(Path::new("/etc/mainstay.yaml"));
        let unit = text(Path::new("/srv/m"), config).unwrap();
        for line in [
            "RequiresMountsFor=/srv/m\n",
            "mainstay up --config=/etc/mainstay.yaml --data-dir=/srv/m --on-stop=leave-pods",
            "mainstay down --config=/etc/mainstay.yaml --data-dir=/srv/m'\n",
        ] {
            assert!(unit.contains(line), "{unit}");
        }
        assert!(!unit.contains(DEFAULT_DATA), "{unit}");
        for odd in ["/srv/100%", "/srv/a b", "/srv/$x", "/srv/'"] {
            assert!(text(Path::new(odd), None).is_err(), "{odd}");
        }
    }
}
