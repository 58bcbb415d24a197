//! The unit with which systemd runs the program.

use std::path::Path;

use data_directory::Role;

use crate::error::{InstallError, Result};

/// The unit for the default data directory; docs/systemd.md shows the same text.
const UNIT: &str = include_str!("mainstay.service");
/// The data directory in [`UNIT`].
pub const DEFAULT_DATA: &str = "/var/lib/mainstay";

/// The file with the environment variables of a node's first start.
pub const NODE_VARIABLES: &str = "/etc/mainstay/node.env";

/// The unit with the default paths.
fn unit(role: Role) -> String {
    let has_pods = role != Role::Server;
    let mut unit = String::new();
    for line in UNIT.lines() {
        match line.split_once("/mainstay up") {
            Some((start, _)) if !has_pods => unit.push_str(&format!("{start}/mainstay server")),
            Some((start, flags)) => {
                unit.push_str(&format!("{start}/mainstay {}{flags}", role.command()));
            }
            // A server without pods does not have to stop them before the machine shuts down.
            None if !has_pods && line.starts_with("ExecStop=") => continue,
            None => unit.push_str(line),
        }
        unit.push('\n');
        if role == Role::Node && line == "Type=exec" {
            unit.push_str(&format!("EnvironmentFile=-{NODE_VARIABLES}\n"));
        }
    }
    unit
}

/// The text of the unit; the paths must be absolute.
pub fn text(role: Role, data: &Path, config: Option<&Path>) -> Result<String> {
    let mut options = String::new();
    if let Some(config) = config {
        options.push_str(&format!(" --config={}", word(config)?));
    }
    if data != Path::new(DEFAULT_DATA) {
        options.push_str(&format!(" --data-dir={}", word(data)?));
    }
    let command = format!("/mainstay {}", role.command());
    Ok(unit(role)
        .replace(
            &format!("RequiresMountsFor={DEFAULT_DATA}"),
            &format!("RequiresMountsFor={}", word(data)?),
        )
        .replace(&command, &format!("{command}{options}"))
        .replace("/mainstay down'", &format!("/mainstay down{options}'")))
}

/// A path as a word of a unit, with escapes for `%`, `$`, quotes and spaces.
fn word(path: &Path) -> Result<String> {
    let text = path.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@,:=".contains(c);
    let text = text.into_owned();
    match text.chars().all(is_plain) {
        true => Ok(text),
        false => Err(InstallError::SpecialCharacter { path: text }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented unit is the installed one.
    #[test]
    fn the_documentation_shows_the_unit() {
        let page = include_str!("../../../docs/systemd.md");
        assert!(page.contains(&format!("```ini\n{UNIT}```\n")));
        let default = Path::new(DEFAULT_DATA);
        assert_eq!(text(Role::Up, default, None).unwrap(), UNIT);
        let page = include_str!("../../../docs/many-machines.md");
        for role in [Role::Server, Role::Node] {
            let unit = text(role, default, None).unwrap();
            assert!(page.contains(&format!("```ini\n{unit}```\n")), "{unit}");
        }
    }

    #[test]
    fn each_role_has_a_unit() {
        let data = Path::new("/srv/m");
        let node = text(Role::Node, data, None).unwrap();
        let server = text(Role::Server, data, None).unwrap();
        for line in [
            "EnvironmentFile=-/etc/mainstay/node.env\n",
            "/mainstay node --data-dir=/srv/m --on-stop=leave-pods --shutdown-grace-period=90s ",
            "exec /usr/local/bin/mainstay down --data-dir=/srv/m'\n",
        ] {
            assert!(node.contains(line), "{node}");
        }
        let start = "ExecStart=/usr/local/bin/mainstay server --data-dir=/srv/m\n";
        assert!(server.contains(start), "{server}");
        for unit in [&node, &server] {
            assert!(unit.contains("WatchdogSec=60s\n"), "{unit}");
        }
        for line in ["ExecStop", "EnvironmentFile", "mainstay up"] {
            assert!(!server.contains(line), "{server}");
        }
        assert!(!node.contains("mainstay up"), "{node}");
    }

    #[test]
    fn the_unit_names_another_directory_wherever_it_is_needed() {
        let config = Some(Path::new("/etc/mainstay.yaml"));
        let unit = text(Role::Up, Path::new("/srv/m"), config).unwrap();
        for line in [
            "RequiresMountsFor=/srv/m\n",
            "mainstay up --config=/etc/mainstay.yaml --data-dir=/srv/m --on-stop=leave-pods",
            "mainstay down --config=/etc/mainstay.yaml --data-dir=/srv/m'\n",
        ] {
            assert!(unit.contains(line), "{unit}");
        }
        assert!(!unit.contains(DEFAULT_DATA), "{unit}");
        for odd in ["/srv/100%", "/srv/a b", "/srv/$x", "/srv/'"] {
            assert!(text(Role::Up, Path::new(odd), None).is_err(), "{odd}");
        }
    }
}
